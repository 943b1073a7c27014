//! What connected clients hear of a call: `call_status_update`, in S2's shape and S2's words.

use serde_json::{Value, json};

use crate::call::{Call, Status};
use crate::clock::Timestamp;
use crate::names::{CallId, Caller, Extension};

/// Who hears of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusAudience {
    /// All connected clients (S2). Those who have no part in the call see its numbers masked.
    Everyone,
    /// The call's own extension alone.
    Participants,
}

/// A change of a call's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    call: Call,
}

impl StatusUpdate {
    /// The update that a changed item calls for: none, if its status is what it was in S2's words.
    #[must_use]
    pub fn of(before: Option<&Call>, after: Call) -> Option<Self> {
        let told = before.map(|call| words_of_s2(call.status));
        (told != Some(words_of_s2(after.status))).then_some(Self { call: after })
    }

    /// Whose call it is.
    #[must_use]
    pub const fn extension(&self) -> &Extension {
        &self.call.extension
    }

    /// Which call it is.
    #[must_use]
    pub const fn call_id(&self) -> CallId {
        self.call.call_id
    }

    /// The message for those who have part in the call.
    #[must_use]
    pub fn for_participants(&self) -> String {
        self.message(self.call.caller.number_or_withheld())
    }

    /// The message for everybody else: who calls is none of their business.
    #[must_use]
    pub fn for_others(&self) -> String {
        self.message(&masked(self.call.caller.number_or_withheld()))
    }

    fn message(&self, from: &str) -> String {
        let call = &self.call;
        let sid = call
            .call_sid
            .as_ref()
            .map_or_else(|| call.call_id.to_string(), ToString::to_string);
        let update: Value = json!({
            "type": "call_status_update",
            "data": {
                "callSid": sid,
                "status": words_of_s2(call.status),
                "from": from,
                "to": call.extension,
                "timestamp": changed_at(call).to_iso(),
                "callId": call.call_id,
                "callType": call.call_type,
                "reason": call.why,
            },
        });
        update.to_string()
    }
}

/// S2's words; for what S2 does not know, Exotel's. A phone that is being woken rings, as far as a client can tell.
const fn words_of_s2(status: Status) -> &'static str {
    match status {
        Status::WaitingForMobile | Status::MobileReady => "ringing",
        Status::InProgress => "in-progress",
        Status::Completed => "completed",
        Status::Declined => "busy",
        Status::TimedOut => "no-answer",
        Status::Canceled => "canceled",
        Status::Failed => "failed",
    }
}

fn changed_at(call: &Call) -> Timestamp {
    let reached = call.ended_at.or(call.bridged_at);
    reached.unwrap_or(call.created_at)
}

/// All but the last two digits.
fn masked(number: &str) -> String {
    let digits = number.chars().count();
    let shown = number.chars().skip(digits.saturating_sub(2));
    let hidden = std::iter::repeat_n('*', digits.saturating_sub(2));
    if number == Caller::WITHHELD {
        number.to_owned()
    } else {
        hidden.chain(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn data(message: &str) -> Value {
        serde_json::from_str::<Value>(message).unwrap()["data"].clone()
    }

    #[test]
    fn a_new_call_rings_and_says_since_when() {
        let update = StatusUpdate::of(None, a_call(NOW)).unwrap();
        let data = data(&update.for_participants());
        assert_eq!(
            (&data["status"], &data["from"], &data["to"]),
            (&"ringing".into(), &"+919876543210".into(), &"1001".into())
        );
        assert_eq!(data["timestamp"], "2024-03-14T12:00:00Z");
    }

    #[test]
    fn others_do_not_learn_who_calls() {
        let update = StatusUpdate::of(None, a_call(NOW)).unwrap();
        assert_eq!(data(&update.for_others())["from"], "***********10");
        let mut withheld = a_call(NOW);
        withheld.caller.number = None;
        let update = StatusUpdate::of(None, withheld).unwrap();
        assert_eq!(data(&update.for_others())["from"], "anonymous");
    }

    #[test]
    fn a_change_that_changes_no_word_is_not_told() {
        let before = a_call(NOW);
        let mut ready = before.clone();
        ready.status = Status::MobileReady;
        assert_eq!(StatusUpdate::of(Some(&before), ready.clone()), None);
        let mut talking = ready.clone();
        talking.status = Status::InProgress;
        assert!(StatusUpdate::of(Some(&ready), talking).is_some());
    }
}
