//! ARI, played by a server that answers as Asterisk 22 does.

mod several;

use crate::platform::clock;
use std::io::{Read, Write};

use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::testing;
use ringback_core::call::CallType;
use ringback_core::ids::{CallId, CallSid, ChannelId};

const ENDPOINT: &str = "/ari/endpoints/PJSIP/1001";
const CALLER_LEG: &str = "1732175943.12";
/// What a busy machine may take longer than it should.
const A_BIT: Duration = Duration::from_secs(1);
const CALLER_CHANNEL: &str = "/ari/channels/1732175943.12";

struct Pbx {
    server: MockServer,
    asterisk: Asterisk,
    call: Call,
}

impl Pbx {
    /// A PBX on which the caller waits.
    async fn start() -> Self {
        let server = MockServer::start().await;
        let url = format!("{}/ari", server.uri());
        Self {
            server,
            asterisk: asterisk_at(url, None),
            call: ringback_core::testing::a_call(clock::now()),
        }
    }

    /// The next answers to requests of this kind, in this order.
    async fn will_answer<const N: usize>(
        &self,
        verb: &str,
        to: &str,
        answers: [ResponseTemplate; N],
    ) -> &Self {
        for answer in answers {
            Mock::given(method(verb))
                .and(path(to))
                .respond_with(answer)
                .up_to_n_times(1)
                .mount(&self.server)
                .await;
        }
        self
    }

    async fn always_answers(&self, verb: &str, to: &str, answer: ResponseTemplate) -> &Self {
        Mock::given(method(verb))
            .and(path(to))
            .respond_with(answer)
            .mount(&self.server)
            .await;
        self
    }

    fn phone_channel(&self) -> String {
        format!("/ari/channels/ringback-{}", self.call.call_id)
    }

    async fn originate_answers<const N: usize>(&self, answers: [ResponseTemplate; N]) -> &Self {
        self.will_answer("POST", &self.phone_channel(), answers)
            .await
    }

    /// The one PBX that there is.
    fn pbx(&self) -> &super::Pbx {
        self.asterisk.of(&self.call).unwrap().unwrap()
    }

    async fn call_caller(&self) -> Result<Calling, AsteriskError> {
        let caller = self.call.kind.calling_app().unwrap();
        let until = clock::now() + Duration::from_secs(10);
        self.asterisk.call_caller(&self.call, caller, until).await
    }

    async fn bridge(&self) -> Result<Bridging, AsteriskError> {
        self.bridge_for(Duration::from_secs(10)).await
    }

    async fn bridge_for(&self, time: Duration) -> Result<Bridging, AsteriskError> {
        let until = clock::now() + time;
        self.pbx().bridge(&self.call, &caller_leg(), until).await
    }

    /// What Asterisk was asked, such as `GET /ari/asterisk/ping`, in order. The list of all channels never is.
    async fn asked(&self) -> Vec<String> {
        let requests = testing::requests(&self.server).await;
        let asked: Vec<String> = requests
            .iter()
            .map(|request| format!("{} {}", request.method, request.url.path()))
            .collect();
        assert!(
            !asked.contains(&"GET /ari/channels".to_owned()),
            "{asked:?}"
        );
        asked
    }

    async fn originates(&self) -> usize {
        let asked = self.asked().await;
        asked.iter().filter(|line| line.starts_with("POST")).count()
    }

    async fn last_request(&self) -> Request {
        testing::requests(&self.server).await.pop().unwrap()
    }
}

fn secret(ari_password: &str, ari_ca_pem: Option<&str>) -> Value {
    json!({
        "ari_username": "ringback",
        "ari_password": ari_password,
        "ari_ca_pem": ari_ca_pem,
    })
}

fn asterisk_at(url: String, ari_ca_pem: Option<&str>) -> Asterisk {
    let secret: AriCredentials =
        serde_json::from_value(secret("password-hush", ari_ca_pem)).unwrap();
    asterisk_with(url, Secret::known(secret))
}

fn asterisk_with(url: String, secret: Secret<AriCredentials>) -> Asterisk {
    Asterisk::at(Pbxs::listed(&url).unwrap(), secret)
}

fn caller_leg() -> ChannelId {
    ChannelId::try_from(CALLER_LEG).unwrap()
}

fn ok() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "id": "…", "state": "Down" }))
}

fn no_content() -> ResponseTemplate {
    ResponseTemplate::new(204)
}

fn message(status: u16, text: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({ "message": text }))
}

