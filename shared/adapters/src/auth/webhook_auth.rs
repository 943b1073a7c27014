//! Who may report calls: Exotel and the PBX, by a secret that both sides know and, where the deployment says so, by the
//! addresses that they ask from.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use crate::auth::{self, Unauthorized};
use crate::platform::config::{ConfigError, Environment};
use crate::platform::secrets::{Secret, SecretError, SharedSecret};
use ringback_core::timestamp::Timestamp;

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
pub enum TurnedAway {
    /// It asks from an address from which nobody may.
    #[error("requests from {0:?} are not accepted")]
    SourceNotAllowed(Option<IpAddr>),
    /// It does not know the secret.
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
    /// What it shows cannot be checked.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// The gate for one of the two.
#[derive(Debug)]
pub struct Gate<T> {
    sources: Sources,
    secret: Secret<T>,
}

impl<T: DeserializeOwned + SharedSecret> Gate<T> {
    /// The gate for who knows the secret and asks from one of these addresses.
    #[must_use]
    pub const fn new(sources: Sources, secret: Secret<T>) -> Self {
        Self { sources, secret }
    }

    /// Lets somebody in who asks from `source` and shows `secret`. The address comes first: nobody else can make us
    /// look for a newer secret.
    ///
    /// # Errors
    /// See [`TurnedAway`].
    pub async fn admit(
        &self,
        source: Option<IpAddr>,
        secret: Option<&str>,
        now: Timestamp,
    ) -> Result<(), TurnedAway> {
        self.admit_source(source)?;
        let known = |valid: &T| auth::shared_secret(secret, valid.valid());
        Ok(self.secret.check(now, known).await??)
    }

    /// Checks the source address only, for requests that carry another credential than the secret.
    ///
    /// # Errors
    /// [`TurnedAway::SourceNotAllowed`].
    pub fn admit_source(&self, source: Option<IpAddr>) -> Result<(), TurnedAway> {
        match self.sources.include(source) {
            true => Ok(()),
            false => Err(TurnedAway::SourceNotAllowed(source)),
        }
    }
}

/// The addresses that requests may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(Vec<IpNet>);

impl Sources {
    /// Those of the CIDR blocks in a variable, with commas between them. From anywhere, if there are none.
    ///
    /// # Errors
    /// When one of them is no CIDR block.
    pub fn from_environment(
        environment: &Environment,
        name: &'static str,
    ) -> Result<Self, ConfigError> {
        let list = environment.optional(name).unwrap_or_default();
        let blocks = list
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        let block = |text: &str| {
            text.parse().map_err(|_| ConfigError::NoCidr {
                name,
                text: text.to_owned(),
            })
        };
        blocks.map(block).collect::<Result<_, _>>().map(Self)
    }

    /// Who asks from an address that is not known is taken to ask from none of these. An IPv4 address that is written as
    /// one of IPv6 is still that address.
    fn include(&self, source: Option<IpAddr>) -> bool {
        let is_in = |source: IpAddr| self.0.iter().any(|block| block.contains(&source));
        self.0.is_empty() || source.is_some_and(|source| is_in(source.to_canonical()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::platform::secrets::WebhookSecret;

    const NOW: Timestamp = Timestamp::from_millis(1_732_175_943_000);

    fn sources(list: fn(&str) -> Option<String>) -> Result<Sources, ConfigError> {
        Sources::from_environment(&Environment::of(list), "EXOTEL_SOURCE_CIDRS")
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn without_a_list_requests_may_come_from_anywhere() {
        for empty in [
            |_: &str| None,
            |_: &str| Some(String::new()),
            |_: &str| Some(" , ".to_owned()),
        ] {
            let anywhere = sources(empty).unwrap();
            assert!(anywhere.include(address("203.0.113.7")));
            assert!(anywhere.include(None));
        }
    }

    #[test]
    fn with_a_list_they_come_from_its_blocks_alone() {
        let listed = |_: &str| Some("203.0.113.0/24, 198.51.100.7/32,2001:db8:17::/48".to_owned());
        let listed = sources(listed).unwrap();
        for inside in [
            "203.0.113.0",
            "203.0.113.255",
            "198.51.100.7",
            "2001:db8:17:ffff::1",
            "::ffff:203.0.113.9",
        ] {
            assert!(listed.include(address(inside)), "{inside}");
        }
        for outside in [
            "203.0.114.0",
            "198.51.100.8",
            "2001:db8:18::1",
            "::1",
            "127.0.0.1",
            "::203.0.113.9",
        ] {
            assert!(!listed.include(address(outside)), "{outside}");
        }
        assert!(!listed.include(None));
    }

    #[test]
    fn what_is_no_cidr_block_is_named() {
        for (list, wrong) in [
            (
                (|_| Some("203.0.113.0/24,203.0.113.0/33".to_owned())) as fn(&str) -> _,
                "203.0.113.0/33",
            ),
            (|_| Some("203.0.113.7".to_owned()), "203.0.113.7"),
            (|_| Some("exotel.com/32".to_owned()), "exotel.com/32"),
            (|_| Some("2001:db8::/129".to_owned()), "2001:db8::/129"),
        ] {
            let error = sources(list).unwrap_err().to_string();
            assert!(
                error.contains("EXOTEL_SOURCE_CIDRS") && error.contains(wrong),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn who_asks_from_elsewhere_is_turned_away_whatever_it_shows() {
        let secret: WebhookSecret = serde_json::from_value(
            json!({ "webhook_secret": "new", "webhook_secret_previous": "old" }),
        )
        .unwrap();
        let listed = sources(|_| Some("203.0.113.0/24".to_owned())).unwrap();
        let gate = Gate::new(listed, Secret::known(secret));
        let good = address("203.0.113.7");
        for secret in ["new", "old"] {
            gate.admit(good, Some(secret), NOW).await.unwrap();
            let elsewhere = gate.admit(address("192.0.2.1"), Some(secret), NOW).await;
            assert!(matches!(elsewhere, Err(TurnedAway::SourceNotAllowed(_))));
        }
        for secret in [None, Some(""), Some("older")] {
            let stranger = gate.admit(good, secret, NOW).await;
            assert!(
                matches!(stranger, Err(TurnedAway::Unauthorized(_))),
                "{secret:?}"
            );
        }
    }
}
