//! What can go wrong between Ringback and a PBX.

use reqwest::StatusCode;
use ringback_core::ids::PbxName;

use crate::platform::secrets::SecretError;
use crate::telemetry::requests;

/// Why Asterisk did not do what Ringback requested.
#[derive(Debug, thiserror::Error)]
pub enum AsteriskError {
    /// No reply came, or not in time. A retry may help.
    #[error("Asterisk could not be reached while {0}")]
    Unreachable(&'static str, #[source] reqwest::Error),
    /// Asterisk accepted the connection and sent no reply in time. A retry may help.
    #[error("Asterisk did not answer while {0}")]
    Silent(&'static str),
    /// Asterisk refused: a wrong password (401), or a request that it does not understand.
    #[error("Asterisk answered {status} while {doing}")]
    Refused {
        /// What Ringback was doing.
        doing: &'static str,
        /// The HTTP status code of the reply.
        status: StatusCode,
    },
    /// The phone did not register with SIP in time. The app may try again.
    #[error("the phone did not register in time")]
    PhoneOffline,
    /// The extension has no PJSIP endpoint.
    #[error("Asterisk has no endpoint for the extension")]
    NoSuchEndpoint,
    /// The secret's `ari_ca_pem` holds no certificate.
    #[error("ari_ca_pem is not a PEM certificate")]
    BadCertificate(#[source] Option<reqwest::Error>),
    /// The call is on a PBX that `ARI_URL` does not list, or no longer lists.
    #[error("the call is on the PBX {0}, which ARI_URL does not list")]
    NotListed(PbxName),
    /// The secret with the ARI password could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl AsteriskError {
    /// Whether the certificate of the PBX is not trusted.
    #[must_use]
    pub fn is_about_trust(&self) -> bool {
        match self {
            Self::BadCertificate(_) => true,
            // The TLS library's own error is not in the public interface of the HTTP client.
            Self::Unreachable(..) => self.with_causes().contains("certificate"),
            _ => false,
        }
    }

    /// The error with its causes, in one line.
    #[must_use]
    pub fn with_causes(&self) -> String {
        requests::error_chain(self)
    }
}
