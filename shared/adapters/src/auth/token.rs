//! Bearer tokens: JWTs (RFC 7519), signed with the algorithm and by the issuer that the deployment configures.

#[cfg(test)]
mod tests;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::claims::ClaimNames;
use super::jwks::{KeysError, PublishedKeys};
use super::token_rejection::TokenRejection;
use super::{Bearer, Unauthorized};
use crate::platform::config::{ConfigError, Environment};
use crate::platform::secrets::{AppSecret, Secret, SecretError, SharedSecret};
use ringback_core::timestamp::Timestamp;

/// How much an issuer's clock may differ from ours, in seconds.
const LEEWAY: u64 = 30;

/// The longest token, in bytes. Tokens of well-known issuers have up to 4 KiB.
const LONGEST: usize = 8 * 1024;

/// Why a client is not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is missing or invalid.
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
    /// The secret that signs tokens could not be fetched.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The issuer's keys could not be fetched.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Checks tokens. The deployment fixes the algorithm; the algorithm in a token's header is never followed.
#[derive(Debug)]
pub struct Tokens {
    keys: Keys,
    rules: Validation,
    claims: ClaimNames,
}

#[derive(Debug)]
enum Keys {
    Shared(Secret<AppSecret>),
    Published(PublishedKeys),
}

impl Tokens {
    /// Reads `TOKEN_ALGORITHM`: `HS256` (default) with `secret`, or `RS256` or `ES256` with the keys at `TOKEN_JWKS_URL`. A token
    /// must have the issuer `TOKEN_ISSUER` and an audience of `TOKEN_AUDIENCE` (several are separated by commas). Both are optional
    /// with a secret. They are required with published keys, because many issuers, such as Firebase, sign the tokens of all their
    /// customers with the same keys.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn from_environment(
        environment: &Environment,
        secret: Secret<AppSecret>,
    ) -> Result<Self, ConfigError> {
        let algorithm = algorithm(environment)?;
        let keys = if algorithm == Algorithm::HS256 {
            reject_published_keys(environment)?;
            Keys::Shared(secret)
        } else {
            environment.required("TOKEN_ISSUER")?;
            environment.required("TOKEN_AUDIENCE")?;
            let url = environment.required("TOKEN_JWKS_URL")?;
            Keys::Published(PublishedKeys::at(&url, algorithm)?)
        };
        let issuer = environment.optional("TOKEN_ISSUER");
        let audience = environment.optional("TOKEN_AUDIENCE");
        Ok(Self {
            keys,
            rules: rules(algorithm, issuer.as_deref(), audience.as_deref()),
            claims: ClaimNames::from_environment(environment),
        })
    }

    /// The client that sends this `Authorization: Bearer …` header.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn bearer(
        &self,
        authorization: Option<&str>,
        now: Timestamp,
    ) -> Result<Bearer, TokenError> {
        let token = authorization.and_then(token_in).ok_or(Unauthorized)?;
        self.read(token, now).await?.map_err(|reason| {
            tracing::info!(%reason, "token rejected");
            Unauthorized.into()
        })
    }

    async fn read(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Result<Bearer, TokenRejection>, TokenError> {
        if token.len() > LONGEST {
            return Ok(Err(TokenRejection::Malformed));
        }
        match &self.keys {
            Keys::Shared(secret) => {
                // Only a wrong signature is a reason to fetch a newer secret.
                let read = |secret: &AppSecret| match self.signed_with_one_of(secret, token) {
                    Err(TokenRejection::Signature) => Err(TokenRejection::Signature),
                    known => Ok(known),
                };
                let read = secret.check(now, read).await?;
                Ok(read.unwrap_or_else(Err))
            }
            Keys::Published(keys) => self.signed_by_issuer(keys, token, now).await,
        }
    }

    fn signed_with_one_of(
        &self,
        secret: &AppSecret,
        token: &str,
    ) -> Result<Bearer, TokenRejection> {
        let secrets = secret.valid();
        let secrets = secrets.map(|secret| secret.expose_secret().as_bytes());
        // Anyone could sign with an empty secret.
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            match self.signed_with(&DecodingKey::from_secret(secret), token) {
                Err(TokenRejection::Signature) => {}
                known => return known,
            }
        }
        Err(TokenRejection::Signature)
    }

    /// Checks the header first, so that a token with another algorithm causes no request to the issuer.
    async fn signed_by_issuer(
        &self,
        keys: &PublishedKeys,
        token: &str,
        now: Timestamp,
    ) -> Result<Result<Bearer, TokenRejection>, TokenError> {
        let header = match jsonwebtoken::decode_header(token) {
            Ok(header) if self.rules.algorithms.contains(&header.alg) => header,
            Ok(_) => return Ok(Err(TokenRejection::Algorithm)),
            Err(error) => return Ok(Err(rejection(&error))),
        };
        let Some(id) = header.kid else {
            return Ok(Err(TokenRejection::NoKeyId));
        };
        Ok(match keys.key(&id, now).await? {
            Some(key) => self.signed_with(&key, token),
            None => Err(TokenRejection::UnknownKey),
        })
    }

    fn signed_with(&self, key: &DecodingKey, token: &str) -> Result<Bearer, TokenRejection> {
        let token = jsonwebtoken::decode::<Value>(token, key, &self.rules);
        let token = token.map_err(|error| rejection(&error))?;
        // A token with critical header parameters (RFC 7515, 4.1.11) must be rejected by a reader that does not know them.
        if token.header.crit.is_some() {
            return Err(TokenRejection::Malformed);
        }
        self.claims.bearer_in(&token.claims)
    }
}

