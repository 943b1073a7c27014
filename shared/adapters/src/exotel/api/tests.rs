//! Exotel, played by a server of the test's own.

use crate::platform::clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::platform::secrets::SigningSecret;
use crate::testing;

const SID: &str = "5a1e0f9c2b3d4e5f60718293a4b5c6d7";
const CALLBACK: &str = "https://ringback.example/exotel/webhook?secret=callback-hush";

fn number(text: &str) -> PhoneNumber {
    PhoneNumber::parse(text, "IN").unwrap()
}

fn sid() -> CallSid {
    CallSid::try_from(SID).unwrap()
}

/// Asha's phone is called, then Ravi's.
fn a_request() -> ConnectRequest {
    ConnectRequest {
        from: number("9876543210"),
        to: number("9052161119"),
        caller_id: number("08047491899"),
        custom_field: CallId::fresh(),
        status_callback: CALLBACK.into(),
        time_limit: Duration::from_secs(14_400),
        ring_timeout: Duration::from_secs(30),
    }
}

fn secret(value: Value) -> ExotelAccount {
    serde_json::from_value(value).unwrap()
}

fn exotel_at(url: &str) -> Exotel {
    let account = json!({
        "account_sid": "ringback1",
        "api_key": "key-hush",
        "api_token": "token-hush",
        "caller_id": "08047491899",
    });
    Exotel::at(Url::parse(url).unwrap(), secret(account))
}

/// Exotel that gives this answer to everything.
async fn exotel_answering(answer: ResponseTemplate) -> (MockServer, Exotel) {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let exotel = exotel_at(&server.uri());
    (server, exotel)
}

/// The call, as the documentation shows it, with `changes`.
fn call(changes: Value) -> ResponseTemplate {
    let mut call = json!({
        "Sid": SID,
        "ParentCallSid": null,
        "DateCreated": "2017-03-03 10:48:33",
        "DateUpdated": "2017-03-03 10:48:33",
        "AccountSid": "ringback1",
        "To": "09052161119",
        "From": "09876543210",
        "PhoneNumberSid": "08047491899",
        "Status": "in-progress",
        "StartTime": "2017-03-03 10:48:33",
        "EndTime": null,
        "Duration": null,
        "Price": null,
        "Direction": "outbound-api",
        "AnsweredBy": null,
        "Uri": format!("/v1/Accounts/ringback1/Calls/{SID}.json"),
        "RecordingUrl": null,
    });
    for (name, value) in changes.as_object().unwrap() {
        call[name] = value.clone();
    }
    ResponseTemplate::new(200).set_body_json(json!({ "Call": call }))
}

fn rest_exception(status: u16) -> ResponseTemplate {
    let message = format!("Error {status}: +919876543210 is a bad\nnumber");
    ResponseTemplate::new(status)
        .set_body_json(json!({ "RestException": { "Status": status, "Message": message } }))
}

fn form(request: &Request) -> BTreeMap<String, String> {
    form_urlencoded::parse(&request.body).into_owned().collect()
}

fn shown(error: &ExotelError) -> String {
    format!("{error} {error:?}")
}

