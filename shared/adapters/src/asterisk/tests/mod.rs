//! ARI, simulated by an HTTP server that replies as Asterisk 22 does.

mod several_pbxs;

use crate::platform::clock;
use std::io::{Read, Write};

use serde_json::{Value, json};
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::testing;
use ringback_core::call::{CallEnd, CallStatus, CallType, EndReason, Rejection};
use ringback_core::ids::{CallId, CallSid, ChannelId, Extension, SipAccountName};

const AOR: &str = "/ari/asterisk/config/dynamic/res_pjsip/aor/1001";
const ENDPOINT: &str = "/ari/asterisk/config/dynamic/res_pjsip/endpoint/1001";
const CONTACT: &str = "sip:1001@192.0.2.7:5060";
const CALLER_LEG: &str = "1732175943.12";
const CALLERS_BRIDGE: &str = "/ari/channels/1732175943.12/variable";
/// How much longer than expected something may take on a busy machine.
const TOLERANCE: Duration = Duration::from_secs(1);
/// For answers that a test may replace. 5 is the default, and 1 the highest.
const LOW_PRIORITY: u8 = 10;
const CALLER_CHANNEL: &str = "/ari/channels/1732175943.12";

struct TestPbx {
    server: MockServer,
    asterisk: Asterisk,
    call: Call,
}

impl TestPbx {
    /// A PBX with a waiting caller.
    async fn start() -> Self {
        let server = MockServer::start().await;
        Mock::given(method("GET"))
            .and(path(CALLER_CHANNEL))
            .respond_with(channel("Ring"))
            .with_priority(LOW_PRIORITY)
            .mount(&server)
            .await;
        Mock::given(method("GET"))
            .and(path(ENDPOINT))
            .respond_with(endpoint_over(""))
            .with_priority(LOW_PRIORITY)
            .mount(&server)
            .await;
        Mock::given(method("GET"))
            .and(path_regex("/ari/channels/ringback-.*/variable"))
            .respond_with(leg("Ringing", CONTACT, CONTACT, 1_800_000_000))
            .with_priority(LOW_PRIORITY)
            .mount(&server)
            .await;
        let url = format!("{}/ari", server.uri());
        Self {
            server,
            asterisk: asterisk_at(url, None),
            call: ringback_core::testing::a_call(clock::now()),
        }
    }

    /// The next replies to such requests, in this order.
    async fn will_reply<const N: usize>(
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

    async fn always_replies(&self, verb: &str, to: &str, answer: ResponseTemplate) -> &Self {
        Mock::given(method(verb))
            .and(path(to))
            .respond_with(answer)
            .mount(&self.server)
            .await;
        self
    }

    fn phone_channel(&self) -> String {
        format!("/ari/channels/{}", self.call.phone_channel())
    }

    /// The path of the requests that watch the phone's leg.
    fn watched_leg(&self) -> String {
        format!("{}/variable", self.phone_channel())
    }

    async fn originate_replies<const N: usize>(&self, answers: [ResponseTemplate; N]) -> &Self {
        self.will_reply("POST", &self.phone_channel(), answers)
            .await
    }

    /// Sends busy to the caller, who waits on [`caller_leg`].
    async fn send_busy(&self) -> Result<BusyOutcome, AsteriskError> {
        let mut call = self.call.clone();
        call.caller_leg = Some(caller_leg());
        self.pbx().send_busy(&call).await
    }

    /// The only PBX.
    fn pbx(&self) -> &super::Pbx {
        self.asterisk.pbx_of(&self.call).unwrap().unwrap()
    }

    async fn dial_caller(&self) -> Result<DialCallerOutcome, AsteriskError> {
        let caller = CalledPhone::of_extension(self.call.kind.calling_app().unwrap());
        let until = clock::now() + Duration::from_secs(10);
        self.asterisk.dial_caller(&self.call, &caller, until).await
    }

    async fn bridge(&self) -> Result<BridgeOutcome, AsteriskError> {
        self.bridge_for(Duration::from_secs(10)).await
    }

    async fn bridge_for(&self, time: Duration) -> Result<BridgeOutcome, AsteriskError> {
        let until = clock::now() + time;
        let phone = CalledPhone::of_extension(&self.call.extension);
        self.pbx()
            .bridge(&self.call, &phone, &caller_leg(), until)
            .await
    }

    /// The requests so far, such as `GET /ari/asterisk/ping`. Fails if one of them lists all channels.
    async fn requests(&self) -> Vec<String> {
        let requests = testing::requests(&self.server).await;
        let lines: Vec<String> = requests
            .iter()
            .map(|request| format!("{} {}", request.method, request.url.path()))
            .collect();
        assert!(
            !lines.contains(&"GET /ari/channels".to_owned()),
            "{lines:?}"
        );
        lines
    }

    async fn originates(&self) -> usize {
        let requests = self.requests().await;
        requests
            .iter()
            .filter(|line| line.starts_with("POST"))
            .count()
    }

    /// The last request that is no look-up.
    async fn last_request(&self) -> Request {
        let mut requests = testing::requests(&self.server).await;
        requests.retain(|request| request.method != "GET");
        requests.pop().unwrap()
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
    Asterisk::new(PbxList::parse(&url).unwrap(), secret)
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

fn channel(state: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "state": state }))
}

