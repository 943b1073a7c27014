//! Bearer tokens: JWTs (RFC 7519), signed by whom the deployment says and as it says.

#[cfg(test)]
mod tests;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::claims::ClaimNames;
use super::jwks::{KeysError, PublishedKeys};
use super::{Bearer, Unauthorized};
use crate::platform::config::{ConfigError, Environment};
use crate::platform::secrets::{AppSecret, Secret, SecretError, SharedSecret};
use ringback_core::timestamp::Timestamp;

/// By how much an issuer's clock may differ from ours, in seconds.
const LEEWAY: u64 = 30;

/// The longest tokens of the issuers that are known have some 4 KiB.
const LONGEST: usize = 8 * 1024;

/// Why whoever asks is not known.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no token, or none that is valid here.
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
    /// The secret that tokens are signed with is not at hand.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The issuer's keys are not at hand.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// What is wrong with a token: for the log. Whoever shows it is told nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is no JWT")]
    Malformed,
    #[error("it is signed in another way than TokenAlgorithm says")]
    Algorithm,
    #[error("it names no key")]
    NoKeyId,
    #[error("the issuer has no such key")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it has another issuer than TokenIssuer")]
    Issuer,
    #[error("it has another audience than TokenAudience")]
    Audience,
    #[error("it does not say when it expires, by whom it was issued, or for whom")]
    MissingClaim,
    #[error("its extension claim is missing, or no extension")]
    Extension,
    #[error("its claim device_id is no device id")]
    Device,
}

/// What tokens are checked against. The algorithm is fixed here: what a token says of itself is never followed.
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
    /// As `TOKEN_ALGORITHM` says: `HS256` (unless it says otherwise) with `secret`, or `RS256` or `ES256` with the keys
    /// at `TOKEN_JWKS_URL`. `TOKEN_ISSUER` and `TOKEN_AUDIENCE` (several, with commas between them) are what a token
    /// must name. With a secret they may be left out. With published keys they may not: of many issuers, Google's
    /// Firebase among them, all customers' tokens are signed with the same keys.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense.
    pub fn from_environment(
        environment: &Environment,
        secret: Secret<AppSecret>,
    ) -> Result<Self, ConfigError> {
        let algorithm = algorithm(environment)?;
        let keys = if algorithm == Algorithm::HS256 {
            no_published_keys(environment)?;
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

    /// Who shows an `Authorization: Bearer …` header.
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
            tracing::info!(%reason, "a token was refused");
            Unauthorized.into()
        })
    }

    async fn read(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Result<Bearer, Refusal>, TokenError> {
        if token.len() > LONGEST {
            return Ok(Err(Refusal::Malformed));
        }
        match &self.keys {
            Keys::Shared(secret) => {
                // Only a signature that does not fit may fit another secret.
                let read = |secret: &AppSecret| match self.signed_with_one_of(secret, token) {
                    Err(Refusal::Signature) => Err(Refusal::Signature),
                    known => Ok(known),
                };
                let read = secret.check(now, read).await?;
                Ok(read.unwrap_or_else(Err))
            }
            Keys::Published(keys) => self.signed_by_issuer(keys, token, now).await,
        }
    }

    fn signed_with_one_of(&self, secret: &AppSecret, token: &str) -> Result<Bearer, Refusal> {
        let secrets = secret.valid();
        let secrets = secrets.map(|secret| secret.expose_secret().as_bytes());
        // With an unset secret anybody could sign.
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            match self.signed_with(&DecodingKey::from_secret(secret), token) {
                Err(Refusal::Signature) => {}
                known => return known,
            }
        }
        Err(Refusal::Signature)
    }

    /// A token of another algorithm makes nobody ask the issuer for its key.
    async fn signed_by_issuer(
        &self,
        keys: &PublishedKeys,
        token: &str,
        now: Timestamp,
    ) -> Result<Result<Bearer, Refusal>, TokenError> {
        let header = match jsonwebtoken::decode_header(token) {
            Ok(header) if self.rules.algorithms.contains(&header.alg) => header,
            Ok(_) => return Ok(Err(Refusal::Algorithm)),
            Err(error) => return Ok(Err(refusal(&error))),
        };
        let Some(id) = header.kid else {
            return Ok(Err(Refusal::NoKeyId));
        };
        Ok(match keys.key(&id, now).await? {
            Some(key) => self.signed_with(&key, token),
            None => Err(Refusal::UnknownKey),
        })
    }

    fn signed_with(&self, key: &DecodingKey, token: &str) -> Result<Bearer, Refusal> {
        let token = jsonwebtoken::decode::<Value>(token, key, &self.rules);
        let token = token.map_err(|error| refusal(&error))?;
        // "Critical" are rules that a reader must know (RFC 7515, 4.1.11). None are known here.
        if token.header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        self.claims.bearer_in(&token.claims)
    }
}

/// Reads what may be an `Authorization` header, with a token that this secret has signed.
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

/// Whoever names them believes that tokens are checked against them.
fn no_published_keys(environment: &Environment) -> Result<(), ConfigError> {
    match environment.optional("TOKEN_JWKS_URL") {
        None => Ok(()),
        Some(_) => Err(ConfigError::Invalid {
            name: "TOKEN_ALGORITHM",
            rule: "RS256 or ES256, where TOKEN_JWKS_URL names published keys",
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

fn refusal(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidAlgorithm => Refusal::Algorithm,
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::NotYetValid,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::MissingRequiredClaim(_) => Refusal::MissingClaim,
        _ => Refusal::Malformed,
    }
}
