//! When a call must have moved on.

use super::{ABANDONED_AFTER, Call, CallStatus};
use crate::timestamp::Timestamp;

impl Call {
    /// Until when the call may stay in its state. Only an ended call has no deadline, so no call gets stuck.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.status {
            CallStatus::WaitingForMobile => Some(after_check(self, self.rings_until)),
            CallStatus::MobileReady => Some(after_check(self, connects_until(self))),
            CallStatus::Initiated | CallStatus::Ringing => Some(report_due(self)),
            CallStatus::InProgress if self.is_to_number() => Some(report_due(self)),
            CallStatus::InProgress => {
                Some(self.bridged_at.unwrap_or(self.created_at) + self.settings.talk)
            }
            CallStatus::Completed
            | CallStatus::Declined
            | CallStatus::TimedOut
            | CallStatus::Canceled
            | CallStatus::Failed => None,
        }
    }
}

/// When the legs should be bridged.
pub(super) fn connects_until(call: &Call) -> Timestamp {
    let ready_at = call.ready_at.unwrap_or(call.created_at);
    call.rings_until.max(ready_at + call.settings.connect)
}

/// `due`, or later while Asterisk has a moment to answer whether the legs are bridged.
fn after_check(call: &Call, due: Timestamp) -> Timestamp {
    let answered_by = call.checked_at.map(|asked| asked + ABANDONED_AFTER);
    answered_by.map_or(due, |answered_by| answered_by.max(due))
}

/// Until when a call may go without a report. Exotel is asked about a call that it has reported before that call is given up, and
/// gets a moment to answer. Whether Exotel placed a call that it never reported is unknown.
fn report_due(call: &Call) -> Timestamp {
    let due = match (call.bridged_at, &call.call_sid) {
        (Some(answered), _) => answered + call.settings.talk,
        (None, Some(_)) => call.rings_until + call.settings.talk,
        (None, None) => call.rings_until,
    };
    let asked_at_the_end = call.checked_at.filter(|asked| *asked >= due);
    asked_at_the_end.map_or(due, |asked| asked + ABANDONED_AFTER)
}

/// When Exotel is asked about the call next. `None` once the call has ended.
pub(super) fn next_check(call: &Call) -> Option<Timestamp> {
    let deadline = call.deadline()?;
    let from = call.bridged_at.max(call.checked_at);
    let due = from.map_or(call.rings_until, |from| from + call.settings.check);
    Some(due.min(deadline))
}