fn endpoint(state: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "technology": "PJSIP", "resource": "1001", "state": state, "channel_ids": [],
    }))
}

/// The configuration of an AOR. Asterisk lists an empty contact if there is none.
fn aor(contact: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!([
        { "attribute": "max_contacts", "value": "1" },
        { "attribute": "contact", "value": contact },
    ]))
}

/// The configuration of an endpoint.
fn endpoint_over(transport: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!([
        { "attribute": "aors", "value": "1001" },
        { "attribute": "transport", "value": transport },
    ]))
}

/// The value of the expression with which a leg is watched.
fn leg(state: &str, target: &str, contact: &str, expires_at: u64) -> ResponseTemplate {
    let value = format!("{state} 1 {target} {contact} {expires_at}");
    ResponseTemplate::new(200).set_body_json(json!({ "value": value }))
}

/// The value of the variable that names the phone's leg to which a caller's is bridged.
fn bridged_to(call: CallId) -> ResponseTemplate {
    let leg = ChannelId::of_phone(call, 2);
    ResponseTemplate::new(200).set_body_json(json!({ "value": leg.as_str() }))
}

#[tokio::test]
async fn the_originate_request_has_what_the_dialplan_expects() {
    let mut pbx = TestPbx::start().await;
    let (sid, extension) = (CallSid::try_from("sid").unwrap(), &pbx.call.extension);
    pbx.call.call_id = CallId::of_ring(&sid, extension, 1);
    pbx.call.kind = ringback_core::testing::without_name(pbx.call.kind);
    pbx.originate_replies([ok()]).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);

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
            "RINGBACK_PHONE": "1001",
            "PJSIP_HEADER(add,X-Ringback-Call-Id)": pbx.call.call_id.to_string(),
            "CHANNEL(hangup_handler_push)": "ringback-phone-ended,s,1",
        },
    });
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
    assert_eq!(pbx.originates().await, 1, "one request is enough");
}

/// Extension 1002 starts a video call to 1001.
async fn a_video_call_between_apps() -> TestPbx {
    let mut pbx = TestPbx::start().await;
    pbx.call.kind = ringback_core::call::CallKind::BetweenApps {
        caller: Extension::try_from("1002").unwrap(),
        device: None,
    };
    pbx.call.call_type = CallType::Video;
    (pbx.call.caller_leg, pbx.call.pbx) = (None, None);
    pbx
}

#[tokio::test]
async fn the_phone_of_a_calling_app_is_called_into_the_context_for_callers() {
    let pbx = a_video_call_between_apps().await;
    let channel = format!("/ari/channels/ringback-caller-{}", pbx.call.call_id);
    pbx.will_reply("POST", &channel, [ok()]).await;
    assert_eq!(pbx.dial_caller().await.unwrap(), DialCallerOutcome::Dialing);
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
            "RINGBACK_PHONE": "1002",
            "PJSIP_HEADER(add,X-Ringback-Call-Id)": pbx.call.call_id.to_string(),
            "PJSIP_HEADER(add,Answer-Mode)": "Auto",
            "CHANNEL(hangup_handler_push)": "ringback-app-caller-ended,s,1",
        },
    });
    let request = pbx.last_request().await;
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
}

#[tokio::test]
async fn the_phone_of_a_calling_app_may_register_late() {
    let pbx = a_video_call_between_apps().await;
    let channel = format!("/ari/channels/ringback-caller-{}", pbx.call.call_id);
    pbx.will_reply("POST", &channel, [allocation_failed(), ok()])
        .await;
    let aors = [aor(""), aor("sip:1002@192.0.2.8")];
    pbx.will_reply("GET", &AOR.replace("1001", "1002"), aors)
        .await;
    assert_eq!(pbx.dial_caller().await.unwrap(), DialCallerOutcome::Dialing);
    assert_eq!(pbx.requests().await.len(), 4);
}

