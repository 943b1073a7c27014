//! The secrets of a stack, generated at each start.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256, PublicKeyData as _, RsaKeySize,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::events::HOST_OF_CONTAINERS;
use crate::settings::{
    EXTENSIONS, EXTRA_PHONES, NUMBERS, Settings, TOKEN_AUDIENCE, TOKEN_ISSUER, Transport,
    extra_phone,
};

/// How long app tokens and the PBX's certificate are valid: longer than any stack runs.
const LIFETIME: Duration = Duration::days(365);

/// The secrets of one stack. Each secret that a client presents is stored together with a previous one that is still
/// valid, as during a rotation.
#[derive(Debug)]
pub struct Credentials {
    /// Signs the bearer tokens of apps and operators.
    pub jwt_secret: String,
    /// The claims of those tokens.
    pub token: TokenNames,
    /// In the URL of Exotel's webhook.
    pub webhook_secret: String,
    /// Signs call ids and callback URLs.
    pub signing_secret: String,
    /// In the header of the PBX's hooks.
    pub hook_secret: String,
    /// The ARI user.
    pub ari_username: String,
    /// The ARI password.
    pub ari_password: String,
    /// The PBX's certificate for ARI over HTTPS.
    pub ari_certificate: Certificate,
    /// The certificate authority that the application trusts for ARI. `ARI_CA_FILE` replaces it.
    pub ari_ca_pem: String,
    /// The Google service account that sends pushes.
    pub service_account: ServiceAccount,
    /// The service account in `FCM_SERVICE_ACCOUNT_FILE`, for the real FCM or another stand-in.
    pub service_account_file: Option<Value>,
    /// The Exotel account.
    pub exotel: ExotelAccount,
    /// The SIP accounts of the phones.
    pub sip_accounts: Vec<SipAccount>,
}

/// The SIP account of a phone.
#[derive(Debug)]
pub struct SipAccount {
    /// The extension, which is also the user name.
    pub extension: String,
    /// The password.
    pub password: String,
    /// How the phone connects to the PBX.
    pub transport: Transport,
}

/// The values of the template parameters `TokenIssuer`, `TokenAudience`, `TokenExtensionClaim` and `TokenRoleClaim`.
#[derive(Debug, Clone)]
pub struct TokenNames {
    /// The claim `iss`.
    pub issuer: String,
    /// The claim `aud`.
    pub audience: String,
    /// The name of the claim with the extension.
    pub extension_claim: String,
    /// The name of the claim with the role.
    pub role_claim: String,
}

/// A server certificate and the authority that signed it, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The authority, which clients trust.
    pub ca_pem: String,
    /// The server's certificate.
    pub certificate_pem: String,
    /// The same certificate, but expired.
    pub expired_pem: String,
    /// The server's private key.
    pub key_pem: String,
    /// SHA-256 of its public key (the certificate's SubjectPublicKeyInfo), in Base64.
    pub spki_sha256: String,
}

/// A Google service account's key.
#[derive(Debug)]
pub struct ServiceAccount {
    /// The Firebase project.
    pub project_id: String,
    /// The account's email address.
    pub client_email: String,
    /// The key's id.
    pub private_key_id: String,
    /// The private key in PKCS#8.
    pub private_key_pem: String,
    /// The public key.
    pub public_key_pem: String,
    /// The URL that exchanges a signed assertion for an access token.
    pub token_uri: String,
}

/// An Exotel account.
#[derive(Debug, Clone)]
pub struct ExotelAccount {
    /// The account id.
    pub sid: String,
    /// The Basic auth user.
    pub api_key: String,
    /// The Basic auth password.
    pub api_token: String,
    /// The ExoPhone that calls come from.
    pub caller_id: String,
}

impl Credentials {
    /// Generates all secrets.
    pub fn generate(token_uri: &str) -> Result<Self> {
        let ari_certificate = Certificate::generate()?;
        Ok(Self {
            jwt_secret: random(),
            token: TokenNames {
                issuer: TOKEN_ISSUER.to_owned(),
                audience: TOKEN_AUDIENCE.to_owned(),
                extension_claim: "extension".to_owned(),
                role_claim: "role".to_owned(),
            },
            webhook_secret: random(),
            signing_secret: random(),
            hook_secret: random(),
            ari_username: "ringback".into(),
            ari_password: random(),
            ari_ca_pem: ari_certificate.ca_pem.clone(),
            ari_certificate,
            service_account: ServiceAccount::generate(token_uri)?,
            service_account_file: None,
            exotel: ExotelAccount {
                sid: "ringback1".into(),
                api_key: random(),
                api_token: random(),
                caller_id: NUMBERS[0].0.to_owned(),
            },
            sip_accounts: EXTENSIONS
                .into_iter()
                .map(|(extension, transport)| (extension.to_owned(), transport))
                .chain((0..EXTRA_PHONES).map(|index| {
                    let [extension, _, _] = extra_phone(index);
                    (extension, Transport::Udp)
                }))
                .map(|(extension, transport)| SipAccount {
                    extension,
                    password: random(),
                    transport,
                })
                .collect(),
        })
    }