fn allocation_failed() -> ResponseTemplate {
    ResponseTemplate::new(500).set_body_json(json!({ "error": "Allocation failed" }))
}

fn already_exists() -> ResponseTemplate {
    message(409, "Channel with given unique ID already exists")
}

fn channel_not_found() -> ResponseTemplate {
    message(404, "Channel not found")
}

fn endpoint(state: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "technology": "PJSIP", "resource": "1001", "state": state, "channel_ids": [],
    }))
}

#[tokio::test]
async fn the_phone_is_called_as_the_dialplan_expects_it() {
    let mut pbx = Pbx::start().await;
    pbx.call.call_id = CallId::of_call_sid(&CallSid::try_from("sid").unwrap());
    pbx.call.kind = ringback_core::testing::without_name(pbx.call.kind);
    pbx.originate_answers([ok()]).await;
    assert_eq!(pbx.bridge().await.unwrap(), Bridging::UnderWay);

    let request = pbx.last_request().await;
    // ringback:password-hush
    let basic = "Basic cmluZ2JhY2s6cGFzc3dvcmQtaHVzaA==";
    assert_eq!(request.headers["authorization"], basic);
    let expected = json!({
        "endpoint": "PJSIP/1001",
        "context": "incoming-calls",
        "extension": "+919876543210",
        "priority": 1,
        "timeout": 30,
        "callerId": "+919876543210",
        "variables": {
            "CALL_TYPE": "mobile_ready",
            "ORIGINAL_CALLER": "+919876543210",
            "CALLER_CHANNEL": CALLER_LEG,
            "RINGBACK_CALL_ID": pbx.call.call_id.to_string(),
            "RINGBACK_CALL_TYPE": "voice",
            "PJSIP_HEADER(add,X-Ringback-Call-Id)": pbx.call.call_id.to_string(),
            "CHANNEL(hangup_handler_push)": "ringback-phone-ended,s,1",
        },
    });
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
    assert_eq!(pbx.asked().await.len(), 1, "one request is all it takes");
}

/// 1002 calls 1001, both with a camera.
async fn a_video_call_between_apps() -> Pbx {
    let mut pbx = Pbx::start().await;
    pbx.call.kind = ringback_core::call::CallKind::BetweenApps {
        caller: Extension::try_from("1002").unwrap(),
    };
    pbx.call.call_type = CallType::Video;
    (pbx.call.caller_leg, pbx.call.pbx) = (None, None);
    pbx
}

#[tokio::test]
async fn the_phone_of_an_app_that_calls_is_called_to_wait_as_a_caller() {
    let pbx = a_video_call_between_apps().await;
    let channel = format!("/ari/channels/ringback-caller-{}", pbx.call.call_id);
    pbx.will_answer("POST", &channel, [ok()]).await;
    assert_eq!(pbx.call_caller().await.unwrap(), Calling::UnderWay);
    let expected = json!({
        "endpoint": "PJSIP/1002",
        "context": "ringback-callers",
        "extension": "1001",
        "priority": 1,
        "timeout": 30,
        "callerId": "<1001>",
        "formats": "opus,ulaw,alaw,vp8,h264",
        "variables": {
            "CALL_TYPE": "outgoing",
            "RINGBACK_CALL_ID": pbx.call.call_id.to_string(),
            "RINGBACK_CALL_TYPE": "video",
            "PJSIP_HEADER(add,X-Ringback-Call-Id)": pbx.call.call_id.to_string(),
            "PJSIP_HEADER(add,Answer-Mode)": "Auto",
            "CHANNEL(hangup_handler_push)": "ringback-app-caller-ended,s,1",
        },
    });
    let request = pbx.last_request().await;
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
}

#[tokio::test]
async fn the_phone_of_an_app_that_calls_may_take_a_moment_to_register() {
    let pbx = a_video_call_between_apps().await;
    let channel = format!("/ari/channels/ringback-caller-{}", pbx.call.call_id);
    pbx.will_answer("POST", &channel, [allocation_failed(), ok()])
        .await;
    pbx.always_answers("GET", "/ari/endpoints/PJSIP/1002", endpoint("online"))
        .await;
    assert_eq!(pbx.call_caller().await.unwrap(), Calling::UnderWay);
    assert_eq!(pbx.asked().await.len(), 3);
}

