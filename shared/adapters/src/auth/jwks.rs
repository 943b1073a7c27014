//! The public keys of whoever issues the tokens: a JWK set (RFC 7517), fetched from its URL and kept.

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

/// Between two fetches. A client without credentials can send tokens with unknown key ids, as many as it likes.
const REST: Duration = Duration::from_secs(60);

/// Between two fetches while no key is known, for then every token is refused. The time runs from the beginning of a fetch,
/// so one that timed out ([`REPLY_TIMEOUT`]) may be repeated at once.
const REST_WITHOUT_KEYS: Duration = Duration::from_secs(1);

/// Keys that are older than this are fetched again, so that one which the issuer has withdrawn is not trusted for as
/// long as a process lives.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A phone that rings is waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest sets that are known hold a dozen keys in 20 KiB.
const LARGEST: usize = 128 * 1024;

/// A key is asked for that is not known, and the issuer cannot be asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token issuer's keys could not be fetched")]
pub struct KeysError;

/// The keys at one URL, those of one algorithm.
#[derive(Debug)]
pub(super) struct PublishedKeys {
    url: Url,
    algorithm: Algorithm,
    client: OnceCell<Client>,
    known: RwLock<Arc<Known>>,
    /// Whoever asks the issuer holds this, and all others wait for the same answer.
    last_fetch: Mutex<Option<Fetch>>,
}

/// The keys as they were last fetched, by their ids.
#[derive(Debug, Default)]
struct Known {
    keys: HashMap<String, Arc<DecodingKey>>,
    good_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Fetch {
    began: Timestamp,
    succeeded: bool,
}

/// Why the keys were not fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer: {0}")]
    NoAnswer(#[from] reqwest::Error),
    #[error("the answer was {0}")]
    CallStatus(StatusCode),
    #[error("the answer is larger than 128 KiB")]
    TooLarge,
    #[error("the answer is no JWK set")]
    NoKeySet,
    #[error("no key in the set verifies {0:?} signatures")]
    NoKey(Algorithm),
}

impl PublishedKeys {
    /// The keys at this URL that verify signatures of this algorithm.
    ///
    /// # Errors
    /// When it is no `https://` URL. On the machine itself `http://` will do.
    pub(super) fn at(url: &str, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let url = Url::parse(url).ok().filter(nobody_listens_in);
        let url = url.ok_or(ConfigError::Invalid {
            name: "TOKEN_JWKS_URL",
            rule: "an https:// URL",
        })?;
        Ok(Self {
            url,
            algorithm,
            client: OnceCell::new(),
            known: RwLock::default(),
            last_fetch: Mutex::default(),
        })
    }

    /// The key of this id; `None` if the issuer has none. A key that is not known is fetched, once a minute at most; while no
    /// key at all is known, once a second.
    pub(super) async fn key(
        &self,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<Arc<DecodingKey>>, KeysError> {
        if let Some(key) = self.known().key_while_good(id, now) {
            return Ok(Some(key));
        }
        let mut last_fetch = self.last_fetch.lock().await;
        // Somebody else may just have fetched it.
        if let Some(key) = self.known().key_while_good(id, now) {
            return Ok(Some(key));
        }
        let rest = match self.known().keys.is_empty() {
            true => REST_WITHOUT_KEYS,
            false => REST,
        };
        if last_fetch.is_none_or(|last| now.since(last.began) >= rest) {
            let fetch = last_fetch.insert(Fetch {
                began: now,
                succeeded: false,
            });
            fetch.succeeded = self.refresh(now).await;
        }
        // The last good keys are better than none.
        let key = self.known().keys.get(id).cloned();
        let knows_all = last_fetch.is_some_and(|last| last.succeeded);
        if key.is_none() && !knows_all {
            return Err(KeysError);
        }
        Ok(key)
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn refresh(&self, now: Timestamp) -> bool {
        let keys = match self.fetch().await {
            Ok(keys) => keys,
            Err(error) => {
                tracing::warn!(%error, "the token issuer's keys were not fetched; those that are known stay");
                return false;
            }
        };
        tracing::info!(keys = keys.len(), "the token issuer's keys were fetched");
        let known = Known {
            keys,
            good_until: Some(now + LIFETIME),
        };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
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
        let answer = xray::part("token issuer", "fetching its keys", asking).await;
        let mut answer = answer.map_err(reqwest::Error::without_url)?;
        if !answer.status().is_success() {
            return Err(FetchError::CallStatus(answer.status()));
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

impl Known {
    fn key_while_good(&self, id: &str, now: Timestamp) -> Option<Arc<DecodingKey>> {
        let is_good = self.good_until.is_some_and(|until| now < until);
        self.keys.get(id).filter(|_| is_good).cloned()
    }
}

/// Whoever can change what a URL answers can sign any token.
fn nobody_listens_in(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback());
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

/// It goes where it is told to and nowhere else.
fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .tls_backend_preconfigured(https::public())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REPLY_TIMEOUT)
        .redirect(Policy::none())
        .build()
}

/// The set's keys that verify such signatures. Others may stand beside them, of kinds that nobody here knows.
fn keys_in(
    body: &[u8],
    algorithm: Algorithm,
) -> Result<HashMap<String, Arc<DecodingKey>>, FetchError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(body).map_err(|_| FetchError::NoKeySet)?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let id = key.common.key_id.clone()?;
        let verifies = verifies(&key, algorithm);
        let key = DecodingKey::from_jwk(&key).ok().filter(|_| verifies)?;
        Some((id, Arc::new(key)))
    });
    Ok(keys.collect())
}

/// Reads what may be an issuer's keys.
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
