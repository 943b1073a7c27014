//! FCM and Google's token endpoint, played by one server.

use crate::platform::clock;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonwebtoken::{DecodingKey, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::Map;
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::testing;

const DEVICE_TOKEN: &str = "device-token-hush";
const SEND: &str = "/v1/projects/ringback-test/messages:send";

static KEY: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());

struct Google {
    server: MockServer,
    fcm: Fcm,
}

impl Google {
    /// Google, whose access tokens live for `lifetime` seconds: `access-hush-1`, `access-hush-2` and so on.
    async fn granting(lifetime: u64) -> Self {
        let server = MockServer::start().await;
        for number in 1..=9 {
            let granted = json!({
                "access_token": format!("access-hush-{number}"),
                "expires_in": lifetime,
                "token_type": "Bearer",
            });
            Mock::given(path("/token"))
                .respond_with(ResponseTemplate::new(200).set_body_json(granted))
                .up_to_n_times(1)
                .mount(&server)
                .await;
        }
        Self {
            fcm: fcm_at(&server.uri()),
            server,
        }
    }

    async fn start() -> Self {
        Self::granting(3599).await
    }

    /// FCM's next answers, in this order.
    async fn will_answer(&self, answers: impl IntoIterator<Item = ResponseTemplate>) -> &Self {
        for answer in answers {
            Mock::given(path(SEND))
                .respond_with(answer)
                .up_to_n_times(1)
                .mount(&self.server)
                .await;
        }
        self
    }

    async fn always_answers(&self, answer: ResponseTemplate) -> &Self {
        Mock::given(path(SEND))
            .respond_with(answer)
            .mount(&self.server)
            .await;
        self
    }

    async fn send(&self) -> Result<(), PushError> {
        let now = clock::now();
        self.send_until(now + Duration::from_secs(30)).await
    }

    async fn send_until(&self, until: Timestamp) -> Result<(), PushError> {
        let now = clock::now();
        let message = Message::incoming_call(&ringback_core::testing::a_call(now), now);
        self.fcm.send(DEVICE_TOKEN, &message, until).await
    }

    async fn asked(&self, path: &str) -> Vec<Request> {
        let all = testing::requests(&self.server).await;
        all.into_iter()
            .filter(|request| request.url.path() == path)
            .collect()
    }

    async fn sends(&self) -> usize {
        self.asked(SEND).await.len()
    }

    async fn grants(&self) -> usize {
        self.asked("/token").await.len()
    }
}

impl Fcm {
    /// FCM at `url`, which has given an access token already.
    pub(crate) fn with_access(url: &str) -> Self {
        let token = AccessToken {
            token: "access".to_owned().into(),
            renew_at: clock::now() + ASSERTION_LIFETIME,
        };
        let account: Arc<ServiceAccount> =
            Arc::new(serde_json::from_value(account_at(url, "key-7")).unwrap());
        Self {
            access: Mutex::new(Access {
                token: Some(token),
                ..Access::none_yet(&account)
            }),
            account: Secret::known(account),
            ..fcm_at(url)
        }
    }
}

fn account_at(url: &str, key_id: &str) -> Value {
    json!({
        "project_id": "ringback-test",
        "client_email": "push@ringback-test.example",
        "private_key": KEY.serialize_pem(),
        "private_key_id": key_id,
        "token_uri": format!("{url}/token"),
    })
}

fn fcm_at(url: &str) -> Fcm {
    let account: ServiceAccount = serde_json::from_value(account_at(url, "key-7")).unwrap();
    fcm_with(url, Secret::known(account))
}

fn fcm_with(url: &str, account: Secret<ServiceAccount>) -> Fcm {
    Fcm {
        base_url: url.to_owned(),
        account,
        client: OnceCell::new(),
        access: Mutex::default(),
        got_ready: AtomicBool::new(false),
    }
}

fn taken() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "name": "projects/ringback-test/messages/1" }))
}

fn refused(status: u16, google_status: &str, error_code: Option<&str>) -> ResponseTemplate {
    let details: Vec<Value> = error_code
        .map(|code| {
            json!({
                "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
                "errorCode": code,
            })
        })
        .into_iter()
        .collect();
    ResponseTemplate::new(status).set_body_json(json!({
        "error": { "code": status, "message": "…", "status": google_status, "details": details },
    }))
}

fn busy(status: u16, retry_after: u64) -> ResponseTemplate {
    refused(status, "UNAVAILABLE", Some("UNAVAILABLE"))
        .append_header("retry-after", retry_after.to_string())
}

