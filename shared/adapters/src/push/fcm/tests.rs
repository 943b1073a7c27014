//! FCM and Google's token endpoint, both simulated by one HTTP server.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::Map;
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::access_token::{RENEW_BEFORE, SCOPE};
use super::*;
use crate::testing;
use ringback_core::call::CancelReason;

const DEVICE_TOKEN: &str = "device-token-hush";
const SEND: &str = "/v1/projects/ringback-test/messages:send";

static KEY: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());

struct TestGoogle {
    server: MockServer,
    fcm: Fcm,
}

impl TestGoogle {
    /// A Google that grants the access tokens `access-hush-1`, `access-hush-2` and so on, valid for `lifetime` seconds.
    async fn granting(lifetime: u64) -> Self {
        let server = MockServer::start().await;
        for number in 1..=9 {
            let grant = json!({
                "access_token": format!("access-hush-{number}"),
                "expires_in": lifetime,
                "token_type": "Bearer",
            });
            Mock::given(path("/token"))
                .respond_with(ResponseTemplate::new(200).set_body_json(grant))
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

    /// FCM's next replies, in this order.
    async fn will_reply(&self, replies: impl IntoIterator<Item = ResponseTemplate>) -> &Self {
        for reply in replies {
            Mock::given(path(SEND))
                .respond_with(reply)
                .up_to_n_times(1)
                .mount(&self.server)
                .await;
        }
        self
    }

    async fn always_replies(&self, reply: ResponseTemplate) -> &Self {
        Mock::given(path(SEND))
            .respond_with(reply)
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
        let message = PushMessage::incoming_call(&ringback_core::testing::a_call(now), now);
        self.fcm.send(DEVICE_TOKEN, &message, until).await
    }

    async fn requests_to(&self, path: &str) -> Vec<Request> {
        let all = testing::requests(&self.server).await;
        all.into_iter()
            .filter(|request| request.url.path() == path)
            .collect()
    }

    async fn pushes(&self) -> usize {
        self.requests_to(SEND).await.len()
    }

    async fn token_requests(&self) -> usize {
        self.requests_to("/token").await.len()
    }
}

impl Fcm {
    /// FCM at `url`, with a valid access token.
    pub(crate) fn with_access(url: &str) -> Self {
        let account: Arc<ServiceAccount> =
            Arc::new(serde_json::from_value(account_at(url, "key-7")).unwrap());
        Self {
            tokens: Mutex::new(TokenCache::with_token(&account)),
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
    Fcm::new(url.to_owned(), account)
}

fn accepted() -> ResponseTemplate {
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

fn string_fields(data: &Map<String, Value>) -> BTreeSet<&str> {
    data.iter()
        .filter(|(_, value)| value.is_string())
        .map(|(key, _)| key.as_str())
        .collect()
}

#[tokio::test]
async fn the_data_of_an_incoming_call_is_strings() {
    let google = TestGoogle::start().await;
    google.will_reply([accepted()]).await;
    let now = clock::now();
    let call = ringback_core::testing::a_call(now);
    let message = PushMessage::incoming_call(&call, now);
    google
        .fcm
        .send(DEVICE_TOKEN, &message, call.rings_until)
        .await
        .unwrap();

    let request = google.requests_to(SEND).await.remove(0);
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
fn the_data_of_a_cancellation_is_strings() {
    let now = clock::now();
    let call = ringback_core::testing::a_call(now);
    let reason = CancelReason::AnsweredElsewhere;
    let message = PushMessage::call_cancelled(&call, reason, now);
    let body = request_body(DEVICE_TOKEN, &message);
    let data = body["message"]["data"].as_object().unwrap();
    assert_eq!(data["type"], "call_cancelled");
    assert_eq!(data["reason"], "answered_elsewhere");
    assert_eq!(string_fields(data).len(), data.len());
}

#[test]
fn a_caller_with_a_withheld_number_is_anonymous() {
    let now = clock::now();
    let mut call = ringback_core::testing::a_call(now);
    call.kind = ringback_core::testing::without_number(call.kind);
    call.kind = ringback_core::testing::without_name(call.kind);
    let body = request_body(DEVICE_TOKEN, &PushMessage::incoming_call(&call, now));
    assert_eq!(body["message"]["data"]["caller_name"], "anonymous");
    assert_eq!(body["message"]["data"]["caller_number"], "anonymous");
}

#[test]
fn a_push_expires_at_the_end_of_the_ring() {
    let stored = Timestamp::from_millis(1_000_000_000_000);
    let call = ringback_core::testing::a_call(stored);
    let sent = stored + Duration::from_millis(12_500);
    let body = request_body(DEVICE_TOKEN, &PushMessage::incoming_call(&call, sent));
    assert_eq!(body["message"]["android"]["ttl"], "17s");
    let expiration = &body["message"]["apns"]["headers"]["apns-expiration"];
    assert_eq!(expiration, "1000000030");
}

#[test]
fn a_push_has_high_priority_a_collapse_key_and_no_notification() {
    let now = clock::now();
    let call = ringback_core::testing::a_call(now);
    let body = request_body(DEVICE_TOKEN, &PushMessage::incoming_call(&call, now));
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
async fn simultaneous_pushes_share_one_token_request() {
    let google = TestGoogle::start().await;
    google.always_replies(accepted()).await;
    let sends = std::iter::repeat_with(|| google.send()).take(5);
    for result in futures::future::join_all(sends).await {
        result.unwrap();
    }
    google.send().await.unwrap();
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (1, 6)
    );
}

#[tokio::test]
async fn getting_ready_saves_the_token_request_of_the_first_push() {
    let google = TestGoogle::start().await;
    google.always_replies(accepted()).await;
    google.fcm.get_ready().await;
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (1, 0)
    );
    google.send().await.unwrap();
    google.fcm.get_ready().await;
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (1, 1)
    );
}

#[tokio::test]
async fn an_access_token_is_replaced_before_it_expires() {
    let valid_for_two_seconds = RENEW_BEFORE.as_secs() + 2;
    let google = TestGoogle::granting(valid_for_two_seconds).await;
    google.always_replies(accepted()).await;
    google.send().await.unwrap();
    google.send().await.unwrap();
    assert_eq!(google.token_requests().await, 1);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    google.send().await.unwrap();
    assert_eq!(google.token_requests().await, 2);
    let last = google.requests_to(SEND).await.pop().unwrap();
    assert_eq!(last.headers["authorization"], "Bearer access-hush-2");
}

#[tokio::test]
async fn the_token_request_has_an_assertion_of_the_service_account() {
    let google = TestGoogle::start().await;
    google.will_reply([accepted()]).await;
    google.send().await.unwrap();

    let request = google.requests_to("/token").await.remove(0);
    let form = crate::form_fields::FormFields::from_form(&request.body);
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
async fn a_rejected_access_token_is_replaced_once() {
    let google = TestGoogle::start().await;
    let unauthorized = || refused(401, "UNAUTHENTICATED", None);
    google.will_reply([unauthorized(), accepted()]).await;
    google.send().await.unwrap();
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (2, 2)
    );

    google
        .will_reply([unauthorized(), unauthorized(), accepted()])
        .await;
    let error = google.send().await.unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (3, 4)
    );
}

#[tokio::test]
async fn renewed_access_and_a_busy_fcm_each_allow_one_retry() {
    let reply = |status| match status {
        503 => busy(503, 0),
        _ => ResponseTemplate::new(status),
    };
    for order in [[401, 503, 200], [503, 401, 200]] {
        let google = TestGoogle::start().await;
        google.will_reply(order.map(reply)).await;
        assert!(google.send().await.is_ok(), "{order:?}");
        assert_eq!(google.pushes().await, 3);
    }
    for order in [[401, 401, 200], [503, 503, 200]] {
        let google = TestGoogle::start().await;
        google.will_reply(order.map(reply)).await;
        assert!(google.send().await.is_err(), "{order:?}");
        assert_eq!(google.pushes().await, 2);
    }
}

#[tokio::test]
async fn after_a_wrong_apns_credential_nothing_is_retried() {
    let (google, secrets) = google_after_key_rotation(|url| [account_at(url, "key-8")]).await;
    google.send().await.unwrap();
    google.server.reset().await;
    google
        .always_replies(refused(
            401,
            "UNAUTHENTICATED",
            Some("THIRD_PARTY_AUTH_ERROR"),
        ))
        .await;
    let error = google.send().await.unwrap_err();
    assert!(matches!(error, PushError::NotAccepted(_)), "{error:?}");
    assert!(error.to_string().contains("THIRD_PARTY_AUTH_ERROR"));
    // `reset` forgets the first push and its access token.
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (0, 1)
    );
    assert_eq!(testing::requests(&secrets).await.len(), 1);
}

#[tokio::test]
async fn simultaneous_pushes_with_a_rejected_token_share_the_next_one() {
    let google = TestGoogle::start().await;
    let unauthorized = refused(401, "UNAUTHENTICATED", None);
    Mock::given(path(SEND))
        .and(wiremock::matchers::bearer_token("access-hush-1"))
        .respond_with(unauthorized.set_delay(Duration::from_millis(300)))
        .mount(&google.server)
        .await;
    google.always_replies(accepted()).await;
    let sends = std::iter::repeat_with(|| google.send()).take(5);
    for result in futures::future::join_all(sends).await {
        result.unwrap();
    }
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (2, 10)
    );
}

#[tokio::test]
async fn only_an_unregistered_token_has_expired() {
    let replies = [
        (404, "NOT_FOUND", Some("UNREGISTERED"), true),
        (404, "NOT_FOUND", None, false),
        (400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), false),
        (403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), false),
        (400, "UNREGISTERED", Some("UNREGISTERED"), false),
    ];
    for (status, google_status, code, expired) in replies {
        let google = TestGoogle::start().await;
        google
            .will_reply([refused(status, google_status, code)])
            .await;
        let error = google.send().await.unwrap_err();
        assert_eq!(
            matches!(error, PushError::AddressExpired),
            expired,
            "{status} {code:?}"
        );
        assert_eq!(google.pushes().await, 1, "{status} is not retried");
    }
}

