//! `call_status_update`: what connected clients get when a call changes. Its fields and its status words are those of the original
//! WebSocket protocol (docs/origin.md).

use serde_json::{Value, json};

use ringback_core::call::{Call, CallStatus, StreamState};
use ringback_core::ids::{CallId, Extension, Reference};
use ringback_core::timestamp::Timestamp;

/// The clients that get the status updates of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusAudience {
    /// All connected clients, as the original protocol asks. Clients outside the call see masked numbers.
    Everyone,
    /// The clients of the call's extensions, and operators.
    Participants,
}

/// A change of a call that clients can see: of its status word, or of its audio stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    call: Call,
}

impl StatusUpdate {
    /// The update for a changed item. `None` if clients would see no difference, or if the change is a loss: the other region's version,
    /// which knew less, has overwritten this one, and both are merged at once.
    #[must_use]
    pub fn of(before: Option<&Call>, after: Call) -> Option<Self> {
        let visible =
            |call: &Call| is_visible(call).then(|| (status_word(call.status), call.stream));
        let is_loss = before.is_some_and(|before| before.merge_rank() > after.merge_rank());
        let (before, now) = (before.and_then(visible), visible(&after));
        (now.is_some() && now != before && !is_loss).then_some(Self { call: after })
    }

    /// The extensions that take part in the call.
    pub fn participants(&self) -> impl Iterator<Item = &Extension> {
        self.call.participants()
    }

    /// The call.
    #[must_use]
    pub const fn call_id(&self) -> CallId {
        self.call.call_id
    }

    /// Whether it says that the call has ended.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.call.status.is_final()
    }

    /// When the call changed.
    #[must_use]
    pub fn changed_at(&self) -> Timestamp {
        changed_at(&self.call)
    }

    /// The message for clients in the call and for operators.
    #[must_use]
    pub fn for_participants(&self) -> String {
        message(data_for_participants(&self.call))
    }

    /// The message for all other clients. It hides the telephone numbers.
    #[must_use]
    pub fn for_others(&self) -> String {
        message(data(&self.call, masked))
    }
}

/// Clients identify a call by its `callSid`, which must not change. So an outbound call becomes visible when Exotel has given it
/// one, or when it ends without.
const fn is_visible(call: &Call) -> bool {
    !call.is_to_number() || call.call_sid.is_some() || call.status.is_final()
}

/// `call_initiated`: the answer to an app that has started a call, with the app's own name for the call.
#[must_use]
pub fn call_initiated(call: &Call, reference: Option<&Reference>) -> Value {
    let mut data = data_for_participants(call);
    if let Some(reference) = reference {
        data["clientReference"] = reference.to_string().into();
    }
    json!({ "type": "call_initiated", "data": data })
}

/// A call in progress, for a client of the call or an operator that has just connected: the message of the call's last change. `None` if
/// the call is over, or if clients do not see it yet.
#[must_use]
pub fn replay(call: &Call, now: Timestamp) -> Option<String> {
    let data = (call.is_live(now) && is_visible(call)).then(|| data_for_participants(call))?;
    let message = json!({ "type": TYPE, "data": data, "replay": true });
    Some(message.to_string())
}

const TYPE: &str = "call_status_update";

fn message(data: Value) -> String {
    json!({ "type": TYPE, "data": data }).to_string()
}

/// What an app needs besides to ring without a push: the caller's name, and until when it rings.
fn data_for_participants(call: &Call) -> Value {
    let mut data = data(call, ToOwned::to_owned);
    data["callerName"] = call.caller().name.map(String::from).into();
    data["expiresAt"] = call.rings_until.to_iso().into();
    data
}

/// The fields of the original protocol, and `callId`, `callType`, `reason` and `stream`. `show` writes or masks a telephone number.
fn data(call: &Call, show: fn(&str) -> String) -> Value {
    let sid = call.call_sid.as_ref();
    let own_id = || call.call_id.to_string();
    let caller = &call.caller();
    let number = caller.number.as_ref();
    json!({
        "callSid": sid.map_or_else(own_id, ToString::to_string),
        "status": status_word(call.status),
        "from": number.map_or_else(|| caller.shown().to_owned(), |number| show(number.as_str())),
        "to": call.number_called().map_or_else(|| call.extension.to_string(), |to| show(to.as_str())),
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

/// The status words of the original protocol, and Exotel's for a status that it does not have. To a client, a phone that is being
/// woken rings.
const fn status_word(status: CallStatus) -> &'static str {
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

/// The time of the last line of the history, which every change adds.
fn changed_at(call: &Call) -> Timestamp {
    call.history
        .last()
        .map_or(call.created_at, |entry| entry.at)
}

/// Hides all digits but the last two.
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
    fn a_new_call_is_ringing_since_its_creation() {
        let update = StatusUpdate::of(None, a_call(NOW)).unwrap();
        let data = data(&update.for_participants());
        assert_eq!(
            (&data["status"], &data["from"], &data["to"]),
            (&"ringing".into(), &"+919876543210".into(), &"1001".into())
        );
        assert_eq!(data["timestamp"], "2024-03-14T12:00:00Z");
        assert_eq!(data["expiresAt"], "2024-03-14T12:00:30Z");
        assert_eq!(data["callerName"], "आशा");
    }

    #[test]
    fn other_clients_see_no_number() {
        let update = StatusUpdate::of(None, a_call(NOW)).unwrap();
        let others = data(&update.for_others());
        assert_eq!(others["from"], "***********10");
        assert_eq!(others["callerName"], Value::Null);
        let mut withheld = a_call(NOW);
        withheld.kind = ringback_core::testing::without_number(withheld.kind);
        let update = StatusUpdate::of(None, withheld).unwrap();
        assert_eq!(data(&update.for_others())["from"], "anonymous");
    }

    #[test]
    fn both_numbers_of_an_outbound_call_are_masked() {
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
        let mut call = Call::new(new, a_call(NOW).settings, NOW);
        assert_eq!(StatusUpdate::of(None, call.clone()), None);
        call.call_sid = CallSid::try_from("sid").ok();
        let update = StatusUpdate::of(None, call).unwrap();
        let (participants, others) = (data(&update.for_participants()), data(&update.for_others()));
        assert_eq!(
            (
                &participants["status"],
                &participants["from"],
                &participants["to"]
            ),
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
    fn a_stream_that_starts_or_stops_is_an_update() {
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
    fn a_change_without_a_visible_difference_is_no_update() {
        let before = a_call(NOW);
        let mut ready = before.clone();
        ready.status = CallStatus::MobileReady;
        assert_eq!(StatusUpdate::of(Some(&before), ready.clone()), None);
        let mut talking = ready.clone();
        talking.status = CallStatus::InProgress;
        assert!(StatusUpdate::of(Some(&ready), talking).is_some());
    }
}
