//! What follows from an event: the first rule that applies decides.

use super::pending;
use super::rule::{Outcome, Rule};
use super::{
    Call, Change, ConditionalUpdate, Effect, Event, HistoryEntry, merge, number_rules, phone_rules,
};
use crate::timestamp::Timestamp;

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Save the change, unless another change was saved first. Then carry the effects out.
    Advance {
        /// What to save.
        change: Change,
        /// What to do then.
        effects: Vec<Effect>,
    },
    /// The call stays as it is. These effects may be unfinished.
    Stay {
        /// What to do.
        effects: Vec<Effect>,
    },
    /// The event is not for this call, or comes too late. This is no fault of ours: the client gets the reason.
    Reject(RejectReason),
}

/// Why an event was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The app's extension does not take part in the call.
    NotYours,
    /// The call has a status that does not allow the event.
    WrongStatus,
    /// The report is about another call of the same caller.
    AnotherCall,
    /// The caller comes back after this ring has ended, so a new ring begins.
    RingIsOver,
    /// Exotel connects two telephones, and its API ends no call: the call ends when one of them hangs up.
    EndsAtThePhones,
    /// The app names no device, and another device may have answered the call.
    DeviceUnknown,
}

/// What must be done when a new call has been stored.
#[must_use]
pub fn first_effects(call: &Call) -> Vec<Effect> {
    if call.is_to_number() {
        vec![
            Effect::ArmTimer(call.rings_until),
            Effect::PlaceOutboundCall,
        ]
    } else {
        pending::effects(call)
    }
}

/// What follows from `event` for `call`. All rules, including who may do what, are asked here.
#[must_use]
pub fn decide(call: &Call, event: &Event, now: Timestamp) -> Decision {
    if !may_act(call, event) {
        return Decision::Reject(RejectReason::NotYours);
    }
    let rules = rules(call.is_to_number(), event, now);
    let Some(rule) = rules.iter().find(|rule| rule.applies_to(call)) else {
        return Decision::Stay {
            effects: Vec::new(),
        };
    };
    match &rule.outcome {
        Outcome::Change(assignments, effects) => {
            let change = Change {
                assignments: assignments.of(call),
                entry: history_entry(event, now),
            };
            let effects = effects.of(&call.apply(&change), now);
            Decision::Advance { change, effects }
        }
        Outcome::Repeat => Decision::Stay {
            effects: pending::unfinished(call, now),
        },
        Outcome::OnlyEffects(effects) => Decision::Stay {
            effects: effects.of(call, now),
        },
        Outcome::Reject(reason) => Decision::Reject(*reason),
    }
}

/// The first rule for an event, as a write that needs no read before it.
pub struct UnreadUpdate<'e> {
    /// The write.
    pub update: ConditionalUpdate,
    rule: Rule<'e>,
}

impl UnreadUpdate<'_> {
    /// What must be done once the write has succeeded. `call` is the call after it.
    #[must_use]
    pub fn effects(&self, call: &Call, now: Timestamp) -> Vec<Effect> {
        match &self.rule.outcome {
            Outcome::Change(_, effects) => effects.of(call, now),
            Outcome::Repeat | Outcome::OnlyEffects(_) | Outcome::Reject(_) => Vec::new(),
        }
    }
}

/// The write to try without reading the call first: that of the first rule. `None` if this rule needs the call.
///
/// Where its conditions hold, [`decide`] makes the same change: both use the same rule. (A property test checks it.)
#[must_use]
pub fn unread_update(event: &Event, now: Timestamp) -> Option<UnreadUpdate<'_>> {
    let is_to_number = matches!(event, Event::ExotelProgress { .. });
    let rule = rules(is_to_number, event, now).into_iter().next()?;
    let (conditions, assignments) = rule.without_reading()?;
    let update = ConditionalUpdate {
        conditions: conditions.to_vec(),
        change: Change {
            assignments: assignments.to_vec(),
            entry: history_entry(event, now),
        },
    };
    Some(UnreadUpdate { update, rule })
}

/// The rules for an event, in order.
pub(super) fn rules(is_to_number: bool, event: &Event, now: Timestamp) -> Vec<Rule<'_>> {
    match event {
        Event::ReplicaOverwritten(version) => merge::rules(version, now),
        _ if is_to_number => number_rules::rules(event, now),
        _ => phone_rules::rules(event, now),
    }
}

/// An app may act for the extension that is called. The calling app may only hang up.
fn may_act(call: &Call, event: &Event) -> bool {
    let Some(party) = event.app() else {
        return true;
    };
    let is_caller = call.kind.calling_app() == Some(&party.extension);
    party.extension == call.extension || (is_caller && matches!(event, Event::HungUp { .. }))
}

fn history_entry(event: &Event, now: Timestamp) -> HistoryEntry {
    let at = match event {
        Event::PushSent(pushed) => pushed.at,
        _ => now,
    };
    let (event, by) = event.description();
    HistoryEntry {
        at,
        event: event.to_owned(),
        by,
    }
}
