//! What a client without an account can do to a PBX: act as the trunk, reach ARI, hold connections, flood the logs.
//! The local stack must be running.

mod unauthenticated_client;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use ringback_e2e::fixture::{Conversation, Fixture, SOON, call_sid};
use ringback_local::pbx::source;
use ringback_local::settings::{PBXS, Settings};
use ringback_local::stack::{Pbx, Stack};
use ringback_sip::{Caller, Phone};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use unauthenticated_client::{
    Request, Transport, UnauthenticatedClient, ari_address, http, tcp, tls, wss_address,
};

/// Neither the trunk's nor the proxy's address.
const CLIENT_ADDRESS: [u8; 4] = [127, 0, 0, 66];
/// A client that tries to get another address banned.
const FORGER_ADDRESS: [u8; 4] = [127, 0, 0, 67];

#[tokio::test(flavor = "multi_thread")]
async fn only_the_trunks_address_is_the_trunk() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    for pbx in &fixture.stack.pbxs {
        for transport in Transport::ALL {
            for name in ["exotel", "exotel-identify", "anonymous"] {
                let invite = Request::new("INVITE", name, fixture.number_of("1001"))
                    .with("P-Asserted-Identity: \"Bank\" <sip:exotel@127.0.0.2>")
                    .with(&format!("X-Exotel-CallSid: {}", call_sid()));
                let mut client =
                    UnauthenticatedClient::connect(pbx, transport, CLIENT_ADDRESS.into()).await?;
                let answer = client.ask(&invite).await?;
                ensure!(is(&answer, 401), "{name} over {transport:?}: {answer}");
            }
        }
    }
    // The number rings only for the real trunk.
    let (caller, id) = app.is_called().await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "canceled").await?;
    assert_eq!(app.count_pushes("incoming_call").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_caller_numbered_like_an_extension_still_comes_from_the_trunk() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let caller = Caller::number("1002");
    let caller = fixture.dial_as("1001", caller, Some(&call_sid())).await?;
    let id = app.receives_call().await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "canceled").await?;
    Ok(())
}