#[tokio::test]
async fn video_is_offered_to_both_phones_of_a_video_call() {
    let pbx = a_video_call_between_apps().await;
    pbx.originate_replies([ok()]).await;
    pbx.bridge().await.unwrap();
    let body: Value = pbx.last_request().await.body_json().unwrap();
    assert_eq!(
        (&body["extension"], &body["callerId"]),
        (&"1002".into(), &"<1002>".into())
    );
    assert_eq!(body["formats"], "opus,ulaw,alaw,vp8,h264");
}

#[tokio::test]
async fn the_channel_state_tells_whether_the_phone_has_answered() {
    let pbx = TestPbx::start().await;
    let answers = [
        channel("Ringing"),
        channel("Up"),
        ResponseTemplate::new(404),
    ];
    pbx.will_reply("GET", &pbx.phone_channel(), answers).await;
    for expected in [
        PhoneLegState::Ringing,
        PhoneLegState::Answered,
        PhoneLegState::None,
    ] {
        let leg = pbx.pbx().phone_leg_state(&pbx.call).await;
        assert_eq!(leg.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_withheld_number_calls_the_extension_anonymous() {
    let mut pbx = TestPbx::start().await;
    pbx.call.kind = ringback_core::testing::without_number(pbx.call.kind);
    pbx.originate_replies([ok()]).await;
    pbx.bridge().await.unwrap();
    let body: Value = pbx.last_request().await.body_json().unwrap();
    assert_eq!(body["extension"], "anonymous");
    assert_eq!(body["variables"]["ORIGINAL_CALLER"], "anonymous");
    assert_eq!(body["callerId"], "\"Anonymous\" <anonymous>");
}

#[tokio::test]
async fn a_leg_that_exists_already_counts_as_created() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([already_exists()]).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);
    assert_eq!(pbx.originates().await, 1);
}

#[tokio::test]
async fn a_phone_that_rings_at_once_costs_one_look_at_its_leg() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([ok()]).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);
    assert_eq!(
        pbx.requests().await[1..],
        [format!("GET {}", pbx.watched_leg())]
    );
}

#[tokio::test]
async fn a_phone_that_registers_elsewhere_while_its_invite_is_unanswered_has_moved() {
    let elsewhere = "sip:1001@198.51.100.9:5060";
    for registered in [
        leg("Down", CONTACT, elsewhere, 1_800_000_001),
        // The retransmissions of an INVITE to the same address are up to 16 s apart.
        leg("Down", CONTACT, CONTACT, 1_800_000_001),
    ] {
        let pbx = TestPbx::start().await;
        pbx.originate_replies([ok()]).await;
        let stuck = || leg("Down", CONTACT, CONTACT, 1_800_000_000);
        pbx.will_reply("GET", &pbx.watched_leg(), [stuck(), stuck(), registered])
            .await;
        assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::PhoneMoved);
        assert_eq!(pbx.originates().await, 1);
    }
}

#[tokio::test]
async fn a_phone_that_rings_is_not_dialed_elsewhere() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([ok()]).await;
    let rings = leg("Ringing", CONTACT, "sip:1001@198.51.100.9", 1_800_000_001);
    pbx.always_replies("GET", &pbx.watched_leg(), rings).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);
}

#[tokio::test]
async fn a_leg_is_watched_until_the_process_must_be_done() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([ok()]).await;
    // The phone has no registration any more.
    let stuck = leg("Down", CONTACT, "", 0);
    pbx.always_replies("GET", &pbx.watched_leg(), stuck).await;
    let start = clock::now();
    let time = Duration::from_millis(700);
    assert_eq!(
        pbx.bridge_for(time).await.unwrap(),
        BridgeOutcome::PhoneSilent
    );
    assert!(clock::now().since(start) < time + TOLERANCE);
}

