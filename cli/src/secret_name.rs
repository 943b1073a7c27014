//! The secrets of a deployment: their fields, and whether the functions can use their values.

use clap::ValueEnum;
use ringback::doctor::{Fault, Finding};
use ringback::platform::secrets::{
    AppSecret, AriCredentials, ExotelAccount, HookSecret, ServiceAccount, SigningSecret,
    WebhookSecret,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::deployment::Deployment;
use crate::failure::{Failure, Result};

/// The shortest HS256 key (RFC 7518, 3.2), which is long enough for the other generated secrets too.
const SHORTEST: usize = 32;

/// A secret, by the last part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SecretName {
    App,
    Webhook,
    Hook,
    Signing,
    Exotel,
    Asterisk,
    Fcm,
}

/// The fields of a secret.
pub(crate) type Fields = Map<String, Value>;

/// Whether a value comes from an example: `change-me`, `<key>`, `…`.
fn is_placeholder(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.contains("change-me") || text.starts_with('<') || text.contains('…')
}

impl SecretName {
    /// All secrets.
    pub(crate) const ALL: [Self; 7] = [
        Self::App,
        Self::Webhook,
        Self::Hook,
        Self::Signing,
        Self::Exotel,
        Self::Asterisk,
        Self::Fcm,
    ];

    /// Reads the secret. One without a value has no fields.
    pub(crate) async fn read(self, deployment: &Deployment) -> Result<Fields> {
        match deployment.secret(self.output()).await? {
            None => Ok(Fields::new()),
            Some(Ok(Value::Object(fields))) => Ok(fields),
            // The parser's error may contain parts of the secret.
            Some(_) => Err(Failure::refused(format!(
                "The secret {} is not a JSON object: write it again with `aws secretsmanager put-secret-value`.",
                self.name()
            ))),
        }
    }

    /// Whether the secret still has the value that its stack has generated.
    pub(crate) async fn is_as_generated(self, deployment: &Deployment) -> Result<bool> {
        let versions = deployment.secret_versions(self.output());
        Ok(self.generated().is_some() && versions.await? == 1)
    }

    /// What is wrong with the value of the secret.
    pub(crate) async fn fault(self, deployment: &Deployment) -> Result<Option<Finding>> {
        let unusable = Fault::SecretUnusable.at(self.name());
        let fields = match deployment.secret(self.output()).await? {
            Some(Ok(Value::Object(fields))) => fields,
            Some(_) => return Ok(Some(unusable.seen("it is not a JSON object"))),
            // A deployment without calls to telephones has none.
            None if self == Self::Exotel => return Ok(None),
            None => return Ok(Some(Fault::SecretMissing.at(self.name()))),
        };
        let placeholder = fields.iter().find(|(_, value)| is_placeholder(value));
        let lacking = self
            .fields()
            .iter()
            .find(|field| !fields.contains_key(**field));
        Ok(match (self.check(&fields), placeholder, lacking) {
            (Err(failure), ..) => Some(unusable.seen(failure)),
            (_, Some((field, _)), _) => Some(unusable.seen(format!("{field} is a placeholder"))),
            (_, _, Some(field)) if self == Self::Exotel && !fields.is_empty() => {
                Some(unusable.seen(format!("it has no {field}, which calls to telephones need")))
            }
            _ => None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Webhook => "webhook",
            Self::Hook => "hook",
            Self::Signing => "signing",
            Self::Exotel => "exotel",
            Self::Asterisk => "asterisk",
            Self::Fcm => "fcm",
        }
    }

    /// The stack's output with its ARN.
    pub(crate) const fn output(self) -> &'static str {
        match self {
            Self::App => "AppSecretArn",
            Self::Webhook => "WebhookSecretArn",
            Self::Hook => "HookSecretArn",
            Self::Signing => "SigningSecretArn",
            Self::Exotel => "ExotelSecretArn",
            Self::Asterisk => "AsteriskSecretArn",
            Self::Fcm => "FcmSecretArn",
        }
    }

