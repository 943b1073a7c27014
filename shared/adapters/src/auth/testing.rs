//! Issuers of tokens, for tests: each makes a key of its own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// Somebody who signs tokens with one key.
pub(super) struct Issuer {
    pub(super) key_id: &'static str,
    algorithm: Algorithm,
    pair: KeyPair,
}

impl Issuer {
    pub(super) fn new(key_id: &'static str, algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::RS256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            Algorithm::ES256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            other => panic!("{other:?} is no algorithm of published keys here"),
        };
        Self {
            key_id,
            algorithm,
            pair: pair.unwrap(),
        }
    }

    /// The private key.
    pub(super) fn key(&self) -> EncodingKey {
        let pem = self.pair.serialize_pem();
        match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        }
        .unwrap()
    }

    /// The public key, as whoever confuses algorithms uses it for a secret.
    pub(super) fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The public key as its set shows it.
    pub(super) fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key(), self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = self.key_id.into();
        jwk["use"] = "sig".into();
        jwk
    }

    pub(super) fn header(&self) -> Header {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.key_id.to_owned());
        header
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.key()).unwrap()
    }
}

/// A server that publishes these keys.
pub(super) async fn publishes(keys: &[Value]) -> MockServer {
    let server = MockServer::start().await;
    answers(&server, set_of(keys)).await;
    server
}

pub(super) fn set_of(keys: &[Value]) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "keys": keys }))
}

/// From now on the server answers so.
pub(super) async fn answers(server: &MockServer, answer: ResponseTemplate) {
    server.reset().await;
    Mock::given(method("GET"))
        .and(path("/jwks.json"))
        .respond_with(answer)
        .mount(server)
        .await;
}

pub(super) fn url(server: &MockServer) -> String {
    format!("{}/jwks.json", server.uri())
}

/// A token whose parts are as they are given, signed with nothing.
pub(super) fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}.", part(header), part(claims))
}