#[tokio::test]
async fn the_leg_of_an_earlier_attempt_is_removed_before_the_next_is_dialed() {
    let mut pbx = TestPbx::start().await;
    let old = pbx.phone_channel();
    pbx.call.phone_attempt = 2;
    pbx.will_reply("GET", &old, [channel("Down")]).await;
    pbx.will_reply("DELETE", &old, [no_content()]).await;
    pbx.originate_replies([ok()]).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);
    let expected = [
        format!("GET {old}"),
        format!("DELETE {old}"),
        format!("POST {}", pbx.phone_channel()),
    ];
    assert_eq!(pbx.requests().await[..3], expected);
    // The phone rings at its new address, and must show no missed call for the old one.
    let removed = &pbx.server.received_requests().await.unwrap()[1];
    assert_eq!(removed.url.query(), Some("reason=answered_elsewhere"));
}

#[tokio::test]
async fn a_phone_that_has_answered_an_earlier_attempt_is_not_dialed_again() {
    let mut pbx = TestPbx::start().await;
    let old = pbx.phone_channel();
    pbx.call.phone_attempt = 2;
    pbx.will_reply("GET", &old, [channel("Up")]).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);
    assert_eq!(pbx.requests().await, [format!("GET {old}")]);
}

/// The other region may dial the phone under the same id after the first request has ended the leg.
#[tokio::test]
async fn an_earlier_leg_that_is_answered_after_a_lost_reply_is_not_ended() {
    for (then, expected) in [("Up", 1), ("Down", 2)] {
        let mut pbx = TestPbx::start().await;
        let old = pbx.phone_channel();
        pbx.call.phone_attempt = 2;
        let states = [channel("Ringing"), channel(then)];
        pbx.will_reply("GET", &old, states).await;
        let replies = [ResponseTemplate::new(504), no_content()];
        pbx.will_reply("DELETE", &old, replies).await;
        pbx.originate_replies([ok()]).await;
        assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);
        let requests = pbx.requests().await;
        let ends = format!("DELETE {old}");
        let ends = requests.iter().filter(|request| **request == ends).count();
        assert_eq!(ends, expected, "{then}: {requests:?}");
    }
}

/// Asterisk refuses to call it until it has answered an OPTIONS request, up to 10 s later.
#[tokio::test]
async fn a_phone_that_registered_again_at_the_same_address_is_called_there_at_once() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([allocation_failed(), ok()]).await;
    pbx.always_replies("GET", AOR, aor(CONTACT)).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);
    let body: Value = pbx.last_request().await.body_json().unwrap();
    assert_eq!(body["endpoint"], format!("PJSIP/1001/{CONTACT}"));
    assert_eq!(body["variables"]["CALLER_CHANNEL"], CALLER_LEG);
}

/// Asterisk accepts its REGISTER, but has no transport for its INVITE.
#[tokio::test]
async fn an_encrypted_phone_is_not_called_over_an_unencrypted_transport() {
    for (contact, expected) in [
        (CONTACT, 1),
        ("sip:1001@192.0.2.7:5060;transport=TCP", 1),
        ("sip:1001@192.0.2.7:5060;transport=TLS", 2),
    ] {
        let pbx = TestPbx::start().await;
        pbx.originate_replies([allocation_failed(), ok()]).await;
        pbx.always_replies("GET", AOR, aor(contact)).await;
        pbx.always_replies("GET", ENDPOINT, endpoint_over("transport-tls"))
            .await;
        let _outcome = pbx.bridge_for(Duration::from_millis(100)).await;
        assert_eq!(pbx.originates().await, expected, "{contact}");
    }
}

/// One account serves WebRTC and SIP over TLS. What the phone has registered shows which endpoint offers the right media.
#[tokio::test]
async fn a_phone_that_may_use_webrtc_is_called_with_the_endpoint_for_its_address() {
    let name = "1001-9f3a61c04b7e";
    let account = SipAccountName::try_from(name).unwrap();
    let transports = PhoneTransports {
        unencrypted: false,
        websocket: true,
    };
    let phone = CalledPhone::of_device(account, transports);
    for (contact, endpoint) in [
        (
            "sip:b1@192.0.2.7:45386;transport=WS",
            Some("1001-9f3a61c04b7e-webrtc"),
        ),
        (
            "sip:1001@192.0.2.7:5061;transport=TLS",
            Some("1001-9f3a61c04b7e"),
        ),
        (CONTACT, None),
    ] {
        let pbx = TestPbx::start().await;
        let aor_path = format!("/ari/asterisk/config/dynamic/res_pjsip/aor/{name}");
        pbx.always_replies("GET", &aor_path, aor(contact)).await;
        pbx.originate_replies([ok()]).await;
        let until = clock::now() + Duration::from_millis(100);
        let leg = caller_leg();
        let bridging = pbx.pbx().bridge(&pbx.call, &phone, &leg, until);
        let outcome = bridging.await;
        let Some(endpoint) = endpoint else {
            assert!(matches!(outcome, Err(AsteriskError::PhoneOffline)));
            assert_eq!(pbx.originates().await, 0, "{contact}");
            continue;
        };
        assert_eq!(outcome.unwrap(), BridgeOutcome::Dialing);
        let body: Value = testing::requests(&pbx.server).await[1].body_json().unwrap();
        assert_eq!(body["endpoint"], format!("PJSIP/{endpoint}/{contact}"));
        assert_eq!(body["variables"]["RINGBACK_PHONE"], name);
    }
}

