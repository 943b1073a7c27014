//! Pages of other origins in a real browser: which of them may use the HTTP API.

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use reqwest::{Client, Method};
use ringback_e2e::browser::Browser;
use ringback_e2e::cloudformation::Template;
use ringback_e2e::fixture::{App, Fixture};
use ringback_local::cloud::region::PRIMARY;
use ringback_local::settings::Settings;
use ringback_local::stand_in::serve_anywhere;
use serde_json::{Map, Value, json};

/// Registers a device as an app does, and returns the HTTP status, or the browser's error.
const REGISTER: &str = "
    const [api, token, device] = arguments;
    return fetch(`${api}/api/devices/${device}`, {
        method: 'PUT',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        body: JSON.stringify({ extension: '1001', addresses: [] }),
    }).then(async (answer) => [answer.status, (await answer.json()).success], (error) => error.name);";

#[tokio::test(flavor = "multi_thread")]
async fn no_page_of_another_origin_may_use_the_api_by_default() -> Result<()> {
    let fixture = Fixture::open().await?;
    let api = LocalApi::of(&fixture).await?;
    let before = api.allow(None).await?;
    let (page, _server) = page_of_another_origin().await?;
    let answer = page_registers_a_device(&fixture, &page).await;
    api.allow(before).await?;
    assert_eq!(answer?, json!("TypeError"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_uses_the_api_and_another_one_does_not() -> Result<()> {
    let fixture = Fixture::open().await?;
    let api = LocalApi::of(&fixture).await?;
    let (allowed, _server) = page_of_another_origin().await?;
    let (other, _other_server) = page_of_another_origin().await?;
    let before = api.allow(Some(configuration_for(&allowed)?)).await?;
    let answers = async {
        let of_allowed = page_registers_a_device(&fixture, &allowed).await?;
        anyhow::Ok((of_allowed, page_registers_a_device(&fixture, &other).await?))
    };
    let answers = answers.await;
    api.allow(before).await?;
    assert_eq!(answers?, (json!([200, true]), json!("TypeError")));
    Ok(())
}

/// The answer of the API to a page at this origin, as the page's script sees it.
async fn page_registers_a_device(fixture: &Fixture, origin: &str) -> Result<Value> {
    let App { token, device, .. } = fixture.unregistered_app("1001");
    let browser = Browser::start().await?;
    browser.open(origin).await?;
    let arguments = json!([fixture.stack.http_url, token, device]);
    let answer = browser.run(REGISTER, arguments).await?;
    browser.close().await?;
    Ok(answer)
}

async fn page_of_another_origin() -> Result<(String, tokio::task::JoinHandle<()>)> {
    let page = Router::new().route("/", get(|| async { Html("<title>An app</title>") }));
    let (address, server) = serve_anywhere(page).await?;
    Ok((format!("http://{address}"), server))
}

/// What a deployment with this parameter configures, in the names of API Gateway's API.
fn configuration_for(origins: &str) -> Result<Value> {
    let parameters = [("AllowedOrigins", origins)];
    let repository = Settings::from_environment().repository().to_owned();
    let template = Template::deployed_with(&repository, &parameters)?;
    let deployed = template.resource("HttpApi")["Properties"]["CorsConfiguration"].as_object();
    let deployed = deployed.context("the template configures no CORS")?;
    let mut configuration: Map<String, Value> = Map::new();
    for (name, value) in deployed {
        let (first, rest) = name.split_at(1);
        configuration.insert(first.to_lowercase() + rest, value.clone());
    }
    ensure!(configuration["allowOrigins"]["Fn::Split"][1]["Ref"] == "AllowedOrigins");
    configuration["allowOrigins"] = origins.split(',').collect();
    Ok(configuration.into())
}

/// The deployed HTTP API, at the local AWS's own API for it.
struct LocalApi {
    http: Client,
    url: String,
}

impl LocalApi {
    async fn of(fixture: &Fixture) -> Result<Self> {
        let apis = format!("{}/v2/apis", fixture.stack.aws.endpoint);
        let http = fixture.http.clone();
        let listed = Self::send(&http, Method::GET, &apis, None).await?;
        let mut items = listed["items"].as_array().into_iter().flatten();
        let api = items.find(|api| api["protocolType"] == "HTTP");
        let id = api.and_then(|api| api["apiId"].as_str());
        let url = format!("{apis}/{}", id.context("the local AWS has no HTTP API")?);
        Ok(Self { http, url })
    }

    /// Replaces the CORS configuration, and returns the previous one.
    async fn allow(&self, configuration: Option<Value>) -> Result<Option<Value>> {
        let api = Self::send(&self.http, Method::GET, &self.url, None).await?;
        match configuration {
            Some(cors) => {
                let changed = json!({ "corsConfiguration": cors });
                Self::send(&self.http, Method::PATCH, &self.url, Some(changed)).await?;
            }
            None => {
                let cors = format!("{}/cors", self.url);
                Self::send(&self.http, Method::DELETE, &cors, None).await?;
            }
        }
        Ok(api.get("corsConfiguration").cloned())
    }

    async fn send(http: &Client, method: Method, url: &str, body: Option<Value>) -> Result<Value> {
        // The local AWS reads the region from the signature, and does not check it.
        let scope = format!("local/20260101/{}/apigateway/aws4_request", PRIMARY.name);
        let signature =
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
        let mut request = http.request(method, url).header("authorization", signature);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&answer.bytes().await?).unwrap_or_default())
    }
}