#[tokio::test]
async fn video_is_offered_to_both_phones_of_a_video_call() {
    let pbx = a_video_call_between_apps().await;
    pbx.originate_answers([ok()]).await;
    pbx.bridge().await.unwrap();
    let body: Value = pbx.last_request().await.body_json().unwrap();
    assert_eq!(
        (&body["extension"], &body["callerId"]),
        (&"1002".into(), &"<1002>".into())
    );
    assert_eq!(body["formats"], "opus,ulaw,alaw,vp8,h264");
}

#[tokio::test]
async fn how_far_a_phone_has_come_is_its_legs_state() {
    let pbx = Pbx::start().await;
    let channel = |state: &str| ResponseTemplate::new(200).set_body_json(json!({ "state": state }));
    let answers = [
        channel("Ringing"),
        channel("Up"),
        ResponseTemplate::new(404),
    ];
    pbx.will_answer("GET", &pbx.phone_channel(), answers).await;
    for expected in [PhoneLeg::Rings, PhoneLeg::Answered, PhoneLeg::None] {
        let leg = pbx.pbx().phone_of(pbx.call.call_id).await;
        assert_eq!(leg.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_withheld_number_calls_the_extension_anonymous() {
    let mut pbx = Pbx::start().await;
    pbx.call.kind = ringback_core::testing::without_number(pbx.call.kind);
    pbx.originate_answers([ok()]).await;
    pbx.bridge().await.unwrap();
    let body: Value = pbx.last_request().await.body_json().unwrap();
    assert_eq!(body["extension"], "anonymous");
    assert_eq!(body["variables"]["ORIGINAL_CALLER"], "anonymous");
    assert_eq!(body["callerId"], "\"Anonymous\" <anonymous>");
}

#[tokio::test]
async fn a_leg_that_exists_already_is_as_good_as_a_new_one() {
    let pbx = Pbx::start().await;
    pbx.originate_answers([already_exists()]).await;
    assert_eq!(pbx.bridge().await.unwrap(), Bridging::UnderWay);
    assert_eq!(pbx.originates().await, 1);
}

#[tokio::test]
async fn a_phone_that_registers_late_is_waited_for() {
    let pbx = Pbx::start().await;
    pbx.originate_answers([allocation_failed(), ok()]).await;
    pbx.will_answer("GET", ENDPOINT, [endpoint("offline"), endpoint("unknown")])
        .await;
    pbx.always_answers("GET", ENDPOINT, endpoint("online"))
        .await;
    pbx.always_answers("GET", CALLER_CHANNEL, ok()).await;
    assert_eq!(pbx.bridge().await.unwrap(), Bridging::UnderWay);

    let originate = format!("POST {}", pbx.phone_channel());
    let look = format!("GET {ENDPOINT}");
    let expected = [
        originate.clone(),
        look.clone(),
        look.clone(),
        look,
        format!("GET {CALLER_CHANNEL}"),
        originate,
    ];
    assert_eq!(pbx.asked().await, expected);
}

#[tokio::test]
async fn a_phone_does_not_ring_for_a_caller_who_left_while_it_registered() {
    let pbx = Pbx::start().await;
    pbx.originate_answers([allocation_failed()]).await;
    pbx.always_answers("GET", ENDPOINT, endpoint("online"))
        .await;
    pbx.always_answers("GET", CALLER_CHANNEL, channel_not_found())
        .await;
    assert_eq!(pbx.bridge().await.unwrap(), Bridging::CallerGone);
    assert_eq!(pbx.originates().await, 1);
}

#[tokio::test]
async fn a_phone_that_never_registers_is_offline() {
    let pbx = Pbx::start().await;
    pbx.originate_answers([allocation_failed()]).await;
    pbx.always_answers("GET", ENDPOINT, endpoint("offline"))
        .await;
    let began = clock::now();
    let time = Duration::from_millis(700);
    let error = pbx.bridge_for(time).await.unwrap_err();
    assert!(matches!(error, AsteriskError::PhoneOffline), "{error:?}");
    assert!(clock::now().since(began) < time + A_BIT);
    assert_eq!(pbx.originates().await, 1);
}

#[tokio::test]
async fn a_phone_is_not_waited_for_beyond_the_calls_deadline() {
    let mut pbx = Pbx::start().await;
    pbx.call.rings_until = clock::now() + Duration::from_millis(500);
    pbx.originate_answers([allocation_failed()]).await;
    pbx.always_answers("GET", ENDPOINT, endpoint("offline"))
        .await;
    let error = pbx.bridge().await.unwrap_err();
    assert!(matches!(error, AsteriskError::PhoneOffline), "{error:?}");
    assert!(clock::now() < pbx.call.rings_until + A_BIT);
}

#[tokio::test]
async fn a_phone_that_is_online_and_cannot_be_called_is_given_up_at_the_deadline() {
    let pbx = Pbx::start().await;
    pbx.always_answers("POST", &pbx.phone_channel(), allocation_failed())
        .await;
    pbx.always_answers("GET", ENDPOINT, endpoint("online"))
        .await;
    pbx.always_answers("GET", CALLER_CHANNEL, ok()).await;
    let bridging = pbx.bridge_for(Duration::from_millis(900));
    let error = tokio::time::timeout(Duration::from_secs(3), bridging)
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, AsteriskError::PhoneOffline), "{error:?}");
    let originates = pbx.originates().await;
    assert!(originates <= 5, "called {originates} times");
}

#[tokio::test]
async fn an_extension_without_an_endpoint_is_not_waited_for() {
    let pbx = Pbx::start().await;
    pbx.originate_answers([allocation_failed()]).await;
    pbx.always_answers("GET", ENDPOINT, message(404, "Endpoint not found"))
        .await;
    let began = clock::now();
    let error = pbx.bridge().await.unwrap_err();
    assert!(matches!(error, AsteriskError::NoSuchEndpoint), "{error:?}");
    assert!(clock::now().since(began) < Duration::from_secs(2));
}

#[tokio::test]
async fn a_wrong_password_is_a_refusal() {
    let pbx = Pbx::start().await;
    let unauthorized = || message(401, "Authentication required");
    pbx.originate_answers([unauthorized()]).await;
    pbx.always_answers("DELETE", CALLER_CHANNEL, unauthorized())
        .await;
    pbx.always_answers("GET", "/ari/asterisk/ping", unauthorized())
        .await;
    for error in [
        pbx.bridge().await.unwrap_err(),
        pbx.pbx().busy(&caller_leg()).await.unwrap_err(),
        pbx.pbx().ping().await.unwrap_err(),
    ] {
        let AsteriskError::Refused { status, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(pbx.asked().await.len(), 3, "none was tried again");
}

/// A PBX that accepts this password alone.
async fn pbx_that_accepts(password: &str) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::basic_auth("ringback", password))
        .respond_with(ok())
        .mount(&server)
        .await;
    Mock::given(wiremock::matchers::any())
        .respond_with(message(401, "Authentication required"))
        .with_priority(9)
        .mount(&server)
        .await;
    server
}

#[tokio::test]
async fn a_password_that_was_replaced_is_fetched_and_the_request_repeated() {
    let server = pbx_that_accepts("new-hush").await;
    let (secrets, secret) =
        testing::secret([secret("old-hush", None), secret("new-hush", None)]).await;
    let asterisk = asterisk_with(server.uri(), secret);
    let call = ringback_core::testing::a_call(clock::now());
    let leg = caller_leg();
    let bridging = asterisk.pbxs[0].bridge(&call, &leg, call.rings_until);
    assert_eq!(bridging.await.unwrap(), Bridging::UnderWay);
    asterisk.pbxs[0].ping().await.unwrap();

    let asked = testing::requests(&server).await;
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].body, asked[1].body);
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn a_wrong_password_that_was_not_replaced_is_shown_once() {
    let server = pbx_that_accepts("another").await;
    let (_secrets, secret) = testing::secret([secret("wrong-hush", None)]).await;
    let asterisk = asterisk_with(server.uri(), secret);
    let error = asterisk.pbxs[0].ping().await.unwrap_err();
    assert!(matches!(error, AsteriskError::Refused { .. }), "{error:?}");
    assert_eq!(testing::requests(&server).await.len(), 1);
}

