//! The public keys of the token issuer: a JWK set (RFC 7517), fetched from its URL and cached.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};

use crate::platform::config::ConfigError;
use crate::platform::https;
use crate::telemetry::xray;
use ringback_core::timestamp::Timestamp;

/// The shortest time between two fetches. A client without credentials can send any number of tokens with unknown key ids.
const FETCH_INTERVAL: Duration = Duration::from_secs(60);

/// The same while no key is known, because then every token is rejected. The time counts from the beginning of a fetch, so a fetch
/// that timed out ([`REPLY_TIMEOUT`]) can be repeated at once.
const FETCH_INTERVAL_WITHOUT_KEYS: Duration = Duration::from_secs(1);

/// Keys older than this are fetched again, so that a process does not trust a withdrawn key for its whole life.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Short, because a ringing phone waits for the answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest JWK set, in bytes. Known issuers have up to a dozen keys in 20 KiB.
const LARGEST: usize = 128 * 1024;

/// A token has an unknown key id, and the issuer's keys could not be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token issuer's keys could not be fetched")]
pub struct KeysError;

/// The keys at a URL for one algorithm.
#[derive(Debug)]
pub(super) struct PublishedKeys {
    url: Url,
    algorithm: Algorithm,
    client: OnceCell<Client>,
    cached: RwLock<Arc<CachedKeys>>,
    /// Locked during a fetch, so that concurrent requests wait for the same answer.
    last_fetch: Mutex<Option<LastFetch>>,
}

/// The keys of the last successful fetch, by id.
#[derive(Debug, Default)]
struct CachedKeys {
    keys: HashMap<String, Arc<DecodingKey>>,
    good_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct LastFetch {
    began: Timestamp,
    succeeded: bool,
}

/// Why the keys were not fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer: {0}")]
    NoAnswer(#[from] reqwest::Error),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the answer is larger than 128 KiB")]
    TooLarge,
    #[error("the answer is not a JWK set")]
    NoKeySet,
    #[error("no key in the set verifies {0:?} signatures")]
    NoKey(Algorithm),
}

impl PublishedKeys {
    /// The keys at this URL that verify signatures of this algorithm.
    ///
    /// # Errors
    /// When it is not an `https://` URL. `http://` is accepted for this machine.
    pub(super) fn at(url: &str, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let url = Url::parse(url).ok().filter(is_private);
        let url = url.ok_or(ConfigError::Invalid {
            name: "TOKEN_JWKS_URL",
            rule: "an https:// URL",
        })?;
        Ok(Self {
            url,
            algorithm,
            client: OnceCell::new(),
            cached: RwLock::default(),
            last_fetch: Mutex::default(),
        })
    }

    /// The key with this id. `None` if the issuer has none. An unknown id causes a fetch, at most once a minute, or once a second
    /// while no key is known.
    pub(super) async fn key(
        &self,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<Arc<DecodingKey>>, KeysError> {
        if let Some(key) = self.cached().key_while_good(id, now) {
            return Ok(Some(key));
        }
        let mut last_fetch = self.last_fetch.lock().await;
        // Another request may have fetched it while this one waited.
        if let Some(key) = self.cached().key_while_good(id, now) {
            return Ok(Some(key));
        }
        let interval = match self.cached().keys.is_empty() {
            true => FETCH_INTERVAL_WITHOUT_KEYS,
            false => FETCH_INTERVAL,
        };
        if last_fetch.is_none_or(|last| now.since(last.began) >= interval) {
            let fetch = last_fetch.insert(LastFetch {
                began: now,
                succeeded: false,
            });
            fetch.succeeded = self.refresh(now).await;
        }
        // After a failed fetch, the keys of the last successful one stay in use.
        let key = self.cached().keys.get(id).cloned();
        let is_complete = last_fetch.is_some_and(|last| last.succeeded);
        if key.is_none() && !is_complete {
            return Err(KeysError);
        }
        Ok(key)
    }

    fn cached(&self) -> Arc<CachedKeys> {
        Arc::clone(&self.cached.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn refresh(&self, now: Timestamp) -> bool {
        let keys = match self.fetch().await {
            Ok(keys) => keys,
            Err(error) => {
                tracing::warn!(%error, "token issuer's keys not fetched; cached keys stay in use");
                return false;
            }
        };
        tracing::info!(keys = keys.len(), "token issuer's keys fetched");
        let cached = CachedKeys {
            keys,
            good_until: Some(now + LIFETIME),
        };
        *self.cached.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(cached);
        true
    }

    async fn fetch(&self) -> Result<HashMap<String, Arc<DecodingKey>>, FetchError> {
        let keys = keys_in(&self.body().await?, self.algorithm)?;
        if keys.is_empty() {
            return Err(FetchError::NoKey(self.algorithm));
        }
        Ok(keys)
    }

    async fn body(&self) -> Result<Vec<u8>, FetchError> {
        let client = self.client.get_or_try_init(|| async { client() }).await?;
        let request = client.get(self.url.clone());
        let asking = request.header(ACCEPT, "application/json").send();
        let answer = xray::trace_request("token issuer", "fetching keys", asking).await;
        let mut answer = answer.map_err(reqwest::Error::without_url)?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status()));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + part.len() > LARGEST {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }
}

impl CachedKeys {
    fn key_while_good(&self, id: &str, now: Timestamp) -> Option<Arc<DecodingKey>> {
        let is_good = self.good_until.is_some_and(|until| now < until);
        self.keys.get(id).filter(|_| is_good).cloned()
    }
}

/// Whether the connection to this URL cannot be changed on its way. An attacker who could replace the keys could sign any token.
fn is_private(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback());
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

/// A client that follows no redirect: the configured URL is the only trusted one.
fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .tls_backend_preconfigured(https::public())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REPLY_TIMEOUT)
        .redirect(Policy::none())
        .build()
}

/// The keys of a set that verify signatures of this algorithm. The set may have keys of other or unknown types.
fn keys_in(
    body: &[u8],
    algorithm: Algorithm,
) -> Result<HashMap<String, Arc<DecodingKey>>, FetchError> {
    #[derive(Deserialize)]
    struct JwkSet {
        keys: Vec<Value>,
    }
    let set: JwkSet = serde_json::from_slice(body).map_err(|_| FetchError::NoKeySet)?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let id = key.common.key_id.clone()?;
        let verifies = verifies(&key, algorithm);
        let key = DecodingKey::from_jwk(&key).ok().filter(|_| verifies)?;
        Some((id, Arc::new(key)))
    });
    Ok(keys.collect())
}

/// Reads any JWK set, for fuzzing.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_keys(body: &[u8]) {
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let _keys = keys_in(body, algorithm);
    }
}

fn verifies(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind_fits = match &key.algorithm {
        AlgorithmParameters::RSA(_) => algorithm == Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) => {
            algorithm == Algorithm::ES256 && key.curve == EllipticCurve::P256
        }
        _ => false,
    };
    let about = &key.common;
    let algorithm = KeyAlgorithm::from(algorithm);
    let for_signatures = |usage: &PublicKeyUse| *usage == PublicKeyUse::Signature;
    let for_verifying = |usages: &Vec<KeyOperations>| usages.contains(&KeyOperations::Verify);
    kind_fits
        && about.key_algorithm.is_none_or(|named| named == algorithm)
        && about.public_key_use.as_ref().is_none_or(for_signatures)
        && about.key_operations.as_ref().is_none_or(for_verifying)
}
