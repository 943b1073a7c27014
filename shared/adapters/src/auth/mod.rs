//! Authentication: of apps, operators and admins by bearer token, of Exotel and the PBX by shared secret.

pub mod answer_grant;
mod claims;
mod jwks;
pub mod signing;
mod stream_token;
#[cfg(test)]
mod testing;
mod token;
mod token_rejection;
pub mod webhook_auth;

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use ringback_core::call::CallParty;
use ringback_core::ids::Extension;

#[cfg(any(test, feature = "testing"))]
pub(crate) use answer_grant::read_any_grant;
#[cfg(any(test, feature = "testing"))]
pub(crate) use claims::read_any_claims;
pub use jwks::KeysError;
#[cfg(any(test, feature = "testing"))]
pub(crate) use jwks::read_any_keys;
#[cfg(any(test, feature = "testing"))]
pub(crate) use token::read_any_token;
pub use token::{TokenError, Tokens};

/// The client has no valid credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no valid credentials")]
pub struct Unauthorized;

/// The client with a valid token, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// A phone app: it acts for its extension, and sees that extension's calls.
    App(CallParty),
    /// An operator: sees all calls, and acts for an extension only if the token names one.
    Operator(Option<CallParty>),
    /// An admin: an operator who also changes number routes and telephone numbers.
    Admin {
        /// As an operator's.
        party: Option<CallParty>,
        /// Who it is, for the audit trail.
        subject: Subject,
    },
}

/// The `sub` of a token: who it was issued to. It may be a person's mail address, so it is hidden from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject(String);

impl Subject {
    /// The subject in `text`: 1 to 255 characters (OpenID Connect, 2), and no control characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let length = text.chars().count();
        let is_subject = (1..=255).contains(&length) && !text.contains(char::is_control);
        is_subject.then(|| Self(text.to_owned()))
    }

    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject(…)")
    }
}

/// The calls that a client may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Viewer {
    /// Those of the app's extension.
    App(Extension),
    /// All calls, for an operator.
    Operator,
}

impl Bearer {
    /// The extension and device that it acts for. `None` for an operator or admin without an extension.
    #[must_use]
    pub const fn party(&self) -> Option<&CallParty> {
        match self {
            Self::App(party) => Some(party),
            Self::Operator(party) | Self::Admin { party, .. } => party.as_ref(),
        }
    }

    /// The same, if it acts for this extension.
    #[must_use]
    pub fn acting_for(&self, extension: &Extension) -> Option<&CallParty> {
        self.party().filter(|party| party.extension == *extension)
    }

    /// Who it is, if it is an admin.
    #[must_use]
    pub const fn admin(&self) -> Option<&Subject> {
        match self {
            Self::Admin { subject, .. } => Some(subject),
            Self::App(_) | Self::Operator(_) => None,
        }
    }

    /// The calls that it may see.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        match self {
            Self::App(party) => Viewer::App(party.extension.clone()),
            Self::Operator(_) | Self::Admin { .. } => Viewer::Operator,
        }
    }
}

impl Viewer {
    /// Whether it may see a call between these extensions.
    #[must_use]
    pub fn sees<'a>(&self, mut participants: impl Iterator<Item = &'a Extension>) -> bool {
        match self {
            Self::App(own) => participants.any(|extension| extension == own),
            Self::Operator => true,
        }
    }
}

impl fmt::Display for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(extension) => extension.fmt(f),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// Compares a secret with the valid ones, in constant time.
///
/// # Errors
/// When it is missing or not valid.
pub fn shared_secret<'a>(
    shown: Option<&str>,
    valid: impl IntoIterator<Item = &'a SecretString>,
) -> Result<(), Unauthorized> {
    let shown = shown.ok_or(Unauthorized)?.as_bytes();
    let matches = |secret: &SecretString| {
        let secret = secret.expose_secret().as_bytes();
        // An empty secret is never valid.
        !secret.is_empty() & bool::from(secret.ct_eq(shown))
    };
    let known = valid
        .into_iter()
        .fold(false, |known, secret| known | matches(secret));
    if known { Ok(()) } else { Err(Unauthorized) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(extension: &str) -> CallParty {
        CallParty {
            extension: Extension::try_from(extension).unwrap(),
            device: None,
        }
    }

    #[test]
    fn an_app_acts_for_its_own_extension_and_sees_its_own_calls() {
        let (own, other) = (party("1001").extension, party("1002").extension);
        let app = Bearer::App(party("1001"));
        assert!(app.viewer().sees([&other, &own].into_iter()));
        assert!(!app.viewer().sees([&other].into_iter()));
        assert_eq!(app.acting_for(&own), Some(&party("1001")));
        assert_eq!(app.acting_for(&other), None);
    }

    #[test]
    fn an_operator_sees_all_calls_and_acts_only_for_its_own_extension() {
        let (own, other) = (party("1001").extension, party("1002").extension);
        let admin = |party| Bearer::Admin {
            party,
            subject: Subject::parse("priya").unwrap(),
        };
        for operator in [
            Bearer::Operator(None),
            Bearer::Operator(Some(party("1001"))),
            admin(None),
            admin(Some(party("1001"))),
        ] {
            assert!(operator.viewer().sees([&other].into_iter()));
            assert_eq!(operator.acting_for(&other), None);
        }
        assert_eq!(Bearer::Operator(None).acting_for(&own), None);
        let with_extension = Bearer::Operator(Some(party("1001")));
        assert_eq!(with_extension.acting_for(&own), Some(&party("1001")));
    }

    #[test]
    fn two_secrets_are_valid_while_one_replaces_the_other() {
        let valid: [SecretString; 2] = ["new".into(), "old".into()];
        assert!(shared_secret(Some("new"), &valid).is_ok());
        assert!(shared_secret(Some("old"), &valid).is_ok());
        for shown in [None, Some(""), Some("ne"), Some("newer")] {
            assert!(shared_secret(shown, &valid).is_err(), "{shown:?}");
        }
        assert!(shared_secret(Some(""), &[SecretString::from("")]).is_err());
    }
}
