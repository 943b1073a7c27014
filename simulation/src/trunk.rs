//! The trunk: Exotel reports a caller, and brings the call to a PBX, perhaps on more than one leg.

use std::time::Duration;

use ringback::switchboard::InboundCallReport;
use ringback_core::call::{CallSide, Event};
use ringback_core::ids::{CallId, CallSid};
use ringback_core::phone_number::{Caller, PhoneNumber};

use crate::faults::Fault;
use crate::random::Part;
use crate::requests::Request;
use crate::scenario::{Attempts, Kind};
use crate::sim::Sim;
use crate::state::State;
use crate::state::phones::called_extension;
use crate::{exotel, pbx};

/// A ring for each attempt of the trunk.
const MOST_RINGS: u32 = 3;

const NUMBERS: [&str; 3] = ["9876543210", "9876543211", "9876543212"];

/// Exotel reports the caller, and brings the leg to a PBX.
pub async fn call(sim: &Sim, caller: usize) {
    let Kind::FromTrunk {
        webhook,
        leg,
        attempts,
        ..
    } = sim.plan().calls[caller].kind
    else {
        return;
    };
    let Some((report, sid)) = report_of(sim, caller) else {
        return;
    };
    for ring in 1..=MOST_RINGS {
        let id = CallId::of_ring(&sid, &report.extension, ring);
        sim.state().truth.names(id, caller);
    }
    if let Some(webhook) = webhook {
        let exotel = sim.clone();
        sim.spawn(async move {
            exotel.sleep(webhook).await;
            let again = exotel.fault(Fault::ExotelTwice);
            for _ in 0..=usize::from(again) {
                exotel.note(|| format!("Exotel reports caller {caller}"));
                let report = Request::ExotelReportsCaller(report.clone());
                let answer = exotel.request(0, report).await;
                exotel.note(|| format!("Exotel gets {answer}"));
            }
        });
    }
    sim.sleep(leg).await;
    if sim.state().trunk[caller].is_over {
        return;
    }
    let most = u64::try_from(sim.plan().pbxs).unwrap_or(1) - 1;
    let pbx = usize::try_from(sim.between(Part::Trunk, 0, most)).unwrap_or(0);
    sim.state().trunk[caller].pbx = pbx;
    loses_patience(sim, caller);
    try_pbx(sim, caller, &sid);
    if let Attempts::Parallel(after) = attempts {
        sim.sleep(after).await;
        let waits = {
            let state = sim.state();
            let is_on = !state.legs_of(caller).is_empty() && !state.is_talking(caller);
            is_on && !state.trunk[caller].is_over
        };
        if waits {
            try_pbx(sim, caller, &sid);
        }
    }
}

/// The report of this caller, as Exotel's webhook has it, and the CallSid.
fn report_of(sim: &Sim, caller: usize) -> Option<(InboundCallReport, CallSid)> {
    let plan = &sim.plan().calls[caller];
    let Kind::FromTrunk { number, .. } = plan.kind else {
        return None;
    };
    let number = number.and_then(|number| PhoneNumber::parse(NUMBERS[number], "IN"));
    let sid = exotel::sid(sim, caller)?;
    let report = InboundCallReport {
        call_id: None,
        extension: called_extension(plan.extension)?,
        caller: Caller::on_network(number, None),
        call_sid: Some(sid.clone()),
        caller_leg: None,
    };
    Some((report, sid))
}

/// The caller gives up, and the trunk cancels all legs that wait.
fn loses_patience(sim: &Sim, caller: usize) {
    let Some(patience) = sim.plan().calls[caller].patience else {
        return;
    };
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(patience).await;
        let mut state = sim.state();
        is_over(&sim, &mut state, caller);
        pbx::cancel_other_legs(&sim, &mut state, caller, 0);
    });
}

