//! Secrets, in AWS Secrets Manager: each is fetched when it is first needed, once per process, and again when it is
//! refused. So a secret is replaced without a deployment, while calls go on.

use crate::platform::clock;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, RwLock};

use crate::platform::config::{ConfigError, Environment};
use ringback_core::timestamp::Timestamp;

/// Between two fetches because somebody has shown us something else than our secret. Anybody can do that, as often as
/// they like, and Secrets Manager takes money for each fetch.
const REST_AFTER_MISMATCH: Duration = Duration::from_secs(60);

/// Between two fetches because somebody refused what we have shown. Only our own requests bring that about, and a call
/// waits for each.
const REST_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Stands for the version of a secret that has none. Secrets Manager's ids are UUIDs.
const NO_VERSION: &str = "none";

/// Why a secret is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Secrets Manager did not give it. Trying again may help.
    #[error("the secret of {0} could not be fetched")]
    Unavailable(
        &'static str,
        #[source] Box<dyn std::error::Error + Send + Sync>,
    ),
    /// The deployment leaves it empty, and nobody has put a value yet.
    #[error(
        "the secret of {0} has no value yet; put one with put-secret-value (see README, Secrets)"
    )]
    NoValue(&'static str),
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
    held: RwLock<Option<Held<T>>>,
    /// Whoever fetches holds this, and all others wait for what comes of it.
    fetching: Mutex<LastFetched>,
}

/// A secret as it was fetched.
#[derive(Debug)]
struct Held<T> {
    value: Arc<T>,
    /// Secrets Manager's id of this version.
    version: Option<String>,
}

/// When the secret was last fetched again, by the reason.
#[derive(Debug, Default)]
struct LastFetched {
    after_refusal: Option<Timestamp>,
    after_mismatch: Option<Timestamp>,
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
            held: RwLock::default(),
            fetching: Mutex::default(),
        })
    }

    /// The secret itself, as it was when it was last fetched.
    ///
    /// # Errors
    /// See [`SecretError`]. A failed fetch is tried again by the next call.
    pub async fn value(&self) -> Result<Arc<T>, SecretError> {
        if let Some(value) = self.held_value().await {
            return Ok(value);
        }
        let _others_wait = self.fetching.lock().await;
        match self.held_value().await {
            Some(value) => Ok(value),
            None => Ok(self.hold(self.fetch().await?).await),
        }
    }

    /// The secret as it is now, after `refused`, which [`Secret::value`] gave, was refused by whom it was shown to.
    /// `None` if there is no other: then there is no use in asking again.
    pub async fn after_refusal(&self, refused: &Arc<T>) -> Option<Arc<T>> {
        let mut last = self.fetching.lock().await;
        self.newer_than(
            refused,
            &mut last.after_refusal,
            REST_AFTER_REFUSAL,
            clock::now(),
        )
        .await
    }

    /// Checks what somebody has shown us. What does not fit the secret that we have may fit one that has replaced it,
    /// which is therefore fetched, once a minute at most.
    ///
    /// # Errors
    /// The outer error when there is no secret to check against, the inner one when the check fails.
    pub async fn check<A, E>(
        &self,
        now: Timestamp,
        rule: impl Fn(&T) -> Result<A, E>,
    ) -> Result<Result<A, E>, SecretError> {
        let value = self.value().await?;
        let refusal = match rule(&value) {
            Ok(good) => return Ok(Ok(good)),
            Err(refusal) => refusal,
        };
        let mut last = self.fetching.lock().await;
        let rest = REST_AFTER_MISMATCH;
        let newer = self.newer_than(&value, &mut last.after_mismatch, rest, now);
        Ok(match newer.await {
            Some(newer) => rule(&newer),
            None => Err(refusal),
        })
    }

    /// A failed fetch leaves the secret as it is, and the next one waits as long as after any other.
    async fn newer_than(
        &self,
        refused: &Arc<T>,
        last: &mut Option<Timestamp>,
        rest: Duration,
        now: Timestamp,
    ) -> Option<Arc<T>> {
        let held = self.held_value().await?;
        if !Arc::ptr_eq(&held, refused) {
            return Some(held);
        }
        if last.is_some_and(|last| now.since(last) < rest) {
            return None;
        }
        *last = Some(now);
        match self.fetch().await {
            Ok(same) if self.is_held(same.version.as_deref()).await => None,
            Ok(newer) => {
                tracing::info!(secret = self.whose, "the secret has been replaced");
                Some(self.hold(newer).await)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(secret = self.whose, %error, cause, "the secret was refused, and stays");
                None
            }
        }
    }

    async fn fetch(&self) -> Result<Held<T>, SecretError> {
        let answer = self
            .client
            .get_secret_value()
            .secret_id(&self.id)
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if has_no_value(&error) => return self.without_value(),
            Err(error) => return Err(SecretError::Unavailable(self.whose, error.into())),
        };
        let Some(text) = answer.secret_string().filter(|text| !text.is_empty()) else {
            return self.without_value();
        };
        // What is wrong with it may repeat what stands in it.
        let value = serde_json::from_str(text).map_err(|_| SecretError::Malformed(self.whose))?;
        Ok(Held {
            value: Arc::new(value),
            version: answer.version_id,
        })
    }

    /// A secret that may be left out altogether is an empty object.
    fn without_value(&self) -> Result<Held<T>, SecretError> {
        let value = serde_json::from_str("{}").map_err(|_| SecretError::NoValue(self.whose))?;
        Ok(Held {
            value: Arc::new(value),
            version: Some(NO_VERSION.to_owned()),
        })
    }
}

