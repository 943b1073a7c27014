//! Secrets in AWS Secrets Manager. A process fetches a secret at its first use, and again when the other side rejects it. So an
//! operator can replace a secret without a deployment, while calls are in progress.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, RwLock};

use crate::platform::clock;
use crate::platform::config::{ConfigError, Environment};
use ringback_core::timestamp::Timestamp;

/// The shortest time between two fetches that wrong credentials of clients cause. Any client can send wrong credentials at any
/// rate, and each fetch costs money.
const INTERVAL_AFTER_MISMATCH: Duration = Duration::from_secs(60);

/// The shortest time between two fetches after another system rejects our secret. Only our own requests cause this, and a call waits
/// for each of them.
const INTERVAL_AFTER_REJECTION: Duration = Duration::from_secs(1);

/// The version of a secret without a value. It differs from Secrets Manager's version ids, which are UUIDs.
const NO_VERSION: &str = "none";

/// Why a secret is not available.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Secrets Manager did not answer. Trying again may help.
    #[error("the secret of {0} could not be fetched")]
    Unavailable(
        &'static str,
        #[source] Box<dyn std::error::Error + Send + Sync>,
    ),
    /// The deployment creates it empty, and the operator has not put a value yet.
    #[error(
        "the secret of {0} has no value yet; put one with `ringback secret set` (see docs/cli.md)"
    )]
    NoValue(&'static str),
    /// It does not have the format that `template.yaml` describes. The error does not contain its content.
    #[error(
        "the secret of {0} is not the JSON object that it must be (see docs/deployment.md, Secrets)"
    )]
    Malformed(&'static str),
}

/// A secret: a JSON object in Secrets Manager.
#[derive(Debug)]
pub struct Secret<T> {
    client: Client,
    id: String,
    name: &'static str,
    cached: RwLock<Option<FetchedSecret<T>>>,
    /// Locked during a fetch, so that concurrent requests wait for its result.
    fetching: Mutex<LastRefetch>,
}

/// A secret as it was fetched.
#[derive(Debug)]
struct FetchedSecret<T> {
    value: Arc<T>,
    /// Secrets Manager's version id.
    version: Option<String>,
}

/// When the secret was last fetched again, by reason.
#[derive(Debug, Default)]
struct LastRefetch {
    after_rejection: Option<Timestamp>,
    after_mismatch: Option<Timestamp>,
}