/// Every end takes the caller's leg down before the phone's.
#[tokio::test]
async fn a_phone_that_is_dialed_after_the_call_has_ended_is_hung_up() {
    for state in ["Down", "Ringing"] {
        let pbx = TestPbx::start().await;
        pbx.originate_replies([ok()]).await;
        let value = format!("{state} 0 {CONTACT} {CONTACT} 1800000000");
        let without_caller = ResponseTemplate::new(200).set_body_json(json!({ "value": value }));
        pbx.will_reply("GET", &pbx.watched_leg(), [without_caller])
            .await;
        pbx.will_reply("DELETE", &pbx.phone_channel(), [no_content()])
            .await;
        assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::CallerGone);
        assert_eq!(pbx.requests().await.len(), 3);
    }
}

#[tokio::test]
async fn a_hang_up_ends_the_legs_of_all_attempts() {
    let mut pbx = TestPbx::start().await;
    (pbx.call.ready_at, pbx.call.caller_leg) = (Some(pbx.call.created_at), None);
    pbx.call.phone_attempt = 2;
    pbx.always_replies("DELETE", &pbx.phone_channel(), no_content())
        .await;
    pbx.pbx().hang_up(&pbx.call).await.unwrap();
    let legs = pbx.call.phone_channels();
    let expected: Vec<_> = legs
        .map(|leg| format!("DELETE /ari/channels/{leg}"))
        .collect();
    assert_eq!(pbx.requests().await, expected);
    assert_eq!(expected.len(), 2);
}

#[tokio::test]
async fn bridging_waits_until_the_phone_registers() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([allocation_failed(), ok()]).await;
    pbx.will_reply("GET", AOR, [aor(""), aor(""), aor(CONTACT)])
        .await;
    pbx.always_replies("GET", CALLER_CHANNEL, ok()).await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::Dialing);

    let originate = format!("POST {}", pbx.phone_channel());
    let lookup = format!("GET {AOR}");
    let expected = [
        originate.clone(),
        lookup.clone(),
        lookup.clone(),
        lookup,
        format!("GET {CALLER_CHANNEL}"),
        format!(
            "GET /ari/channels/{}",
            ChannelId::of_phone(pbx.call.call_id, 2)
        ),
        originate,
        format!("GET {}", pbx.watched_leg()),
    ];
    assert_eq!(pbx.requests().await, expected);
}

#[tokio::test]
async fn the_phone_does_not_ring_if_the_caller_hung_up_before_it_registered() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([allocation_failed()]).await;
    pbx.will_reply("GET", AOR, [aor(""), aor(CONTACT)]).await;
    pbx.always_replies("GET", CALLER_CHANNEL, channel_not_found())
        .await;
    assert_eq!(pbx.bridge().await.unwrap(), BridgeOutcome::CallerGone);
    assert_eq!(pbx.originates().await, 1);
}

#[tokio::test]
async fn a_phone_that_never_registers_is_offline() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([allocation_failed()]).await;
    pbx.always_replies("GET", AOR, aor("")).await;
    let start = clock::now();
    let time = Duration::from_millis(700);
    let error = pbx.bridge_for(time).await.unwrap_err();
    assert!(matches!(error, AsteriskError::PhoneOffline), "{error:?}");
    assert!(clock::now().since(start) < time + TOLERANCE);
    assert_eq!(pbx.originates().await, 1);
}

#[tokio::test]
async fn bridging_waits_no_longer_than_the_deadline_of_the_call() {
    let mut pbx = TestPbx::start().await;
    pbx.call.rings_until = clock::now() + Duration::from_millis(500);
    pbx.originate_replies([allocation_failed()]).await;
    pbx.always_replies("GET", AOR, aor("")).await;
    let error = pbx.bridge().await.unwrap_err();
    assert!(matches!(error, AsteriskError::PhoneOffline), "{error:?}");
    assert!(clock::now() < pbx.call.rings_until + TOLERANCE);
}

