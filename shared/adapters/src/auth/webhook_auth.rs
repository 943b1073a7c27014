//! Authentication of Exotel's and the PBX's reports: by a shared secret and, if the deployment configures it, by source address.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use crate::auth::{self, Unauthorized};
use crate::platform::config::{ConfigError, Environment};
use crate::platform::secrets::{Secret, SecretError, SharedSecret};
use ringback_core::timestamp::Timestamp;

/// Why a request is not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum WebhookAuthError {
    /// Requests from this address are not allowed.
    #[error("requests from {0:?} are not accepted")]
    SourceNotAllowed(Option<IpAddr>),
    /// The secret is missing or wrong.
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
    /// The secret could not be fetched.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Authenticates requests of Exotel or of the PBX.
#[derive(Debug)]
pub struct WebhookAuth<T> {
    sources: AllowedSources,
    secret: Secret<T>,
}

impl<T: DeserializeOwned + SharedSecret> WebhookAuth<T> {
    /// Accepts requests with this secret from these addresses.
    #[must_use]
    pub const fn new(sources: AllowedSources, secret: Secret<T>) -> Self {
        Self { sources, secret }
    }

    /// Checks the address and the secret of a request. The address comes first, so that only allowed addresses can make us fetch a
    /// newer secret.
    ///
    /// # Errors
    /// See [`WebhookAuthError`].
    pub async fn authenticate(
        &self,
        source: Option<IpAddr>,
        secret: Option<&str>,
        now: Timestamp,
    ) -> Result<(), WebhookAuthError> {
        self.check_source(source)?;
        let known = |valid: &T| auth::shared_secret(secret, valid.valid());
        Ok(self.secret.check(now, known).await??)
    }

    pub(super) const fn secret(&self) -> &Secret<T> {
        &self.secret
    }

    /// Checks the source address only, for requests that carry another credential than the secret.
    ///
    /// # Errors
    /// [`WebhookAuthError::SourceNotAllowed`].
    pub fn check_source(&self, source: Option<IpAddr>) -> Result<(), WebhookAuthError> {
        match self.sources.include(source) {
            true => Ok(()),
            false => Err(WebhookAuthError::SourceNotAllowed(source)),
        }
    }
}

/// The addresses from which requests are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedSources(Vec<IpNet>);

impl AllowedSources {
    /// Reads the CIDR blocks in a variable, separated by commas. Without a block, all addresses are allowed.
    ///
    /// # Errors
    /// When one of them is not a CIDR block.
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

    /// An unknown address is in no block. An IPv4-mapped IPv6 address counts as the IPv4 address.
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

    fn sources(list: fn(&str) -> Option<String>) -> Result<AllowedSources, ConfigError> {
        AllowedSources::from_environment(&Environment::of(list), "EXOTEL_SOURCE_CIDRS")
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn without_a_list_every_address_is_allowed() {
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
    fn with_a_list_only_its_blocks_are_allowed() {
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
    fn an_invalid_cidr_block_is_named() {
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
    async fn a_request_from_another_address_is_rejected_even_with_the_secret() {
        let secret: WebhookSecret = serde_json::from_value(
            json!({ "webhook_secret": "new", "webhook_secret_previous": "old" }),
        )
        .unwrap();
        let listed = sources(|_| Some("203.0.113.0/24".to_owned())).unwrap();
        let auth = WebhookAuth::new(listed, Secret::known(secret));
        let good = address("203.0.113.7");
        for secret in ["new", "old"] {
            auth.authenticate(good, Some(secret), NOW).await.unwrap();
            let elsewhere = auth
                .authenticate(address("192.0.2.1"), Some(secret), NOW)
                .await;
            assert!(matches!(
                elsewhere,
                Err(WebhookAuthError::SourceNotAllowed(_))
            ));
        }
        for secret in [None, Some(""), Some("older")] {
            let wrong = auth.authenticate(good, secret, NOW).await;
            assert!(
                matches!(wrong, Err(WebhookAuthError::Unauthorized(_))),
                "{secret:?}"
            );
        }
    }
}