fn strings(data: &Map<String, Value>) -> BTreeSet<&str> {
    data.iter()
        .filter(|(_, value)| value.is_string())
        .map(|(key, _)| key.as_str())
        .collect()
}

#[tokio::test]
async fn a_push_says_in_strings_who_calls() {
    let google = Google::start().await;
    google.will_answer([taken()]).await;
    let now = clock::now();
    let call = ringback_core::testing::a_call(now);
    let message = Message::incoming_call(&call, now);
    google
        .fcm
        .send(DEVICE_TOKEN, &message, call.rings_until)
        .await
        .unwrap();

    let request = google.asked(SEND).await.remove(0);
    assert_eq!(request.headers["authorization"], "Bearer access-hush-1");
    let body: Value = request.body_json().unwrap();
    assert_eq!(body["message"]["token"], DEVICE_TOKEN);
    let id = call.call_id.to_string();
    let expected = json!({
        "type": "incoming_call",
        "call_id": id,
        "server_call_id": id,
        "caller_name": "आशा",
        "caller_number": "+919876543210",
        "call_type": "voice",
        "expires_at": call.rings_until.as_millis().to_string(),
        "sent_at": now.as_millis().to_string(),
    });
    assert_eq!(body["message"]["data"], expected);
}

#[test]
fn a_cancellation_says_in_strings_why() {
    let now = clock::now();
    let call = ringback_core::testing::a_call(now);
    let reason = ringback_core::call::CancelReason::AnsweredElsewhere;
    let message = Message::call_cancelled(&call, reason, now);
    let body = body(DEVICE_TOKEN, &message);
    let data = body["message"]["data"].as_object().unwrap();
    assert_eq!(data["type"], "call_cancelled");
    assert_eq!(data["reason"], "answered_elsewhere");
    assert_eq!(strings(data).len(), data.len());
}

#[test]
fn a_withheld_caller_has_a_name_and_a_number_all_the_same() {
    let now = clock::now();
    let mut call = ringback_core::testing::a_call(now);
    call.kind = ringback_core::testing::without_number(call.kind);
    call.kind = ringback_core::testing::without_name(call.kind);
    let body = body(DEVICE_TOKEN, &Message::incoming_call(&call, now));
    assert_eq!(body["message"]["data"]["caller_name"], "anonymous");
    assert_eq!(body["message"]["data"]["caller_number"], "anonymous");
}

#[test]
fn a_push_lives_no_longer_than_the_ring() {
    let came = Timestamp::from_millis(1_000_000_000_000);
    let call = ringback_core::testing::a_call(came);
    let sent = came + Duration::from_millis(12_500);
    let body = body(DEVICE_TOKEN, &Message::incoming_call(&call, sent));
    assert_eq!(body["message"]["android"]["ttl"], "17s");
    let expiration = &body["message"]["apns"]["headers"]["apns-expiration"];
    assert_eq!(expiration, "1000000030");
}

#[test]
fn a_push_is_urgent_replaces_the_one_before_it_and_shows_nothing_itself() {
    let now = clock::now();
    let call = ringback_core::testing::a_call(now);
    let body = body(DEVICE_TOKEN, &Message::incoming_call(&call, now));
    let id = call.call_id.to_string();
    let (android, apns) = (&body["message"]["android"], &body["message"]["apns"]);
    assert_eq!(android["priority"], "HIGH");
    assert_eq!(android["collapse_key"], id);
    assert_eq!(apns["headers"]["apns-collapse-id"], id);
    // Apple refuses a background push with any other priority.
    assert_eq!(apns["headers"]["apns-push-type"], "background");
    assert_eq!(apns["headers"]["apns-priority"], "5");
    assert!(!body.to_string().contains("notification"));
}

#[tokio::test]
async fn pushes_at_the_same_time_ask_for_one_access_token() {
    let google = Google::start().await;
    google.always_answers(taken()).await;
    let sends = std::iter::repeat_with(|| google.send()).take(5);
    for result in futures::future::join_all(sends).await {
        result.unwrap();
    }
    google.send().await.unwrap();
    assert_eq!((google.grants().await, google.sends().await), (1, 6));
}

#[tokio::test]
async fn who_has_got_ready_asks_for_nothing_but_the_push() {
    let google = Google::start().await;
    google.always_answers(taken()).await;
    google.fcm.get_ready().await;
    assert_eq!((google.grants().await, google.sends().await), (1, 0));
    google.send().await.unwrap();
    google.fcm.get_ready().await;
    assert_eq!((google.grants().await, google.sends().await), (1, 1));
}

