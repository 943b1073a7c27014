//! Google's OAuth token endpoint for service accounts: exchanges a signed assertion for an access token.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::events::HOST_OF_CONTAINERS;
use crate::settings::LOOPBACK;

/// The grant type for a service account's assertion.
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// The scopes that allow sending pushes.
const SCOPES: [&str; 2] = [
    "https://www.googleapis.com/auth/firebase.messaging",
    "https://www.googleapis.com/auth/cloud-platform",
];
/// The longest lifetime of an assertion, and the lifetime of a token.
const LIFETIME: Duration = Duration::HOUR;
/// The allowed clock difference.
const LEEWAY: Duration = Duration::minutes(5);

/// The claims of an assertion that are checked here.
#[derive(Debug, Deserialize)]
struct Assertion {
    #[serde(default)]
    scope: String,
    iat: i64,
    exp: i64,
}

/// An OAuth error.
#[derive(Debug, PartialEq, Eq)]
pub struct OauthError {
    /// The error code, such as `invalid_grant`.
    pub error: &'static str,
    /// The reason.
    pub description: String,
}

impl OauthError {
    fn grant(description: impl Into<String>) -> Self {
        Self {
            error: "invalid_grant",
            description: description.into(),
        }
    }
}

/// The endpoint for one service account, and the tokens that it issued.
pub struct TokenEndpoint {
    client_email: String,
    audience: String,
    key: Mutex<DecodingKey>,
    issued: Mutex<HashMap<String, OffsetDateTime>>,
}

impl TokenEndpoint {
    /// Creates the endpoint for a service account with this public key.
    pub fn new(client_email: &str, audience: &str, public_key_pem: &str) -> anyhow::Result<Self> {
        Ok(Self {
            client_email: client_email.to_owned(),
            audience: audience.to_owned(),
            key: Mutex::new(DecodingKey::from_rsa_pem(public_key_pem.as_bytes())?),
            issued: Mutex::default(),
        })
    }

    /// Replaces the account's key, and revokes all issued tokens.
    pub fn replace_key(&self, public_key_pem: &str) -> anyhow::Result<()> {
        let key = DecodingKey::from_rsa_pem(public_key_pem.as_bytes())?;
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = key;
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        Ok(())
    }

    /// Checks a token request, and issues a token with its lifetime in seconds.
    pub fn issue(
        &self,
        form: &BTreeMap<String, String>,
        now: OffsetDateTime,
    ) -> Result<(String, i64), OauthError> {
        match form.get("grant_type").map(String::as_str) {
            Some(GRANT_TYPE) => {}
            Some(other) => {
                return Err(OauthError {
                    error: "unsupported_grant_type",
                    description: format!("Invalid grant_type: {other}"),
                });
            }
            None => {
                return Err(OauthError {
                    error: "invalid_request",
                    description: "grant_type is missing".into(),
                });
            }
        }
        let assertion = form
            .get("assertion")
            .ok_or_else(|| OauthError::grant("assertion is missing"))?;
        self.check(assertion, now)?;
        let token = format!("ya29.local-{}", Uuid::new_v4().simple());
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.clone(), now + LIFETIME);
        // The real endpoint returns one second less than an hour.
        Ok((token, LIFETIME.whole_seconds() - 1))
    }

    /// Whether a token was issued here and has not expired.
    pub fn knows(&self, token: &str, now: OffsetDateTime) -> bool {
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(token)
            .is_some_and(|end| *end > now)
    }

    fn check(&self, assertion: &str, now: OffsetDateTime) -> Result<(), OauthError> {
        let mut validation = Validation::new(Algorithm::RS256);
        let in_a_container = self.audience.replace(LOOPBACK, HOST_OF_CONTAINERS);
        validation.set_audience(&[&self.audience, &in_a_container]);
        validation.set_issuer(&[&self.client_email]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        // The expiry is compared below with the given time.
        validation.validate_exp = false;
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let claims = decode::<Assertion>(assertion, &key, &validation)
            .map_err(|error| OauthError::grant(format!("Invalid JWT: {error}")))?
            .claims;
        check_times(&claims, now)?;
        if !claims.scope.split(' ').any(|scope| SCOPES.contains(&scope)) {
            let description = "Invalid OAuth scope or ID token audience provided.".into();
            return Err(OauthError {
                error: "invalid_scope",
                description,
            });
        }
        Ok(())
    }
}

