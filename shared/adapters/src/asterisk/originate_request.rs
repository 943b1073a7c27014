//! The ARI requests that call a phone, with the variables that the dialplan expects (`asterisk/README.md`).

use serde_json::{Value, json};

use ringback_core::call::{Call, CallType};
use ringback_core::ids::{ChannelId, SipAccountName};
use ringback_core::phone_number::Caller;

/// The codecs that the phones' endpoints allow (`asterisk/pjsip.conf`).
const VIDEO_FORMATS: &str = "opus,ulaw,alaw,vp8,h264";

/// How long Asterisk lets a phone ring, in seconds.
const RING_SECONDS: u32 = 30;

/// A request to create a leg: `POST /channels/{channel}` with this body.
pub(super) struct OriginateRequest {
    pub(super) channel: ChannelId,
    /// The phone's PJSIP endpoint and AOR, which have the same name.
    pub(super) endpoint: SipAccountName,
    pub(super) body: Value,
}

impl OriginateRequest {
    /// Calls a phone of the call's extension. When it answers, the dialplan bridges it to the caller's leg.
    pub(super) fn to_phone(call: &Call, phone: &SipAccountName, caller_leg: &ChannelId) -> Self {
        let caller = call.caller();
        let caller = caller.shown();
        let mut body = json!({
            "context": "incoming-calls",
            "extension": caller,
            "priority": 1,
            "timeout": RING_SECONDS,
            "callerId": caller_id(&call.caller()),
        });
        body["variables"] = variables(call, "mobile_ready", "ringback-phone-ended,s,1");
        body["variables"]["ORIGINAL_CALLER"] = caller.into();
        body["variables"]["CALLER_CHANNEL"] = caller_leg.as_str().into();
        Self::new(call.phone_channel(), phone, body, call.call_type)
    }

    /// Calls the phone of the app that starts the call. The phone shows the extension that the app calls.
    pub(super) fn to_calling_app(call: &Call, phone: &SipAccountName) -> Self {
        let mut body = json!({
            "context": "ringback-callers",
            "extension": call.extension,
            "priority": 1,
            "timeout": RING_SECONDS,
            "callerId": format!("<{}>", call.extension),
        });
        body["variables"] = variables(call, "outgoing", "ringback-app-caller-ended,s,1");
        // The person has just started the call, so the phone answers automatically (RFC 5373). A phone that does not support
        // this header rings.
        body["variables"]["PJSIP_HEADER(add,Answer-Mode)"] = "Auto".into();
        let channel = ChannelId::of_app_caller(call.call_id);
        Self::new(channel, phone, body, call.call_type)
    }

    fn new(
        channel: ChannelId,
        phone: &SipAccountName,
        mut body: Value,
        call_type: CallType,
    ) -> Self {
        body["endpoint"] = format!("PJSIP/{phone}").into();
        // Without `formats`, Asterisk offers audio only.
        if call_type == CallType::Video {
            body["formats"] = VIDEO_FORMATS.into();
        }
        Self {
            channel,
            endpoint: phone.clone(),
            body,
        }
    }

    /// The same request for this address of the phone, whether Asterisk thinks that the phone can be reached there or not.
    pub(super) fn at(&self, contact: &str) -> Self {
        let mut body = self.body.clone();
        body["endpoint"] = format!("PJSIP/{}/{contact}", self.endpoint).into();
        Self {
            channel: self.channel.clone(),
            endpoint: self.endpoint.clone(),
            body,
        }
    }
}

/// The channel variables. The hangup handler is pushed here, because a leg that is never answered runs no dialplan.
fn variables(call: &Call, call_type: &str, hangup_handler: &str) -> Value {
    json!({
        "CALL_TYPE": call_type,
        "RINGBACK_CALL_ID": call.call_id,
        "RINGBACK_CALL_TYPE": call.call_type,
        // Lets the app match this INVITE to its call.
        "PJSIP_HEADER(add,X-Ringback-Call-Id)": call.call_id,
        "CHANNEL(hangup_handler_push)": hangup_handler,
    })
}

/// A caller id in Asterisk's format: `"name" <number>`. Asterisk takes a bare word, such as `anonymous` or an extension, for
/// a name.
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
    fn a_caller_name_cannot_inject_caller_id_syntax() {
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