#[tokio::test]
async fn a_phone_that_is_registered_but_cannot_be_called_is_offline_at_the_deadline() {
    let pbx = TestPbx::start().await;
    pbx.always_replies("POST", &pbx.phone_channel(), allocation_failed())
        .await;
    pbx.always_replies("GET", AOR, aor(CONTACT)).await;
    pbx.always_replies("GET", CALLER_CHANNEL, ok()).await;
    let bridging = pbx.bridge_for(Duration::from_millis(900));
    let error = tokio::time::timeout(Duration::from_secs(3), bridging)
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, AsteriskError::PhoneOffline), "{error:?}");
    let originates = pbx.originates().await;
    assert!(originates <= 10, "called {originates} times");
}

#[tokio::test]
async fn an_extension_without_an_endpoint_fails_at_once() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([allocation_failed()]).await;
    let not_found = message(404, "Object with id '1001' not found");
    pbx.always_replies("GET", AOR, not_found).await;
    let start = clock::now();
    let error = pbx.bridge().await.unwrap_err();
    assert!(matches!(error, AsteriskError::NoSuchEndpoint), "{error:?}");
    assert!(clock::now().since(start) < Duration::from_secs(2));
}

#[tokio::test]
async fn a_wrong_password_is_reported_as_refused() {
    let pbx = TestPbx::start().await;
    let unauthorized = || message(401, "Authentication required");
    pbx.originate_replies([unauthorized()]).await;
    pbx.always_replies("GET", CALLER_CHANNEL, unauthorized())
        .await;
    pbx.always_replies("GET", "/ari/asterisk/ping", unauthorized())
        .await;
    for error in [
        pbx.bridge().await.unwrap_err(),
        pbx.send_busy().await.unwrap_err(),
        pbx.pbx().ping().await.unwrap_err(),
    ] {
        let AsteriskError::Refused { status, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(pbx.requests().await.len(), 3, "no request was retried");
}

/// A PBX that accepts only this password.
async fn pbx_that_accepts(password: &str) -> MockServer {
    let server = MockServer::start().await;
    let authorized = || wiremock::matchers::basic_auth("ringback", password);
    Mock::given(authorized())
        .and(path_regex("/variable$"))
        .respond_with(leg("Ringing", CONTACT, CONTACT, 0))
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(authorized())
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
async fn a_request_is_repeated_with_the_rotated_password() {
    let server = pbx_that_accepts("new-hush").await;
    let (secrets, secret) =
        testing::secret([secret("old-hush", None), secret("new-hush", None)]).await;
    let asterisk = asterisk_with(server.uri(), secret);
    let call = ringback_core::testing::a_call(clock::now());
    let leg = caller_leg();
    let phone = CalledPhone::of_extension(&call.extension);
    let bridging = asterisk.pbxs[0].bridge(&call, &phone, &leg, call.rings_until);
    assert_eq!(bridging.await.unwrap(), BridgeOutcome::Dialing);
    asterisk.pbxs[0].ping().await.unwrap();

    let requests = testing::requests(&server).await;
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(testing::requests(&secrets).await.len(), 2);
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_if_the_secret_has_no_newer_one() {
    let server = pbx_that_accepts("another").await;
    let (_secrets, secret) = testing::secret([secret("wrong-hush", None)]).await;
    let asterisk = asterisk_with(server.uri(), secret);
    let error = asterisk.pbxs[0].ping().await.unwrap_err();
    assert!(matches!(error, AsteriskError::Refused { .. }), "{error:?}");
    assert_eq!(testing::requests(&server).await.len(), 1);
}

#[tokio::test]
async fn a_rotated_certificate_authority_is_trusted() {
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
    assert_eq!(asterisk.pbxs[0].trusted_ca().await, Some(good));
}

#[tokio::test]
async fn another_internal_error_does_not_count_as_an_offline_phone() {
    let pbx = TestPbx::start().await;
    pbx.originate_replies([message(500, "Out of memory")]).await;
    let error = pbx.bridge().await.unwrap_err();
    assert!(matches!(error, AsteriskError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_is_reported_as_unreachable() {
    let pbx = TestPbx {
        asterisk: asterisk_at(testing::closed_port(), None),
        ..TestPbx::start().await
    };
    for error in [
        pbx.bridge().await.unwrap_err(),
        pbx.send_busy().await.unwrap_err(),
        pbx.pbx().ping().await.unwrap_err(),
    ] {
        assert!(matches!(error, AsteriskError::Unreachable(..)), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_closed_while_the_function_was_frozen_is_replaced() {
    let asterisk = asterisk_at(closing_after_each_answer(), None);
    asterisk.pbxs[0].ping().await.unwrap();
    // Blocks the async runtime and all its tasks, as Lambda does between two invocations.
    std::thread::sleep(Duration::from_millis(200));
    asterisk.pbxs[0].ping().await.unwrap();
}

/// A server that offers keep-alive and closes the connection all the same.
fn closing_after_each_answer() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ari", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _request = connection.read(&mut [0; 4096]).unwrap();
            let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            connection.write_all(reply).unwrap();
            // By then, the client has put the connection back into its pool.
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    url
}

#[tokio::test]
async fn a_late_reply_is_reported_as_unreachable() {
    let pbx = TestPbx::start().await;
    let slow = ok().set_delay(ari_client::REPLY_TIMEOUT + Duration::from_secs(2));
    pbx.always_replies("GET", "/ari/asterisk/ping", slow).await;
    let error = pbx.pbx().ping().await.unwrap_err();
    assert!(matches!(error, AsteriskError::Unreachable(..)), "{error:?}");
}

#[tokio::test]
async fn a_pbx_that_has_not_booted_is_unhealthy() {
    let pbx = TestPbx::start().await;
    let ping = "/ari/asterisk/ping";
    pbx.will_reply("GET", ping, [message(503, "Asterisk not booted"), ok()])
        .await;
    assert!(pbx.pbx().ping().await.is_err());
    pbx.pbx().ping().await.unwrap();
}

#[tokio::test]
async fn sending_busy_twice_is_no_error() {
    let pbx = TestPbx::start().await;
    let states = [channel("Ring"), channel_not_found()];
    pbx.will_reply("GET", CALLER_CHANNEL, states).await;
    let answers = [no_content(), channel_not_found()];
    pbx.will_reply("DELETE", CALLER_CHANNEL, answers).await;
    for _ in 0..2 {
        assert_eq!(pbx.send_busy().await.unwrap(), BusyOutcome::Ended);
    }
    assert_eq!(pbx.last_request().await.url.query(), Some("reason=busy"));
}

/// Busy and declined are 486 for every trunk.
#[tokio::test]
async fn only_an_unanswered_caller_of_the_trunk_is_rejected_with_the_configured_status() {
    use CallStatus::{Declined, Failed, TimedOut};
    use Rejection::{BusyHere, TemporarilyUnavailable};
    for (status, unanswered, expected) in [
        (TimedOut, BusyHere, "busy"),
        (TimedOut, TemporarilyUnavailable, "no_answer"),
        (Failed, TemporarilyUnavailable, "no_answer"),
        (Declined, TemporarilyUnavailable, "busy"),
    ] {
        let mut pbx = TestPbx::start().await;
        pbx.call.status = status;
        pbx.call.settings.unanswered = unanswered;
        pbx.will_reply("GET", CALLER_CHANNEL, [channel("Ring")])
            .await;
        pbx.always_replies("DELETE", CALLER_CHANNEL, no_content())
            .await;
        pbx.send_busy().await.unwrap();
        let query = format!("reason={expected}");
        assert_eq!(
            pbx.last_request().await.url.query(),
            Some(query.as_str()),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn a_phone_gets_the_reason_that_the_call_was_answered_elsewhere() {
    for (reason, expected) in [
        (EndReason::CallerHungUp, "reason=normal"),
        (EndReason::AnsweredElsewhere, "reason=answered_elsewhere"),
        (EndReason::DeclinedElsewhere, "reason=answered_elsewhere"),
    ] {
        let mut pbx = TestPbx::start().await;
        let at = pbx.call.created_at;
        pbx.call.ready_at = Some(at);
        pbx.call.ended = Some(CallEnd { at, reason });
        let phone = pbx.phone_channel();
        pbx.always_replies("DELETE", &phone, no_content()).await;
        pbx.pbx().hang_up(&pbx.call).await.unwrap();
        assert_eq!(pbx.last_request().await.url.query(), Some(expected));
    }
}

#[tokio::test]
async fn sending_busy_ends_the_leg_of_a_phone_that_rings() {
    let mut pbx = TestPbx::start().await;
    pbx.call.ready_at = Some(pbx.call.created_at);
    pbx.will_reply("GET", CALLER_CHANNEL, [channel("Ring")])
        .await;
    for leg in [CALLER_CHANNEL, &pbx.phone_channel()] {
        pbx.will_reply("DELETE", leg, [no_content()]).await;
    }
    assert_eq!(pbx.send_busy().await.unwrap(), BusyOutcome::Ended);
    assert_eq!(pbx.requests().await.len(), 3);
}

/// The other region has bridged the call, maybe with an attempt that only it knows, or the report of the bridge was lost.
#[tokio::test]
async fn sending_busy_does_not_end_a_conversation() {
    let pbx = TestPbx::start().await;
    pbx.will_reply("GET", CALLER_CHANNEL, [channel("Up")]).await;
    pbx.will_reply("GET", CALLERS_BRIDGE, [bridged_to(pbx.call.call_id)])
        .await;
    assert_eq!(pbx.send_busy().await.unwrap(), BusyOutcome::IsBridged);
}

#[tokio::test]
async fn sending_busy_leaves_a_caller_alone_who_talks_in_another_call() {
    let pbx = TestPbx::start().await;
    pbx.will_reply("GET", CALLER_CHANNEL, [channel("Up")]).await;
    pbx.will_reply("GET", CALLERS_BRIDGE, [bridged_to(CallId::fresh())])
        .await;
    assert_eq!(pbx.send_busy().await.unwrap(), BusyOutcome::Ended);
    assert_eq!(pbx.requests().await.len(), 2);
}

/// The leg of a calling app is up while it waits.
#[tokio::test]
async fn a_calling_app_hears_busy_unless_the_called_phone_has_answered() {
    let pbx = a_video_call_between_apps().await;
    let caller = format!("/ari/channels/ringback-caller-{}", pbx.call.call_id);
    let phone = pbx.phone_channel();
    pbx.will_reply("GET", &phone, [channel("Up"), channel_not_found()])
        .await;
    pbx.will_reply("DELETE", &caller, [no_content()]).await;
    for expected in [BusyOutcome::IsBridged, BusyOutcome::Ended] {
        assert_eq!(pbx.pbx().send_busy(&pbx.call).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn sending_busy_is_retried_while_asterisk_boots() {
    let pbx = TestPbx::start().await;
    let proxy = |status| ResponseTemplate::new(status).set_body_string("<html>");
    let states = [proxy(503), channel("Ring")];
    pbx.will_reply("GET", CALLER_CHANNEL, states).await;
    let answers = [proxy(503), proxy(504), no_content()];
    pbx.will_reply("DELETE", CALLER_CHANNEL, answers).await;
    pbx.send_busy().await.unwrap();
}

#[tokio::test]
async fn a_hang_up_ends_the_callers_leg_first() {
    let mut pbx = TestPbx::start().await;
    pbx.call.caller_leg = Some(caller_leg());
    pbx.call.ready_at = Some(pbx.call.created_at);
    let legs = [CALLER_CHANNEL, &pbx.phone_channel()];
    for leg in legs {
        pbx.always_replies("DELETE", leg, no_content()).await;
    }
    pbx.pbx().hang_up(&pbx.call).await.unwrap();
    let expected = legs.map(|leg| format!("DELETE {leg}"));
    assert_eq!(pbx.requests().await, expected);
    assert_eq!(pbx.last_request().await.url.query(), Some("reason=normal"));
}

#[tokio::test]
async fn a_malformed_certificate_authority_is_reported_without_its_text() {
    for malformed in [
        "hush",
        "-----BEGIN CERTIFICATE-----\nhush\n-----END CERTIFICATE-----",
    ] {
        let asterisk = asterisk_at("https://127.0.0.1:1/ari".to_owned(), Some(malformed));
        let error = asterisk.pbxs[0].ping().await.unwrap_err();
        assert!(
            matches!(error, AsteriskError::BadCertificate(_)),
            "{error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

#[tokio::test]
async fn debug_output_and_errors_contain_no_password() {
    let pbx = TestPbx::start().await;
    let error = pbx.bridge().await.unwrap_err();
    let text = format!("{:?} {error} {error:?}", pbx.asterisk);
    assert!(!text.contains("hush"), "{text}");
}
