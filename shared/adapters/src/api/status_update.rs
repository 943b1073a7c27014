//! What connected clients hear of a call: `call_status_update`, in S2's shape and S2's words.

use serde_json::{Value, json};

use ringback_core::call::{Call, CallStatus, StreamState};
use ringback_core::ids::{CallId, Extension, Reference};
use ringback_core::timestamp::Timestamp;

/// Who hears of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusAudience {
    /// All connected clients (S2). Those who have no part in the call see its numbers masked.
    Everyone,
    /// The call's own extensions, and operators.
    Participants,
}

/// A change of a call that clients hear of: of its status, or of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    call: Call,
}

impl StatusUpdate {
    /// The update that a changed item calls for: none, if its status is what it was in S2's words.
    #[must_use]
    pub fn of(before: Option<&Call>, after: Call) -> Option<Self> {
        let told = |call: &Call| is_told(call).then(|| (word_of_s2(call.status), call.stream));
        let (before, now) = (before.and_then(told), told(&after));
        (now.is_some() && now != before).then_some(Self { call: after })
    }

    /// Whose call it is.
    pub fn participants(&self) -> impl Iterator<Item = &Extension> {
        self.call.participants()
    }

    /// Which call it is.
    #[must_use]
    pub const fn call_id(&self) -> CallId {
        self.call.call_id
    }

    /// When the call changed.
    #[must_use]
    pub fn changed_at(&self) -> Timestamp {
        changed_at(&self.call)
    }

    /// The message for those who have part in the call, and for operators.
    #[must_use]
    pub fn for_participants(&self) -> String {
        message(data(&self.call, ToOwned::to_owned))
    }

    /// The message for everybody else: whose telephones these are is none of their business.
    #[must_use]
    pub fn for_others(&self) -> String {
        message(data(&self.call, masked))
    }
}

/// S2's clients know a call by its `callSid`, which must not change: an outbound call is told of once Exotel has given
/// it one, or it is over without.
const fn is_told(call: &Call) -> bool {
    !call.is_to_number() || call.call_sid.is_some() || call.status.is_final()
}

/// The answer to an app that has started a call: how it stands, and the app's own name for it.
#[must_use]
pub fn call_initiated(call: &Call, reference: Option<&Reference>) -> Value {
    let mut data = data(call, ToOwned::to_owned);
    if let Some(reference) = reference {
        data["clientReference"] = reference.to_string().into();
    }
    json!({ "type": "call_initiated", "data": data })
}

fn message(data: Value) -> String {
    json!({ "type": "call_status_update", "data": data }).to_string()
}

/// S2's fields, and beside them what an app needs besides. `shown` says how a telephone number is shown.
fn data(call: &Call, shown: fn(&str) -> String) -> Value {
    let sid = call.call_sid.as_ref();
    let own_id = || call.call_id.to_string();
    let caller = &call.caller();
    let number = caller.number.as_ref();
    json!({
        "callSid": sid.map_or_else(own_id, ToString::to_string),
        "status": word_of_s2(call.status),
        "from": number.map_or_else(|| caller.shown().to_owned(), |number| shown(number.as_str())),
        "to": call.number_called().map_or_else(|| call.extension.to_string(), |to| shown(to.as_str())),
        "timestamp": changed_at(call).to_iso(),
        "callId": call.call_id,
        "callType": call.call_type,
        "reason": call.end_reason(),
        "stream": call.stream.map(|stream| match stream {
            StreamState::Started => "started",
            StreamState::Stopped => "stopped",
        }),
    })
}

/// S2's words; for what S2 does not know, Exotel's. A phone that is being woken rings, as far as a client can tell.
const fn word_of_s2(status: CallStatus) -> &'static str {
    match status {
        CallStatus::Initiated => "initiated",
        CallStatus::WaitingForMobile | CallStatus::MobileReady | CallStatus::Ringing => "ringing",
        CallStatus::InProgress => "in-progress",
        CallStatus::Completed => "completed",
        CallStatus::Declined => "busy",
        CallStatus::TimedOut => "no-answer",
        CallStatus::Canceled => "canceled",
        CallStatus::Failed => "failed",
    }
}

/// A client hears of a change as soon as it is made, and the last line of the history tells of it.
fn changed_at(call: &Call) -> Timestamp {
    call.history
        .last()
        .map_or(call.created_at, |entry| entry.at)
}

/// All but the last two digits.
fn masked(number: &str) -> String {
    let digits = number.chars().count();
    let shown = number.chars().skip(digits.saturating_sub(2));
    let hidden = std::iter::repeat_n('*', digits.saturating_sub(2));
    hidden.chain(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringback_core::call::{CallKind, CallType, NewCall};
    use ringback_core::ids::CallSid;
    use ringback_core::phone_number::PhoneNumber;
    use ringback_core::testing::a_call;

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
        withheld.kind = ringback_core::testing::without_number(withheld.kind);
        let update = StatusUpdate::of(None, withheld).unwrap();
        assert_eq!(data(&update.for_others())["from"], "anonymous");
    }

    #[test]
    fn of_an_outbound_call_both_numbers_are_masked() {
        let number = |text| PhoneNumber::parse(text, "IN").unwrap();
        let new = NewCall {
            call_id: CallId::fresh(),
            extension: Extension::try_from("1001").unwrap(),
            kind: CallKind::ToNumber {
                from: number("9800001001"),
                to: number("9876543210"),
            },
            call_type: CallType::Voice,
            caller_leg: None,
            call_sid: None,
        };
        let mut call = Call::new(new, a_call(NOW).limits, NOW);
        assert_eq!(StatusUpdate::of(None, call.clone()), None);
        call.call_sid = CallSid::try_from("sid").ok();
        let update = StatusUpdate::of(None, call).unwrap();
        let (told, others) = (data(&update.for_participants()), data(&update.for_others()));
        assert_eq!(
            (&told["status"], &told["from"], &told["to"]),
            (
                &"initiated".into(),
                &"+919800001001".into(),
                &"+919876543210".into()
            )
        );
        assert_eq!(
            (&others["from"], &others["to"]),
            (&"***********01".into(), &"***********10".into())
        );
    }

    #[test]
    fn a_stream_that_starts_or_stops_is_told() {
        let before = a_call(NOW);
        let mut streaming = before.clone();
        streaming.stream = Some(StreamState::Started);
        let update = StatusUpdate::of(Some(&before), streaming.clone()).unwrap();
        let data = data(&update.for_participants());
        assert_eq!(
            (&data["status"], &data["stream"]),
            (&"ringing".into(), &"started".into())
        );
        assert_eq!(StatusUpdate::of(Some(&streaming.clone()), streaming), None);
    }

    #[test]
    fn a_change_that_changes_no_word_is_not_told() {
        let before = a_call(NOW);
        let mut ready = before.clone();
        ready.status = CallStatus::MobileReady;
        assert_eq!(StatusUpdate::of(Some(&before), ready.clone()), None);
        let mut talking = ready.clone();
        talking.status = CallStatus::InProgress;
        assert!(StatusUpdate::of(Some(&ready), talking).is_some());
    }
}