/// All requests that start a transaction. A BYE or CANCEL without a call gets 481.
const REQUESTS: [&str; 9] = [
    "INVITE",
    "OPTIONS",
    "MESSAGE",
    "SUBSCRIBE",
    "REFER",
    "REGISTER",
    "INFO",
    "NOTIFY",
    "PUBLISH",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_an_account_gets_the_same_challenge_for_every_name() -> Result<()> {
    let fixture = Fixture::open().await?;
    let pbx = &fixture.stack.pbxs[0];
    for transport in Transport::ALL {
        for method in REQUESTS {
            let mut answers = BTreeSet::new();
            for name in ["1001", "exotel", "nobody"] {
                let to = if method == "REGISTER" { name } else { "1001" };
                let request = Request::new(method, name, to)
                    .with("Event: presence")
                    .with("Refer-To: <sip:1002@127.0.0.1>");
                let mut client =
                    UnauthenticatedClient::connect(pbx, transport, CLIENT_ADDRESS.into()).await?;
                let answer = client.ask(&request).await?;
                ensure!(is(&answer, 401), "{method} over {transport:?}: {answer}");
                answers.insert(shape(&answer));
            }
            ensure!(
                answers.len() == 1,
                "{method} reveals which accounts exist: {answers:?}"
            );
        }
    }
    Ok(())
}

/// An answer without the parts that differ between requests.
fn shape(answer: &str) -> String {
    let headers = answer.lines().map(|line| {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "WWW-Authenticate" => {
                let fields = line.split(',').filter(|field| !field.contains("nonce="));
                fields
                    .map(|field| field.split("opaque=").next().unwrap_or_default())
                    .collect()
            }
            _ => name.to_owned(),
        }
    });
    headers.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_can_only_act_as_itself() -> Result<()> {
    let fixture = Fixture::open().await?;
    let password = &fixture.stack.phone("1001").unwrap().sip_password;
    let number = fixture.number_of("1002");
    let app = fixture.app("1002").await?;
    let cases = [
        // The trunk's name with a phone's password.
        (Request::new("INVITE", "exotel", number), 401),
        // Phones can only receive calls.
        (Request::new("INVITE", "1001", number), 404),
        (Request::new("INVITE", "1001", "1002"), 404),
        // A phone registers its contact at another extension's address of record.
        (Request::new("REGISTER", "1001", "1002"), 404),
        (Request::new("REGISTER", "1001", "exotel"), 404),
        (Request::new("REGISTER", "1002", "1002"), 401),
        (Request::new("MESSAGE", "1001", "1002"), 501),
        (
            Request::new("REFER", "1001", "1002").with("Refer-To: <sip:1002@127.0.0.1>"),
            501,
        ),
        (
            Request::new("SUBSCRIBE", "1001", "1002").with("Event: presence"),
            603,
        ),
    ];
    for transport in Transport::ALL {
        for (request, expected) in &cases {
            let pbx = &fixture.stack.pbxs[0];
            let mut phone =
                UnauthenticatedClient::connect(pbx, transport, CLIENT_ADDRESS.into()).await?;
            let answer = phone.ask_as("1001", password, request).await?;
            ensure!(
                is(&answer, *expected),
                "{request:?} over {transport:?}: {answer}"
            );
        }
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(app.count_pushes("incoming_call").await?, 0);
    Ok(())
}

/// Asterisk ignores `allow_transfer` for `Replaces`, so the dialplan must reject each INVITE of a phone.
#[tokio::test(flavor = "multi_thread")]
async fn no_phone_takes_over_a_leg_of_a_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let talk = Conversation::start(&app, &mut fixture.phone("1002").await?).await?;
    let (pbx, password) = (
        &fixture.stack.pbxs[0],
        &fixture.stack.phone("1001").unwrap().sip_password,
    );
    for leg in [talk.caller.leg(), talk.callee.leg()] {
        let request = Request::new("INVITE", "1001", "1002").with(&leg.replaces());
        let mut phone =
            UnauthenticatedClient::connect(pbx, Transport::Udp, CLIENT_ADDRESS.into()).await?;
        let answer = phone.ask_as("1001", password, &request).await?;
        ensure!(is(&answer, 404), "{answer}");
    }
    talk.both_hear().await?;
    talk.end(&app).await?;
    Ok(())
}

/// The second PBX. This test changes its trunk.
const SECOND: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn no_call_comes_in_from_loopback_even_if_the_trunk_matches_it() -> Result<()> {
    let fixture = Fixture::open().await?;
    let asterisk = source::install(&Settings::from_environment()).await?;
    let file = asterisk
        .outside(&PBXS[SECOND])
        .join("etc/ringback-site/trunk.conf");
    let trunk = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{trunk}match = 127.0.0.1\n"))?;
    reload_pjsip(&fixture).await?;
    let outcome = invite_as_the_trunk_from_loopback(&fixture).await;
    std::fs::write(&file, trunk)?;
    reload_pjsip(&fixture).await?;
    outcome
}

async fn invite_as_the_trunk_from_loopback(fixture: &Fixture) -> Result<()> {
    let pbx = &fixture.stack.pbxs[SECOND];
    for transport in Transport::ALL {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let mut phone = UnauthenticatedClient::connect(pbx, transport, loopback).await?;
        let invite = Request::new("INVITE", "anybody", fixture.number_of("1001"));
        let answer = phone.ask(&invite).await?;
        // 401 would mean that the address does not match the trunk, and the test would prove nothing.
        ensure!(is(&answer, 403), "{transport:?}: {answer}");
    }
    Ok(())
}

async fn reload_pjsip(fixture: &Fixture) -> Result<()> {
    let ari = &fixture.stack.pbxs[SECOND].ari;
    for module in ["res_pjsip.so", "res_pjsip_endpoint_identifier_ip.so"] {
        let url = format!("{}/asterisk/modules/{module}", ari.local_url);
        let request = fixture.http.request(Method::PUT, url);
        let answer = request
            .basic_auth(&ari.username, Some(&ari.password))
            .send()
            .await?;
        // 409: this module has no configuration of its own to reload.
        ensure!(
            answer.status().is_success() || answer.status() == 409,
            "{answer:?}"
        );
    }
    Ok(())
}

/// The proxy forwards the ARI requests that the functions use, and only with the right password.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_forwards_only_the_functions_ari_requests() -> Result<()> {
    let fixture = Fixture::open().await?;
    for pbx in &fixture.stack.pbxs {
        let to = ari_address(pbx)?;
        let passed = [
            ("GET /ari/asterisk/ping", 200),
            ("GET /ari/endpoints/PJSIP/1001", 200),
            ("GET /ari/endpoints/PJSIP/nobody", 404),
            ("GET /ari/channels/1795149002.12", 404),
            (
                "GET /ari/channels/ringback-0192f0aa-7777-7000-8000-000000000001",
                404,
            ),
            (LEG_PROGRESS, 404),
            (BRIDGED_LEG, 404),
            (
                "GET /ari/channels/ringback-doctor-0192f0aa-7777-7000-8000-000000000001/variable?variable=RINGBACK_DOCTOR",
                404,
            ),
            ("GET /ari/asterisk/config/dynamic/res_pjsip/aor/1001", 200),
            (
                "GET /ari/asterisk/config/dynamic/res_pjsip/endpoint/nobody",
                404,
            ),
            ("DELETE /ari/channels/1795149002.12?reason=busy", 404),
            (
                "DELETE /ari/channels/pbx-1-1795149002.12?reason=normal",
                404,
            ),
            // The request lacks an endpoint, which Asterisk reports: so it has reached Asterisk.
            (
                "POST /ari/channels/ringback-0192f0aa-7777-7000-8000-000000000001",
                400,
            ),
            (
                "POST /ari/channels/ringback-caller-0192f0aa-7777-7000-8000-000000000001",
                400,
            ),
        ];
        for (line, expected) in passed {
            let answer = http(pbx, &to, &request(pbx, line, "")).await?;
            ensure!(is_http(&answer, expected), "{line}: {answer}");
            ensure!(
                answer.contains("\r\nserver: Ringback\r\n"),
                "{line} did not reach Asterisk: {answer}"
            );
        }
        for line in REFUSED_BY_ARI {
            let answer = http(pbx, &to, &request(pbx, line, "")).await?;
            is_refused(&answer, line)?;
        }
        let long = format!("Content-Length: 8193\r\n\r\n{}", " ".repeat(8193));
        let chunked = "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_owned();
        for (body, expected) in [(long, 413), (chunked, 400)] {
            let line = "POST /ari/channels/ringback-1";
            let answer = http(pbx, &to, &request(pbx, line, &body)).await?;
            ensure!(is_http(&answer, expected), "{answer}");
        }
    }
    Ok(())
}

