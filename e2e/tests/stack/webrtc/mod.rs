//! A WebRTC phone (JsSIP in a real Chromium) in a whole call. Needs the running stack and the phone's script (`make
//! e2e/tests/stack/webrtc/dist/phone.js`).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;
use reqwest::StatusCode;
use ringback_e2e::browser::Browser;
use ringback_e2e::fixture::{App, Fixture, SOON};
use ringback_e2e::sip_account::SipAccount;
use ringback_local::stack::Stack;
use ringback_sip::OutgoingCall;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::calls::until;

/// The extension with the WebRTC phone.
const EXTENSION: &str = "1004";
/// The packets in one second of audio.
const HEARD: u64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_registers_over_wss_is_called_by_the_trunk_and_exchanges_media() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app(EXTENSION).await?;
    let caller = fixture.dial(EXTENSION).await?;
    let id = app.receives_call().await?;
    let phone = WebPhone::open(&fixture.stack).await?;
    let account = fixture.stack.phone(EXTENSION).unwrap();
    phone
        .register(&account.uri, &account.extension, &account.sip_password)
        .await?;
    accept_ready(&app, &id).await?;
    talks(&phone, &app, &caller, &id).await?;

    phone.run("window.phone.hangUp()").await?;
    caller.ended(SOON).await?;
    app.wait_for_status(&id, "completed").await?;
    phone.browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_its_own_account_uses_webrtc_or_tls_as_it_registers() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut app = fixture.unregistered_app("1001");
    let mut names = BTreeSet::new();
    for uses_webrtc in [true, false, true, false] {
        // The account keeps its name, with a new password.
        app.push_token = format!("token-{}", uuid::Uuid::new_v4().simple());
        let account = SipAccount::of(&app).await?;
        names.insert(account.text("username").to_owned());
        let (caller, id) = app.is_called().await?;
        if uses_webrtc {
            let phone = WebPhone::open(&fixture.stack).await?;
            let (user, password) = (account.text("username"), account.text("password"));
            let uri = account.uri(0, "wss:")?;
            phone.register(uri, user, password).await?;
            accept_ready(&app, &id).await?;
            talks(&phone, &app, &caller, &id).await?;
            caller.hang_up().await?;
            phone.becomes("ended").await?;
            phone.browser.close().await?;
        } else {
            let mut phone = account.phone(&fixture, 0, true).await?;
            phone.register().await?;
            accept_ready(&app, &id).await?;
            let called = phone.next_call(SOON).await?;
            // SDES, RFC 4568.
            ensure!(called.offer().contains("a=crypto:"), "{}", called.offer());
            called.answer().await?;
            caller.answered(SOON).await?;
            called.media().hears(caller.media(), SOON).await?;
            caller.media().hears(called.media(), SOON).await?;
            caller.hang_up().await?;
        }
        app.wait_for_status(&id, "completed").await?;
    }
    assert_eq!(names.len(), 1, "{names:?}");
    app.unregister().await
}

/// Waits until the caller and the browser hear each other, over encrypted media.
async fn talks(phone: &WebPhone, app: &App<'_>, caller: &OutgoingCall, id: &str) -> Result<()> {
    phone.becomes("talking").await?;
    caller.answered(SOON).await?;
    app.wait_for_status(id, "in_progress").await?;
    let offer = phone.read("offer").await?;
    let offer = offer.as_str().context("the INVITE has no SDP")?;
    ensure!(offer.contains(" UDP/TLS/RTP/SAVPF "), "{offer}");
    ensure!(offer.contains("a=fingerprint:SHA-256"), "{offer}");
    // Asterisk skips 127.0.0.0/8 when it gathers candidates, and without candidates there is no ICE.
    ensure!(
        offer.contains("a=candidate:"),
        "this machine needs a network address other than 127.0.0.1, or WebRTC cannot connect"
    );
    let media = phone.heard().await?;
    // The trunk's own codec, so that the PBX does not transcode.
    assert_eq!(media["codec"], "audio/PCMU", "{media}");
    assert_eq!(media["dtls"], "connected", "{media}");
    let cipher = media["cipher"].as_str().unwrap_or_default();
    ensure!(cipher.contains("AES"), "{media}");
    // The browser counts a packet when it is sent, so the last ones are still on their way to the caller.
    let heard = || caller.media().received() >= HEARD;
    until("the caller hears no audio", heard).await
}

/// A phone that has just registered can be called after it has answered the PBX's first OPTIONS. Until then, the app
/// gets 502 and repeats its request.
async fn accept_ready(app: &App<'_>, call: &str) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let (status, answer) = app.respond("accept_ready", call).await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        let retry = status == StatusCode::BAD_GATEWAY && Instant::now() < deadline;
        ensure!(retry, "{status}: {answer}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// A page that acts as a phone.
struct WebPhone {
    browser: Browser,
}

impl WebPhone {
    async fn open(stack: &Stack) -> Result<Self> {
        let page = serve().await?;
        // Accepts the stack's own certificate. All others are checked as usual.
        let trusted = &stack.sip.spki_sha256;
        let trust = format!("--ignore-certificate-errors-spki-list={trusted}");
        let arguments = [
            &trust,
            // A simulated microphone that beeps, and permission to use it.
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            // Everything is on 127.0.0.1.
            "--allow-loopback-in-peer-connection",
            "--disable-features=WebRtcHideLocalIpsWithMdns",
        ];
        let browser = Browser::start_with(&arguments).await?;
        browser.open(&page).await?;
        Ok(Self { browser })
    }

    async fn register(&self, uri: &str, user: &str, password: &str) -> Result<()> {
        let body = "window.phone.register(...arguments)";
        self.browser.run(body, json!([uri, user, password])).await?;
        self.becomes("registered").await
    }

    async fn becomes(&self, state: &str) -> Result<()> {
        let condition = format!("window.phone.state === {}", json!(state));
        let reached = self.browser.until(&condition, SOON * 2).await;
        let state = self.read("state").await?;
        reached.with_context(|| format!("the phone's state is {state}"))
    }

    /// Waits until audio flows in both directions. Returns the browser's media statistics.
    async fn heard(&self) -> Result<Value> {
        let deadline = Instant::now() + SOON * 2;
        loop {
            let media = self.run("return window.phone.media()").await?;
            let packets = |way: &str| media[way].as_u64().unwrap_or(0);
            let energy = media["energy"].as_f64().unwrap_or(0.0);
            if packets("received") >= HEARD && packets("sent") >= HEARD && energy > 0.0 {
                return Ok(media);
            }
            ensure!(Instant::now() < deadline, "no audio flows: {media}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn read(&self, property: &str) -> Result<Value> {
        self.run(&format!("return window.phone.{property}")).await
    }

    async fn run(&self, body: &str) -> Result<Value> {
        self.browser.run(body, json!([])).await
    }
}

/// Serves the page and returns its URL. Chromium grants a microphone only to local HTTP pages, not to files.
async fn serve() -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stack/webrtc/dist/phone.js");
    let script = std::fs::read_to_string(&script).context(
        "the phone's script is missing: run `make e2e/tests/stack/webrtc/dist/phone.js`",
    )?;
    let page = Html("<!doctype html><title>Phone</title><script src=phone.js></script>");
    let script = ([(CONTENT_TYPE, "text/javascript")], script);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let routes = Router::new()
        .route("/", get(page))
        .route("/phone.js", get(script));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(url)
}
