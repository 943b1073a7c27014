//! Invalid tokens, and the secrets to sign them with.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::issuer::Issuer;
use ringback_e2e::fixture::Fixture;

/// The secrets of the deployed application.
pub(crate) struct Secrets(BTreeMap<&'static str, Value>);

impl Secrets {
    pub(crate) async fn of(fixture: &Fixture) -> Result<Self> {
        let mut all = BTreeMap::new();
        for name in ["app", "webhook", "hook", "exotel", "asterisk", "signing"] {
            all.insert(name, fixture.secret(name).await?);
        }
        Ok(Self(all))
    }

    pub(crate) fn get(&self, secret: &str, field: &'static str) -> Result<&str> {
        let value = self.0.get(secret).and_then(|fields| fields[field].as_str());
        value.context(field)
    }
}

/// The claims of a token.
pub(crate) fn claims_of(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("a JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// The claims with one value replaced.
pub(crate) fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

/// The claims without one value.
pub(crate) fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    if let Some(claims) = claims.as_object_mut() {
        claims.remove(name);
    }
    claims
}

pub(crate) fn hs256(claims: &Value, secret: &str) -> Result<String> {
    symmetric(&Header::new(Algorithm::HS256), claims, secret)
}

pub(crate) fn hs512(claims: &Value, secret: &str) -> Result<String> {
    symmetric(&Header::new(Algorithm::HS512), claims, secret)
}

/// Signed with HS256 and the public key as the secret: the algorithm confusion attack.
pub(crate) fn hs256_with_public_key(issuer: &Issuer, claims: &Value) -> Result<String> {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(issuer.key_id.to_owned());
    symmetric(&header, claims, &issuer.public_pem())
}

/// A token with `alg: none`.
pub(crate) fn unsigned(claims: &Value) -> String {
    let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let header = json!({ "alg": "none", "typ": "JWT" });
    format!("{}.{}.", part(&header), part(claims))
}

fn symmetric(header: &Header, claims: &Value, secret: &str) -> Result<String> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    Ok(jsonwebtoken::encode(header, claims, &key)?)
}