impl<T: DeserializeOwned> Secret<T> {
    /// The secret with the name or ARN in this environment variable.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn from_environment(
        client: &Client,
        environment: &Environment,
        variable: &'static str,
    ) -> Result<Self, ConfigError> {
        let id = environment.required(variable)?;
        let name = variable.trim_end_matches("_SECRET_ARN");
        Ok(Self {
            client: client.clone(),
            id,
            name,
            cached: RwLock::default(),
            fetching: Mutex::default(),
        })
    }

    /// The secret of the last fetch.
    ///
    /// # Errors
    /// See [`SecretError`]. After a failed fetch, the next call fetches again.
    pub async fn value(&self) -> Result<Arc<T>, SecretError> {
        if let Some(value) = self.cached_value().await {
            return Ok(value);
        }
        let _fetching = self.fetching.lock().await;
        match self.cached_value().await {
            Some(value) => Ok(value),
            None => Ok(self.cache(self.fetch().await?).await),
        }
    }

    /// The current secret, after another system has rejected `rejected`, which came from [`Secret::value`]. `None` if the secret has
    /// not changed: then repeating the request is useless.
    pub async fn after_rejection(&self, rejected: &Arc<T>) -> Option<Arc<T>> {
        let mut last = self.fetching.lock().await;
        self.newer_than(
            rejected,
            &mut last.after_rejection,
            INTERVAL_AFTER_REJECTION,
            clock::now(),
        )
        .await
    }

    /// Checks a client's credentials with `rule`. If that fails, the secret may have been replaced, so it is fetched again, at most
    /// once a minute, and the check repeated.
    ///
    /// # Errors
    /// The outer error when the secret is not available, the inner one when the check fails.
    pub async fn check<A, E>(
        &self,
        now: Timestamp,
        rule: impl Fn(&T) -> Result<A, E>,
    ) -> Result<Result<A, E>, SecretError> {
        let value = self.value().await?;
        let mismatch = match rule(&value) {
            Ok(good) => return Ok(Ok(good)),
            Err(mismatch) => mismatch,
        };
        let mut last = self.fetching.lock().await;
        let interval = INTERVAL_AFTER_MISMATCH;
        let newer = self.newer_than(&value, &mut last.after_mismatch, interval, now);
        Ok(match newer.await {
            Some(newer) => rule(&newer),
            None => Err(mismatch),
        })
    }

    /// Fetches the secret again unless it was fetched within the interval. Returns it if it differs from `rejected`. After a failed
    /// fetch, the cached secret stays.
    async fn newer_than(
        &self,
        rejected: &Arc<T>,
        last: &mut Option<Timestamp>,
        interval: Duration,
        now: Timestamp,
    ) -> Option<Arc<T>> {
        let cached = self.cached_value().await?;
        if !Arc::ptr_eq(&cached, rejected) {
            return Some(cached);
        }
        if last.is_some_and(|last| now.since(last) < interval) {
            return None;
        }
        *last = Some(now);
        match self.fetch().await {
            Ok(same) if self.is_cached(same.version.as_deref()).await => None,
            Ok(newer) => {
                tracing::info!(secret = self.name, "secret has been replaced");
                Some(self.cache(newer).await)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(secret = self.name, %error, cause, "rejected secret not fetched again");
                None
            }
        }
    }

    async fn fetch(&self) -> Result<FetchedSecret<T>, SecretError> {
        let answer = self
            .client
            .get_secret_value()
            .secret_id(&self.id)
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if has_no_value(&error) => return self.without_value(),
            Err(error) => return Err(SecretError::Unavailable(self.name, error.into())),
        };
        let Some(text) = answer.secret_string().filter(|text| !text.is_empty()) else {
            return self.without_value();
        };
        // The parser's error can contain parts of the secret, so it is dropped.
        let value = serde_json::from_str(text).map_err(|_| SecretError::Malformed(self.name))?;
        Ok(FetchedSecret {
            value: Arc::new(value),
            version: answer.version_id,
        })
    }

    /// A secret without a value counts as an empty object. A type with only optional fields accepts that.
    fn without_value(&self) -> Result<FetchedSecret<T>, SecretError> {
        let value = serde_json::from_str("{}").map_err(|_| SecretError::NoValue(self.name))?;
        Ok(FetchedSecret {
            value: Arc::new(value),
            version: Some(NO_VERSION.to_owned()),
        })
    }
}

/// Secrets Manager answers `ResourceNotFoundException` also for a secret without a version.
fn has_no_value(error: &SdkError<GetSecretValueError>) -> bool {
    error
        .as_service_error()
        .is_some_and(GetSecretValueError::is_resource_not_found_exception)
}

impl<T> Secret<T> {
    async fn cached_value(&self) -> Option<Arc<T>> {
        let cached = self.cached.read().await;
        cached.as_ref().map(|cached| Arc::clone(&cached.value))
    }

    async fn is_cached(&self, version: Option<&str>) -> bool {
        let cached = self.cached.read().await;
        let cached = cached.as_ref().and_then(|cached| cached.version.as_deref());
        cached.is_some() && cached == version
    }

    async fn cache(&self, fetched: FetchedSecret<T>) -> Arc<T> {
        let value = Arc::clone(&fetched.value);
        *self.cached.write().await = Some(fetched);
        value
    }

    /// A secret that is never fetched, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn known(value: impl Into<Arc<T>>) -> Self {
        let nowhere = aws_types::SdkConfig::builder()
            .behavior_version(aws_sdk_secretsmanager::config::BehaviorVersion::latest())
            .build();
        let fetched = FetchedSecret {
            value: value.into(),
            version: None,
        };
        Self {
            client: Client::new(&nowhere),
            id: "known".to_owned(),
            name: "KNOWN",
            cached: RwLock::new(Some(fetched)),
            fetching: Mutex::default(),
        }
    }
}

/// A secret that clients send to us. While one version replaces the other, both are valid.
pub trait SharedSecret {
    /// The valid versions.
    fn valid(&self) -> impl Iterator<Item = &SecretString>;
}

/// `APP_SECRET_ARN`: the key that signs the tokens of phone apps.
#[derive(Debug, Deserialize)]
pub struct AppSecret {
    /// The HS256 key.
    pub jwt_secret: SecretString,
    /// The previous one, valid while it is being replaced.
    #[serde(default)]
    pub jwt_secret_previous: Option<SecretString>,
}

