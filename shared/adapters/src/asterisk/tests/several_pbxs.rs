//! How one of several PBXs is chosen.

use super::*;
use crate::platform::clock;

const PHONE: &str = "/ari/endpoints/PJSIP/1002";

/// The PBXs pbx1, pbx2 and so on, and a call of extension 1002 to 1001. The states say where 1002's phone is registered.
struct SeveralPbxs {
    servers: Vec<MockServer>,
    asterisk: Asterisk,
    call: Call,
}

impl SeveralPbxs {
    async fn start(states: &[&str]) -> Self {
        let mut servers = Vec::new();
        for state in states {
            let server = MockServer::start().await;
            reply_to(&server, "GET", PHONE, endpoint(state)).await;
            servers.push(server);
        }
        let urls: Vec<String> = servers.iter().map(|server| server.uri()).collect();
        let mut call = ringback_core::testing::a_call(clock::now());
        call.kind = ringback_core::call::CallKind::BetweenApps {
            caller: Extension::try_from("1002").unwrap(),
            device: None,
        };
        (call.caller_leg, call.pbx) = (None, None);
        Self {
            servers,
            asterisk: asterisk_at(list(&urls), None),
            call,
        }
    }

    async fn dial_caller(&self) -> Result<DialCallerOutcome, AsteriskError> {
        self.dial_caller_within(Duration::from_secs(10)).await
    }

    async fn dial_caller_within(&self, time: Duration) -> Result<DialCallerOutcome, AsteriskError> {
        let caller = SipAccountName::of_extension(self.call.kind.calling_app().unwrap());
        let until = clock::now() + time;
        self.asterisk.dial_caller(&self.call, &caller, until).await
    }

    async fn requests_to(&self, index: usize) -> usize {
        testing::requests(&self.servers[index]).await.len()
    }
}

fn list(urls: &[String]) -> String {
    let numbered = urls.iter().enumerate();
    let entries: Vec<String> = numbered
        .map(|(index, url)| format!("pbx{}={url}/ari", index + 1))
        .collect();
    entries.join(",")
}

async fn reply_to(server: &MockServer, verb: &str, to: &str, reply: ResponseTemplate) {
    let mock = Mock::given(method(verb)).and(path(to));
    mock.respond_with(reply).mount(server).await;
}

fn registered_at(pbx: &str) -> DialCallerOutcome {
    DialCallerOutcome::RegisteredAt(PbxName::try_from(pbx).unwrap())
}

#[tokio::test]
async fn the_first_pbx_where_the_phone_is_registered_is_chosen() {
    for (states, expected) in [
        (["online", "online"], "pbx1"),
        (["offline", "online"], "pbx2"),
        (["online", "offline"], "pbx1"),
    ] {
        let pbxs = SeveralPbxs::start(&states).await;
        assert_eq!(pbxs.dial_caller().await.unwrap(), registered_at(expected));
    }
}

#[tokio::test]
async fn the_phone_is_called_only_at_the_pbx_of_the_call() {
    let mut pbxs = SeveralPbxs::start(&["online", "online"]).await;
    let leg = format!("/ari/channels/ringback-caller-{}", pbxs.call.call_id);
    reply_to(&pbxs.servers[1], "POST", &leg, ok()).await;
    pbxs.call.pbx = PbxName::try_from("pbx2").ok();
    assert_eq!(
        pbxs.dial_caller().await.unwrap(),
        DialCallerOutcome::Dialing
    );
    assert_eq!(
        (pbxs.requests_to(0).await, pbxs.requests_to(1).await),
        (0, 1)
    );
}

#[tokio::test]
async fn a_frozen_pbx_delays_one_call_by_a_second_and_the_next_calls_not_at_all() {
    let pbxs = SeveralPbxs::start(&["unknown", "online"]).await;
    pbxs.servers[0].reset().await;
    let frozen = ok().set_delay(Duration::from_secs(20));
    reply_to(&pbxs.servers[0], "GET", PHONE, frozen).await;
    let start = clock::now();
    assert_eq!(pbxs.dial_caller().await.unwrap(), registered_at("pbx2"));
    assert!(clock::now().since(start) < LOOKUP_TIMEOUT + TOLERANCE);

    let before = pbxs.requests_to(0).await;
    assert_eq!(pbxs.dial_caller().await.unwrap(), registered_at("pbx2"));
    assert_eq!(pbxs.requests_to(0).await, before, "it is skipped");
}

#[tokio::test]
async fn a_pbx_with_a_closed_port_is_skipped_at_once() {
    let mut pbxs = SeveralPbxs::start(&["online"]).await;
    let urls = [testing::closed_port(), pbxs.servers[0].uri()];
    pbxs.asterisk = asterisk_at(list(&urls), None);
    let start = clock::now();
    assert_eq!(pbxs.dial_caller().await.unwrap(), registered_at("pbx2"));
    assert!(clock::now().since(start) < LOOKUP_TIMEOUT);
}

#[tokio::test]
async fn all_pbxs_are_queried_again_when_all_are_skipped() {
    let pbxs = SeveralPbxs::start(&["online", "online"]).await;
    let silence: Result<bool, _> = Err(AsteriskError::Silent("testing"));
    for pbx in &pbxs.asterisk.pbxs {
        pbx.skip_after_failure(&silence, clock::now());
    }
    assert_eq!(pbxs.dial_caller().await.unwrap(), registered_at("pbx1"));
}

#[tokio::test]
async fn a_phone_that_is_registered_nowhere_is_polled_for_and_then_offline() {
    let pbxs = SeveralPbxs::start(&["offline", "offline"]).await;
    let error = pbxs.dial_caller_within(Duration::from_millis(500)).await;
    assert!(
        matches!(error, Err(AsteriskError::PhoneOffline)),
        "{error:?}"
    );
    assert!(pbxs.requests_to(0).await > 1);
}

#[tokio::test]
async fn a_call_is_on_the_pbx_of_the_callers_leg() {
    let mut pbxs = SeveralPbxs::start(&["online", "online"]).await;
    let name = |call: &Call| {
        let pbx = pbxs.asterisk.pbx_of(call).unwrap();
        pbx.map(|pbx| pbx.name().to_string())
    };
    assert_eq!(name(&pbxs.call), None, "it has no leg yet");
    let mut call = pbxs.call.clone();
    call.caller_leg = Some(caller_leg());
    assert_eq!(
        name(&call).as_deref(),
        Some("pbx1"),
        "stored without the name of its PBX"
    );
    call.pbx = PbxName::try_from("pbx2").ok();
    assert_eq!(name(&call).as_deref(), Some("pbx2"));

    pbxs.call.pbx = PbxName::try_from("pbx9").ok();
    let error = pbxs.asterisk.pbx_of(&pbxs.call).unwrap_err();
    assert!(matches!(error, AsteriskError::NotListed(_)), "{error:?}");
}

#[tokio::test]
async fn the_health_of_each_pbx_is_reported() {
    let pbxs = SeveralPbxs::start(&["online", "online", "online", "online"]).await;
    let ping = "/ari/asterisk/ping";
    let slow = ok().set_delay(Duration::from_secs(20));
    let states = [
        ok(),
        ResponseTemplate::new(401),
        slow,
        message(503, "not booted"),
    ];
    for (server, reply) in pbxs.servers.iter().zip(states) {
        reply_to(server, "GET", ping, reply).await;
    }
    let health = pbxs.asterisk.health(Duration::from_millis(500)).await;
    let words: Vec<&str> = health.iter().map(|(_, health)| health.as_str()).collect();
    assert_eq!(words, ["ok", "refused", "unreachable", "unreachable"]);
}