const LEG_PROGRESS: &str = "GET /ari/channels/ringback-0192f0aa-7777-7000-8000-000000000001-1/variable?variable=\
EVAL%28%24%7BCHANNEL%28state%29%7D%20%24%7BCHANNEL_EXISTS%28%24%7BCALLER_CHANNEL%7D%29%7D%20%24%7BCHANNEL%28pjsip%2Ctarget_uri%29%7D%20\
%24%7BPJSIP_CONTACT%28%24%7BPJSIP_AOR%28%24%7BRINGBACK_PHONE%7D%2Ccontact%29%7D%2Curi%29%7D%20\
%24%7BPJSIP_CONTACT%28%24%7BPJSIP_AOR%28%24%7BRINGBACK_PHONE%7D%2Ccontact%29%7D%2Cexpiration_time%29%7D%29";
const BRIDGED_LEG: &str = "GET /ari/channels/1795149002.12/variable?variable=EVAL%28%24%7BSHARED%28RINGBACK_BRIDGED%29%7D%29";

const REFUSED_BY_ARI: [&str; 40] = [
    "GET /ari/channels",
    "GET /ari/channels/",
    "GET /ari/channels/..",
    "GET /ari/channels/%2e%2e",
    "GET /ari/channels/1.1/rtp_statistics",
    "POST /ari/channels",
    "POST /ari/channels/1795149002.12",
    "POST /ari/channels/ringback-1?endpoint=Local/1@exotel-trunk",
    "POST /ari/channels/ringback-1/record?name=a&format=wav",
    "DELETE /ari/channels/1795149002.12",
    "DELETE /ari/channels/1795149002.12?reason=busy&api_key=a:b",
    "POST /ari/asterisk/modules",
    "GET /ari/asterisk/modules",
    "PUT /ari/asterisk/modules/res_ari.so",
    "DELETE /ari/asterisk/modules/res_ari.so",
    "GET /ari/asterisk/info",
    "GET /ari/asterisk/variable?variable=RINGBACK_HOOK_SECRET",
    "GET /ari/asterisk/config/dynamic/res_pjsip/auth/1001",
    "PUT /ari/asterisk/config/dynamic/res_pjsip/aor/1001",
    "PUT /ari/asterisk/config/dynamic/res_pjsip/endpoint/1001-webrtc",
    "DELETE /ari/asterisk/config/dynamic/res_pjsip/endpoint/1001-0123456789ab-other",
    "GET /ari/channels/ringback-1/variable?variable=EVAL%28%24%7BRINGBACK_HOOK_SECRET%7D%29",
    "GET /ari/channels/1.1/variable?variable=RINGBACK_HOOK_SECRET",
    "POST /ari/channels/1.1/variable?variable=EVAL%28%24%7BSHARED%28RINGBACK_BRIDGED%29%7D%29",
    "GET /ari/endpoints",
    "GET /ari/endpoints/PJSIP/1001;x",
    "PUT /ari/endpoints/sendMessage?to=pjsip:1001&from=a",
    "GET /ari/events?app=ringback",
    "GET /ari/asterisk/ping?x=1",
    "GET //ari/asterisk/ping",
    "GET /ari//asterisk/ping",
    "GET /ari/../ari/asterisk/ping",
    "GET /ari/%2e%2e/ari/asterisk/ping",
    "GET /ari%2fasterisk/ping",
    "GET http://pbx/ari/asterisk/ping",
    "POST /ari/asterisk/ping",
    "OPTIONS /ari/asterisk/ping",
    "get /ari/asterisk/ping",
    "GET /ws",
    "GET /",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_forwards_only_websocket_sip_to_phones() -> Result<()> {
    let fixture = Fixture::open().await?;
    let upgrade = |protocol: &str| {
        format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
    };
    for pbx in &fixture.stack.pbxs {
        let to = wss_address(pbx)?;
        for protocol in ["sip", "xmpp, sip", "echo, sip"] {
            let answer = http(pbx, &to, &request(pbx, "GET /ws", &upgrade(protocol))).await?;
            ensure!(is_http(&answer, 101), "{protocol}: {answer}");
            let chosen = answer.to_ascii_lowercase();
            ensure!(chosen.contains("sec-websocket-protocol: sip"), "{answer}");
        }
        for protocol in ["echo", "ari", "sipx"] {
            let answer = http(pbx, &to, &request(pbx, "GET /ws", &upgrade(protocol))).await?;
            is_refused(&answer, protocol)?;
        }
        for line in [
            "GET //ws",
            "GET /ws/",
            "GET /ws?x",
            "GET /%77s",
            "GET /ws/../ari/asterisk/ping",
            "GET http://pbx/ws",
            "POST /ws",
            "GET /ari/events?app=ringback",
            "GET /ari/asterisk/ping",
            "GET /httpstatus",
            "GET /",
        ] {
            let answer = http(pbx, &to, &request(pbx, line, &upgrade("sip"))).await?;
            is_refused(&answer, line)?;
        }
        for line in ["GET /ws", "GET /ari/asterisk/ping", "GET /ari/channels"] {
            is_refused(&http(pbx, &to, &request(pbx, line, "")).await?, line)?;
        }
    }
    Ok(())
}

/// A request with ARI's password and optional headers and body.
fn request(pbx: &Pbx, line: &str, rest: &str) -> String {
    let password = STANDARD.encode(format!("{}:{}", pbx.ari.username, pbx.ari.password));
    let rest = if rest.is_empty() { "\r\n" } else { rest };
    format!("{line} HTTP/1.1\r\nHost: pbx\r\nAuthorization: Basic {password}\r\n{rest}")
}

/// Checks that the proxy rejected the request before Asterisk saw it.
fn is_refused(answer: &str, what: &str) -> Result<()> {
    ensure!(is_http(answer, 403), "{what}: {answer}");
    ensure!(
        !answer.contains("\r\nserver:"),
        "{what} reached Asterisk: {answer}"
    );
    Ok(())
}

fn is(answer: &str, status: u16) -> bool {
    answer.starts_with(&format!("SIP/2.0 {status} "))
}

fn is_http(answer: &str, status: u16) -> bool {
    answer.starts_with(&format!("HTTP/1.1 {status} "))
}

/// The number of idle connections at each port.
const IDLE: u8 = 200;
/// How much longer a call may take on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn idle_tls_connections_delay_no_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let before = call_takes(&fixture).await?;
    let pbx = &fixture.stack.pbxs[0];
    let ports = [ari_address(pbx)?, wss_address(pbx)?, pbx.sip.tls.clone()];
    let mut idle = JoinSet::new();
    for to in ports {
        for handshake in [false, true] {
            for place in 0..IDLE {
                let from = IpAddr::from([127, 0, 7, 1 + place % 10]);
                idle.spawn(hold(pbx.clone(), to.clone(), from, handshake));
            }
        }
    }
    // By now, all connections are open.
    sleep(Duration::from_secs(4)).await;
    let during = call_takes(&fixture).await?;
    let mut phone =
        UnauthenticatedClient::connect(pbx, Transport::Wss, CLIENT_ADDRESS.into()).await?;
    let password = &fixture.stack.phone("1001").unwrap().sip_password;
    let request = Request::new("INVITE", "1001", "1002");
    let answer = phone.ask_as("1001", password, &request).await?;
    ensure!(is(&answer, 404), "a WebSocket phone gets {answer}");
    ensure!(
        idle.len() == 6 * usize::from(IDLE),
        "some connections were given up"
    );
    ensure!(
        during < before + SLACK,
        "a call takes {during:?} with idle connections, {before:?} without"
    );
    Ok(())
}