impl SharedSecret for AppSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.jwt_secret).chain(&self.jwt_secret_previous)
    }
}

/// `WEBHOOK_SECRET_ARN`: the secret that Exotel sends to us. The deployment generates it.
#[derive(Debug, Deserialize)]
pub struct WebhookSecret {
    /// `?secret=` in the URLs of the webhook and of the audio streams.
    pub webhook_secret: SecretString,
    /// The previous one, valid while it is being replaced.
    #[serde(default)]
    pub webhook_secret_previous: Option<SecretString>,
}

impl SharedSecret for WebhookSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.webhook_secret).chain(&self.webhook_secret_previous)
    }
}

/// `EXOTEL_SECRET_ARN`: the account for calls to telephone numbers. A deployment without such calls leaves it empty.
#[derive(Debug, Deserialize)]
pub struct ExotelAccount {
    /// The Account SID.
    #[serde(default)]
    pub account_sid: Option<String>,
    /// The account's API key.
    #[serde(default)]
    pub api_key: Option<SecretString>,
    /// The API key's token.
    #[serde(default)]
    pub api_token: Option<SecretString>,
    /// The ExoPhone that a called telephone shows as the caller.
    #[serde(default)]
    pub caller_id: Option<String>,
}

/// `HOOK_SECRET_ARN`: the secret that the PBX sends to us. The deployment generates it.
#[derive(Debug, Deserialize)]
pub struct HookSecret {
    /// The header `X-Ringback-Secret` of the dialplan's hooks.
    pub hook_secret: SecretString,
    /// The previous one, valid while it is being replaced.
    #[serde(default)]
    pub hook_secret_previous: Option<SecretString>,
}

impl SharedSecret for HookSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.hook_secret).chain(&self.hook_secret_previous)
    }
}

/// `ASTERISK_SECRET_ARN`: our credentials at the PBX.
#[derive(Debug, Deserialize)]
pub struct AriCredentials {
    /// ARI's user.
    pub ari_username: String,
    /// ARI's password.
    pub ari_password: SecretString,
    /// The certificate authority of the PBX's certificate, if it is not a public one.
    #[serde(default)]
    pub ari_ca_pem: Option<String>,
}

/// `SIGNING_SECRET_ARN`: the key that signs call ids and callback tokens. No other system has it.
#[derive(Debug, Deserialize)]
pub struct SigningSecret {
    /// The key.
    #[serde(deserialize_with = "not_empty")]
    pub signing_secret: SecretString,
    /// The previous key. Its signatures are valid while it is being replaced.
    #[serde(default)]
    pub signing_secret_previous: Option<SecretString>,
}

/// An empty key would make signatures that everyone can forge.
fn not_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    let secret = SecretString::deserialize(deserializer)?;
    match secret.expose_secret().is_empty() {
        false => Ok(secret),
        true => Err(serde::de::Error::custom("the key is empty")),
    }
}

impl SharedSecret for SigningSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        let previous = self.signing_secret_previous.iter();
        let is_set = |key: &&SecretString| !key.expose_secret().is_empty();
        std::iter::once(&self.signing_secret).chain(previous.filter(is_set))
    }
}

/// `FCM_SECRET_ARN`: the key file of a Google service account, as Google's console exports it.
#[derive(Debug, Deserialize)]
pub struct ServiceAccount {
    /// The Firebase project.
    pub project_id: String,
    /// The service account.
    pub client_email: String,
    /// The RSA key, PEM.
    pub private_key: SecretString,
    /// The key's id.
    pub private_key_id: String,
    /// The URL for access tokens, which is also the assertion's audience.
    pub token_uri: String,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing::{self, SECRET_ARN};

    const NOW: Timestamp = Timestamp::from_millis(1_732_175_943_000);

    fn app(jwt_secret: &str) -> Value {
        json!({ "jwt_secret": jwt_secret })
    }

    /// Secrets Manager that gives these answers, one after the other, and a secret in it.
    async fn answering<const N: usize>(
        answers: [ResponseTemplate; N],
    ) -> (MockServer, Secret<AppSecret>) {
        let server = MockServer::start().await;
        for answer in answers {
            Mock::given(any())
                .respond_with(answer)
                .up_to_n_times(1)
                .mount(&server)
                .await;
        }
        let secret = testing::secret_at(&server);
        (server, secret)
    }

    fn given(secret: &str) -> ResponseTemplate {
        ResponseTemplate::new(200)
            .set_body_json(json!({ "ARN": SECRET_ARN, "SecretString": secret }))
    }

