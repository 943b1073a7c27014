//! OAuth access tokens for FCM. Google grants one for an assertion that the service account's key signs (RFC 7523).
//!
//! <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Client, StatusCode};
use ringback_core::timestamp::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{REPLY_TIMEOUT, SYSTEM};
use crate::platform::clock;
use crate::platform::secrets::ServiceAccount;
use crate::telemetry::xray;

pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// The lifetime of the assertion. Google accepts an hour at most.
pub(super) const ASSERTION_LIFETIME: Duration = Duration::from_secs(3600);

/// How long before its end an access token is replaced.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(120);

/// How many characters of an error code are kept.
const MAX_CODE_LENGTH: usize = 40;

/// The access token of one account, or its last failure.
#[derive(Debug, Default)]
pub(super) struct TokenCache {
    account: Option<Arc<ServiceAccount>>,
    token: Option<AccessToken>,
    failure: Option<(Timestamp, TokenError)>,
}

#[derive(Debug, Clone)]
struct AccessToken {
    token: SecretString,
    renew_at: Timestamp,
}

/// Why there is no access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenError {
    /// Google does not accept the account's key, or it is malformed.
    KeyRefused(String),
    /// No usable reply came.
    Unavailable(String),
}

impl TokenCache {
    /// The cached access token of this account, or a new one.
    ///
    /// Returns a recent failure without a new request, so that several pushes do not wait one after the other for an
    /// endpoint that does not answer.
    pub(super) async fn get(
        &mut self,
        client: &Client,
        account: &Arc<ServiceAccount>,
    ) -> Result<SecretString, TokenError> {
        if !self.is_of(account) {
            *self = Self::empty_for(account);
        }
        let now = clock::now();
        if let Some(cached) = self.token.as_ref().filter(|token| now < token.renew_at) {
            return Ok(cached.token.clone());
        }
        if let Some((failed_at, error)) = &self.failure
            && now.since(*failed_at) < REPLY_TIMEOUT
        {
            return Err(error.clone());
        }
        match request_token(client, account, now).await {
            Ok(granted) => Ok(self.token.insert(granted).token.clone()),
            Err(error) => {
                self.failure = Some((clock::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Drops a token that FCM has rejected, unless another push has replaced it already.
    pub(super) fn drop_token(&mut self, rejected: &SecretString) {
        self.token
            .take_if(|cached| cached.token.expose_secret() == rejected.expose_secret());
    }

    /// Allows the next request at once.
    pub(super) fn drop_failure(&mut self) {
        self.failure = None;
    }

    fn empty_for(account: &Arc<ServiceAccount>) -> Self {
        Self {
            account: Some(Arc::clone(account)),
            ..Self::default()
        }
    }

    fn is_of(&self, account: &Arc<ServiceAccount>) -> bool {
        self.account
            .as_ref()
            .is_some_and(|cached| Arc::ptr_eq(cached, account))
    }

    /// A cache with a valid token, for tests that are not about access tokens.
    #[cfg(test)]
    pub(super) fn with_token(account: &Arc<ServiceAccount>) -> Self {
        Self {
            token: Some(AccessToken {
                token: "access".to_owned().into(),
                renew_at: clock::now() + ASSERTION_LIFETIME,
            }),
            ..Self::empty_for(account)
        }
    }
}

async fn request_token(
    client: &Client,
    account: &ServiceAccount,
    now: Timestamp,
) -> Result<AccessToken, TokenError> {
    let assertion = signed_assertion(account, now)
        .map_err(|error| TokenError::KeyRefused(format!("the service account's key: {error}")))?;
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", &assertion),
    ];
    let sending = client.post(&account.token_uri).form(&form).send();
    let reply = xray::trace_request(SYSTEM, "requesting an access token", sending).await;
    let reply = reply.map_err(unavailable)?;
    // `invalid_grant` (400) for a key that was revoked, `invalid_client` (401) for an account that was deleted.
    if reply.status().is_client_error() && reply.status() != StatusCode::TOO_MANY_REQUESTS {
        let status = reply.status();
        let code = oauth_error(&reply.text().await.unwrap_or_default());
        let description = format!("no access token: {status} {code}");
        return Err(TokenError::KeyRefused(description));
    }
    let reply = reply.error_for_status().map_err(unavailable)?;
    let grant: TokenGrant = reply.json().await.map_err(unavailable)?;
    Ok(grant.access_token(now))
}

#[derive(Deserialize)]
struct TokenGrant {
    access_token: SecretString,
    expires_in: u64,
}

impl TokenGrant {
    fn access_token(self, now: Timestamp) -> AccessToken {
        let lifetime = Duration::from_secs(self.expires_in).saturating_sub(RENEW_BEFORE);
        AccessToken {
            token: self.access_token,
            renew_at: now + lifetime,
        }
    }
}

fn signed_assertion(
    account: &ServiceAccount,
    now: Timestamp,
) -> Result<String, jsonwebtoken::errors::Error> {
    #[derive(Serialize)]
    struct Claims<'a> {
        iss: &'a str,
        scope: &'a str,
        aud: &'a str,
        iat: u64,
        exp: u64,
    }
    let iat = now.as_millis() / 1000;
    let claims = Claims {
        iss: &account.client_email,
        scope: SCOPE,
        aud: &account.token_uri,
        iat,
        exp: iat + ASSERTION_LIFETIME.as_secs(),
    };
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(account.private_key_id.clone());
    let key = EncodingKey::from_rsa_pem(account.private_key.expose_secret().as_bytes())?;
    jsonwebtoken::encode(&header, &claims, &key)
}

/// The `error` code of an OAuth error reply (RFC 6749). The description is not read, because it may repeat private values.
fn oauth_error(body: &str) -> String {
    let reply: Value = serde_json::from_str(body).unwrap_or_default();
    let code = reply["error"].as_str().unwrap_or_default();
    code.chars()
        .filter(|letter| letter.is_ascii_lowercase() || *letter == '_')
        .take(MAX_CODE_LENGTH)
        .collect()
}

fn unavailable(error: reqwest::Error) -> TokenError {
    TokenError::Unavailable(error.without_url().to_string())
}

/// Parses any bytes as a reply of the token endpoint, for the fuzzers.
#[cfg(any(test, feature = "testing"))]
pub(super) fn read_any_answer(body: &[u8]) {
    let grant = serde_json::from_slice::<TokenGrant>(body);
    let _token = grant.map(|grant| grant.access_token(Timestamp::from_millis(0)));
    let _code = oauth_error(&String::from_utf8_lossy(body));
}