#[tokio::test]
async fn a_certificate_authority_that_was_replaced_is_trusted_from_then_on() {
    let server = pbx_that_accepts("password-hush").await;
    let authority = rcgen::generate_simple_self_signed(["pbx".to_owned()]).unwrap();
    let good = authority.cert.pem();
    let (_secrets, secret) = testing::secret([
        secret("password-hush", Some("no certificate")),
        secret("password-hush", Some(&good)),
    ])
    .await;
    let asterisk = asterisk_with(server.uri(), secret);
    asterisk.pbxs[0].ping().await.unwrap();
    assert_eq!(asterisk.pbxs[0].trusts().await, Some(good));
}

#[tokio::test]
async fn another_internal_error_is_not_taken_for_a_sleeping_phone() {
    let pbx = Pbx::start().await;
    pbx.originate_answers([message(500, "Out of memory")]).await;
    let error = pbx.bridge().await.unwrap_err();
    assert!(matches!(error, AsteriskError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn an_asterisk_that_is_not_there_is_unreachable() {
    let pbx = Pbx {
        asterisk: asterisk_at(testing::nobody_there(), None),
        ..Pbx::start().await
    };
    for error in [
        pbx.bridge().await.unwrap_err(),
        pbx.pbx().hang_up(&caller_leg()).await.unwrap_err(),
        pbx.pbx().ping().await.unwrap_err(),
    ] {
        assert!(matches!(error, AsteriskError::Unreachable(..)), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_asterisk_closed_while_the_function_was_frozen_is_replaced() {
    let asterisk = asterisk_at(closing_after_each_answer(), None);
    asterisk.pbxs[0].ping().await.unwrap();
    // Blocks the runtime with everything on it, as Lambda does between two invocations.
    std::thread::sleep(Duration::from_millis(200));
    asterisk.pbxs[0].ping().await.unwrap();
}

/// A server that promises to keep its connections open, and does not.
fn closing_after_each_answer() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ari", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _request = connection.read(&mut [0; 4096]).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            connection.write_all(answer).unwrap();
            // Long enough for the client to take its connection back into its pool.
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    url
}

#[tokio::test]
async fn an_asterisk_that_does_not_answer_in_time_is_unreachable() {
    let pbx = Pbx::start().await;
    let slow = ok().set_delay(ari::REPLY_TIMEOUT + Duration::from_secs(2));
    pbx.always_answers("GET", "/ari/asterisk/ping", slow).await;
    let error = pbx.pbx().ping().await.unwrap_err();
    assert!(matches!(error, AsteriskError::Unreachable(..)), "{error:?}");
}

#[tokio::test]
async fn an_asterisk_that_has_not_booted_is_no_healthy_one() {
    let pbx = Pbx::start().await;
    let ping = "/ari/asterisk/ping";
    pbx.will_answer("GET", ping, [message(503, "Asterisk not booted"), ok()])
        .await;
    assert!(pbx.pbx().ping().await.is_err());
    pbx.pbx().ping().await.unwrap();
}

#[tokio::test]
async fn the_caller_hears_busy_once_however_often_it_is_asked_for() {
    let pbx = Pbx::start().await;
    pbx.will_answer(
        "DELETE",
        CALLER_CHANNEL,
        [no_content(), channel_not_found()],
    )
    .await;
    pbx.pbx().busy(&caller_leg()).await.unwrap();
    pbx.pbx().busy(&caller_leg()).await.unwrap();
    assert_eq!(pbx.last_request().await.url.query(), Some("reason=busy"));
}

#[tokio::test]
async fn a_caller_hears_busy_although_asterisk_is_starting_or_the_proxy_misses_it() {
    let pbx = Pbx::start().await;
    let proxy = |status| ResponseTemplate::new(status).set_body_string("<html>");
    let answers = [proxy(503), proxy(504), no_content()];
    pbx.will_answer("DELETE", CALLER_CHANNEL, answers).await;
    pbx.pbx().busy(&caller_leg()).await.unwrap();
}

#[tokio::test]
async fn a_leg_is_hung_up_normally() {
    let pbx = Pbx::start().await;
    let leg = ChannelId::of_phone(pbx.call.call_id);
    pbx.always_answers("DELETE", &pbx.phone_channel(), no_content())
        .await;
    pbx.pbx().hang_up(&leg).await.unwrap();
    assert_eq!(pbx.last_request().await.url.query(), Some("reason=normal"));
}

#[tokio::test]
async fn a_certificate_authority_that_is_none_is_named() {
    for no_certificate in [
        "hush",
        "-----BEGIN CERTIFICATE-----\nhush\n-----END CERTIFICATE-----",
    ] {
        let asterisk = asterisk_at("https://127.0.0.1:1/ari".to_owned(), Some(no_certificate));
        let error = asterisk.pbxs[0].ping().await.unwrap_err();
        assert!(
            matches!(error, AsteriskError::BadCertificate(_)),
            "{error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

#[tokio::test]
async fn no_password_shows_in_debug_or_in_an_error() {
    let pbx = Pbx::start().await;
    let error = pbx.bridge().await.unwrap_err();
    let shown = format!("{:?} {error} {error:?}", pbx.asterisk);
    assert!(!shown.contains("hush"), "{shown}");
}