/// The trunk tries no other extension and no other PBX for this caller.
fn is_over(sim: &Sim, state: &mut State, caller: usize) {
    for (other, trunk) in state.trunk.iter_mut().enumerate() {
        trunk.is_over |= sim.plan().ring_together(other, caller);
    }
}

/// The popup URL reports that the extension is being called.
fn reports_agent(sim: &Sim, caller: usize, report: &InboundCallReport) {
    if sim.plan().calls[caller].popups {
        let report = Request::ExotelReportsCaller(report.clone());
        let sim = sim.clone();
        sim.clone().spawn(async move {
            let way = sim.between(Part::Exotel, 50, 500);
            sim.sleep(way).await;
            sim.note(|| format!("Exotel calls the agent of caller {caller}"));
            sim.request(0, report).await;
        });
    }
}

/// The popup URL reports that Exotel is done with the extension.
fn reports_agent_done(sim: &Sim, caller: usize) {
    let extension = called_extension(sim.plan().calls[caller].extension);
    if let (true, Some(sid)) = (sim.plan().calls[caller].popups, exotel::sid(sim, caller)) {
        let done = Request::ExotelReportsSid(sid, extension, Event::AgentDone);
        let sim = sim.clone();
        sim.clone()
            .spawn(async move { exotel::report(&sim, &done) });
    }
}

/// The trunk brings the call to the next PBX.
fn try_pbx(sim: &Sim, caller: usize, sid: &CallSid) {
    let Some((report, _)) = report_of(sim, caller) else {
        return;
    };
    let pbx = {
        let trunk = &mut sim.state().trunk[caller];
        trunk.attempts += 1;
        let pbx = trunk.pbx;
        trunk.pbx = (pbx + 1) % sim.plan().pbxs;
        pbx
    };
    reports_agent(sim, caller, &report);
    let sid = sim.plan().trunk_names_sid.then(|| sid.clone());
    if !pbx::caller_arrives(sim, caller, pbx, report, sid) {
        let mut state = sim.state();
        leg_ended(sim, &mut state, caller, false);
    }
}

/// A leg of this caller has ended. The trunk tries another PBX, or the call is over, which Exotel may report.
pub fn leg_ended(sim: &Sim, state: &mut State, caller: usize, was_bridged: bool) {
    let Kind::FromTrunk { attempts, .. } = sim.plan().calls[caller].kind else {
        return;
    };
    if !state.legs_of(caller).is_empty() {
        return;
    }
    reports_agent_done(sim, caller);
    let trunk = &mut state.trunk[caller];
    if let Attempts::Sequential(after) = attempts
        && !was_bridged
        && !trunk.is_over
        && trunk.attempts < 2
    {
        let sim = sim.clone();
        sim.clone().spawn(async move {
            sim.sleep(after).await;
            if let Some(sid) = exotel::sid(&sim, caller)
                && !sim.state().trunk[caller].is_over
            {
                try_pbx(&sim, caller, &sid);
            }
        });
        return;
    }
    if was_bridged {
        is_over(sim, state, caller);
    }
    state.trunk[caller].is_over = true;
    let together = (0..state.trunk.len()).filter(|other| sim.plan().ring_together(*other, caller));
    let first = together.clone().next().unwrap_or(caller);
    let has_ended = together.clone().all(|other| state.trunk[other].is_over);
    if has_ended && reports_end(&sim.plan().calls[first].kind) {
        reports_the_end(sim, first);
    }
}

const fn reports_end(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::FromTrunk {
            reports_end: true,
            ..
        }
    )
}

/// Exotel reports the end of the call, not of the wait.
fn reports_the_end(sim: &Sim, caller: usize) {
    let Some(sid) = exotel::sid(sim, caller) else {
        return;
    };
    let ended = Event::CallerLegEnded {
        leg: None,
        answered: false,
        by: CallSide::Caller,
    };
    let sim = sim.clone();
    sim.clone().spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        exotel::report(&sim, &Request::ExotelReportsSid(sid, None, ended));
    });
}
