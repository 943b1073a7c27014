//! A rule is one row: when all conditions hold, then these assignments are saved and these effects follow.
//!
//! The rules for an event are an ordered list, and the first one that applies decides. [`unread_update`](super::unread_update)
//! tries the first rule as one conditional write, without reading the call; so a rule and its condition cannot differ.

use super::{Assignment, Call, Condition, Effect, RejectReason, pending};
use crate::timestamp::Timestamp;

/// What follows from an event when `conditions` and `checks` hold.
pub(super) struct Rule<'e> {
    conditions: Vec<Condition>,
    checks: Vec<Check<'e>>,
    pub(super) outcome: Outcome<'e>,
}

/// What a rule decides.
pub(super) enum Outcome<'e> {
    /// Save the assignments, then carry the effects out.
    Change(Assignments<'e>, Effects<'e>),
    /// The event has been handled before. Carry out what the first attempt may have left.
    Repeat,
    /// Change nothing, but carry these effects out.
    OnlyEffects(Effects<'e>),
    /// The event is not for this call, or comes too late.
    Reject(RejectReason),
}

type AssignmentsOf<'e> = Box<dyn Fn(&Call) -> Vec<Assignment> + Send + Sync + 'e>;
type EffectsOf<'e> = Box<dyn Fn(&Call, Timestamp) -> Vec<Effect> + Send + Sync + 'e>;

/// What a rule saves.
pub(super) enum Assignments<'e> {
    /// The same for every call, so the call need not be read first.
    Fixed(Vec<Assignment>),
    /// What these are depends on the call.
    Of(&'static str, AssignmentsOf<'e>),
}

/// The effects that follow, once the call is as it is after the change.
pub(super) struct Effects<'e> {
    name: &'static str,
    of: EffectsOf<'e>,
}

/// A check that needs the call as it was read.
struct Check<'e> {
    name: &'static str,
    holds: Box<dyn Fn(&Call) -> bool + Send + Sync + 'e>,
}

/// A rule without its outcome.
pub(super) struct When<'e> {
    conditions: Vec<Condition>,
    checks: Vec<Check<'e>>,
}

/// A rule with its assignments, and without its effects.
pub(super) struct Changing<'e>(When<'e>, Assignments<'e>);

/// Begins a rule that applies when all of these conditions hold.
pub(super) fn when<'e>(conditions: impl Into<Vec<Condition>>) -> When<'e> {
    When {
        conditions: conditions.into(),
        checks: Vec::new(),
    }
}

/// Begins a rule that applies when this holds of the call as it was read. `name` is for the page of all rules.
pub(super) fn when_read<'e>(
    name: &'static str,
    holds: impl Fn(&Call) -> bool + Send + Sync + 'e,
) -> When<'e> {
    when([]).and(name, holds)
}

/// Begins the last rule, which always applies.
pub(super) fn otherwise<'e>() -> When<'e> {
    when([])
}

impl<'e> When<'e> {
    /// The rule applies only when this holds too.
    pub(super) fn and(
        mut self,
        name: &'static str,
        holds: impl Fn(&Call) -> bool + Send + Sync + 'e,
    ) -> Self {
        let holds = Box::new(holds);
        self.checks.push(Check { name, holds });
        self
    }

    /// Save these assignments.
    pub(super) fn set(self, assignments: impl Into<Vec<Assignment>>) -> Changing<'e> {
        Changing(self, Assignments::Fixed(assignments.into()))
    }

    /// Save assignments that depend on the call as it was read.
    pub(super) fn set_of(
        self,
        name: &'static str,
        of: impl Fn(&Call) -> Vec<Assignment> + Send + Sync + 'e,
    ) -> Changing<'e> {
        Changing(self, Assignments::Of(name, Box::new(of)))
    }

    /// Carry out what the first attempt may have left.
    pub(super) fn repeat(self) -> Rule<'e> {
        self.decide(Outcome::Repeat)
    }

    /// Do nothing.
    pub(super) fn nothing(self) -> Rule<'e> {
        self.only("nothing", |_, _| Vec::new())
    }

    /// Change nothing, but carry these effects out.
    pub(super) fn only(
        self,
        name: &'static str,
        of: impl Fn(&Call, Timestamp) -> Vec<Effect> + Send + Sync + 'e,
    ) -> Rule<'e> {
        let of = Box::new(of);
        self.decide(Outcome::OnlyEffects(Effects { name, of }))
    }

    /// Reject the event.
    pub(super) fn reject(self, reason: RejectReason) -> Rule<'e> {
        self.decide(Outcome::Reject(reason))
    }

    fn decide(self, outcome: Outcome<'e>) -> Rule<'e> {
        Rule {
            conditions: self.conditions,
            checks: self.checks,
            outcome,
        }
    }
}

impl<'e> Changing<'e> {
    /// The effects that follow the change.
    pub(super) fn then(
        self,
        name: &'static str,
        of: impl Fn(&Call, Timestamp) -> Vec<Effect> + Send + Sync + 'e,
    ) -> Rule<'e> {
        let Self(when, assignments) = self;
        let of = Box::new(of);
        when.decide(Outcome::Change(assignments, Effects { name, of }))
    }

    /// The effects that the new state requires follow.
    pub(super) fn then_pending(self) -> Rule<'e> {
        self.then("pending", |call, _| pending::effects(call))
    }

    /// No effects follow.
    pub(super) fn then_nothing(self) -> Rule<'e> {
        self.then("nothing", |_, _| Vec::new())
    }
}

impl Rule<'_> {
    /// Whether the rule applies to `call`.
    pub(super) fn applies_to(&self, call: &Call) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(call))
            && self.checks.iter().all(|check| (check.holds)(call))
    }

    /// The conditions and assignments, if both are known without the call.
    pub(super) fn without_reading(&self) -> Option<(&[Condition], &[Assignment])> {
        match &self.outcome {
            Outcome::Change(Assignments::Fixed(assignments), _) if self.checks.is_empty() => {
                Some((&self.conditions, assignments))
            }
            Outcome::Change(..)
            | Outcome::Repeat
            | Outcome::OnlyEffects(_)
            | Outcome::Reject(_) => None,
        }
    }
}

impl Assignments<'_> {
    pub(super) fn of(&self, call: &Call) -> Vec<Assignment> {
        match self {
            Self::Fixed(assignments) => assignments.clone(),
            Self::Of(_, of) => of(call),
        }
    }
}

impl Effects<'_> {
    pub(super) fn of(&self, call: &Call, now: Timestamp) -> Vec<Effect> {
        (self.of)(call, now)
    }
}

/// One line for the page of all rules.
impl std::fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let conditions = self
            .conditions
            .iter()
            .map(|condition| format!("{condition:?}"));
        let checks = self.checks.iter().map(|check| check.name.to_owned());
        let all: Vec<String> = conditions.chain(checks).collect();
        match all.as_slice() {
            [] => write!(f, "otherwise")?,
            all => write!(f, "when {}", all.join(", "))?,
        }
        match &self.outcome {
            Outcome::Change(Assignments::Fixed(set), then) => {
                write!(f, ": set {set:?}, then {}", then.name)
            }
            Outcome::Change(Assignments::Of(name, _), then) => {
                write!(f, ": set {name}, then {}", then.name)
            }
            Outcome::Repeat => write!(f, ": repeat"),
            Outcome::OnlyEffects(then) => write!(f, ": only do {}", then.name),
            Outcome::Reject(reason) => write!(f, ": reject as {reason:?}"),
        }
    }
}