/// Secrets Manager says so of a secret without a version, too.
fn has_no_value(error: &SdkError<GetSecretValueError>) -> bool {
    error
        .as_service_error()
        .is_some_and(GetSecretValueError::is_resource_not_found_exception)
}

impl<T> Secret<T> {
    async fn held_value(&self) -> Option<Arc<T>> {
        let held = self.held.read().await;
        held.as_ref().map(|held| Arc::clone(&held.value))
    }

    async fn is_held(&self, version: Option<&str>) -> bool {
        let held = self.held.read().await;
        let held = held.as_ref().and_then(|held| held.version.as_deref());
        held.is_some() && held == version
    }

    async fn hold(&self, held: Held<T>) -> Arc<T> {
        let value = Arc::clone(&held.value);
        *self.held.write().await = Some(held);
        value
    }

    /// A secret that need not be fetched, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn known(value: impl Into<Arc<T>>) -> Self {
        let nowhere = aws_config::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .build();
        let held = Held {
            value: value.into(),
            version: None,
        };
        Self {
            client: Client::new(&nowhere),
            id: "known".to_owned(),
            whose: "KNOWN",
            held: RwLock::new(Some(held)),
            fetching: Mutex::default(),
        }
    }
}

/// A secret that others show to us, in one of two versions while one replaces the other.
pub trait SharedSecret {
    /// Those that are valid now.
    fn valid(&self) -> impl Iterator<Item = &SecretString>;
}

/// `APP_SECRET_ARN`: what phone apps' tokens are signed with.
#[derive(Debug, Deserialize)]
pub struct AppSecret {
    /// The HS256 key.
    pub jwt_secret: SecretString,
    /// The one before, still valid while it is being replaced.
    #[serde(default)]
    pub jwt_secret_previous: Option<SecretString>,
}

/// What tokens are signed with.
impl SharedSecret for AppSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.jwt_secret).chain(&self.jwt_secret_previous)
    }
}

/// `WEBHOOK_SECRET_ARN`: what Exotel shows us. The deployment generates it.
#[derive(Debug, Deserialize)]
pub struct WebhookSecret {
    /// `?secret=` of the webhook's URL, and of the streams'.
    pub webhook_secret: SecretString,
    /// The one before, still valid while it is being replaced.
    #[serde(default)]
    pub webhook_secret_previous: Option<SecretString>,
}

impl SharedSecret for WebhookSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.webhook_secret).chain(&self.webhook_secret_previous)
    }
}

/// `EXOTEL_SECRET_ARN`: the account that calls to phone numbers are placed with. A deployment that places none needs none.
#[derive(Debug, Deserialize)]
pub struct ExotelAccount {
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

/// `HOOK_SECRET_ARN`: what the PBX shows us. The deployment generates it.
#[derive(Debug, Deserialize)]
pub struct HookSecret {
    /// The header `X-Ringback-Secret` of the dialplan's hooks.
    pub hook_secret: SecretString,
    /// The one before, still valid while it is being replaced.
    #[serde(default)]
    pub hook_secret_previous: Option<SecretString>,
}

impl SharedSecret for HookSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.hook_secret).chain(&self.hook_secret_previous)
    }
}