    /// The fields that can be set one by one; none of the key file of a service account.
    pub(crate) const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::App => &["jwt_secret", "jwt_secret_previous"],
            Self::Webhook => &["webhook_secret", "webhook_secret_previous"],
            Self::Hook => &["hook_secret", "hook_secret_previous"],
            Self::Signing => &["signing_secret", "signing_secret_previous"],
            Self::Exotel => &["account_sid", "api_key", "api_token", "caller_id"],
            Self::Asterisk => &["ari_username", "ari_password", "ari_ca_pem"],
            Self::Fcm => &[],
        }
    }

    /// The fields that a person types. A certificate has several lines, and the previous value of a rotation is not typed.
    pub(crate) fn typed_fields(self) -> impl Iterator<Item = &'static str> {
        let fields = self.fields().iter().copied();
        fields.filter(|field| !field.ends_with("_pem") && !field.ends_with("_previous"))
    }

    /// The field that Ringback generates, and the field of its previous value.
    pub(crate) const fn generated(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::App | Self::Webhook | Self::Hook | Self::Signing => {
                let fields = self.fields();
                Some((fields[0], fields[1]))
            }
            Self::Exotel | Self::Asterisk | Self::Fcm => None,
        }
    }

    /// Whether the fault says that the other side refuses this secret, or is not reachable. No other side knows a secret that Ringback
    /// generates.
    pub(crate) const fn concerns(self, fault: Fault) -> bool {
        match self {
            Self::Exotel => matches!(fault, Fault::ExotelRefused | Fault::ExotelUnreachable),
            Self::Asterisk => matches!(
                fault,
                Fault::AriPassword
                    | Fault::AriCertificate
                    | Fault::AriRefused
                    | Fault::AriUnreachable
            ),
            Self::Fcm => matches!(fault, Fault::FcmRefused | Fault::FcmUnreachable),
            Self::App | Self::Webhook | Self::Hook | Self::Signing => false,
        }
    }

    /// When the functions use a changed value.
    pub(crate) const fn takes_effect(self) -> &'static str {
        match self {
            Self::App | Self::Webhook | Self::Hook | Self::Signing => {
                "The functions fetch it when somebody uses the new value, at the latest after a minute."
            }
            Self::Exotel => {
                "The functions fetch it when Exotel refuses the old value; only new processes use a changed caller_id."
            }
            Self::Asterisk => "The functions fetch it when the PBX refuses the old value.",
            Self::Fcm => "The functions fetch it when Google refuses the old key.",
        }
    }

    /// Checks that the functions can use the secret. The errors contain no values.
    pub(crate) fn check(self, fields: &Fields) -> Result<()> {
        let value = Value::Object(fields.clone());
        if self == Self::Fcm {
            // Another file of Google's has other fields, and what is wrong with them says nothing.
            self.check_as::<ServiceAccount>(value.clone())?;
        }
        for (field, value) in fields {
            if self != Self::Fcm && !self.fields().contains(&field.as_str()) {
                return Err(self.no_such_field(field));
            }
            if value.as_str().is_none_or(|text| text.trim().is_empty()) {
                return Err(Failure::wrong_use(format!(
                    "{field} must be a text that is not empty."
                )));
            }
        }
        match self {
            Self::App => self.check_as::<AppSecret>(value)?,
            Self::Webhook => self.check_as::<WebhookSecret>(value)?,
            Self::Hook => self.check_as::<HookSecret>(value)?,
            Self::Signing => self.check_as::<SigningSecret>(value)?,
            Self::Exotel => self.check_as::<ExotelAccount>(value)?,
            Self::Asterisk => self.check_as::<AriCredentials>(value)?,
            Self::Fcm => {}
        }
        let text = |field: &str| {
            fields
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        if let Some((field, _)) = self.generated()
            && text(field).len() < SHORTEST
        {
            return Err(Failure::wrong_use(format!(
                "{field} must have at least {SHORTEST} characters, or others can guess it."
            )));
        }
        let pem = text("ari_ca_pem");
        if !pem.is_empty() && !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Failure::wrong_use(
                "ari_ca_pem must be a certificate in PEM: it begins with -----BEGIN CERTIFICATE-----.",
            ));
        }
        if self == Self::Fcm && !text("private_key").contains("-----BEGIN") {
            return Err(Failure::wrong_use(
                "private_key must be a key in PEM: use the file that Google's console exports, unchanged.",
            ));
        }
        Ok(())
    }

    /// Reads the secret as the functions do. The parser's error can contain values, so it is dropped.
    fn check_as<T: DeserializeOwned>(self, value: Value) -> Result<()> {
        let required = match self {
            Self::Asterisk => "ari_username and ari_password",
            Self::Fcm => {
                "project_id, client_email, private_key, private_key_id and token_uri: this is not the key file of a service account. \
                 Make one in the Firebase console, at Project settings > Service accounts > Generate new private key"
            }
            _ => self.fields().first().copied().unwrap_or_default(),
        };
        match serde_json::from_value::<T>(value) {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::wrong_use(format!(
                "The secret {} needs {required}.",
                self.name()
            ))),
        }
    }

    pub(crate) fn no_such_field(self, field: &str) -> Failure {
        let known = self.fields().join(", ");
        Failure::wrong_use(match self {
            Self::Fcm => "fcm has no fields to set one by one: use `ringback secret set fcm < service-account.json`.".to_owned(),
            _ => format!("{} has no field {field:.64}, only {known}.", self.name()),
        })
    }
}