    /// Applies the environment variables, for services that replace the stack's own.
    pub fn with_overrides(mut self, settings: &Settings) -> Result<Self> {
        let token = &mut self.token;
        for (variable, name) in [
            ("TOKEN_ISSUER", &mut token.issuer),
            ("TOKEN_AUDIENCE", &mut token.audience),
            ("TOKEN_EXTENSION_CLAIM", &mut token.extension_claim),
            ("TOKEN_ROLE_CLAIM", &mut token.role_claim),
        ] {
            *name = settings.override_or(variable, name.as_str());
        }
        self.hook_secret = settings.override_or("HOOK_SECRET", self.hook_secret);
        self.ari_username = settings.override_or("ARI_USERNAME", self.ari_username);
        self.ari_password = settings.override_or("ARI_PASSWORD", self.ari_password);
        self.exotel.sid = settings.override_or("EXOTEL_ACCOUNT_SID", self.exotel.sid);
        self.exotel.api_key = settings.override_or("EXOTEL_API_KEY", self.exotel.api_key);
        self.exotel.api_token = settings.override_or("EXOTEL_API_TOKEN", self.exotel.api_token);
        self.exotel.caller_id = settings.override_or("EXOTEL_CALLER_ID", self.exotel.caller_id);
        if let Some(path) = settings.variable("ARI_CA_FILE") {
            self.ari_ca_pem = read_file("ARI_CA_FILE", path)?;
        }
        if let Some(path) = settings.variable("FCM_SERVICE_ACCOUNT_FILE") {
            let text = read_file("FCM_SERVICE_ACCOUNT_FILE", path)?;
            let account =
                serde_json::from_str(&text).with_context(|| format!("{path} is not JSON"))?;
            self.service_account_file = Some(account);
        }
        Ok(self)
    }

    /// A bearer token for an extension's app.
    pub fn app_token(&self, extension: &str) -> Result<String> {
        self.token(&self.token.extension_claim, extension)
    }

    /// A bearer token for an operator.
    pub fn operator_token(&self) -> Result<String> {
        self.token(&self.token.role_claim, "operator")
    }

    /// A bearer token for an admin.
    pub fn admin_token(&self) -> Result<String> {
        self.token(&self.token.role_claim, "admin")
    }

    fn token(&self, claim: &str, value: &str) -> Result<String> {
        let names = &self.token;
        let expires = (OffsetDateTime::now_utc() + LIFETIME).unix_timestamp();
        let mut claims =
            json!({"iss": names.issuer, "aud": names.audience, "sub": value, "exp": expires});
        claims[claim] = value.into();
        Ok(encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(self.jwt_secret.as_bytes()),
        )?)
    }

    /// The secret for app tokens.
    pub fn app_secret(&self) -> Value {
        json!({"jwt_secret": self.jwt_secret, "jwt_secret_previous": random()})
    }

    /// The secret of Exotel's webhook.
    pub fn webhook_secret(&self) -> Value {
        json!({"webhook_secret": self.webhook_secret, "webhook_secret_previous": random()})
    }

    /// The account at Exotel.
    pub fn exotel_secret(&self) -> Value {
        json!({
            "account_sid": self.exotel.sid,
            "api_key": self.exotel.api_key,
            "api_token": self.exotel.api_token,
            "caller_id": self.exotel.caller_id,
        })
    }

    /// The key that signs call ids and callback URLs.
    pub fn signing_secret(&self) -> Value {
        json!({"signing_secret": self.signing_secret, "signing_secret_previous": random()})
    }

    /// The secret of the PBX's hooks.
    pub fn hook_secret(&self) -> Value {
        json!({"hook_secret": self.hook_secret, "hook_secret_previous": random()})
    }

    /// The credentials for ARI.
    pub fn asterisk_secret(&self) -> Value {
        json!({
            "ari_username": self.ari_username,
            "ari_password": self.ari_password,
            "ari_ca_pem": self.ari_ca_pem,
        })
    }

    /// The secret for FCM: a service account's JSON, in Google's format.
    pub fn fcm_secret(&self) -> Value {
        if let Some(other) = &self.service_account_file {
            return other.clone();
        }
        let account = &self.service_account;
        json!({
            "type": "service_account",
            "project_id": account.project_id,
            "private_key_id": account.private_key_id,
            "private_key": account.private_key_pem,
            "client_email": account.client_email,
            "client_id": "100000000000000000000",
            "token_uri": account.token_uri,
        })
    }
}

/// The names of this machine: its own, and that in the containers of `sam local invoke`.
const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", HOST_OF_CONTAINERS];

impl Certificate {
    /// Creates a certificate authority and a certificate for this machine.
    pub fn generate() -> Result<Self> {
        let now = OffsetDateTime::now_utc();
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, "Ringback local stack");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (ca.not_before, ca.not_after) = (now - Duration::DAY, now + LIFETIME);
        let ca_pem = ca.self_signed(&ca_key)?.pem();

        let key = KeyPair::generate()?;
        let mut server = CertificateParams::new(NAMES.map(str::to_owned))?;
        server
            .distinguished_name
            .push(DnType::CommonName, "localhost");
        server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let mut certificate_until = |end| -> Result<String> {
            (server.not_before, server.not_after) = (now - LIFETIME, end);
            let issuer = Issuer::from_params(&ca, &ca_key);
            Ok(server.signed_by(&key, &issuer)?.pem())
        };
        Ok(Self {
            ca_pem,
            certificate_pem: certificate_until(now + LIFETIME)?,
            expired_pem: certificate_until(now - Duration::DAY)?,
            key_pem: key.serialize_pem(),
            spki_sha256: BASE64.encode(Sha256::digest(key.subject_public_key_info())),
        })
    }
}

impl ServiceAccount {
    /// Creates a key. `token_uri` is where it is exchanged for access tokens.
    pub fn generate(token_uri: &str) -> Result<Self> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        Ok(Self {
            project_id: "ringback-local".into(),
            client_email: "push@ringback-local.iam.gserviceaccount.com".into(),
            private_key_id: random(),
            private_key_pem: key.serialize_pem(),
            public_key_pem: key.public_key_pem(),
            token_uri: token_uri.to_owned(),
        })
    }
}

fn read_file(variable: &str, path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {path} ({variable})"))
}

/// 122 random bits, in characters that are safe in URLs, headers and configuration files.
fn random() -> String {
    Uuid::new_v4().simple().to_string()
}