#[tokio::test]
async fn an_access_token_is_replaced_before_its_life_ends() {
    let good_for_two_seconds = RENEW_BEFORE.as_secs() + 2;
    let google = Google::granting(good_for_two_seconds).await;
    google.always_answers(taken()).await;
    google.send().await.unwrap();
    google.send().await.unwrap();
    assert_eq!(google.grants().await, 1);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    google.send().await.unwrap();
    assert_eq!(google.grants().await, 2);
    let last = google.asked(SEND).await.pop().unwrap();
    assert_eq!(last.headers["authorization"], "Bearer access-hush-2");
}

#[tokio::test]
async fn an_access_token_is_asked_for_in_the_service_accounts_name() {
    let google = Google::start().await;
    google.will_answer([taken()]).await;
    google.send().await.unwrap();

    let request = google.asked("/token").await.remove(0);
    let form = crate::api::form::Fields::from_form(&request.body);
    assert_eq!(
        form.text("grant_type"),
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer")
    );
    let token_uri = format!("{}/token", google.server.uri());
    let key = DecodingKey::from_rsa_pem(KEY.public_key_pem().as_bytes()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[token_uri]);
    validation.set_issuer(&["push@ringback-test.example"]);
    let assertion = form.text("assertion").unwrap();
    let assertion = jsonwebtoken::decode::<Value>(assertion, &key, &validation).unwrap();
    assert_eq!(assertion.header.kid.as_deref(), Some("key-7"));
    assert_eq!(assertion.claims["scope"], SCOPE);
    let lifetime =
        assertion.claims["exp"].as_u64().unwrap() - assertion.claims["iat"].as_u64().unwrap();
    assert_eq!(lifetime, 3600);
}

#[tokio::test]
async fn an_access_token_that_is_refused_is_replaced_once() {
    let google = Google::start().await;
    let unauthorized = || refused(401, "UNAUTHENTICATED", None);
    google.will_answer([unauthorized(), taken()]).await;
    google.send().await.unwrap();
    assert_eq!((google.grants().await, google.sends().await), (2, 2));

    google
        .will_answer([unauthorized(), unauthorized(), taken()])
        .await;
    let error = google.send().await.unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
    assert_eq!((google.grants().await, google.sends().await), (3, 4));
}

#[tokio::test]
async fn renewed_access_does_not_use_up_the_retry_of_a_busy_fcm() {
    for order in [[401, 503, 200], [503, 401, 200]] {
        let google = Google::start().await;
        google.will_answer(order.map(ResponseTemplate::new)).await;
        assert!(google.send().await.is_ok(), "{order:?}");
        assert_eq!(google.sends().await, 3);
    }
    for order in [[401, 401, 200], [503, 503, 200]] {
        let google = Google::start().await;
        google.will_answer(order.map(ResponseTemplate::new)).await;
        assert!(google.send().await.is_err(), "{order:?}");
        assert_eq!(google.sends().await, 2);
    }
}

#[tokio::test]
async fn a_wrong_apns_credential_of_the_project_costs_no_access_token_and_no_second_push() {
    let (google, secrets) = google_after_a_rotation(|url| [account_at(url, "key-8")]).await;
    google.send().await.unwrap();
    google.server.reset().await;
    google
        .always_answers(refused(
            401,
            "UNAUTHENTICATED",
            Some("THIRD_PARTY_AUTH_ERROR"),
        ))
        .await;
    let error = google.send().await.unwrap_err();
    assert!(matches!(error, PushError::NotTaken(_)), "{error:?}");
    assert!(error.to_string().contains("THIRD_PARTY_AUTH_ERROR"));
    // `reset` forgets the first push and its access token.
    assert_eq!((google.grants().await, google.sends().await), (0, 1));
    assert_eq!(testing::requests(&secrets).await.len(), 1);
}

#[tokio::test]
async fn pushes_whose_access_token_is_refused_share_the_next_one() {
    let google = Google::start().await;
    let unauthorized = refused(401, "UNAUTHENTICATED", None);
    Mock::given(path(SEND))
        .and(wiremock::matchers::bearer_token("access-hush-1"))
        .respond_with(unauthorized.set_delay(Duration::from_millis(300)))
        .mount(&google.server)
        .await;
    google.always_answers(taken()).await;
    let sends = std::iter::repeat_with(|| google.send()).take(5);
    for result in futures::future::join_all(sends).await {
        result.unwrap();
    }
    assert_eq!((google.grants().await, google.sends().await), (2, 10));
}