/// Reads any `Authorization` header, with this secret, for fuzzing.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_token(header: &str, secret: &'static str) -> Option<Bearer> {
    static TOKENS: std::sync::OnceLock<Tokens> = std::sync::OnceLock::new();
    let tokens = TOKENS.get_or_init(|| Tokens {
        keys: Keys::Shared(Secret::known(AppSecret {
            jwt_secret: secret.into(),
            jwt_secret_previous: None,
        })),
        rules: rules(Algorithm::HS256, None, None),
        claims: ClaimNames::from_environment(&Environment::of(|_| None)),
    });
    let key = DecodingKey::from_secret(secret.as_bytes());
    tokens.signed_with(&key, token_in(header)?).ok()
}

fn algorithm(environment: &Environment) -> Result<Algorithm, ConfigError> {
    match environment.optional("TOKEN_ALGORITHM").as_deref() {
        None | Some("HS256") => Ok(Algorithm::HS256),
        Some("RS256") => Ok(Algorithm::RS256),
        Some("ES256") => Ok(Algorithm::ES256),
        Some(_) => Err(ConfigError::Invalid {
            name: "TOKEN_ALGORITHM",
            rule: "HS256, RS256 or ES256",
        }),
    }
}

/// Rejects `TOKEN_JWKS_URL` without a matching algorithm: the operator would believe that tokens are checked with these keys.
fn reject_published_keys(environment: &Environment) -> Result<(), ConfigError> {
    match environment.optional("TOKEN_JWKS_URL") {
        None => Ok(()),
        Some(_) => Err(ConfigError::Invalid {
            name: "TOKEN_ALGORITHM",
            rule: "RS256 or ES256 with TOKEN_JWKS_URL",
        }),
    }
}

fn rules(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut rules = Validation::new(algorithm);
    rules.leeway = LEEWAY;
    rules.validate_nbf = true;
    rules.validate_aud = audience.is_some();
    let mut required = vec!["exp"];
    if let Some(issuer) = issuer {
        rules.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audiences) = audience {
        let audiences = audiences.split(',').map(str::trim);
        let audiences: Vec<&str> = audiences.filter(|name| !name.is_empty()).collect();
        rules.set_audience(&audiences);
        required.push("aud");
    }
    rules.set_required_spec_claims(&required);
    rules
}

fn token_in(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn rejection(error: &Error) -> TokenRejection {
    match error.kind() {
        ErrorKind::InvalidAlgorithm => TokenRejection::Algorithm,
        ErrorKind::InvalidSignature => TokenRejection::Signature,
        ErrorKind::ExpiredSignature => TokenRejection::Expired,
        ErrorKind::ImmatureSignature => TokenRejection::NotYetValid,
        ErrorKind::InvalidIssuer => TokenRejection::Issuer,
        ErrorKind::InvalidAudience => TokenRejection::Audience,
        ErrorKind::MissingRequiredClaim(_) => TokenRejection::MissingClaim,
        _ => TokenRejection::Malformed,
    }
}
