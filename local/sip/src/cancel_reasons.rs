use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rsipstack::{
    sip::{Header, Method, SipMessage, prelude::HasHeaders},
    transaction::endpoint::MessageInspector,
    transport::SipAddr,
};

/// The name of the header that says why a call was canceled (RFC 3326).
const REASON: &str = "Reason";

/// The `Reason` headers of a user agent's CANCEL requests, by Call-ID. The SIP library does not support this header.
#[derive(Clone, Default)]
pub(crate) struct CancelReasons {
    to_send: Reasons,
    received: Reasons,
}

type Reasons = Arc<Mutex<HashMap<String, Vec<String>>>>;

impl CancelReasons {
    /// Adds these headers to the CANCEL of a call.
    pub(crate) fn send_with(&self, call_id: &str, reasons: &[&str]) {
        let reasons = reasons.iter().map(ToString::to_string).collect();
        set(&self.to_send, call_id, reasons);
    }

    /// The headers of the CANCEL that ended a call. Empty if none has arrived.
    pub(crate) fn received(&self, call_id: &str) -> Vec<String> {
        of(&self.received, call_id)
    }
}

impl MessageInspector for CancelReasons {
    fn before_send(&self, mut message: SipMessage, _to: Option<&SipAddr>) -> SipMessage {
        if let Some(call_id) = call_id_of_cancel(&message) {
            let headers = of(&self.to_send, &call_id).into_iter();
            let headers = headers.map(|reason| Header::Other(REASON.into(), reason));
            message.headers_mut().extend(headers.collect());
        }
        message
    }

    fn after_received(&self, message: SipMessage, _from: Option<&SipAddr>) -> SipMessage {
        if let Some(call_id) = call_id_of_cancel(&message) {
            let headers = message.headers().iter();
            let reasons = headers.filter(|header| header.name().eq_ignore_ascii_case(REASON));
            let reasons = reasons.map(|reason| reason.value().to_owned()).collect();
            set(&self.received, &call_id, reasons);
        }
        message
    }
}

fn call_id_of_cancel(message: &SipMessage) -> Option<String> {
    let SipMessage::Request(request) = message else {
        return None;
    };
    let is_call_id = |header: &&Header| matches!(header, Header::CallId(_));
    let call_id = request.headers.iter().find(is_call_id)?;
    (request.method == Method::Cancel).then(|| call_id.value().to_owned())
}

fn set(reasons: &Reasons, call_id: &str, value: Vec<String>) {
    let mut all = reasons.lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(call_id.to_owned(), value);
}

fn of(reasons: &Reasons, call_id: &str) -> Vec<String> {
    let all = reasons.lock().unwrap_or_else(PoisonError::into_inner);
    all.get(call_id).cloned().unwrap_or_default()
}