#[tokio::test]
async fn the_error_contains_googles_error_code() {
    let google = TestGoogle::start().await;
    let mismatch = refused(403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"));
    google.will_reply([mismatch]).await;
    let error = google.send().await.unwrap_err();
    assert!(error.to_string().contains("SENDER_ID_MISMATCH"), "{error}");
}

/// When FCM may be asked again.
fn retry_of(sent: Result<(), PushError>) -> RetryAfter {
    match sent {
        Err(PushError::Delayed { retry, .. }) => retry,
        other => panic!("{other:?}"),
    }
}

fn told(seconds: u64) -> RetryAfter {
    RetryAfter::AsTold(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_failure_with_a_short_retry_after_is_retried_once() {
    for status in [429, 500, 503] {
        let google = TestGoogle::start().await;
        google.will_reply([busy(status, 0), accepted()]).await;
        google.send().await.unwrap();
        assert_eq!(google.pushes().await, 2, "{status}");

        google.always_replies(busy(status, 0)).await;
        assert_eq!(retry_of(google.send().await), told(0));
        assert_eq!(google.pushes().await, 4, "{status}");
    }
}

#[tokio::test]
async fn without_a_retry_after_header_googles_shortest_pauses_count() {
    let replies = [
        (500, RetryAfter::SERVER_ERROR),
        (503, RetryAfter::SERVER_ERROR),
        (429, RetryAfter::QUOTA_EXCEEDED),
    ];
    for (status, expected) in replies {
        let google = TestGoogle::start().await;
        let reply = refused(status, "UNAVAILABLE", None);
        google.will_reply([reply, accepted()]).await;
        assert_eq!(retry_of(google.send().await), expected, "{status}");
        assert_eq!(google.pushes().await, 1, "{status}");
    }
}

#[tokio::test]
async fn a_cancellation_is_sent_again_soon_after_a_server_error() {
    for (status, pushes) in [(500, 2), (503, 2), (429, 1)] {
        let google = TestGoogle::start().await;
        let reply = refused(status, "UNAVAILABLE", None);
        google.will_reply([reply, accepted()]).await;
        let now = clock::now();
        let call = ringback_core::testing::a_call(now);
        let message = PushMessage::call_cancelled(&call, CancelReason::CallerHungUp, now);
        let until = now + Duration::from_secs(30);
        let sent = google.fcm.send(DEVICE_TOKEN, &message, until).await;
        assert_eq!(sent.is_ok(), pushes == 2, "{status}");
        assert_eq!(google.pushes().await, pushes, "{status}");
    }
}

#[test]
fn pauses_double_unless_the_service_names_one() {
    let began = Timestamp::from_millis(1_710_417_600_000);
    let after = |seconds| began + Duration::from_secs(seconds);
    let next = |retry: RetryAfter, seconds| retry.next_attempt(began, after(seconds));
    let server_error = RetryAfter::SERVER_ERROR;
    assert_eq!(next(server_error, 0), after(10));
    assert_eq!(next(server_error, 10), after(30));
    assert_eq!(next(server_error, 30), after(70));
    assert_eq!(next(told(4), 10), after(14));
    assert_eq!(next(told(0), 10), after(11));
}

#[tokio::test]
async fn after_a_long_retry_after_this_process_does_not_wait() {
    let google = TestGoogle::start().await;
    google.will_reply([busy(429, 3), accepted()]).await;
    let start = clock::now();
    assert_eq!(retry_of(google.send().await), told(3));
    assert!(clock::now().since(start) < MAX_PAUSE);
    assert_eq!(google.pushes().await, 1);
}

#[tokio::test]
async fn after_a_retry_after_beyond_the_time_left_this_process_does_not_wait() {
    let google = TestGoogle::start().await;
    google.always_replies(busy(503, 1)).await;
    let soon = clock::now() + Duration::from_millis(500);
    assert_eq!(retry_of(google.send_until(soon).await), told(1));
    assert_eq!(google.pushes().await, 1);
}

#[tokio::test]
async fn the_retry_ends_when_the_time_is_up() {
    let google = TestGoogle::start().await;
    let slow = accepted().set_delay(REPLY_TIMEOUT);
    google.will_reply([busy(503, 0), slow]).await;
    let soon = clock::now() + Duration::from_secs(1);
    let retry = retry_of(google.send_until(soon).await);
    assert_eq!(retry, RetryAfter::SERVER_ERROR);
    assert!(clock::now().since(soon) < Duration::from_secs(1));
    assert_eq!(google.pushes().await, 2);
}

#[tokio::test]
async fn an_fcm_that_does_not_answer_is_asked_twice() {
    let google = TestGoogle::start().await;
    google
        .always_replies(accepted().set_delay(2 * REPLY_TIMEOUT))
        .await;
    assert_eq!(retry_of(google.send().await), RetryAfter::SERVER_ERROR);
    assert_eq!(google.pushes().await, 2);
}

#[tokio::test]
async fn a_refused_token_request_does_not_expire_the_push_address() {
    let server = MockServer::start().await;
    let invalid_grant = json!({ "error": "invalid_grant", "error_description": "key-hush" });
    Mock::given(path("/token"))
        .respond_with(ResponseTemplate::new(400).set_body_json(invalid_grant))
        .mount(&server)
        .await;
    let google = TestGoogle {
        fcm: fcm_at(&server.uri()),
        server,
    };
    let error = google.send().await.unwrap_err();
    assert!(matches!(error, PushError::NotAccepted(_)), "{error:?}");
    assert_eq!(google.pushes().await, 0);
}

/// A Google that accepts key-8 and not key-7, and an FCM client. Its secret has these values, one after the other.
async fn google_after_key_rotation<const N: usize>(
    values: impl FnOnce(&str) -> [Value; N],
) -> (TestGoogle, MockServer) {
    let server = MockServer::start().await;
    let key_of = |request: &Request| {
        let form = crate::form_fields::FormFields::from_form(&request.body);
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
    let google = TestGoogle { server, fcm };
    google.always_replies(accepted()).await;
    (google, secrets)
}

#[tokio::test]
async fn a_revoked_key_is_replaced_by_the_one_in_the_secret() {
    let (google, secrets) =
        google_after_key_rotation(|url| [account_at(url, "key-7"), account_at(url, "key-8")]).await;
    let sends = std::iter::repeat_with(|| google.send()).take(5);
    for result in futures::future::join_all(sends).await {
        result.unwrap();
    }
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (2, 5)
    );
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn a_malformed_key_is_replaced_by_the_one_in_the_secret() {
    let (google, _secrets) = google_after_key_rotation(|url| {
        let mut unfinished = account_at(url, "");
        unfinished["private_key"] = "".into();
        [unfinished, account_at(url, "key-8")]
    })
    .await;
    google.send().await.unwrap();
    assert_eq!(google.token_requests().await, 1);
}

#[tokio::test]
async fn a_revoked_key_is_used_once_if_the_secret_has_no_newer_one() {
    let (google, secrets) = google_after_key_rotation(|url| [account_at(url, "key-7")]).await;
    let error = google.send().await.unwrap_err().to_string();
    assert!(error.contains("invalid_grant"), "{error}");
    assert_eq!(
        (google.token_requests().await, google.pushes().await),
        (1, 0)
    );
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn an_access_token_is_never_used_for_another_account() {
    let (google, _secrets) = google_after_key_rotation(|url| {
        let mut other = account_at(url, "key-8");
        other["project_id"] = "ringback-other".into();
        [account_at(url, "key-8"), other]
    })
    .await;
    google.send().await.unwrap();
    let account = google.fcm.account.value().await.unwrap();
    google.fcm.account.after_rejection(&account).await.unwrap();
    // The simulated FCM has no other project, so this push fails. It has requested an access token for that account.
    google.send().await.unwrap_err();
    assert_eq!(google.token_requests().await, 2);
}

#[tokio::test]
async fn simultaneous_pushes_share_one_failed_token_request() {
    let server = MockServer::start().await;
    Mock::given(path("/token"))
        .respond_with(ResponseTemplate::new(503))
        .mount(&server)
        .await;
    let google = TestGoogle {
        fcm: fcm_at(&server.uri()),
        server,
    };
    let sent = futures::join!(google.send(), google.send(), google.send());
    assert!(sent.0.is_err() && sent.1.is_err() && sent.2.is_err());
    assert_eq!(google.token_requests().await, 1);
}

#[tokio::test]
async fn without_a_connection_a_later_push_may_succeed() {
    let google = TestGoogle {
        server: MockServer::start().await,
        fcm: Fcm::with_access(&testing::closed_port()),
    };
    assert_eq!(retry_of(google.send().await), RetryAfter::NO_CONNECTION);
    // The token endpoint is away.
    let google = TestGoogle {
        fcm: fcm_at(&testing::closed_port()),
        ..google
    };
    assert_eq!(retry_of(google.send().await), RetryAfter::SERVER_ERROR);
}

#[tokio::test]
async fn debug_output_and_errors_contain_no_credential() {
    let google = TestGoogle::start().await;
    google
        .will_reply([
            accepted(),
            refused(401, "UNAUTHENTICATED", None),
            refused(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT")),
        ])
        .await;
    google.send().await.unwrap();
    let error = google.send().await.unwrap_err();
    let unreachable = fcm_at(&testing::closed_port());
    let now = clock::now();
    let message = PushMessage::incoming_call(&ringback_core::testing::a_call(now), now);
    let other = unreachable
        .send(DEVICE_TOKEN, &message, now)
        .await
        .unwrap_err();
    for text in [
        format!("{:?}", google.fcm),
        format!("{error} {error:?} {other} {other:?}"),
    ] {
        assert!(!text.contains("hush"), "{text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
}