/// `ASTERISK_SECRET_ARN`: what we show the PBX.
#[derive(Debug, Deserialize)]
pub struct AriCredentials {
    /// ARI's user.
    pub ari_username: String,
    /// ARI's password.
    pub ari_password: SecretString,
    /// The certificate authority of the PBX's certificate, when it is not a public one.
    #[serde(default)]
    pub ari_ca_pem: Option<String>,
}

/// `SIGNING_SECRET_ARN`: the key for call ids and callback tokens ([`crate::auth::signing`]). No other system has it.
#[derive(Debug, Deserialize)]
pub struct SigningSecret {
    /// The key.
    #[serde(deserialize_with = "not_empty")]
    pub signing_secret: SecretString,
    /// The previous key. Its signatures stay valid while the key is being replaced.
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

/// The keys that may have signed what comes back to us.
impl SharedSecret for SigningSecret {
    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        let previous = self.signing_secret_previous.iter();
        let is_set = |key: &&SecretString| !key.expose_secret().is_empty();
        std::iter::once(&self.signing_secret).chain(previous.filter(is_set))
    }
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

    /// Secrets Manager that gives these answers, one after the other, and the app's secret in it.
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

    /// Somebody shows us this.
    async fn shown(
        secret: &Secret<AppSecret>,
        shown: &str,
        now: Timestamp,
    ) -> Result<(), &'static str> {
        let rule = |app: &AppSecret| match app.jwt_secret.expose_secret() == shown {
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
    async fn a_fetch_that_failed_is_tried_again_by_the_next_who_asks() {
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

    /// As Secrets Manager answers for a secret that was created without a value.
    fn without_value() -> ResponseTemplate {
        let message =
            "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT";
        ResponseTemplate::new(400).set_body_json(json!({
            "__type": "ResourceNotFoundException", "message": message,
        }))
    }

    #[tokio::test]
    async fn a_secret_without_a_value_is_named_until_somebody_puts_one() {
        let answers = [without_value(), given(r#"{"jwt_secret":"hush"}"#)];
        let (_server, secret) = answering(answers).await;
        let error = secret.value().await.unwrap_err();
        assert!(matches!(error, SecretError::NoValue("APP")), "{error:?}");
        assert!(secret.value().await.is_ok());
    }

    #[tokio::test]
    async fn an_account_that_a_deployment_needs_not_have_is_empty_until_somebody_puts_one() {
        let server = MockServer::start().await;
        let put = given(r#"{"account_sid":"acme1"}"#);
        for (answer, times) in [(without_value(), 2), (put, 1)] {
            let mock = Mock::given(any()).respond_with(answer);
            mock.up_to_n_times(times).mount(&server).await;
        }
        let secret: Secret<ExotelAccount> = testing::secret_at(&server);
        let empty = secret.value().await.unwrap();
        assert_eq!(empty.account_sid, None);
        assert!(secret.after_refusal(&empty).await.is_none(), "still empty");
        tokio::time::sleep(REST_AFTER_REFUSAL).await;
        let account = secret.after_refusal(&empty).await.unwrap();
        assert_eq!(account.account_sid.as_deref(), Some("acme1"));
    }

    #[tokio::test]
    async fn a_malformed_secret_is_named_and_not_repeated() {
        for malformed in ["hush", r#"{"jwt_secret":["hush"]}"#, r#"{"other":"hush"}"#] {
            let (_server, secret) = answering([given(malformed)]).await;
            let error = secret.value().await.unwrap_err();
            assert!(matches!(error, SecretError::Malformed("APP")), "{error:?}");
            assert!(!format!("{error} {error:?} {secret:?}").contains("hush"));
        }
    }

    #[tokio::test]
    async fn a_secret_that_was_refused_is_fetched_again_and_stays_as_it_is_then() {
        let (server, secret) = testing::secret::<AppSecret, _>([app("old"), app("new")]).await;
        let old = secret.value().await.unwrap();
        let new = secret.after_refusal(&old).await.unwrap();
        assert_eq!(new.jwt_secret.expose_secret(), "new");
        assert!(Arc::ptr_eq(&new, &secret.value().await.unwrap()));
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn requests_that_are_refused_at_the_same_time_share_one_fetch() {
        let (server, secret) = testing::secret::<AppSecret, _>([app("old"), app("new")]).await;
        let old = secret.value().await.unwrap();
        let refused = std::iter::repeat_with(|| secret.after_refusal(&old)).take(9);
        for newer in futures::future::join_all(refused).await {
            assert_eq!(newer.unwrap().jwt_secret.expose_secret(), "new");
        }
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn there_is_no_use_in_asking_again_with_a_secret_that_has_not_changed() {
        let (server, secret) = testing::secret::<AppSecret, _>([app("wrong")]).await;
        let wrong = secret.value().await.unwrap();
        let refused = std::iter::repeat_with(|| secret.after_refusal(&wrong)).take(9);
        let newer = futures::future::join_all(refused).await;
        assert!(newer.iter().all(Option::is_none));
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn a_fetch_that_fails_leaves_the_secret_that_was_there() {
        for failure in [ResponseTemplate::new(500), given("malformed")] {
            let (_server, secret) = answering([given(r#"{"jwt_secret":"old"}"#), failure]).await;
            let old = secret.value().await.unwrap();
            assert!(secret.after_refusal(&old).await.is_none());
            assert!(Arc::ptr_eq(&old, &secret.value().await.unwrap()));
            assert_eq!(shown(&secret, "old", NOW).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_the_old_secret_may_fit_the_new_one() {
        let (server, secret) = testing::secret([app("old"), app("new")]).await;
        assert_eq!(shown(&secret, "old", NOW).await, Ok(()));
        assert_eq!(fetches(&server).await, 1);
        assert_eq!(shown(&secret, "new", NOW).await, Ok(()));
        assert_eq!(shown(&secret, "old", NOW).await, Err("no"));
        assert_eq!(fetches(&server).await, 2);
    }

    #[tokio::test]
    async fn strangers_cost_one_fetch_a_minute_however_many_they_are() {
        let (server, secret) = testing::secret([app("old"), app("old"), app("new")]).await;
        let mut expected = 1 + 1;
        let (first_minute, second) = (NOW, NOW + REST_AFTER_MISMATCH);
        let last_moment = NOW + (REST_AFTER_MISMATCH - Duration::from_millis(1));
        for now in [first_minute, last_moment] {
            let strangers = std::iter::repeat_with(|| shown(&secret, "guess", now)).take(50);
            let answers = futures::future::join_all(strangers).await;
            assert!(answers.iter().all(Result::is_err));
            assert_eq!(fetches(&server).await, expected);
        }
        assert_eq!(shown(&secret, "new", last_moment).await, Err("no"));
        assert_eq!(shown(&secret, "new", second).await, Ok(()));
        expected += 1;
        assert_eq!(fetches(&server).await, expected);
    }

    #[tokio::test]
    async fn strangers_do_not_keep_a_refused_secret_from_being_fetched() {
        let (_server, secret) = testing::secret([app("old"), app("old"), app("new")]).await;
        assert_eq!(shown(&secret, "guess", clock::now()).await, Err("no"));
        let old = secret.value().await.unwrap();
        let new = secret.after_refusal(&old).await.unwrap();
        assert_eq!(new.jwt_secret.expose_secret(), "new");
    }

    #[tokio::test]
    async fn whoever_shows_the_right_secret_never_waits_for_a_fetch() {
        let slow = given(r#"{"jwt_secret":"old"}"#).set_delay(Duration::from_secs(1));
        let (_server, secret) = answering([given(r#"{"jwt_secret":"old"}"#), slow]).await;
        assert_eq!(shown(&secret, "old", NOW).await, Ok(()));
        let first = Cell::new(None);
        let stranger = async {
            assert_eq!(shown(&secret, "guess", NOW).await, Err("no"));
            first.set(first.get().or(Some("stranger")));
        };
        let friend = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(shown(&secret, "old", NOW).await, Ok(()));
            first.set(first.get().or(Some("friend")));
        };
        tokio::join!(stranger, friend);
        assert_eq!(first.get(), Some("friend"));
    }

    #[test]
    fn a_secret_does_not_show_in_debug() {
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