/// Holds an idle connection, and opens a new one when it is closed.
async fn hold(pbx: Pbx, to: String, from: IpAddr, handshake: bool) {
    loop {
        if handshake && let Ok(mut held) = tls(&pbx, from, &to).await {
            let _closed = held.read_u8().await;
        } else if let Ok(mut held) = tcp(from, &to).await {
            let _closed = held.read_u8().await;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The time of a call from the first ring until both parties hear each other.
async fn call_takes(fixture: &Fixture) -> Result<Duration> {
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let began = Instant::now();
    let talking = Conversation::start(&app, &mut phone).await?;
    talking.both_hear().await?;
    let took = began.elapsed();
    talking.end(&app).await?;
    phone.unregister().await?;
    Ok(took)
}

/// Asterisk closes an upgraded connection that sends nothing for 32 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_websocket_is_closed() -> Result<()> {
    // Without a fixture, because that would keep all other tests waiting.
    let stack = Stack::load(&Settings::from_environment().state_dir())?;
    let mut silent =
        UnauthenticatedClient::connect(&stack.pbxs[0], Transport::Wss, CLIENT_ADDRESS.into())
            .await?;
    tokio::time::timeout(Duration::from_secs(50), silent.ended()).await?;
    Ok(())
}

/// New lines in one of Asterisk's logs.
struct Log {
    path: PathBuf,
    before: usize,
}

impl Log {
    fn at(path: PathBuf) -> Result<Self> {
        let before = std::fs::read_to_string(&path)?.len();
        Ok(Self { path, before })
    }

    async fn of_asterisk(name: &str) -> Result<Self> {
        let asterisk = source::install(&Settings::from_environment()).await?;
        Self::at(asterisk.outside(&PBXS[0]).join("log").join(name))
    }

    /// Waits a moment, so that the lines are complete.
    async fn news(&mut self) -> Result<String> {
        sleep(Duration::from_millis(500)).await;
        let text = std::fs::read_to_string(&self.path)?;
        let news = text[self.before..].to_owned();
        self.before = text.len();
        Ok(news)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fail2ban_finds_only_attackers() -> Result<()> {
    let fixture = Fixture::open().await?;
    let pbx = &fixture.stack.pbxs[0];
    let mut security = Log::of_asterisk("security.log").await?;

    call_takes(&fixture).await?;
    let normal = security.news().await?;
    ensure!(
        normal.contains("SuccessfulAuth"),
        "the login was not logged: {normal}"
    );
    assert_eq!(
        found_by_fail2ban(&normal)?,
        Vec::<String>::new(),
        "{normal}"
    );

    let number = fixture.number_of("1001");
    for (what, attempts) in [
        ("INVITE", vec![Request::new("INVITE", "exotel", number)]),
        ("login", vec![Request::new("REGISTER", "1001", "1001")]),
        ("unknown", vec![Request::new("REGISTER", "7777", "7777"); 6]),
    ] {
        for transport in Transport::ALL {
            let mut client =
                UnauthenticatedClient::connect(pbx, transport, CLIENT_ADDRESS.into()).await?;
            for attempt in &attempts {
                let mut attempt = attempt.clone();
                attempt.call_id = call_sid();
                match what {
                    "INVITE" => client.ask(&attempt).await?,
                    _ => client.ask_as("1001", "wrong", &attempt).await?,
                };
            }
            let attack = security.news().await?;
            let found = found_by_fail2ban(&attack)?;
            if transport == Transport::Wss {
                // All WebSocket phones have the proxy's address, so it must not be banned.
                assert_eq!(found, Vec::<String>::new(), "{what}: {attack}");
                continue;
            }
            let is_stranger = |host: &String| host == "127.0.0.66";
            ensure!(
                found.iter().all(is_stranger),
                "{what} over {transport:?}: {attack}"
            );
            ensure!(
                found.len() >= attempts.len(),
                "{what} over {transport:?}: {attack}"
            );
        }
    }
    Ok(())
}

/// Asterisk logs a Call-ID unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_gets_another_address_banned() -> Result<()> {
    let fixture = Fixture::open().await?;
    let pbx = &fixture.stack.pbxs[0];
    let mut security = Log::of_asterisk("security.log").await?;
    let forged = [
        "x\",RemoteAddress=\"IPV4/TCP/192.0.2.9/5060\",a=\"",
        "x\",LocalAddress=\"IPV4/TCP/192.0.2.1/5060\",RemoteAddress=\"IPV4/TCP/192.0.2.9/5060\",Challenge=\"",
        "x\",LocalAddress=\"a\",RemoteAddress=\"IPV4/TCP/192.0.2.9/5060\",Challenge=\"\",Response=\"\",ExpectedResponse=\"",
        "x\",LocalAddress=\"a\",RemoteAddress=\"IPV4/TCP/192.0.2.9/5060",
    ];
    for call_id in forged {
        for user in ["1001", "7777"] {
            let mut forger =
                UnauthenticatedClient::connect(pbx, Transport::Udp, FORGER_ADDRESS.into()).await?;
            let mut request = Request::new("REGISTER", user, user);
            request.call_id = call_id.to_owned();
            forger.ask_as(user, "wrong", &request).await?;
        }
    }
    let lines = security.news().await?;
    ensure!(
        lines.contains("192.0.2.9"),
        "the Call-ID is not in the log: {lines}"
    );
    let found = found_by_fail2ban(&lines)?;
    let hosts: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(hosts, BTreeSet::from(["127.0.0.67"]), "{lines}");
    let narrowed = fail2ban_regex(&lines, "[transport='TCP|TLS']")?;
    assert_eq!(narrowed, Vec::<String>::new(), "{lines}");
    Ok(())
}

/// The address in each line that the shipped fail2ban filter matches.
fn found_by_fail2ban(lines: &str) -> Result<Vec<String>> {
    fail2ban_regex(lines, "")
}

fn fail2ban_regex(lines: &str, options: &str) -> Result<Vec<String>> {
    let settings = Settings::from_environment();
    let log = settings.state("security-lines.log");
    std::fs::write(&log, lines)?;
    let filter = settings.repository().join("asterisk/fail2ban/filter.conf");
    let output = Command::new("fail2ban-regex")
        .args(["-o", "ip"])
        .arg(&log)
        .arg(format!("{}{options}", filter.display()))
        .output()
        .context("fail2ban is missing: `apt-get install fail2ban`")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && error.is_empty(), "{error}");
    let found = String::from_utf8(output.stdout)?;
    Ok(found.lines().map(ToOwned::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_does_not_flood_the_console_or_the_messages() -> Result<()> {
    let fixture = Fixture::open().await?;
    let pbx = &fixture.stack.pbxs[0];
    let mut messages = Log::of_asterisk("messages.log").await?;
    let mut console = Log::at(Settings::from_environment().state("asterisk.log"))?;
    let mut client =
        UnauthenticatedClient::connect(pbx, Transport::Udp, CLIENT_ADDRESS.into()).await?;
    for _ in 0..200 {
        let invite = Request::new("INVITE", "exotel", fixture.number_of("1001"));
        client.ask(&invite).await?;
        let login = Request::new("REGISTER", "1001", "1001");
        client.ask_as("1001", "wrong", &login).await?;
        let mut malformed = Request::new("OPTIONS", "\" <", "1001");
        malformed.headers = "From: <<<\r\n".to_owned();
        client.send(&malformed).await?;
    }
    for _ in 0..50 {
        let mut garbage = tcp(CLIENT_ADDRESS.into(), &pbx.sip.tls).await?;
        tokio::io::AsyncWriteExt::write_all(&mut garbage, b"GET / HTTP/1.0\r\n\r\n").await?;
        let _closed = garbage.read_u8().await;
        let mut garbage = tcp(CLIENT_ADDRESS.into(), &pbx.sip.address).await?;
        tokio::io::AsyncWriteExt::write_all(&mut garbage, b"GET / HTTP/1.0\r\n\r\n").await?;
    }
    for log in [&mut messages, &mut console] {
        let news = log.news().await?;
        ensure!(news.lines().count() < 10, "{news}");
    }
    // The PBX still serves those who may call.
    let mut phone: Phone = fixture.phone("1001").await?;
    tokio::time::timeout(SOON, phone.register()).await??;
    phone.unregister().await?;
    Ok(())
}