fn check_times(claims: &Assertion, now: OffsetDateTime) -> Result<(), OauthError> {
    let now = now.unix_timestamp();
    let leeway = LEEWAY.whole_seconds();
    let reasonable = claims.iat <= now + leeway
        && claims.exp > now - leeway
        && claims.exp > claims.iat
        && claims.exp - claims.iat <= LIFETIME.whole_seconds();
    if reasonable {
        return Ok(());
    }
    Err(OauthError::grant(
        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. \
         Check your iat and exp values in the JWT claim.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use crate::credentials::ServiceAccount;

    const TOKEN_URI: &str = "http://127.0.0.1:5051/token";

    struct Account {
        account: ServiceAccount,
        endpoint: TokenEndpoint,
        now: OffsetDateTime,
    }

    fn account() -> Account {
        let account = ServiceAccount::generate(TOKEN_URI).unwrap();
        let endpoint =
            TokenEndpoint::new(&account.client_email, TOKEN_URI, &account.public_key_pem).unwrap();
        Account {
            account,
            endpoint,
            now: OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap(),
        }
    }

    impl Account {
        fn claims(&self) -> Value {
            let now = self.now.unix_timestamp();
            json!({
                "iss": self.account.client_email, "aud": TOKEN_URI, "iat": now, "exp": now + 3_600,
                "scope": "https://www.googleapis.com/auth/firebase.messaging",
            })
        }

        fn ask_with(&self, change: impl FnOnce(&mut Value)) -> Result<(String, i64), OauthError> {
            let mut claims = self.claims();
            change(&mut claims);
            let key = EncodingKey::from_rsa_pem(self.account.private_key_pem.as_bytes()).unwrap();
            let assertion = encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
            let form = BTreeMap::from([
                ("grant_type".to_owned(), GRANT_TYPE.to_owned()),
                ("assertion".to_owned(), assertion),
            ]);
            self.endpoint.issue(&form, self.now)
        }
    }

    #[test]
    fn a_valid_assertion_gets_a_token_for_an_hour() {
        let account = account();
        let (token, lifetime) = account.ask_with(|_| {}).unwrap();
        assert_eq!(lifetime, 3_599);
        assert!(
            account
                .endpoint
                .knows(&token, account.now + Duration::minutes(59))
        );
        assert!(
            !account
                .endpoint
                .knows(&token, account.now + Duration::minutes(60))
        );
        assert!(!account.endpoint.knows("ya29.guessed", account.now));
    }

    #[test]
    fn an_invalid_assertion_gets_the_same_error_as_from_google() {
        let account = account();
        let now = account.now.unix_timestamp();
        let error = |change: fn(&mut Value, i64)| {
            account
                .ask_with(|claims| change(claims, now))
                .unwrap_err()
                .error
        };
        assert_eq!(
            error(|claims, _| claims["aud"] = json!("https://elsewhere/token")),
            "invalid_grant"
        );
        assert_eq!(
            error(|claims, _| claims["iss"] = json!("other@example")),
            "invalid_grant"
        );
        assert_eq!(
            error(|claims, now| claims["exp"] = json!(now + 7_200)),
            "invalid_grant"
        );
        assert_eq!(
            error(|claims, now| claims["exp"] = json!(now - 301)),
            "invalid_grant"
        );
        assert_eq!(
            error(|claims, now| claims["iat"] = json!(now + 301)),
            "invalid_grant"
        );
        assert_eq!(
            error(|claims, _| claims["scope"] = json!("https://www.googleapis.com/auth/drive")),
            "invalid_scope"
        );
    }

    #[test]
    fn an_assertion_with_another_key_is_rejected() {
        let (account, other) = (account(), account());
        let assertion = {
            let key = EncodingKey::from_rsa_pem(other.account.private_key_pem.as_bytes()).unwrap();
            encode(&Header::new(Algorithm::RS256), &account.claims(), &key).unwrap()
        };
        let form = BTreeMap::from([
            ("grant_type".into(), GRANT_TYPE.into()),
            ("assertion".into(), assertion),
        ]);
        assert_eq!(
            account
                .endpoint
                .issue(&form, account.now)
                .unwrap_err()
                .error,
            "invalid_grant"
        );
    }

    #[test]
    fn replacing_the_key_revokes_it_and_its_tokens() {
        let (account, successor) = (account(), account());
        let (token, _) = account.ask_with(|_| {}).unwrap();
        let key = &successor.account.public_key_pem;
        account.endpoint.replace_key(key).unwrap();
        assert!(!account.endpoint.knows(&token, account.now));
        assert_eq!(account.ask_with(|_| {}).unwrap_err().error, "invalid_grant");
    }

    #[test]
    fn another_grant_type_is_rejected() {
        let account = account();
        let form = BTreeMap::from([("grant_type".to_owned(), "client_credentials".to_owned())]);
        assert_eq!(
            account
                .endpoint
                .issue(&form, account.now)
                .unwrap_err()
                .error,
            "unsupported_grant_type"
        );
        assert_eq!(
            account
                .endpoint
                .issue(&BTreeMap::new(), account.now)
                .unwrap_err()
                .error,
            "invalid_request"
        );
    }
}
