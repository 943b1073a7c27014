//! The console in a deployment: the real function in a deployed environment with the API beside it, and without the
//! extras of the local stack.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use ringback_local::runtime_api::RunningFunction;
use ringback_local::settings::Settings;
use ringback_local::stand_in::serve_anywhere;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::page::{Page, SOON};
use ringback_e2e::fixture::Fixture;

/// The HTTP API of a deployment. Its WebSocket API has another address.
struct Deployment {
    address: SocketAddr,
    _server: JoinHandle<()>,
}

#[derive(Clone)]
struct Front {
    console: Arc<Mutex<RunningFunction>>,
    api: String,
}

impl Deployment {
    async fn of(fixture: &Fixture) -> Result<Self> {
        let settings = Settings::from_environment();
        let environment = BTreeMap::from([
            ("WEBSOCKET_URL".to_owned(), fixture.stack.ws_url.clone()),
            ("TOKEN_EXTENSION_CLAIM".to_owned(), "/extension".to_owned()),
            ("TOKEN_ROLE_CLAIM".to_owned(), "role".to_owned()),
        ]);
        let bootstrap = settings
            .repository()
            .join("target/lambda/console/bootstrap");
        let (timeout, log) = (Duration::from_secs(5), settings.state("console.log"));
        let console =
            RunningFunction::start("console", &bootstrap, &environment, timeout, &log).await?;
        let front = Front {
            console: Arc::new(Mutex::new(console)),
            api: fixture.stack.http_url.clone(),
        };
        let router = Router::new()
            .route("/", get(page))
            .route("/console/{file}", get(file))
            .route("/api/{*rest}", any(pass_on))
            .with_state(front);
        let (address, server) = serve_anywhere(router).await?;
        Ok(Self {
            address,
            _server: server,
        })
    }
}

async fn page(State(front): State<Front>) -> Response {
    front.invoke(None).await.unwrap_or_else(failed)
}

async fn file(State(front): State<Front>, Path(file): Path<String>) -> Response {
    front.invoke(Some(file)).await.unwrap_or_else(failed)
}

async fn pass_on(State(front): State<Front>, request: Request) -> Response {
    front.pass_on(request).await.unwrap_or_else(failed)
}

fn failed(error: anyhow::Error) -> Response {
    (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response()
}

impl Front {
    /// Invokes the function as API Gateway does.
    async fn invoke(&self, file: Option<String>) -> Result<Response> {
        let name = if file.is_some() {
            "console-file"
        } else {
            "console-page"
        };
        let path = Settings::from_environment()
            .repository()
            .join(format!("events/{name}.json"));
        let mut event: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        if let Some(file) = file {
            event["pathParameters"]["file"] = file.into();
        }
        let answer = self.console.lock().await.invoke(&event).await?;
        let status = answer["statusCode"]
            .as_u64()
            .and_then(|code| u16::try_from(code).ok());
        let mut response = Response::builder().status(status.context("the answer has no status")?);
        for (name, value) in answer["headers"]
            .as_object()
            .context("the answer has no headers")?
        {
            response = response.header(name, value.as_str().unwrap_or_default());
        }
        let body = answer["body"].as_str().unwrap_or_default().to_owned();
        Ok(response.body(Body::from(body))?)
    }

    async fn pass_on(&self, request: Request) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let body: Bytes = axum::body::to_bytes(body, 1 << 20).await?;
        let url = format!("{}{}", self.api, parts.uri);
        let mut passed = reqwest::Client::new().request(parts.method, url).body(body);
        for name in ["authorization", "content-type"] {
            if let Some(value) = HeaderMap::get(&parts.headers, name) {
                passed = passed.header(name, value);
            }
        }
        let answer = passed.send().await?;
        let (status, kind) = (answer.status(), answer.headers()["content-type"].clone());
        Ok((status, [("content-type", kind)], answer.bytes().await?).into_response())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_with_its_own_token_takes_a_call_that_sip_phones_talk_on() -> Result<()> {
    let fixture = Fixture::open().await?;
    // Another app at this extension, which also receives pushes.
    let app = fixture.app("1001").await?;
    let mut telephone = fixture.registered_phone("1001").await?;
    let deployment = Deployment::of(&fixture).await?;
    let page = Page::open_at(&format!("http://{}/", deployment.address)).await?;
    page.browser
        .until("!document.querySelector('#sign-in').hidden", SOON)
        .await?;
    page.browser.fill("#token", "no token").await?;
    page.click("#sign-in button").await?;
    page.shows("#failure", "This is not a token").await?;
    page.browser.fill("#token", &app.token).await?;
    page.click("#sign-in button").await?;
    page.is_live().await?;
    page.shows("#signed-in-as", "Extension 1001").await?;
    // The page hides what only the local stack has, and explains what a browser cannot do.
    let offered = "['test-call', 'viewer', 'pushes-of', 'audio'].map((id) => document.getElementById(id).checkVisibility())";
    assert_eq!(
        page.measured(offered).await?,
        json!([false, false, false, true])
    );
    page.click("#switch").await?;
    page.shows("#phone-state", "waiting for a call").await?;

    let caller = fixture.dial("1001").await?;
    page.shows("#phone-state", "+919876543210 is calling")
        .await?;
    page.click("#accept").await?;
    let leg = telephone.next_call(SOON).await?;
    leg.answer().await?;
    caller.media().hears(leg.media(), SOON).await?;
    page.shows("#phone-state", "Talking").await?;
    page.latest_is("Talking").await?;
    page.shows("#board .timeline", "Accepted by a running app")
        .await?;
    page.click("#hang-up").await?;
    caller.ended(SOON).await?;
    page.latest_is("Ended").await?;

    // The token is only in memory and is gone with the page.
    let traces = "[location.href, document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage),
        document.documentElement.outerHTML, document.querySelector('#token').value].join()";
    let traces = page.measured(traces).await?;
    ensure!(
        !traces.to_string().contains(&app.token),
        "the token is stored"
    );
    page.browser.run("location.reload()", json!([])).await?;
    page.browser
        .until("document.querySelector('#sign-in')?.hidden === false", SOON)
        .await?;
    page.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_token_leads_back_to_sign_in() -> Result<()> {
    let fixture = Fixture::open().await?;
    let deployment = Deployment::of(&fixture).await?;
    let page = Page::open_at(&format!("http://{}/", deployment.address)).await?;
    page.browser
        .until("!document.querySelector('#sign-in').hidden", SOON)
        .await?;
    let token = &fixture.stack.phone("1001").context("1001")?.token;
    let forged = format!("{}AAAA", &token[..token.len() - 4]);
    page.browser.fill("#token", &forged).await?;
    page.click("#keep").await?;
    page.click("#sign-in button").await?;
    page.shows("#connection", "The token was refused").await?;
    let form = "document.querySelector('#sign-in').checkVisibility() && !document.querySelector('#signed').checkVisibility()";
    page.browser.until(form, SOON).await?;
    assert_eq!(
        page.measured("sessionStorage.getItem('ringback-token')")
            .await?,
        Value::Null
    );
    let complaints = page.browser.complaints().await?;
    let refusals = complaints
        .iter()
        .all(|one| one.contains("403") || one.contains("401"));
    ensure!(refusals && !complaints.is_empty(), "{complaints:?}");
    page.close().await
}
