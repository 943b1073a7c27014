//! Every rule of a call's life, asked in one place. Those of a call that wakes a phone are in [`inbound`], those of one
//! that Exotel connects in [`outbound`].

use super::verdict::{Decision, RejectReason, Verdict};
use super::{
    Call, CallParty, Change, ConditionalUpdate, Effect, Event, HistoryEntry, inbound, merge,
    outbound,
};
use crate::timestamp::Timestamp;

/// What is to be done once a new call has been stored.
#[must_use]
pub fn first_effects(call: &Call) -> Vec<Effect> {
    if call.is_outbound() {
        vec![
            Effect::ArmTimer(call.rings_until),
            Effect::PlaceOutboundCall,
        ]
    } else {
        inbound::owed(call)
    }
}

/// What follows from `event` for `call`. Every rule, including who may do what, is in here.
#[must_use]
pub fn decide(call: &Call, event: &Event, now: Timestamp) -> Decision {
    if party_of(event).is_some_and(|party| !may_say(call, event, party)) {
        return Decision::Refuse(RejectReason::NotYours);
    }
    let verdict = match event {
        Event::ReplicaOverwritten(version) => merge::verdict(call, version, now),
        _ if call.is_outbound() => outbound::verdict(call, event, now),
        _ => inbound::verdict(call, event, now),
    };
    match verdict {
        Verdict::Change(sets) => {
            let change = Change {
                sets,
                entry: entry(event, now),
            };
            let effects = effects_after(&call.apply(&change), event, now);
            Decision::Advance { change, effects }
        }
        Verdict::Repeat => Decision::Stay {
            effects: again(call, event, now),
        },
        Verdict::Only(effects) => Decision::Stay { effects },
        Verdict::Refuse(refusal) => Decision::Refuse(refusal),
    }
}

/// The change that `event` makes in the state in which it normally arrives, to be tried without reading first.
/// `None` where no state is more usual than another.
///
/// Promise (held by a property test): where its checks hold, [`decide`] would advance by the same change.
#[must_use]
pub fn usual(event: &Event, now: Timestamp) -> Option<ConditionalUpdate> {
    let (checks, sets) = match event {
        Event::ExotelProgress { call_sid, progress } => outbound::usual(call_sid, *progress, now)?,
        _ => inbound::usual(event, now)?,
    };
    Some(ConditionalUpdate {
        checks,
        change: Change {
            sets,
            entry: entry(event, now),
        },
    })
}

/// What is to be done once `event` has brought the call to where it is now.
#[must_use]
pub fn effects_after(call: &Call, event: &Event, now: Timestamp) -> Vec<Effect> {
    match event {
        Event::ReplicaOverwritten(_) => merge::effects_after(call, now),
        _ if call.is_outbound() => outbound::effects_after(call, event),
        _ => inbound::effects_after(call, event, now),
    }
}

/// What a repeated event sets off: nothing once all has been carried out; what nobody would notice twice while the
/// first attempt may still be under way or has failed; everything, if that attempt died.
fn again(call: &Call, event: &Event, now: Timestamp) -> Vec<Effect> {
    if call.effects_pending_since.is_none() {
        return Vec::new();
    }
    let mut effects = left_undone(call, now);
    // The timer of a call that an app starts is armed before the call is stored. So an app that asks for its call again
    // arms no other, however often it asks.
    if is_asked_for_again(call, event) {
        let arms_timer = |effect: &Effect| matches!(effect, Effect::ArmTimer(_));
        // What an outbound call owes is its timer. The event that arms the timer settles the debt.
        if call.is_outbound() && effects.iter().any(arms_timer) {
            return Vec::new();
        }
        effects.retain(|effect| !arms_timer(effect));
    }
    effects
}

/// Whether the app that started the call asks for it again, by the same `clientReference`.
fn is_asked_for_again(call: &Call, event: &Event) -> bool {
    let names_nothing = matches!(
        event,
        Event::CallerReported {
            caller_leg: None,
            call_sid: None
        }
    );
    names_nothing && call.started_by().is_some()
}

fn left_undone(call: &Call, now: Timestamp) -> Vec<Effect> {
    if call.was_abandoned(now) {
        return overdue(call, now);
    }
    let mut effects = owed(call);
    effects.retain(Effect::repeats_unnoticed);
    effects.extend(inbound::look_after(call));
    effects
}

fn owed(call: &Call) -> Vec<Effect> {
    if call.is_outbound() {
        outbound::owed(call)
    } else {
        inbound::owed(call)
    }
}

fn overdue(call: &Call, now: Timestamp) -> Vec<Effect> {
    if call.is_outbound() {
        outbound::owed(call)
    } else {
        inbound::overdue(call, now)
    }
}

/// An app may answer for the phone that is wanted, and hang up for the one that calls.
fn may_say(call: &Call, event: &Event, party: &CallParty) -> bool {
    let calls = call.caller.extension.as_ref() == Some(&party.extension);
    party.extension == call.extension || (calls && matches!(event, Event::HungUp { .. }))
}

fn party_of(event: &Event) -> Option<&CallParty> {
    match event {
        Event::Accepted { by, .. } | Event::Declined { by } | Event::HungUp { by } => Some(by),
        Event::CallerReported { .. }
        | Event::PushSent { .. }
        | Event::PushNotSent(_)
        | Event::CallerPhoneLocated(_)
        | Event::CallerPhoneDialed
        | Event::PhoneDialed
        | Event::CallerUnreachable
        | Event::ExotelNoAnswer
        | Event::ExotelProgress { .. }
        | Event::OutboundCallRejected(_)
        | Event::StreamStarted
        | Event::StreamStopped(_)
        | Event::CallerLegEnded { .. }
        | Event::PhoneLegEnded { .. }
        | Event::Bridged
        | Event::NotBridged { .. }
        | Event::TimerFired
        | Event::ReplicaOverwritten(_)
        | Event::EffectsCompleted { .. } => None,
    }
}

fn entry(event: &Event, now: Timestamp) -> HistoryEntry {
    let at = match event {
        Event::PushSent { finished_at, .. } => *finished_at,
        _ => now,
    };
    HistoryEntry {
        at,
        event: event.as_str().to_owned(),
        by: event.by(),
    }
}
