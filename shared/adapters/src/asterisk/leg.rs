//! The legs that we have Asterisk call, as its dialplan expects them (`asterisk/README.md`).

use serde_json::{Value, json};

use ringback_core::call::{Call, CallType};
use ringback_core::ids::{ChannelId, Extension};
use ringback_core::phone_number::Caller;

/// What the phones' endpoints allow (`asterisk/pjsip.conf`).
const VIDEO_FORMATS: &str = "opus,ulaw,alaw,vp8,h264";

/// A leg to be originated.
pub(super) struct NewLeg {
    pub(super) channel: ChannelId,
    pub(super) body: Value,
}

impl NewLeg {
    /// The leg of the phone that is wanted; once answered, it takes the caller's away from its wait (S1's request).
    pub(super) fn of_phone(call: &Call, caller_leg: &ChannelId) -> Self {
        let caller = call.caller();
        let caller = caller.shown();
        let mut body = json!({
            "endpoint": format!("PJSIP/{}", call.extension),
            "context": "incoming-calls",
            "extension": caller,
            "priority": 1,
            "timeout": 30,
            "callerId": caller_id(&call.caller()),
        });
        body["variables"] = variables(call, "mobile_ready", "ringback-phone-ended,s,1");
        body["variables"]["ORIGINAL_CALLER"] = caller.into();
        body["variables"]["CALLER_CHANNEL"] = caller_leg.as_str().into();
        Self::new(ChannelId::of_phone(call.call_id), body, call.call_type)
    }

    /// The own leg of the app that calls. Its phone shows whom it calls.
    pub(super) fn of_app_caller(call: &Call, caller: &Extension) -> Self {
        let mut body = json!({
            "endpoint": format!("PJSIP/{caller}"),
            "context": "ringback-callers",
            "extension": call.extension,
            "priority": 1,
            "timeout": 30,
            "callerId": format!("<{}>", call.extension),
        });
        body["variables"] = variables(call, "outgoing", "ringback-app-caller-ended,s,1");
        // Whoever has just asked for the call need not pick up (RFC 5373); a phone that knows no better rings.
        body["variables"]["PJSIP_HEADER(add,Answer-Mode)"] = "Auto".into();
        Self::new(ChannelId::of_app_caller(call.call_id), body, call.call_type)
    }

    fn new(channel: ChannelId, mut body: Value, call_type: CallType) -> Self {
        // Left to itself, Asterisk offers sound alone.
        if call_type == CallType::Video {
            body["formats"] = VIDEO_FORMATS.into();
        }
        Self { channel, body }
    }
}

/// What the dialplan needs to know of a leg. Handlers are pushed here, because a leg that is never answered runs none
/// of the dialplan.
fn variables(call: &Call, call_type: &str, hangup_handler: &str) -> Value {
    json!({
        "CALL_TYPE": call_type,
        "RINGBACK_CALL_ID": call.call_id,
        "RINGBACK_CALL_TYPE": call.call_type,
        // So that an app can tell which of its calls this INVITE is.
        "PJSIP_HEADER(add,X-Ringback-Call-Id)": call.call_id,
        "CHANNEL(hangup_handler_push)": hangup_handler,
    })
}

/// A caller id as Asterisk parses it: `"name" <number>`. A bare word, as `anonymous` or an extension may be, would be
/// taken for a name.
fn caller_id(caller: &Caller) -> String {
    let number = caller.shown();
    let name = match (&caller.number, &caller.name) {
        (None, _) if caller.extension.is_some() => return format!("<{number}>"),
        (None, _) => "Anonymous",
        (Some(_), Some(name)) => name.as_str(),
        (Some(_), None) => return number.to_owned(),
    };
    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\" <{number}>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringback_core::phone_number::{CallerName, PhoneNumber};

    #[test]
    fn a_caller_id_cannot_be_broken_out_of() {
        let caller = |name: Option<&str>| {
            Caller::on_network(
                PhoneNumber::parse("9876543210", "IN"),
                name.and_then(CallerName::parse),
            )
        };
        assert_eq!(caller_id(&caller(None)), "+919876543210");
        assert_eq!(caller_id(&caller(Some("आशा"))), "\"आशा\" <+919876543210>");
        assert_eq!(
            caller_id(&caller(Some(r#"A" <1>\"#))),
            r#""A\" <1>\\" <+919876543210>"#
        );
        assert_eq!(
            caller_id(&Caller::on_network(None, None)),
            "\"Anonymous\" <anonymous>"
        );
    }
}
