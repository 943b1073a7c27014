//! Token issuers for tests. Each has its own key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// An issuer that signs tokens with one key.
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
            other => panic!("{other:?} is not an algorithm of published keys"),
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

    /// The public key as PEM. An algorithm confusion attack uses it as an HS256 secret.
    pub(super) fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The public key as a JWK.
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

/// Sets the answer of the server from now on.
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

/// A token with this header and these claims and without a signature.
pub(super) fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}.", part(header), part(claims))
}
