//! Token issuers with published keys, such as Firebase and Cognito, and deployments that trust them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Json;
use axum::extract::State;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// An issuer that signs tokens with one key.
pub(crate) struct Issuer {
    pub(crate) key_id: &'static str,
    algorithm: Algorithm,
    pair: KeyPair,
}

impl Issuer {
    pub(crate) fn of_rsa(key_id: &'static str) -> Result<Self> {
        Self::new(key_id, Algorithm::RS256)
    }

    fn new(key_id: &'static str, algorithm: Algorithm) -> Result<Self> {
        let pair = match algorithm {
            Algorithm::ES256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            _ => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        }?;
        Ok(Self {
            key_id,
            algorithm,
            pair,
        })
    }

    pub(crate) fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    pub(crate) fn token(&self, claims: &Value) -> Result<String> {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.key_id.to_owned());
        Ok(jsonwebtoken::encode(&header, claims, &self.key()?)?)
    }

    fn key(&self) -> Result<EncodingKey> {
        let pem = self.pair.serialize_pem();
        Ok(match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes())?,
            _ => EncodingKey::from_rsa_pem(pem.as_bytes())?,
        })
    }

    fn jwk(&self) -> Result<Value> {
        let jwk = Jwk::from_encoding_key(&self.key()?, self.algorithm)?;
        let mut jwk = serde_json::to_value(jwk)?;
        jwk["kid"] = self.key_id.into();
        jwk["use"] = "sig".into();
        Ok(jwk)
    }
}

/// A deployment that trusts an issuer with published keys.
pub(crate) struct Deployment {
    pub(crate) name: &'static str,
    pub(crate) extension_claim: &'static str,
    role_claim: &'static str,
    operators_role: Value,
    issuer_name: &'static str,
    audience: &'static str,
    algorithm: &'static str,
    pub(crate) issuer: Issuer,
    /// Another issuer with a key of the same id.
    pub(crate) impostor: Issuer,
    /// The issuer's next key.
    pub(crate) next_issuer: Issuer,
    url: String,
    published: Arc<Published>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Published {
    keys: Mutex<Vec<Value>>,
    fetches: AtomicUsize,
    fails: AtomicBool,
}

impl Deployment {
    /// One deployment for each kind of issuer in the README.
    pub(crate) async fn all() -> Result<[Self; 3]> {
        Ok([
            Self::new(Algorithm::RS256).await?.like_firebase(),
            Self::new(Algorithm::RS256).await?.like_cognito(),
            Self::new(Algorithm::ES256).await?,
        ])
    }

    /// A custom issuer.
    async fn new(algorithm: Algorithm) -> Result<Self> {
        let issuer = Issuer::new("first", algorithm)?;
        let published = Arc::new(Published::default());
        published.add(issuer.jwk()?);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}/jwks.json", listener.local_addr()?);
        let routes = axum::Router::new()
            .route("/jwks.json", axum::routing::get(key_set))
            .with_state(Arc::clone(&published));
        let server = tokio::spawn(async move {
            // The server runs until its task is aborted.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self {
            name: "own issuer",
            extension_claim: "https://example.com/extension",
            role_claim: "role",
            operators_role: json!("operator"),
            issuer_name: "https://login.example.com/",
            audience: "calls",
            algorithm: match algorithm {
                Algorithm::ES256 => "ES256",
                _ => "RS256",
            },
            issuer,
            impostor: Issuer::new("first", algorithm)?,
            next_issuer: Issuer::new("second", algorithm)?,
            url,
            published,
            server,
        })
    }

    fn like_firebase(mut self) -> Self {
        self.name = "Firebase";
        self.extension_claim = "extension";
        self.issuer_name = "https://securetoken.google.com/our-project";
        self.audience = "our-project";
        self
    }

    fn like_cognito(mut self) -> Self {
        self.name = "Cognito";
        self.extension_claim = "custom:extension";
        self.role_claim = "cognito:groups";
        self.operators_role = json!(["staff", "operator"]);
        self.issuer_name = "https://cognito-idp.ap-south-1.amazonaws.com/ap-south-1_Example";
        self.audience = "7lhlkkfbfb4q5kpp90urffao";
        self
    }

    /// The environment variables that the template's parameters produce.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let variables = [
            ("TOKEN_ALGORITHM", self.algorithm),
            ("TOKEN_JWKS_URL", &self.url),
            ("TOKEN_ISSUER", self.issuer_name),
            ("TOKEN_AUDIENCE", self.audience),
            ("TOKEN_EXTENSION_CLAIM", self.extension_claim),
            ("TOKEN_ROLE_CLAIM", self.role_claim),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        variables.map(owned).to_vec()
    }

    /// The claims of an app's token.
    pub(crate) fn claims(&self, extension: &str) -> Value {
        let mut claims = self.ordinary_claims();
        claims[self.extension_claim] = extension.into();
        claims
    }

    pub(crate) fn operators_claims(&self) -> Value {
        let mut claims = self.ordinary_claims();
        claims[self.role_claim] = self.operators_role.clone();
        claims
    }

    fn ordinary_claims(&self) -> Value {
        json!({
            "iss": self.issuer_name,
            "aud": self.audience,
            "sub": "user",
            "iat": 1_732_175_943,
            "exp": 4_102_444_800_u64,
        })
    }

    /// How many times the keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.published.fetches.load(Ordering::SeqCst)
    }

    /// Makes the issuer answer 503, or its keys again.
    pub(crate) fn fails(&self, fails: bool) {
        self.published.fails.store(fails, Ordering::SeqCst);
    }

    pub(crate) fn publish_next_key(&self) -> Result<()> {
        self.published.add(self.next_issuer.jwk()?);
        Ok(())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Published {
    fn add(&self, key: Value) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.push(key);
    }
}

async fn key_set(
    State(published): State<Arc<Published>>,
) -> Result<Json<Value>, axum::http::StatusCode> {
    published.fetches.fetch_add(1, Ordering::SeqCst);
    if published.fails.load(Ordering::SeqCst) {
        return Err(axum::http::StatusCode::SERVICE_UNAVAILABLE);
    }
    let keys = published
        .keys
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(Json(json!({ "keys": *keys })))
}
