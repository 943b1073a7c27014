//! Several PBXs: which one is asked.

use super::*;
use crate::platform::clock;

const PHONE: &str = "/ari/endpoints/PJSIP/1002";

/// pbx1, pbx2, …, and 1002, who calls 1001 from whichever of them its phone is registered with.
struct Several {
    servers: Vec<MockServer>,
    asterisk: Asterisk,
    call: Call,
}

impl Several {
    async fn start(states: &[&str]) -> Self {
        let mut servers = Vec::new();
        for state in states {
            let server = MockServer::start().await;
            answers(&server, "GET", PHONE, endpoint(state)).await;
            servers.push(server);
        }
        let urls: Vec<String> = servers.iter().map(|server| server.uri()).collect();
        let mut call = ringback_core::testing::a_call(clock::now());
        call.kind = ringback_core::call::CallKind::BetweenApps {
            caller: Extension::try_from("1002").unwrap(),
        };
        (call.caller_leg, call.pbx) = (None, None);
        Self {
            servers,
            asterisk: asterisk_at(list(&urls), None),
            call,
        }
    }

    async fn call_caller(&self) -> Result<Calling, AsteriskError> {
        self.call_caller_within(Duration::from_secs(10)).await
    }

    async fn call_caller_within(&self, time: Duration) -> Result<Calling, AsteriskError> {
        let caller = self.call.kind.calling_app().unwrap();
        let until = clock::now() + time;
        self.asterisk.call_caller(&self.call, caller, until).await
    }

    async fn asked(&self, which: usize) -> usize {
        testing::requests(&self.servers[which]).await.len()
    }
}

fn list(urls: &[String]) -> String {
    let numbered = urls.iter().enumerate();
    let entries: Vec<String> = numbered
        .map(|(index, url)| format!("pbx{}={url}/ari", index + 1))
        .collect();
    entries.join(",")
}

async fn answers(server: &MockServer, verb: &str, to: &str, answer: ResponseTemplate) {
    let mock = Mock::given(method(verb)).and(path(to));
    mock.respond_with(answer).mount(server).await;
}

fn found(pbx: &str) -> Calling {
    Calling::Found(PbxName::try_from(pbx).unwrap())
}

#[tokio::test]
async fn an_apps_phone_is_found_at_the_first_pbx_that_has_it() {
    for (states, expected) in [
        (["online", "online"], "pbx1"),
        (["offline", "online"], "pbx2"),
        (["online", "offline"], "pbx1"),
    ] {
        let pbxs = Several::start(&states).await;
        assert_eq!(pbxs.call_caller().await.unwrap(), found(expected));
    }
}

#[tokio::test]
async fn nothing_is_called_before_the_call_knows_where_and_then_only_there() {
    let mut pbxs = Several::start(&["online", "online"]).await;
    let leg = format!("/ari/channels/ringback-caller-{}", pbxs.call.call_id);
    answers(&pbxs.servers[1], "POST", &leg, ok()).await;
    pbxs.call.pbx = PbxName::try_from("pbx2").ok();
    assert_eq!(pbxs.call_caller().await.unwrap(), Calling::UnderWay);
    assert_eq!((pbxs.asked(0).await, pbxs.asked(1).await), (0, 1));
}

#[tokio::test]
async fn a_frozen_pbx_costs_one_call_a_second_and_the_next_ones_nothing() {
    let pbxs = Several::start(&["unknown", "online"]).await;
    pbxs.servers[0].reset().await;
    let frozen = ok().set_delay(Duration::from_secs(20));
    answers(&pbxs.servers[0], "GET", PHONE, frozen).await;
    let began = clock::now();
    assert_eq!(pbxs.call_caller().await.unwrap(), found("pbx2"));
    assert!(clock::now().since(began) < PATIENCE + A_BIT);

    let asked = pbxs.asked(0).await;
    assert_eq!(pbxs.call_caller().await.unwrap(), found("pbx2"));
    assert_eq!(pbxs.asked(0).await, asked, "it is passed over");
}