#[tokio::test]
async fn a_call_is_asked_for_as_exotel_documents_it() {
    let (server, exotel) = exotel_answering(call(json!({}))).await;
    let request = a_request();
    exotel.connect(&request).await.unwrap();

    let asked = testing::requests(&server).await.remove(0);
    assert_eq!(asked.method, "POST");
    assert_eq!(
        asked.url.path(),
        "/v1/Accounts/ringback1/Calls/connect.json"
    );
    // key-hush:token-hush
    let expected = "Basic a2V5LWh1c2g6dG9rZW4taHVzaA==";
    assert_eq!(asked.headers["authorization"], expected);
    assert_eq!(
        asked.headers["content-type"],
        "application/x-www-form-urlencoded"
    );
    let call_id = request.custom_field.to_string();
    let expected = [
        ("From", "+919876543210"),
        ("To", "+919052161119"),
        ("CallerId", "+918047491899"),
        ("CallType", "trans"),
        ("TimeLimit", "14400"),
        ("TimeOut", "30"),
        ("MaxRetries", "0"),
        ("Record", "false"),
        ("CustomField", &call_id),
        ("StatusCallback", CALLBACK),
        ("StatusCallbackEvents[0]", "terminal"),
        ("StatusCallbackEvents[1]", "answered"),
        ("StatusCallbackContentType", "application/json"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(form(&asked), BTreeMap::from(expected));
}

#[tokio::test]
async fn a_call_lasts_and_rings_no_longer_than_exotel_allows() {
    let (server, exotel) = exotel_answering(call(json!({}))).await;
    let request = ConnectRequest {
        time_limit: Duration::from_secs(100_000),
        ring_timeout: Duration::from_secs(90),
        ..a_request()
    };
    exotel.connect(&request).await.unwrap();
    let fields = form(&testing::requests(&server).await[0]);
    assert_eq!(fields["TimeLimit"], "14400");
    assert_eq!(fields["TimeOut"], "60");
}

#[tokio::test]
async fn a_call_that_was_taken_on_is_initiated_whatever_word_exotel_uses() {
    for (word, status) in [
        ("in-progress", CallStatus::Initiated),
        ("queued", CallStatus::Initiated),
        ("something new", CallStatus::Initiated),
        ("failed", CallStatus::Failed),
    ] {
        let (_server, exotel) = exotel_answering(call(json!({ "Status": word }))).await;
        let placed = exotel.connect(&a_request()).await.unwrap();
        let call_sid = sid();
        assert_eq!(placed, Placed { call_sid, status }, "{word}");
    }
}

#[tokio::test]
async fn a_refusal_says_why_without_repeating_numbers() {
    for status in [400, 403, 404, 409] {
        let (server, exotel) = exotel_answering(rest_exception(status)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        let ExotelError::Refused { message, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(message, "Error ###: +############ is a badnumber");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(testing::requests(&server).await.len(), 1, "{status}");
    }
    let (_server, exotel) = exotel_answering(ResponseTemplate::new(400)).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(error.to_string().ends_with("without a reason"), "{error}");
}

#[tokio::test]
async fn a_wrong_key_an_empty_account_and_a_full_minute_are_told_apart() {
    let (_server, exotel) = exotel_answering(rest_exception(401)).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unauthorized), "{error:?}");

    let (_server, exotel) = exotel_answering(rest_exception(402)).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::NoBalance), "{error:?}");

    for (header, expected) in [(Some("30"), Some(30)), (Some("soon"), None), (None, None)] {
        let answer = rest_exception(429);
        let answer = match header {
            Some(value) => answer.append_header("retry-after", value),
            None => answer,
        };
        let (server, exotel) = exotel_answering(answer).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        let ExotelError::TooMany { retry_after } = error else {
            panic!("{error:?}");
        };
        assert_eq!(retry_after, expected.map(Duration::from_secs));
        assert_eq!(testing::requests(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn a_failure_of_exotels_own_placed_no_call_as_far_as_is_known() {
    for status in [500, 503] {
        let (server, exotel) = exotel_answering(rest_exception(status)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
        assert_eq!(testing::requests(&server).await.len(), 1, "{status}");
    }
}

#[tokio::test]
async fn an_exotel_that_is_not_there_placed_no_call() {
    let exotel = exotel_at(&testing::nobody_there());
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_gateway_that_lost_the_api_leaves_it_open_whether_a_call_was_placed() {
    for status in [408, 502, 504] {
        let (server, exotel) = exotel_answering(ResponseTemplate::new(status)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
        assert_eq!(testing::requests(&server).await.len(), 1, "{status}");
    }
}

#[tokio::test]
async fn an_answer_too_late_leaves_it_open_whether_a_call_was_placed() {
    let late = call(json!({})).set_delay(REPLY_TIMEOUT * 2);
    let (server, exotel) = exotel_answering(late).await;
    let began = clock::now();
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
    assert!(clock::now().since(began) < REPLY_TIMEOUT + CONNECT_TIMEOUT);
    assert_eq!(testing::requests(&server).await.len(), 1);
}

#[tokio::test]
async fn an_answer_without_a_call_leaves_it_open_whether_a_call_was_placed() {
    for body in ["", "<TwilioResponse/>", "{}", r#"{"Call":{"Sid":"a/b"}}"#] {
        let (_server, exotel) =
            exotel_answering(ResponseTemplate::new(200).set_body_string(body)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        assert!(
            matches!(error, ExotelError::Unknown(NoAnswer::NoCall)),
            "{error:?}"
        );
    }
}

/// A server that reads each request and writes `answer`; and how many connections it was asked on.
async fn bare_server(answer: &'static str) -> (Exotel, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exotel = exotel_at(&format!("http://{}", listener.local_addr().unwrap()));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    if answer.is_empty() {
                        break;
                    }
                }
            });
        }
    });
    (exotel, connections)
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_not_tried_again() {
    let (exotel, connections) = bare_server("").await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
    assert_eq!(connections.load(Ordering::Relaxed), 1);

    let error = exotel.details(&sid()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn no_request_meets_a_connection_that_may_have_died_of_idleness() {
    let (exotel, connections) = bare_server("HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n").await;
    for expected in 1..=3 {
        exotel.details(&sid()).await.unwrap_err();
        assert_eq!(connections.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test]
async fn a_call_is_not_asked_for_somewhere_else() {
    let (elsewhere, _) = exotel_answering(call(json!({}))).await;
    let redirect = ResponseTemplate::new(307).append_header("location", elsewhere.uri());
    let (_server, exotel) = exotel_answering(redirect).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Refused { .. }), "{error:?}");
    assert!(testing::requests(&elsewhere).await.is_empty());
}

#[tokio::test]
async fn a_call_is_looked_up_by_its_call_sid() {
    let over = json!({
        "Status": "completed", "EndTime": "2017-03-03 10:49:50", "Duration": "17", "Price": "1.500",
    });
    let (server, exotel) = exotel_answering(call(over)).await;
    let details = exotel.details(&sid()).await.unwrap();
    let expected = CallDetails {
        call_sid: sid(),
        status: Some(CallStatus::Completed),
        // 05:18:33 UTC
        started_at: Some(Timestamp::from_millis(1_488_518_313_000)),
        ended_at: Some(Timestamp::from_millis(1_488_518_390_000)),
        from: Some(number("+919876543210")),
        to: Some(number("+919052161119")),
    };
    assert_eq!(details, expected);
    let asked = testing::requests(&server).await.remove(0);
    assert_eq!(asked.method, "GET");
    assert_eq!(
        asked.url.path(),
        format!("/v1/Accounts/ringback1/Calls/{SID}.json")
    );
    assert!(asked.headers.contains_key("authorization"));
}

#[tokio::test]
async fn the_end_of_a_call_that_is_not_over_is_a_dummy() {
    for end in [json!("1970-01-01 05:30:00"), json!(""), Value::Null] {
        let (_server, exotel) = exotel_answering(call(json!({ "EndTime": end }))).await;
        let details = exotel.details(&sid()).await.unwrap();
        assert_eq!(details.status, Some(CallStatus::InProgress));
        assert_eq!(details.ended_at, None);
    }
}

#[tokio::test]
async fn a_call_that_exotel_does_not_know_is_told_from_an_exotel_that_does_not_answer() {
    let (_server, exotel) = exotel_answering(rest_exception(404)).await;
    let error = exotel.details(&sid()).await.unwrap_err();
    assert!(matches!(error, ExotelError::NoSuchCall), "{error:?}");

    for answer in [
        rest_exception(502),
        rest_exception(504),
        ResponseTemplate::new(200),
    ] {
        let (_server, exotel) = exotel_answering(answer).await;
        let error = exotel.details(&sid()).await.unwrap_err();
        assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn what_the_secret_lacks_is_named_when_it_is_needed() {
    let url = testing::nobody_there();
    let whole = json!({
        "account_sid": "a", "api_key": "k", "api_token": "t", "caller_id": "08047491899",
    });
    for name in ["account_sid", "api_key", "api_token"] {
        for missing in [Value::Null, json!("")] {
            let mut value = whole.clone();
            value[name] = missing;
            let exotel = Exotel::at(Url::parse(&url).unwrap(), secret(value));
            let error = exotel.connect(&a_request()).await.unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(exotel.caller_id().await.unwrap().as_str(), "+918047491899");
        }
    }
    let exotel = Exotel::at(Url::parse(&url).unwrap(), secret(json!({})));
    let error = exotel.caller_id().await.unwrap_err();
    assert!(error.to_string().contains("caller_id"), "{error}");
}

/// Exotel, which accepts the token `new-hush` alone.
async fn exotel_after_a_rotation(secret: Secret<ExotelAccount>) -> (MockServer, Exotel) {
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::basic_auth("key", "new-hush"))
        .respond_with(call(json!({})))
        .mount(&server)
        .await;
    Mock::given(any())
        .respond_with(rest_exception(401))
        .with_priority(9)
        .mount(&server)
        .await;
    let webhook = |_: &str| Some("https://ringback.example/exotel/webhook".to_owned());
    let exotel = Exotel::new(Url::parse(&server.uri()).unwrap(), secret, "IN".to_owned());
    let exotel = exotel.reporting_to_webhook(&Environment::of(webhook), Arc::new(signing()));
    let exotel = exotel.unwrap();
    (server, exotel)
}

fn signing() -> Signing {
    let key = json!({ "signing_secret": "signing-hush" });
    Signing::new(Secret::known(
        serde_json::from_value::<SigningSecret>(key).unwrap(),
    ))
}

fn account(api_token: &str) -> Value {
    json!({
        "account_sid": "ringback1",
        "api_key": "key",
        "api_token": api_token,
        "caller_id": "08047491899",
    })
}

#[tokio::test]
async fn a_token_that_was_replaced_is_fetched_and_the_call_placed_once() {
    let values = [account("old-hush"), account("new-hush")];
    let (secrets, secret) = testing::secret(values).await;
    let (server, exotel) = exotel_after_a_rotation(secret).await;
    let mut a_call = ringback_core::testing::a_call(clock::now());
    a_call.kind = ringback_core::call::CallKind::ToNumber {
        from: a_call.caller().number.unwrap(),
        to: number("9052161119"),
    };
    exotel.place(&a_call).await.unwrap();
    exotel.details(&sid()).await.unwrap();

    let asked = testing::requests(&server).await;
    assert_eq!(asked.len(), 3, "refused, placed, looked up");
    let reports_to = Url::parse(&form(&asked[1])["StatusCallback"]).unwrap();
    let token = reports_to
        .query_pairs()
        .find(|(name, _)| name == "call_token");
    let (_, token) = token.unwrap();
    let (now, other) = (clock::now(), CallId::fresh());
    let checked = signing().check_callback(a_call.call_id, &token, now).await;
    assert!(checked.is_ok(), "{checked:?}");
    assert!(signing().check_callback(other, &token, now).await.is_err());
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn what_the_secret_lacked_is_found_when_it_was_filled_in() {
    let values = [json!({}), account("new-hush")];
    let (_secrets, secret) = testing::secret(values).await;
    let (_server, exotel) = exotel_after_a_rotation(secret).await;
    exotel.connect(&a_request()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_token_that_was_not_replaced_is_shown_once() {
    let (_secrets, secret) = testing::secret([account("old-hush")]).await;
    let (server, exotel) = exotel_after_a_rotation(secret).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unauthorized), "{error:?}");
    assert_eq!(testing::requests(&server).await.len(), 1);
}

#[test]
fn the_base_url_is_read_when_a_function_starts() {
    let with = |read| {
        let secret = Secret::known(secret(json!({})));
        Exotel::from_environment(&Environment::of(read), secret, "IN".to_owned())
    };
    let exotel = with(|_| Some("https://api.in.exotel.com/".to_owned())).unwrap();
    assert_eq!(
        exotel.url_of("a/b", "connect.json").as_str(),
        "https://api.in.exotel.com/v1/Accounts/a%2Fb/Calls/connect.json"
    );
    for wrong in [|_: &str| None, |_: &str| Some("https://".to_owned())] {
        let error = with(wrong).unwrap_err();
        assert!(error.to_string().contains("EXOTEL_BASE_URL"), "{error}");
    }
}

#[tokio::test]
async fn no_credential_and_no_number_shows_in_debug_or_in_an_error() {
    let request = a_request();
    let (_server, refusing) = exotel_answering(rest_exception(400)).await;
    let (breaking, _) = bare_server("").await;
    let absent = exotel_at(&testing::nobody_there());
    let mut all = vec![format!("{request:?} {absent:?}")];
    for exotel in [&refusing, &breaking, &absent] {
        all.push(shown(&exotel.connect(&request).await.unwrap_err()));
        all.push(shown(&exotel.details(&sid()).await.unwrap_err()));
    }
    for shown in all {
        for private in ["hush", "98765", "90521"] {
            assert!(!shown.contains(private), "{shown}");
        }
    }
}
