//! Where phones are registered. Each PBX knows one address of a SIP account: the one that registered last.

use ringback_core::ids::CallId;

use crate::pbx::REJECTED;
use crate::random::Part;
use crate::scenario::{Answers, Response};
use crate::sim::Sim;
use crate::state::State;
use crate::state::phones::{Account, At, Contact, Registration};

/// How long a phone that is gone does not answer the SIP call, until its host refuses it.
const REFUSES_AFTER: u64 = 500;

/// The phone registers with the PBXs, each at its time, and again at its new address if it moves.
pub(super) fn register(sim: &Sim, at: At) {
    let (plan, is_new) = {
        let mut state = sim.state();
        let device = state.phones.device(at);
        let is_new = !std::mem::replace(&mut device.has_registered, true);
        (device.plan.clone(), is_new)
    };
    if !is_new {
        return;
    }
    for (pbx, after) in plan.registers_after.iter().enumerate() {
        let Some(after) = *after else { continue };
        registers_at(sim, pbx, at, 0, after);
        if let Some(moves) = plan.moves {
            registers_at(sim, pbx, at, 1, moves.after + moves.registers_after);
        }
    }
    if let Some(moves) = plan.moves {
        let sim = sim.clone();
        sim.clone().spawn(async move {
            sim.sleep(moves.after).await;
            sim.note(|| format!("device{} of {} moves", at.device, at.extension));
            let mut state = sim.state();
            state.phones.device(at).address = 1;
            if moves.breaks {
                forget(&mut state, sim.elapsed(), |contact| {
                    contact.at == at && contact.address == 0
                });
            }
        });
    }
}

fn registers_at(sim: &Sim, pbx: usize, at: At, address: u32, after: u64) {
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(after).await;
        let elapsed = sim.elapsed();
        let mut state = sim.state();
        let device = state.phones.device(at);
        // A phone that has moved, or that its app has sent away, does not register at that address.
        if device.address != address || !device.has_registered {
            return;
        }
        let account = state.phones.account_of(at);
        let is_replaced = |contact: &Contact| (contact.pbx, contact.account) == (pbx, account);
        forget(&mut state, elapsed, is_replaced);
        state.phones.contacts.push(Contact {
            pbx,
            account,
            at,
            address,
            since: elapsed,
        });
        state.phones.registrations.push(Registration {
            pbx,
            account,
            from: elapsed,
            until: None,
        });
        drop(state);
        sim.note(|| {
            format!(
                "device{} of {} registers with PBX {pbx}",
                at.device, at.extension
            )
        });
    });
}

/// The phone leaves all PBXs.
pub(super) fn unregister(sim: &Sim, state: &mut State, at: At) {
    let in_use = state.phones.device(at).rings.iter();
    if in_use.filter(|ring| ring.has_accepted).count() > 0 {
        return;
    }
    state.phones.device(at).has_registered = false;
    forget(state, sim.elapsed(), |contact| contact.at == at);
}

fn forget(state: &mut State, elapsed: u64, which: impl Fn(&Contact) -> bool) {
    let phones = &mut state.phones;
    for gone in phones.contacts.iter().filter(|contact| which(contact)) {
        for known in &mut phones.registrations {
            if (known.pbx, known.account) == (gone.pbx, gone.account) {
                known.until.get_or_insert(elapsed);
            }
        }
    }
    phones.contacts.retain(|contact| !which(contact));
}

/// The address at which the PBX reaches the account.
pub fn contact(state: &State, pbx: usize, account: Account) -> Option<&Contact> {
    let mut contacts = state.phones.contacts.iter();
    contacts.find(|contact| (contact.pbx, contact.account) == (pbx, account))
}

/// Whether the phone is still at this address.
pub fn is_there(state: &State, contact: &Contact) -> bool {
    let At { extension, device } = contact.at;
    state.phones.extensions[extension][device].address == contact.address
}

/// What the user of this device does with the call.
pub(super) fn response(sim: &Sim, at: At, call: CallId) -> Option<Response> {
    let caller = sim.state().truth.caller_of(call);
    let plan = &sim.plan().calls[caller];
    plan.responses.get(at.device).copied()
}

/// The phone of a calling app is registered with one PBX.
pub fn is_caller_registered(state: &State, pbx: usize) -> bool {
    state.phones.caller_at == pbx
}

/// What a phone does with a call that it gets.
pub enum PhoneReply {
    Answers,
    /// It ends the call with this cause.
    Refuses(u16),
    /// It rings until the PBX ends the call.
    Rings,
}

/// The phone at this address rings, and does what its user wants. At an address that it has left, nothing rings.
pub fn phone_rings(
    sim: &Sim,
    state: &mut State,
    call: CallId,
    contact: &Contact,
) -> impl Future<Output = PhoneReply> + use<> {
    let at = contact.at;
    let is_first = is_first_leg(state, call);
    let is_there = is_there(state, contact);
    let refuses = state.random.of_part(Part::Phones).bool();
    let sim = sim.clone();
    async move {
        if !is_there {
            sim.sleep(REFUSES_AFTER).await;
            return if refuses {
                PhoneReply::Refuses(20)
            } else {
                PhoneReply::Rings
            };
        }
        let Some(response) = response(&sim, at, call) else {
            return PhoneReply::Rings;
        };
        sim.sleep(response.answers_after).await;
        let is_in_call = sim.state().phones.device(at).ring_of(call).has_accepted;
        match response.answers {
            // The phone does not answer if its app takes no part in the call.
            _ if !is_in_call => PhoneReply::Rings,
            Answers::Never => PhoneReply::Rings,
            Answers::Declines => PhoneReply::Refuses(REJECTED),
            Answers::AtTheSecondAttempt if is_first => PhoneReply::Refuses(20),
            Answers::Yes | Answers::AtTheSecondAttempt => PhoneReply::Answers,
        }
    }
}

fn is_first_leg(state: &mut State, call: CallId) -> bool {
    let dialed = &mut state.phones.dialed;
    let is_first = !dialed.contains(&call);
    if is_first {
        dialed.push(call);
    }
    is_first
}