#[tokio::test]
async fn a_pbx_that_is_not_there_is_passed_over_at_once() {
    let mut pbxs = Several::start(&["online"]).await;
    let urls = [testing::nobody_there(), pbxs.servers[0].uri()];
    pbxs.asterisk = asterisk_at(list(&urls), None);
    let began = clock::now();
    assert_eq!(pbxs.call_caller().await.unwrap(), found("pbx2"));
    assert!(clock::now().since(began) < PATIENCE);
}

#[tokio::test]
async fn when_all_are_passed_over_all_are_asked_again() {
    let pbxs = Several::start(&["online", "online"]).await;
    let silence: Result<bool, _> = Err(AsteriskError::Silent("testing"));
    for pbx in &pbxs.asterisk.pbxs {
        pbx.pass_over_if_dead(&silence, clock::now());
    }
    assert_eq!(pbxs.call_caller().await.unwrap(), found("pbx1"));
}

#[tokio::test]
async fn a_phone_that_is_nowhere_is_looked_for_and_then_offline() {
    let pbxs = Several::start(&["offline", "offline"]).await;
    let error = pbxs.call_caller_within(Duration::from_millis(500)).await;
    assert!(
        matches!(error, Err(AsteriskError::PhoneOffline)),
        "{error:?}"
    );
    assert!(pbxs.asked(0).await > 1);
}

#[tokio::test]
async fn a_call_is_where_its_leg_is() {
    let mut pbxs = Several::start(&["online", "online"]).await;
    let name = |call: &Call| {
        let pbx = pbxs.asterisk.of(call).unwrap();
        pbx.map(|pbx| pbx.name().to_string())
    };
    assert_eq!(name(&pbxs.call), None, "it has no leg anywhere");
    let mut call = pbxs.call.clone();
    call.caller_leg = Some(caller_leg());
    assert_eq!(name(&call).as_deref(), Some("pbx1"), "stored by old code");
    call.pbx = PbxName::try_from("pbx2").ok();
    assert_eq!(name(&call).as_deref(), Some("pbx2"));

    pbxs.call.pbx = PbxName::try_from("pbx9").ok();
    let error = pbxs.asterisk.of(&pbxs.call).unwrap_err();
    assert!(matches!(error, AsteriskError::NotListed(_)), "{error:?}");
}

#[tokio::test]
async fn each_pbx_says_how_it_is() {
    let pbxs = Several::start(&["online", "online", "online", "online"]).await;
    let ping = "/ari/asterisk/ping";
    let slow = ok().set_delay(Duration::from_secs(20));
    let states = [
        ok(),
        ResponseTemplate::new(401),
        slow,
        message(503, "not booted"),
    ];
    for (server, answer) in pbxs.servers.iter().zip(states) {
        answers(server, "GET", ping, answer).await;
    }
    let health = pbxs.asterisk.health(Duration::from_millis(500)).await;
    let words: Vec<&str> = health.iter().map(|(_, health)| health.as_str()).collect();
    assert_eq!(words, ["ok", "refused", "unreachable", "unreachable"]);
}

#[test]
fn one_url_is_one_pbx_and_a_list_has_names() {
    let names = |list: &str| {
        let pbxs = Pbxs::listed(list).unwrap();
        let names: Vec<String> = pbxs
            .0
            .iter()
            .map(|(name, url)| format!("{name} {url}"))
            .collect();
        names.join(", ")
    };
    assert_eq!(names("https://a:8089/ari/"), "pbx https://a:8089/ari");
    assert_eq!(
        names("pbx1=https://a/ari,pbx2=https://b/ari"),
        "pbx1 https://a/ari, pbx2 https://b/ari"
    );
    for nonsense in [
        "",
        "a:8089/ari",
        "https://a/ari,https://b/ari",
        "pbx1=https://a/ari,https://b/ari",
        "pbx1=https://a/ari,pbx1=https://b/ari",
        "PBX=https://a/ari",
        "pbx1=",
        "pbx1=https://a/ari,",
    ] {
        assert!(Pbxs::listed(nonsense).is_err(), "{nonsense}");
    }
}