    async fn fetches(server: &MockServer) -> usize {
        testing::requests(server).await.len()
    }

    /// Checks this secret of a client.
    async fn check(
        secret: &Secret<AppSecret>,
        sent: &str,
        now: Timestamp,
    ) -> Result<(), &'static str> {
        let rule = |app: &AppSecret| match app.jwt_secret.expose_secret() == sent {
            true => Ok(()),
            false => Err("no"),
        };
        secret.check(now, rule).await.unwrap()
    }

    #[tokio::test]
    async fn a_secret_is_fetched_once_by_its_arn() {
        let (server, secret) = testing::secret::<AppSecret, _>([app("hush"), app("other")]).await;
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
        let asked: Value = requests[0].body_json().unwrap();
        assert_eq!(asked["SecretId"], SECRET_ARN);
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[tokio::test]
    async fn after_a_failed_fetch_the_next_call_fetches_again() {
        let answers = [
            ResponseTemplate::new(500),
            given(r#"{"jwt_secret":"hush"}"#),
        ];
        let (_server, secret) = answering(answers).await;
        let error = secret.value().await.unwrap_err();
        assert!(
            matches!(error, SecretError::Unavailable("APP", _)),
            "{error:?}"
        );
        assert!(secret.value().await.is_ok());
    }

    /// Secrets Manager's answer for a secret that was created without a value.
    fn without_value() -> ResponseTemplate {
        let message =
            "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT";
        ResponseTemplate::new(400).set_body_json(json!({
            "__type": "ResourceNotFoundException", "message": message,
        }))
    }

    #[tokio::test]
    async fn a_secret_without_a_value_is_named_until_it_has_one() {
        let answers = [without_value(), given(r#"{"jwt_secret":"hush"}"#)];
        let (_server, secret) = answering(answers).await;
        let error = secret.value().await.unwrap_err();
        assert!(matches!(error, SecretError::NoValue("APP")), "{error:?}");
        assert!(secret.value().await.is_ok());
    }

    #[tokio::test]
    async fn an_optional_account_is_empty_until_it_has_a_value() {
        let server = MockServer::start().await;
        let put = given(r#"{"account_sid":"acme1"}"#);
        for (answer, times) in [(without_value(), 2), (put, 1)] {
            let mock = Mock::given(any()).respond_with(answer);
            mock.up_to_n_times(times).mount(&server).await;
        }
        let secret: Secret<ExotelAccount> = testing::secret_at(&server);
        let empty = secret.value().await.unwrap();
        assert_eq!(empty.account_sid, None);
        assert!(
            secret.after_rejection(&empty).await.is_none(),
            "still empty"
        );
        tokio::time::sleep(INTERVAL_AFTER_REJECTION).await;
        let account = secret.after_rejection(&empty).await.unwrap();
        assert_eq!(account.account_sid.as_deref(), Some("acme1"));
    }

    #[tokio::test]
    async fn a_malformed_secret_is_named_without_its_content() {
        for malformed in ["hush", r#"{"jwt_secret":["hush"]}"#, r#"{"other":"hush"}"#] {
            let (_server, secret) = answering([given(malformed)]).await;
            let error = secret.value().await.unwrap_err();
            assert!(matches!(error, SecretError::Malformed("APP")), "{error:?}");
            assert!(!format!("{error} {error:?} {secret:?}").contains("hush"));
        }
    }

    #[tokio::test]
    async fn a_rejected_secret_is_fetched_again_and_cached() {
        let (server, secret) = testing::secret::<AppSecret, _>([app("old"), app("new")]).await;
        let old = secret.value().await.unwrap();
        let new = secret.after_rejection(&old).await.unwrap();
        assert_eq!(new.jwt_secret.expose_secret(), "new");
        assert!(Arc::ptr_eq(&new, &secret.value().await.unwrap()));
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn concurrent_rejections_share_one_fetch() {
        let (server, secret) = testing::secret::<AppSecret, _>([app("old"), app("new")]).await;
        let old = secret.value().await.unwrap();
        let rejected = std::iter::repeat_with(|| secret.after_rejection(&old)).take(9);
        for newer in futures::future::join_all(rejected).await {
            assert_eq!(newer.unwrap().jwt_secret.expose_secret(), "new");
        }
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn an_unchanged_secret_is_not_tried_again() {
        let (server, secret) = testing::secret::<AppSecret, _>([app("wrong")]).await;
        let wrong = secret.value().await.unwrap();
        let rejected = std::iter::repeat_with(|| secret.after_rejection(&wrong)).take(9);
        let newer = futures::future::join_all(rejected).await;
        assert!(newer.iter().all(Option::is_none));
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn a_failed_fetch_keeps_the_cached_secret() {
        for failure in [ResponseTemplate::new(500), given("malformed")] {
            let (_server, secret) = answering([given(r#"{"jwt_secret":"old"}"#), failure]).await;
            let old = secret.value().await.unwrap();
            assert!(secret.after_rejection(&old).await.is_none());
            assert!(Arc::ptr_eq(&old, &secret.value().await.unwrap()));
            assert_eq!(check(&secret, "old", NOW).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_client_with_the_new_secret_makes_us_fetch_it() {
        let (server, secret) = testing::secret([app("old"), app("new")]).await;
        assert_eq!(check(&secret, "old", NOW).await, Ok(()));
        assert_eq!(fetches(&server).await, 1);
        assert_eq!(check(&secret, "new", NOW).await, Ok(()));
        assert_eq!(check(&secret, "old", NOW).await, Err("no"));
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn wrong_credentials_cost_one_fetch_a_minute() {
        let (server, secret) = testing::secret([app("old"), app("old"), app("new")]).await;
        let mut expected = 1 + 1;
        let (first_minute, second) = (NOW, NOW + INTERVAL_AFTER_MISMATCH);
        let last_moment = NOW + (INTERVAL_AFTER_MISMATCH - Duration::from_millis(1));
        for now in [first_minute, last_moment] {
            let wrong = std::iter::repeat_with(|| check(&secret, "guess", now)).take(50);
            let answers = futures::future::join_all(wrong).await;
            assert!(answers.iter().all(Result::is_err));
            assert_eq!(fetches(&server).await, expected);
        }
        assert_eq!(check(&secret, "new", last_moment).await, Err("no"));
        assert_eq!(check(&secret, "new", second).await, Ok(()));
        expected += 1;
        assert_eq!(fetches(&server).await, expected);
    }

    #[tokio::test]
    async fn wrong_credentials_do_not_delay_the_fetch_of_a_rejected_secret() {
        let (_server, secret) = testing::secret([app("old"), app("old"), app("new")]).await;
        assert_eq!(check(&secret, "guess", clock::now()).await, Err("no"));
        let old = secret.value().await.unwrap();
        let new = secret.after_rejection(&old).await.unwrap();
        assert_eq!(new.jwt_secret.expose_secret(), "new");
    }

    #[tokio::test]
    async fn a_client_with_the_right_secret_never_waits_for_a_fetch() {
        let slow = given(r#"{"jwt_secret":"old"}"#).set_delay(Duration::from_secs(1));
        let (_server, secret) = answering([given(r#"{"jwt_secret":"old"}"#), slow]).await;
        assert_eq!(check(&secret, "old", NOW).await, Ok(()));
        let first = Cell::new(None);
        let wrong = async {
            assert_eq!(check(&secret, "guess", NOW).await, Err("no"));
            first.set(first.get().or(Some("wrong")));
        };
        let right = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(check(&secret, "old", NOW).await, Ok(()));
            first.set(first.get().or(Some("right")));
        };
        tokio::join!(wrong, right);
        assert_eq!(first.get(), Some("right"));
    }

    #[test]
    fn debug_output_hides_secrets() {
        let json = r#"{"hook_secret":"hush-1","hook_secret_previous":"hush-2"}"#;
        let secret: HookSecret = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));

        let json = r#"{"ari_username":"u","ari_password":"hush"}"#;
        let secret: AriCredentials = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));

        let json = r#"{"webhook_secret":"hush-1","webhook_secret_previous":"hush-2"}"#;
        let secret: WebhookSecret = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));

        let json = r#"{"api_key":"hush-1","api_token":"hush-2"}"#;
        let secret: ExotelAccount = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));

        let json = r#"{"signing_secret":"hush-1","signing_secret_previous":"hush-2"}"#;
        let secret: SigningSecret = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));

        let json = r#"{"project_id":"p","client_email":"c","private_key":"hush","private_key_id":"i","token_uri":"t"}"#;
        let account: ServiceAccount = serde_json::from_str(json).unwrap();
        assert!(!format!("{account:?}").contains("hush"));
    }
}
