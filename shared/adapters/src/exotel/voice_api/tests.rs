//! Exotel's voice API, simulated by an HTTP server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::platform::clock;
use crate::platform::secrets::SigningSecret;
use crate::testing;
use ringback_core::call::CallStatus;
use ringback_core::timestamp::Timestamp;

const SID: &str = "5a1e0f9c2b3d4e5f60718293a4b5c6d7";
const CALLBACK: &str = "https://ringback.example/exotel/webhook?secret=callback-hush";

fn number(text: &str) -> PhoneNumber {
    PhoneNumber::parse(text, "IN").unwrap()
}

fn sid() -> CallSid {
    CallSid::try_from(SID).unwrap()
}

/// Calls 9876543210 first, then 9052161119.
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

/// An Exotel that sends this reply to every request.
async fn exotel_replying(reply: ResponseTemplate) -> (MockServer, Exotel) {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(reply).mount(&server).await;
    let exotel = exotel_at(&server.uri());
    (server, exotel)
}

/// A reply with the call of Exotel's documentation, with these changes.
fn call_reply(changes: Value) -> ResponseTemplate {
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

fn error_reply(status: u16) -> ResponseTemplate {
    let message = format!("Error {status}: +919876543210 is a bad\nnumber");
    ResponseTemplate::new(status)
        .set_body_json(json!({ "RestException": { "Status": status, "Message": message } }))
}

fn form(request: &Request) -> BTreeMap<String, String> {
    form_urlencoded::parse(&request.body).into_owned().collect()
}

fn text_of(error: &ExotelError) -> String {
    format!("{error} {error:?}")
}

#[tokio::test]
async fn the_connect_request_is_as_exotel_documents_it() {
    let (server, exotel) = exotel_replying(call_reply(json!({}))).await;
    let request = a_request();
    exotel.connect(&request).await.unwrap();

    let sent = testing::requests(&server).await.remove(0);
    assert_eq!(sent.method, "POST");
    assert_eq!(sent.url.path(), "/v1/Accounts/ringback1/Calls/connect.json");
    // key-hush:token-hush
    let expected = "Basic a2V5LWh1c2g6dG9rZW4taHVzaA==";
    assert_eq!(sent.headers["authorization"], expected);
    assert_eq!(
        sent.headers["content-type"],
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
    assert_eq!(form(&sent), BTreeMap::from(expected));
}

#[tokio::test]
async fn the_time_limits_are_capped_at_what_exotel_accepts() {
    let (server, exotel) = exotel_replying(call_reply(json!({}))).await;
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
async fn a_placed_call_is_initiated_unless_its_status_is_final() {
    for (word, progress) in [
        ("in-progress", CallStatus::Initiated),
        ("queued", CallStatus::Initiated),
        ("something new", CallStatus::Initiated),
        ("failed", CallStatus::Failed),
    ] {
        let (_server, exotel) = exotel_replying(call_reply(json!({ "Status": word }))).await;
        let placed = exotel.connect(&a_request()).await.unwrap();
        let call_sid = sid();
        assert_eq!(placed, PlacedCall { call_sid, progress }, "{word}");
    }
}

#[tokio::test]
async fn a_refusal_has_exotels_message_without_phone_numbers() {
    for status in [400, 403, 404, 409] {
        let (server, exotel) = exotel_replying(error_reply(status)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        let ExotelError::Refused { message, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(message, "Error ###: +############ is a badnumber");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(testing::requests(&server).await.len(), 1, "{status}");
    }
    let (_server, exotel) = exotel_replying(ResponseTemplate::new(400)).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(error.to_string().ends_with("without a reason"), "{error}");
}

#[tokio::test]
async fn a_wrong_key_an_empty_balance_and_too_many_requests_are_different_errors() {
    let (_server, exotel) = exotel_replying(error_reply(401)).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unauthorized), "{error:?}");

    let (_server, exotel) = exotel_replying(error_reply(402)).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::NoBalance), "{error:?}");

    for (header, expected) in [(Some("30"), Some(30)), (Some("soon"), None), (None, None)] {
        let mut reply = error_reply(429);
        if let Some(value) = header {
            reply = reply.append_header("retry-after", value);
        }
        let (server, exotel) = exotel_replying(reply).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        let ExotelError::TooMany { retry_after } = error else {
            panic!("{error:?}");
        };
        assert_eq!(retry_after, expected.map(Duration::from_secs));
        assert_eq!(testing::requests(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn a_server_error_counts_as_unavailable_and_is_not_retried() {
    for status in [500, 503] {
        let (server, exotel) = exotel_replying(error_reply(status)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
        assert_eq!(testing::requests(&server).await.len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_closed_port_counts_as_unavailable() {
    let exotel = exotel_at(&testing::closed_port());
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn after_a_gateway_error_the_call_may_have_been_placed() {
    for status in [408, 502, 504] {
        let (server, exotel) = exotel_replying(ResponseTemplate::new(status)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
        assert_eq!(testing::requests(&server).await.len(), 1, "{status}");
    }
}

#[tokio::test]
async fn after_a_timeout_the_call_may_have_been_placed() {
    let timeout = Duration::from_millis(500);
    let late = call_reply(json!({})).set_delay(timeout * 4);
    let (server, mut exotel) = exotel_replying(late).await;
    exotel.connect_reply_timeout = timeout;
    let start = clock::now();
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
    assert!(clock::now().since(start) < timeout + CONNECT_TIMEOUT);
    assert_eq!(testing::requests(&server).await.len(), 1);
}

/// Exotel replies after it has handed the first call to an operator.
#[tokio::test]
async fn a_connect_may_take_longer_than_other_requests() {
    let late = call_reply(json!({ "Sid": "sid-1", "Status": "in-progress" }));
    let late = late.set_delay(REPLY_TIMEOUT + Duration::from_secs(1));
    let (_server, exotel) = exotel_replying(late).await;
    exotel.connect(&a_request()).await.unwrap();
}

#[tokio::test]
async fn after_a_reply_without_a_call_it_may_have_been_placed() {
    for body in ["", "<TwilioResponse/>", "{}", r#"{"Call":{"Sid":"a/b"}}"#] {
        let (_server, exotel) =
            exotel_replying(ResponseTemplate::new(200).set_body_string(body)).await;
        let error = exotel.connect(&a_request()).await.unwrap_err();
        assert!(
            matches!(error, ExotelError::Unknown(ReplyError::NoCall)),
            "{error:?}"
        );
    }
}

/// A server that sends `reply` to every request, or closes the connection if `reply` is empty. Counts the connections.
async fn raw_server(reply: &'static str) -> (Exotel, Arc<AtomicUsize>) {
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
                    stream.write_all(reply.as_bytes()).await.unwrap();
                    if reply.is_empty() {
                        break;
                    }
                }
            });
        }
    });
    (exotel, connections)
}

#[tokio::test]
async fn a_request_is_not_retried_after_its_connection_broke() {
    let (exotel, connections) = raw_server("").await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
    assert_eq!(connections.load(Ordering::Relaxed), 1);

    let error = exotel.details(&sid()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn every_request_opens_a_new_connection() {
    let (exotel, connections) = raw_server("HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n").await;
    for expected in 1..=3 {
        exotel.details(&sid()).await.unwrap_err();
        assert_eq!(connections.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (elsewhere, _) = exotel_replying(call_reply(json!({}))).await;
    let redirect = ResponseTemplate::new(307).append_header("location", elsewhere.uri());
    let (_server, exotel) = exotel_replying(redirect).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Refused { .. }), "{error:?}");
    assert!(testing::requests(&elsewhere).await.is_empty());
}

#[tokio::test]
async fn details_are_looked_up_by_the_call_sid() {
    let ended = json!({
        "Status": "completed", "EndTime": "2017-03-03 10:49:50", "Duration": "17", "Price": "1.500",
    });
    let (server, exotel) = exotel_replying(call_reply(ended)).await;
    let details = exotel.details(&sid()).await.unwrap();
    let expected = CallDetails {
        call_sid: sid(),
        progress: Some(CallStatus::Completed),
        // 05:18:33 UTC
        started_at: Some(Timestamp::from_millis(1_488_518_313_000)),
        ended_at: Some(Timestamp::from_millis(1_488_518_390_000)),
        from: Some(number("+919876543210")),
        to: Some(number("+919052161119")),
    };
    assert_eq!(details, expected);
    let sent = testing::requests(&server).await.remove(0);
    assert_eq!(sent.method, "GET");
    assert_eq!(
        sent.url.path(),
        format!("/v1/Accounts/ringback1/Calls/{SID}.json")
    );
    assert!(sent.headers.contains_key("authorization"));
}

#[tokio::test]
async fn the_end_time_of_an_ongoing_call_is_ignored() {
    for end in [json!("1970-01-01 05:30:00"), json!(""), Value::Null] {
        let (_server, exotel) = exotel_replying(call_reply(json!({ "EndTime": end }))).await;
        let details = exotel.details(&sid()).await.unwrap();
        assert_eq!(details.progress, Some(CallStatus::InProgress));
        assert_eq!(details.ended_at, None);
    }
}

#[tokio::test]
async fn an_unknown_call_and_an_unavailable_exotel_are_different_errors() {
    let (_server, exotel) = exotel_replying(error_reply(404)).await;
    let error = exotel.details(&sid()).await.unwrap_err();
    assert!(matches!(error, ExotelError::NoSuchCall), "{error:?}");

    for reply in [
        error_reply(502),
        error_reply(504),
        ResponseTemplate::new(200),
    ] {
        let (_server, exotel) = exotel_replying(reply).await;
        let error = exotel.details(&sid()).await.unwrap_err();
        assert!(matches!(error, ExotelError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn the_error_names_the_value_that_the_secret_lacks() {
    let url = testing::closed_port();
    let complete = json!({
        "account_sid": "a", "api_key": "k", "api_token": "t", "caller_id": "08047491899",
    });
    for name in ["account_sid", "api_key", "api_token"] {
        for missing in [Value::Null, json!("")] {
            let mut value = complete.clone();
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

/// An Exotel that accepts only the token `new-hush`.
async fn exotel_with_rotated_token(secret: Secret<ExotelAccount>) -> (MockServer, Exotel) {
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::basic_auth("key", "new-hush"))
        .respond_with(call_reply(json!({})))
        .mount(&server)
        .await;
    Mock::given(any())
        .respond_with(error_reply(401))
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
async fn after_a_token_rotation_the_call_is_placed_once() {
    let values = [account("old-hush"), account("new-hush")];
    let (secrets, secret) = testing::secret(values).await;
    let (server, exotel) = exotel_with_rotated_token(secret).await;
    let mut a_call = ringback_core::testing::a_call(clock::now());
    a_call.kind = ringback_core::call::CallKind::ToNumber {
        from: a_call.caller().number.unwrap(),
        to: number("9052161119"),
    };
    exotel.place(&a_call).await.unwrap();
    exotel.details(&sid()).await.unwrap();

    let requests = testing::requests(&server).await;
    assert_eq!(requests.len(), 3, "rejected, placed, looked up");
    let reports_to = Url::parse(&form(&requests[1])["StatusCallback"]).unwrap();
    let token = reports_to
        .query_pairs()
        .find(|(name, _)| name == "call_token");
    let (_, token) = token.unwrap();
    let (now, other) = (clock::now(), CallId::fresh());
    let check = signing().check_callback(a_call.call_id, &token, now).await;
    assert!(check.is_ok(), "{check:?}");
    assert!(signing().check_callback(other, &token, now).await.is_err());
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn a_value_that_was_added_to_the_secret_is_found() {
    let values = [json!({}), account("new-hush")];
    let (_secrets, secret) = testing::secret(values).await;
    let (_server, exotel) = exotel_with_rotated_token(secret).await;
    exotel.connect(&a_request()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_token_is_sent_once_if_the_secret_has_no_newer_one() {
    let (_secrets, secret) = testing::secret([account("old-hush")]).await;
    let (server, exotel) = exotel_with_rotated_token(secret).await;
    let error = exotel.connect(&a_request()).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unauthorized), "{error:?}");
    assert_eq!(testing::requests(&server).await.len(), 1);
}

#[test]
fn the_base_url_is_checked_when_a_function_starts() {
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
async fn debug_output_and_errors_contain_no_credential_and_no_number() {
    let request = a_request();
    let (_server, refusing) = exotel_replying(error_reply(400)).await;
    let (closing, _) = raw_server("").await;
    let unreachable = exotel_at(&testing::closed_port());
    let mut all = vec![format!("{request:?} {unreachable:?}")];
    for exotel in [&refusing, &closing, &unreachable] {
        all.push(text_of(&exotel.connect(&request).await.unwrap_err()));
        all.push(text_of(&exotel.details(&sid()).await.unwrap_err()));
    }
    for text in all {
        for private in ["hush", "98765", "90521"] {
            assert!(!text.contains(private), "{text}");
        }
    }
}
