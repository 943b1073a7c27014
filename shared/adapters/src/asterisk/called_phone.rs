//! The phone that a leg calls: its account, and the PJSIP endpoint to call it with.

use ringback_core::ids::{Extension, SipAccountName};

/// A phone.
#[derive(Clone, Debug)]
pub struct CalledPhone {
    /// Its account, which is also the name of its AOR.
    pub(super) account: SipAccountName,
    /// How its account may be used. `None` for an account of `phones.conf`, which the cloud does not know.
    pub(super) transports: Option<PhoneTransports>,
}

/// How phones with an account of their own send SIP and media, besides SIP over TLS and SRTP with keys in the SDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhoneTransports {
    /// SIP over UDP and TCP, and RTP without encryption. A phone that supports SRTP still uses it.
    pub unencrypted: bool,
    /// WebRTC: SIP over WebSocket, and DTLS-SRTP.
    pub websocket: bool,
}

impl CalledPhone {
    /// The phone of the account in `phones.conf` that all devices of the extension share.
    #[must_use]
    pub fn of_extension(extension: &Extension) -> Self {
        Self {
            account: SipAccountName::of_extension(extension),
            transports: None,
        }
    }

    /// The phone of a device with an account of its own.
    #[must_use]
    pub const fn of_device(account: SipAccountName, transports: PhoneTransports) -> Self {
        Self {
            account,
            transports: Some(transports),
        }
    }
}

impl PhoneTransports {
    /// The endpoint with which a phone is called at this address. `None` if it may not be called there: Asterisk accepts a REGISTER
    /// over any transport.
    pub(super) fn endpoint(self, account: &SipAccountName, contact: &str) -> Option<String> {
        let contact = contact.to_ascii_lowercase();
        // "ws" also if the phone uses wss, because the proxy in front of Asterisk ends TLS.
        if contact.contains(";transport=ws") {
            return self.websocket.then(|| webrtc_endpoint(account));
        }
        (self.unencrypted || contact.contains(";transport=tls")).then(|| account.to_string())
    }
}

/// The endpoint for a phone's WebRTC. An endpoint offers SDES or DTLS, and not both.
pub(super) fn webrtc_endpoint(account: &SipAccountName) -> String {
    format!("{account}-webrtc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_is_called_only_over_transports_of_the_deployment() {
        let account = SipAccountName::try_from("1001-9f3a61c04b7e").unwrap();
        let [udp, tls, ws] = [
            "sip:1001@192.0.2.7:5060",
            "sip:1001@192.0.2.7:40312;transport=TLS",
            "sip:b1@192.0.2.7:45386;transport=WS;x-ast-orig-host=b1.invalid:0",
        ];
        let own = Some("1001-9f3a61c04b7e".to_owned());
        let webrtc = Some("1001-9f3a61c04b7e-webrtc".to_owned());
        for (unencrypted, websocket, at_udp, at_ws) in [
            (false, false, &None, &None),
            (true, false, &own, &None),
            (false, true, &None, &webrtc),
            (true, true, &own, &webrtc),
        ] {
            let transports = PhoneTransports {
                unencrypted,
                websocket,
            };
            let endpoints = [udp, tls, ws].map(|at| transports.endpoint(&account, at));
            let expected = [at_udp, &own, at_ws].map(Clone::clone);
            assert_eq!(endpoints, expected, "{transports:?}");
        }
    }
}
