//! Secrets, in AWS Secrets Manager: each is fetched when it is first needed, once per process.

use aws_sdk_secretsmanager::Client;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::config::{ConfigError, Environment};

/// Why a secret is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Secrets Manager did not give it. Trying again may help.
    #[error("the secret of {0} could not be fetched")]
    Unavailable(
        &'static str,
        #[source] Box<dyn std::error::Error + Send + Sync>,
    ),
    /// It is not what `template.yaml` says it is. Its content is not repeated here.
    #[error("the secret of {0} is not the JSON object that it must be (see README, Secrets)")]
    Malformed(&'static str),
}

/// One secret: a JSON object in Secrets Manager.
#[derive(Debug)]
pub struct Secret<T> {
    client: Client,
    id: String,
    whose: &'static str,
    value: OnceCell<T>,
}

impl<T: DeserializeOwned> Secret<T> {
    /// The secret whose name or ARN stands in the environment variable `name`.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn from_environment(
        client: &Client,
        environment: &Environment,
        name: &'static str,
    ) -> Result<Self, ConfigError> {
        let id = environment.required(name)?;
        let whose = name.trim_end_matches("_SECRET_ARN");
        Ok(Self {
            client: client.clone(),
            id,
            whose,
            value: OnceCell::new(),
        })
    }

    /// The secret itself.
    ///
    /// # Errors
    /// See [`SecretError`]. A failed fetch is tried again by the next call.
    pub async fn value(&self) -> Result<&T, SecretError> {
        self.value.get_or_try_init(|| self.fetch()).await
    }

    async fn fetch(&self) -> Result<T, SecretError> {
        let answer = self
            .client
            .get_secret_value()
            .secret_id(&self.id)
            .send()
            .await;
        let answer = answer.map_err(|error| SecretError::Unavailable(self.whose, error.into()))?;
        let text = answer.secret_string().unwrap_or_default();
        serde_json::from_str(text).map_err(|_| SecretError::Malformed(self.whose))
    }
}

#[cfg(any(test, feature = "testing"))]
impl<T> Secret<T> {
    /// A secret that need not be fetched, for tests.
    pub fn known(value: T) -> Self {
        let nowhere = aws_config::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .build();
        Self {
            client: Client::new(&nowhere),
            id: "known".to_owned(),
            whose: "KNOWN",
            value: OnceCell::new_with(Some(value)),
        }
    }
}

/// `APP_SECRET_ARN`: what phone apps' tokens are signed with.
#[derive(Debug, Deserialize)]
pub struct AppSecret {
    /// The HS256 key.
    pub jwt_secret: SecretString,
}

/// `EXOTEL_SECRET_ARN`: what Exotel shows us, and what we show Exotel. A deployment that places no calls to phone
/// numbers needs no account.
#[derive(Debug, Deserialize)]
pub struct ExotelSecret {
    /// `?secret=` of the webhook's URL, and of the streams'.
    pub webhook_secret: SecretString,
    /// The one before, still valid while it is being replaced.
    #[serde(default)]
    pub webhook_secret_previous: Option<SecretString>,
    /// The account (Account SID).
    #[serde(default)]
    pub account_sid: Option<String>,
    /// The account's API key.
    #[serde(default)]
    pub api_key: Option<SecretString>,
    /// The API key's token.
    #[serde(default)]
    pub api_token: Option<SecretString>,
    /// The ExoPhone that calls are shown to come from.
    #[serde(default)]
    pub caller_id: Option<String>,
}

impl ExotelSecret {
    /// What Exotel may show: two secrets while one replaces the other.
    pub fn webhook_secrets(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.webhook_secret).chain(&self.webhook_secret_previous)
    }
}