#[tokio::test]
async fn only_an_unregistered_token_is_dead() {
    let answers = [
        (404, "NOT_FOUND", Some("UNREGISTERED"), true),
        (404, "NOT_FOUND", None, false),
        (400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), false),
        (403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), false),
        (400, "UNREGISTERED", Some("UNREGISTERED"), false),
    ];
    for (status, google_status, code, is_dead) in answers {
        let google = Google::start().await;
        google
            .will_answer([refused(status, google_status, code)])
            .await;
        let error = google.send().await.unwrap_err();
        assert_eq!(
            matches!(error, PushError::Dead),
            is_dead,
            "{status} {code:?}"
        );
        assert_eq!(google.sends().await, 1, "{status} is not tried again");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_googles_own_code() {
    let google = Google::start().await;
    let mismatch = refused(403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"));
    google.will_answer([mismatch]).await;
    let error = google.send().await.unwrap_err();
    assert!(error.to_string().contains("SENDER_ID_MISMATCH"), "{error}");
}

#[tokio::test]
async fn what_may_pass_is_tried_once_more() {
    for status in [429, 500, 503] {
        let google = Google::start().await;
        google.will_answer([busy(status, 0), taken()]).await;
        google.send().await.unwrap();
        assert_eq!(google.sends().await, 2, "{status}");

        google.always_answers(busy(status, 0)).await;
        let error = google.send().await.unwrap_err();
        assert!(matches!(error, PushError::NotTaken(_)), "{error:?}");
        assert_eq!(google.sends().await, 4, "{status}");
    }
}

#[tokio::test]
async fn without_a_retry_after_the_second_attempt_comes_a_second_later() {
    let google = Google::start().await;
    google
        .will_answer([refused(503, "UNAVAILABLE", None), taken()])
        .await;
    let began = clock::now();
    google.send().await.unwrap();
    assert!(clock::now().since(began) >= USUAL_PAUSE);
}

#[tokio::test]
async fn a_long_pause_is_not_waited_for() {
    let google = Google::start().await;
    let answer = refused(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"));
    google
        .will_answer([answer.append_header("retry-after", "3"), taken()])
        .await;
    let began = clock::now();
    let error = google.send().await.unwrap_err();
    assert!(matches!(error, PushError::NotTaken(_)), "{error:?}");
    assert!(clock::now().since(began) < LONGEST_PAUSE);
    assert_eq!(google.sends().await, 1);
}

#[tokio::test]
async fn a_pause_that_takes_all_the_time_that_is_left_is_not_waited_for() {
    let google = Google::start().await;
    google
        .always_answers(busy(503, USUAL_PAUSE.as_secs()))
        .await;
    let soon = clock::now() + USUAL_PAUSE / 2;
    assert!(google.send_until(soon).await.is_err());
    assert_eq!(google.sends().await, 1);
}

#[tokio::test]
async fn the_second_attempt_is_given_up_when_the_time_is_up() {
    let google = Google::start().await;
    let slow = taken().set_delay(REPLY_TIMEOUT);
    google.will_answer([busy(503, 0), slow]).await;
    let soon = clock::now() + Duration::from_secs(1);
    let error = google.send_until(soon).await.unwrap_err();
    assert!(matches!(error, PushError::NotTaken(_)), "{error:?}");
    assert!(clock::now().since(soon) < Duration::from_secs(1));
    assert_eq!(google.sends().await, 2);
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_costs_no_phone_its_token() {
    let server = MockServer::start().await;
    let invalid_grant = json!({ "error": "invalid_grant", "error_description": "key-hush" });
    Mock::given(path("/token"))
        .respond_with(ResponseTemplate::new(400).set_body_json(invalid_grant))
        .mount(&server)
        .await;
    let google = Google {
        fcm: fcm_at(&server.uri()),
        server,
    };
    let error = google.send().await.unwrap_err();
    assert!(matches!(error, PushError::NotTaken(_)), "{error:?}");
    assert_eq!(google.sends().await, 0);
}

/// Google, which no longer accepts key-7 and does accept key-8; and FCM with a secret that takes these values.
async fn google_after_a_rotation<const N: usize>(
    values: impl FnOnce(&str) -> [Value; N],
) -> (Google, MockServer) {
    let server = MockServer::start().await;
    let key_of = |request: &Request| {
        let form = crate::api::form::Fields::from_form(&request.body);
        let header = jsonwebtoken::decode_header(form.text("assertion")?).ok()?;
        header.kid
    };
    Mock::given(path("/token"))
        .respond_with(move |request: &Request| match key_of(request).as_deref() {
            Some("key-8") => ResponseTemplate::new(200)
                .set_body_json(json!({ "access_token": "access-hush-8", "expires_in": 3599 })),
            _ => ResponseTemplate::new(400).set_body_json(json!({ "error": "invalid_grant" })),
        })
        .mount(&server)
        .await;
    let (secrets, account) = testing::secret(values(&server.uri())).await;
    let fcm = fcm_with(&server.uri(), account);
    let google = Google { server, fcm };
    google.always_answers(taken()).await;
    (google, secrets)
}

#[tokio::test]
async fn a_key_that_was_taken_back_is_replaced_by_the_one_in_the_secret() {
    let (google, secrets) =
        google_after_a_rotation(|url| [account_at(url, "key-7"), account_at(url, "key-8")]).await;
    let sends = std::iter::repeat_with(|| google.send()).take(5);
    for result in futures::future::join_all(sends).await {
        result.unwrap();
    }
    assert_eq!((google.grants().await, google.sends().await), (2, 5));
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn a_key_that_is_none_is_replaced_by_the_one_in_the_secret() {
    let (google, _secrets) = google_after_a_rotation(|url| {
        let mut unfinished = account_at(url, "");
        unfinished["private_key"] = "".into();
        [unfinished, account_at(url, "key-8")]
    })
    .await;
    google.send().await.unwrap();
    assert_eq!(google.grants().await, 1);
}

#[tokio::test]
async fn a_key_that_was_taken_back_and_not_replaced_is_tried_once() {
    let (google, secrets) = google_after_a_rotation(|url| [account_at(url, "key-7")]).await;
    let error = google.send().await.unwrap_err().to_string();
    assert!(error.contains("invalid_grant"), "{error}");
    assert_eq!((google.grants().await, google.sends().await), (1, 0));
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn an_access_token_is_never_used_for_another_account() {
    let (google, _secrets) = google_after_a_rotation(|url| {
        let mut other = account_at(url, "key-8");
        other["project_id"] = "ringback-other".into();
        [account_at(url, "key-8"), other]
    })
    .await;
    google.send().await.unwrap();
    let account = google.fcm.account.value().await.unwrap();
    google.fcm.account.after_refusal(&account).await.unwrap();
    // The other project takes no push here: what matters is that it was asked with an access token of its own.
    google.send().await.unwrap_err();
    assert_eq!(google.grants().await, 2);
}

#[tokio::test]
async fn pushes_at_the_same_time_wait_once_for_a_token_endpoint_that_fails() {
    let server = MockServer::start().await;
    Mock::given(path("/token"))
        .respond_with(ResponseTemplate::new(503))
        .mount(&server)
        .await;
    let google = Google {
        fcm: fcm_at(&server.uri()),
        server,
    };
    let sent = futures::join!(google.send(), google.send(), google.send());
    assert!(sent.0.is_err() && sent.1.is_err() && sent.2.is_err());
    assert_eq!(google.grants().await, 1);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_an_error_like_any_other() {
    let google = Google {
        server: MockServer::start().await,
        fcm: fcm_at(&testing::nobody_there()),
    };
    let error = google.send().await.unwrap_err();
    assert!(matches!(error, PushError::NotTaken(_)), "{error:?}");
}

#[tokio::test]
async fn no_credential_shows_in_debug_or_in_an_error() {
    let google = Google::start().await;
    google
        .will_answer([
            taken(),
            refused(401, "UNAUTHENTICATED", None),
            refused(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT")),
        ])
        .await;
    google.send().await.unwrap();
    let error = google.send().await.unwrap_err();
    let unreachable = fcm_at(&testing::nobody_there());
    let now = clock::now();
    let message = Message::incoming_call(&ringback_core::testing::a_call(now), now);
    let other = unreachable
        .send(DEVICE_TOKEN, &message, now)
        .await
        .unwrap_err();
    for shown in [
        format!("{:?}", google.fcm),
        format!("{error} {error:?} {other} {other:?}"),
    ] {
        assert!(!shown.contains("hush"), "{shown}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}
