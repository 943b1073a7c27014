//! Configuration from environment variables, read once, when a function starts. Errors name the variable.

use std::time::Duration;

use ringback_core::call::{CallSettings, CallWaiting, DeclineEnds, Rejection};

/// Why the configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable is not set.
    #[error("the environment variable {0} is missing")]
    Missing(&'static str),
    /// A variable has an invalid value.
    #[error("the environment variable {name} must be {rule}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// The values that it may have.
        rule: &'static str,
    },
    /// A variable lists an invalid CIDR block.
    #[error(
        "the environment variable {name} lists {text:?}, which is not a CIDR block such as 203.0.113.0/24 or 2001:db8::/48"
    )]
    NoCidr {
        /// The variable.
        name: &'static str,
        /// The invalid block.
        text: String,
    },
}

/// The process's environment.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    read: fn(&str) -> Option<String>,
}

impl Environment {
    /// The environment that the process was started with.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the environment is read"
    )]
    pub const fn of_process() -> Self {
        Self {
            read: |name| std::env::var(name).ok(),
        }
    }

    /// An environment for tests.
    #[must_use]
    pub const fn of(read: fn(&str) -> Option<String>) -> Self {
        Self { read }
    }

    /// A variable that must be set.
    ///
    /// # Errors
    /// When it is not set, or empty.
    pub fn required(&self, name: &'static str) -> Result<String, ConfigError> {
        self.optional(name).ok_or(ConfigError::Missing(name))
    }

    /// A variable that may be missing. An empty one counts as missing, because a template cannot leave a variable out.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<String> {
        (self.read)(name).filter(|value| !value.is_empty())
    }

    /// The base URL in a variable, without a slash at its end.
    ///
    /// # Errors
    /// When it is missing, or does not begin with `https://` or `http://`.
    pub fn url(&self, name: &'static str) -> Result<String, ConfigError> {
        let url = self.required(name)?;
        if url.starts_with("https://") || url.starts_with("http://") {
            Ok(url.trim_end_matches('/').to_owned())
        } else {
            Err(ConfigError::Invalid {
                name,
                rule: "a URL",
            })
        }
    }

    /// The whole number above 0 in a variable, or `default` if it is missing.
    ///
    /// # Errors
    /// When it has another value.
    pub fn count(&self, name: &'static str, default: u32) -> Result<u32, ConfigError> {
        let Some(text) = self.optional(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| *number > 0);
        number.ok_or(ConfigError::Invalid {
            name,
            rule: "a whole number above 0",
        })
    }

    /// `RING_TIMEOUT_SECONDS` (30), `CONNECT_TIMEOUT_SECONDS` (15), `MAX_CALL_SECONDS` (14,400), `EXOTEL_CHECK_SECONDS`
    /// (300), `DECLINE_ENDS` (`call`), `UNANSWERED_STATUS` (486), `CALL_WAITING` (`ring`) and `HISTORY_DAYS` (7).
    ///
    /// # Errors
    /// When one of them has another value than it may have.
    pub fn call_settings(&self) -> Result<CallSettings, ConfigError> {
        Ok(CallSettings {
            ring: self.seconds("RING_TIMEOUT_SECONDS", 30)?,
            connect: self.seconds("CONNECT_TIMEOUT_SECONDS", 15)?,
            talk: self.seconds("MAX_CALL_SECONDS", 14_400)?,
            check: self.seconds("EXOTEL_CHECK_SECONDS", 300)?,
            decline_ends: self.decline_ends()?,
            kept_seconds: u64::from(self.count("HISTORY_DAYS", 7)?) * 24 * 60 * 60,
            unanswered: self.unanswered_status()?,
            call_waiting: self.call_waiting()?,
        })
    }

    fn unanswered_status(&self) -> Result<Rejection, ConfigError> {
        match self.optional("UNANSWERED_STATUS").as_deref() {
            None | Some("486") => Ok(Rejection::BusyHere),
            Some("480") => Ok(Rejection::TemporarilyUnavailable),
            Some(_) => Err(ConfigError::Invalid {
                name: "UNANSWERED_STATUS",
                rule: "486 or 480",
            }),
        }
    }

    fn call_waiting(&self) -> Result<CallWaiting, ConfigError> {
        match self.optional("CALL_WAITING").as_deref() {
            None | Some("ring") => Ok(CallWaiting::Ring),
            Some("busy") => Ok(CallWaiting::Busy),
            Some(_) => Err(ConfigError::Invalid {
                name: "CALL_WAITING",
                rule: "ring or busy",
            }),
        }
    }

    fn decline_ends(&self) -> Result<DeclineEnds, ConfigError> {
        match self.optional("DECLINE_ENDS").as_deref() {
            None | Some("call") => Ok(DeclineEnds::Call),
            Some("device") => Ok(DeclineEnds::Device),
            Some(_) => Err(ConfigError::Invalid {
                name: "DECLINE_ENDS",
                rule: "call or device",
            }),
        }
    }

    fn seconds(&self, name: &'static str, default: u64) -> Result<Duration, ConfigError> {
        let Some(text) = self.optional(name) else {
            return Ok(Duration::from_secs(default));
        };
        match text.parse() {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(ConfigError::Invalid {
                name,
                rule: "a whole number of seconds above 0",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_variable_is_named() {
        let error = Environment::of(|_| None)
            .required("TABLE_NAME")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable TABLE_NAME is missing"
        );
    }

    #[test]
    fn call_settings_have_defaults_and_reject_invalid_values() {
        let settings = Environment::of(|_| None).call_settings().unwrap();
        assert_eq!(settings.ring, Duration::from_secs(30));
        assert_eq!(settings.decline_ends, DeclineEnds::Call);
        for invalid in [
            |_: &str| Some("0".to_owned()),
            |_: &str| Some("soon".to_owned()),
        ] {
            let error = Environment::of(invalid).call_settings().unwrap_err();
            assert!(
                error.to_string().contains("RING_TIMEOUT_SECONDS"),
                "{error}"
            );
        }
        let device = |name: &str| (name == "DECLINE_ENDS").then(|| "device".to_owned());
        let settings = Environment::of(device).call_settings().unwrap();
        assert_eq!(settings.decline_ends, DeclineEnds::Device);
        let phone = |name: &str| (name == "DECLINE_ENDS").then(|| "phone".to_owned());
        let error = Environment::of(phone).call_settings().unwrap_err();
        assert!(error.to_string().contains("DECLINE_ENDS"), "{error}");
    }

    #[test]
    fn an_unanswered_caller_gets_486_or_480() {
        let expected = |read: fn(&str) -> Option<String>| {
            let settings = Environment::of(read).call_settings();
            settings.map(|settings| settings.unanswered)
        };
        let set = |name: &str| (name == "UNANSWERED_STATUS").then(|| "480".to_owned());
        assert_eq!(expected(|_| None).unwrap(), Rejection::BusyHere);
        assert_eq!(expected(set).unwrap(), Rejection::TemporarilyUnavailable);
        let other = |name: &str| (name == "UNANSWERED_STATUS").then(|| "503".to_owned());
        let error = expected(other).unwrap_err();
        assert!(error.to_string().contains("UNANSWERED_STATUS"), "{error}");
    }

    #[test]
    fn a_second_call_rings_or_gets_busy() {
        let of = |read: fn(&str) -> Option<String>| {
            let settings = Environment::of(read).call_settings();
            settings.map(|settings| settings.call_waiting)
        };
        let busy = |name: &str| (name == "CALL_WAITING").then(|| "busy".to_owned());
        assert_eq!(of(|_| None).unwrap(), CallWaiting::Ring);
        assert_eq!(of(busy).unwrap(), CallWaiting::Busy);
        let other = |name: &str| (name == "CALL_WAITING").then(|| "no".to_owned());
        let error = of(other).unwrap_err();
        assert!(error.to_string().contains("CALL_WAITING"), "{error}");
    }

    #[test]
    fn a_url_needs_a_scheme_and_loses_its_trailing_slash() {
        let url = Environment::of(|_| Some("https://pbx:8089/ari/".to_owned())).url("ARI_URL");
        assert_eq!(url.unwrap(), "https://pbx:8089/ari");
        assert!(
            Environment::of(|_| Some("pbx:8089".to_owned()))
                .url("ARI_URL")
                .is_err()
        );
    }
}