/// `ASTERISK_SECRET_ARN`: what the PBX shows us, and what we show the PBX.
#[derive(Debug, Deserialize)]
pub struct AsteriskSecret {
    /// The header `X-Ringback-Secret` of the dialplan's hooks.
    pub hook_secret: SecretString,
    /// The one before, still valid while it is being replaced.
    #[serde(default)]
    pub hook_secret_previous: Option<SecretString>,
    /// ARI's user.
    pub ari_username: String,
    /// ARI's password.
    pub ari_password: SecretString,
    /// The certificate authority of the PBX's certificate, when it is not a public one.
    #[serde(default)]
    pub ari_ca_pem: Option<String>,
}

/// `FCM_SECRET_ARN`: the service account's key file, as Google's console gives it.
#[derive(Debug, Deserialize)]
pub struct ServiceAccount {
    /// The Firebase project.
    pub project_id: String,
    /// Who signs.
    pub client_email: String,
    /// The RSA key, PEM.
    pub private_key: SecretString,
    /// The key's id.
    pub private_key_id: String,
    /// Where an access token is asked for; also the assertion's audience.
    pub token_uri: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wiremock::matchers::header;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    const ARN: &str = "arn:aws:secretsmanager:ap-south-1:123456789012:secret:app-x";

    /// Secrets Manager that gives these answers, one after the other, and the app's secret in it.
    async fn app_secret<const N: usize>(
        answers: [ResponseTemplate; N],
    ) -> (MockServer, Secret<AppSecret>) {
        let server = MockServer::start().await;
        for answer in answers {
            Mock::given(header("x-amz-target", "secretsmanager.GetSecretValue"))
                .respond_with(answer)
                .up_to_n_times(1)
                .mount(&server)
                .await;
        }
        let client = Client::new(&testing::aws(&server));
        let environment =
            Environment::of(|name| (name == "APP_SECRET_ARN").then(|| ARN.to_owned()));
        let secret = Secret::from_environment(&client, &environment, "APP_SECRET_ARN").unwrap();
        (server, secret)
    }

    fn given(secret: &str) -> ResponseTemplate {
        ResponseTemplate::new(200).set_body_json(json!({ "ARN": ARN, "SecretString": secret }))
    }

    #[tokio::test]
    async fn a_secret_is_fetched_once_by_its_arn() {
        use secrecy::ExposeSecret;

        let (server, secret) = app_secret([given(r#"{"jwt_secret":"hush"}"#)]).await;
        let (first, second) = tokio::join!(secret.value(), secret.value());
        for value in [
            first.unwrap(),
            second.unwrap(),
            secret.value().await.unwrap(),
        ] {
            assert_eq!(value.jwt_secret.expose_secret(), "hush");
        }
        let requests = testing::requests(&server).await;
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].body_json::<Value>().unwrap()["SecretId"], ARN);
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[tokio::test]
    async fn a_fetch_that_failed_is_tried_again_by_the_next_who_asks() {
        let answers = [
            ResponseTemplate::new(500),
            given(r#"{"jwt_secret":"hush"}"#),
        ];
        let (_server, secret) = app_secret(answers).await;
        let error = secret.value().await.unwrap_err();
        assert!(
            matches!(error, SecretError::Unavailable("APP", _)),
            "{error:?}"
        );
        assert!(secret.value().await.is_ok());
    }

    #[tokio::test]
    async fn a_malformed_secret_is_named_and_not_repeated() {
        for malformed in ["hush", r#"{"jwt_secret":["hush"]}"#, r#"{"other":"hush"}"#] {
            let (_server, secret) = app_secret([given(malformed)]).await;
            let error = secret.value().await.unwrap_err();
            assert!(matches!(error, SecretError::Malformed("APP")), "{error:?}");
            assert!(!format!("{error} {error:?} {secret:?}").contains("hush"));
        }
    }

    #[test]
    fn a_secret_does_not_show_in_debug() {
        let json = r#"{"hook_secret":"hush-1","hook_secret_previous":"hush-2","ari_username":"u","ari_password":"hush-3"}"#;
        let secret: AsteriskSecret = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));

        let json = r#"{"webhook_secret":"hush-1","api_key":"hush-2","api_token":"hush-3"}"#;
        let secret: ExotelSecret = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));
    }
}
