//! Authentication and authorization: every route with every kind of credential, and the exact status code for each. On
//! the deployed functions, whose tokens are signed with a secret, and on the same binaries with the environment of a
//! deployment that uses published keys. The local stack must be running.

mod issuer;
mod statuses;
pub(crate) mod tokens;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use issuer::{Deployment, Issuer};
use reqwest::{Method, StatusCode};
use ringback_client::{Client, Credential, Error};
use ringback_e2e::fixture::{
    CALLER, Fixture, SOON, call_sid, status_and_body, unused_mobile_number,
};
use ringback_e2e::observed_function::example;
use ringback_local::runtime_api::RunningFunction;
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};
use statuses::StatusTable;
use tokens::{Secrets, claims_of, hs256, hs256_with_public_key, unsigned, with, without};

const OPEN: u16 = 101;

/// Exotel's webhook, its streams and the PBX's webhooks do not accept tokens, and the apps' routes do not accept their
/// secrets.
#[tokio::test(flavor = "multi_thread")]
async fn every_app_route_has_the_right_status_for_every_token() -> Result<()> {
    let fixture = Fixture::open().await?;
    let secrets = Secrets::of(&fixture).await?;
    let call = ended_call(&fixture).await?;
    let routes = Routes::of(&fixture, &call);
    let right = &fixture.stack.phone("1001").context("1001")?.token;
    let claims = claims_of(right)?;
    let key = secrets.get("app", "jwt_secret")?;
    let signed = |claims: &Value| hs256(claims, key);
    let rsa = Issuer::of_rsa("a")?;
    let others = [401, 401, 401, 401, 401, 401, 403, 403];
    let callers: Vec<(&str, Option<String>, [u16; 8])> = vec![
        ("no token", None, others),
        ("no JWT", Some("not.a.token".to_owned()), others),
        (
            "expired",
            Some(signed(&with(&claims, "exp", json!(1_700_000_000)))?),
            others,
        ),
        (
            "never expires",
            Some(signed(&without(&claims, "exp"))?),
            others,
        ),
        (
            "not valid yet",
            Some(signed(&with(&claims, "nbf", json!(4_102_444_800_u64)))?),
            others,
        ),
        (
            "wrong signature",
            Some(hs256(&claims, "another secret of some length")?),
            others,
        ),
        ("empty secret", Some(hs256(&claims, "")?), others),
        ("alg none", Some(unsigned(&claims)), others),
        (
            "HS512, right secret",
            Some(tokens::hs512(&claims, key)?),
            others,
        ),
        ("RS256, own key", Some(rsa.token(&claims)?), others),
        (
            "HS256, a public key",
            Some(hs256_with_public_key(&rsa, &claims)?),
            others,
        ),
        (
            "other issuer",
            Some(signed(&with(&claims, "iss", json!("others")))?),
            others,
        ),
        ("no issuer", Some(signed(&without(&claims, "iss"))?), others),
        (
            "other audience",
            Some(signed(&with(&claims, "aud", json!("others")))?),
            others,
        ),
        (
            "no audience",
            Some(signed(&without(&claims, "aud"))?),
            others,
        ),
        (
            "no extension",
            Some(signed(&without(&claims, "extension"))?),
            others,
        ),
        (
            "extension 10/01",
            Some(signed(&with(&claims, "extension", json!("10/01")))?),
            others,
        ),
        (
            "webhook's secret",
            Some(secrets.get("webhook", "webhook_secret")?.to_owned()),
            others,
        ),
        (
            "PBX's secret",
            Some(secrets.get("hook", "hook_secret")?.to_owned()),
            others,
        ),
        (
            "other extension",
            Some(fixture.stack.phone("1002").context("1002")?.token.clone()),
            // The app unregisters its own device, which does not exist here.
            [403, 403, 403, 403, 200, 403, OPEN, OPEN],
        ),
        (
            "operator",
            Some(fixture.stack.operator.token.clone()),
            [403, 200, 200, 403, 403, 403, OPEN, OPEN],
        ),
        (
            "admin",
            Some(fixture.stack.admin.token.clone()),
            [403, 200, 200, 403, 403, 200, OPEN, OPEN],
        ),
        (
            "admin without a subject",
            Some(signed(&with(
                &without(&claims, "sub"),
                "role",
                json!("admin"),
            ))?),
            others,
        ),
        (
            "previous secret",
            Some(hs256(&claims, secrets.get("app", "jwt_secret_previous")?)?),
            [200, 200, 200, 200, 200, 403, OPEN, OPEN],
        ),
        (
            "right",
            Some(right.clone()),
            [200, 200, 200, 200, 200, 403, OPEN, OPEN],
        ),
    ];

    let mut table = StatusTable::titled("Access to the apps' routes", &Routes::APPS);
    // Another extension's device exists from the start, and only its owner may change it.
    routes.put_device(Some(right)).await?;
    for (who, token, expected) in &callers {
        let found = routes.all_app_routes(token.as_deref()).await?;
        table.row(who, expected, &found);
        let exists = routes.device_exists().await?;
        let is_owner = *expected == [200, 200, 200, 200, 200, 403, OPEN, OPEN];
        ensure!(exists != is_owner, "{who} changed the device: {exists}");
    }
    table.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exotel_and_pbx_route_has_the_right_status_for_every_secret() -> Result<()> {
    let fixture = Fixture::open().await?;
    let secrets = Secrets::of(&fixture).await?;
    let call = ended_call(&fixture).await?;
    let routes = Routes::of(&fixture, &call);
    let app = &fixture.stack.phone("1001").context("1001")?.token;
    let webhook = secrets.get("webhook", "webhook_secret")?;
    let hook = secrets.get("hook", "hook_secret")?;
    let rejected = [401, 401, 401, 403, 403, 401, 401, 401];
    let exotel = [200, 200, 200, OPEN, OPEN, 401, 401, 401];
    let pbx = [401, 401, 401, 403, 403, 200, 200, 200];
    let callers = [
        ("none", None, rejected),
        ("empty", Some(""), rejected),
        ("wrong", Some("0123456789abcdef0123456789abcdef"), rejected),
        ("part of the webhook's", webhook.get(..31), rejected),
        ("an app's token", Some(app.as_str()), rejected),
        (
            "an operator's token",
            Some(fixture.stack.operator.token.as_str()),
            rejected,
        ),
        (
            "the tokens' secret",
            Some(secrets.get("app", "jwt_secret")?),
            rejected,
        ),
        (
            "webhook's, previous",
            Some(secrets.get("webhook", "webhook_secret_previous")?),
            exotel,
        ),
        ("webhook's", Some(webhook), exotel),
        (
            "PBX's, previous",
            Some(secrets.get("hook", "hook_secret_previous")?),
            pbx,
        ),
        ("PBX's", Some(hook), pbx),
    ];
    let mut table = StatusTable::titled(
        "Access to Exotel's and the PBX's routes",
        &Routes::WITNESSES,
    );
    for (who, secret, expected) in &callers {
        table.row(who, expected, &routes.all_reports(*secret).await?);
    }
    table.check()?;
    // The health check needs no secret and reveals none.
    let health = fixture
        .http
        .get(format!("{}/health", fixture.stack.http_url));
    assert_eq!(health.send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_with_published_keys_are_checked_for_issuer_audience_and_algorithm() -> Result<()> {
    let fixture = Fixture::open().await?;
    let call = ended_call(&fixture).await?;
    let mut table = StatusTable::titled(
        "Access with published keys",
        &["call-status", "ws-authorizer"],
    );
    for deployment in Deployment::all().await? {
        let mut binaries = Binaries::start(&fixture, &deployment, &call).await?;
        let [issuer, impostor, unknown] = [
            &deployment.issuer,
            &deployment.impostor,
            &deployment.next_issuer,
        ];
        let claims = deployment.claims("1001");
        let others = [401, 403];
        let callers = vec![
            ("no token", String::new(), others),
            (
                "expired",
                issuer.token(&with(&claims, "exp", json!(1_700_000_000)))?,
                others,
            ),
            (
                "never expires",
                issuer.token(&without(&claims, "exp"))?,
                others,
            ),
            ("wrong signature", impostor.token(&claims)?, others),
            ("alg none", unsigned(&claims), others),
            (
                "HS256, the public key",
                hs256_with_public_key(issuer, &claims)?,
                others,
            ),
            (
                "the stack's own, HS256",
                fixture.stack.phone("1001").context("1001")?.token.clone(),
                others,
            ),
            (
                "other issuer",
                issuer.token(&with(
                    &claims,
                    "iss",
                    json!("https://securetoken.google.com/others"),
                ))?,
                others,
            ),
            (
                "other audience",
                issuer.token(&with(&claims, "aud", json!("others")))?,
                others,
            ),
            (
                "no audience",
                issuer.token(&without(&claims, "aud"))?,
                others,
            ),
            (
                "no extension",
                issuer.token(&without(&claims, deployment.extension_claim))?,
                others,
            ),
            (
                "other extension",
                issuer.token(&deployment.claims("1002"))?,
                [403, 200],
            ),
            (
                "operator",
                issuer.token(&deployment.operators_claims())?,
                [200, 200],
            ),
            ("right", issuer.token(&claims)?, [200, 200]),
            ("unknown key", unknown.token(&claims)?, others),
            (
                "right, after all others",
                issuer.token(&claims)?,
                [200, 200],
            ),
        ];
        for (who, token, expected) in &callers {
            let found = binaries.all(token).await?;
            table.row(&format!("{}: {who}", deployment.name), expected, &found);
        }
        // The two binaries fetched the keys once each. Within a minute, the unknown key caused no further request.
        ensure!(
            deployment.fetches() == 2,
            "{} fetches",
            deployment.fetches()
        );
        // This process has not fetched the keys yet, so it accepts the new key at once.
        deployment.publish_next_key()?;
        let mut fresh = Binaries::start(&fixture, &deployment, &call).await?;
        let found = fresh.all(&unknown.token(&claims)?).await?;
        table.row(
            &format!("{}: new key", deployment.name),
            &[200, 200],
            &found,
        );
    }
    table.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_valid_within_two_seconds_after_the_issuer_recovers() -> Result<()> {
    let fixture = Fixture::open().await?;
    let call = ended_call(&fixture).await?;
    let [deployment, ..] = Deployment::all().await?;
    deployment.fails(true);
    let mut binaries = Binaries::start(&fixture, &deployment, &call).await?;
    let token = deployment.issuer.token(&deployment.claims("1001"))?;
    for _ in 0..5 {
        ensure!(binaries.call_status(&token).await? == 503);
    }
    ensure!(deployment.fetches() == 1, "{}", deployment.fetches());
    deployment.fails(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(binaries.call_status(&token).await? == 200);
    ensure!(deployment.fetches() == 2, "{}", deployment.fetches());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_all_calls_with_numbers_and_can_change_none() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut operator =
        Client::connect(&fixture.stack.ws_url, &fixture.stack.operator.token).await?;
    let other = &fixture.stack.phone("1002").context("1002")?.token;
    let mut other = Client::connect(&fixture.stack.ws_url, other).await?;
    let sid = call_sid();
    fixture
        .passthru(&sid, CALLER, fixture.number_of("1001"))
        .await?;
    let id = app.receives_call().await?;
    let hears = async |client: &mut Client| loop {
        let message = client.next(SOON).await?;
        if message["data"]["callId"] == id.as_str() {
            return Ok::<_, Error>(message["data"]["from"].clone());
        }
    };
    assert_eq!(hears(&mut operator).await?, CALLER);
    assert_eq!(hears(&mut other).await?, "***********10");

    let declines = json!({
        "type": "call_response", "server_call_id": id, "extension": "1001", "action": "decline",
        "timestamp": 1_732_175_943_000_u64,
    });
    let starts = json!({ "type": "incoming_call", "recipientId": "1001", "callType": "voice" });
    for (message, code) in [(declines, "not_your_extension"), (starts, "no_extension")] {
        operator.send(message).await?;
        let answer = loop {
            let answer = operator.next(SOON).await?;
            if answer["type"] == "error" {
                break answer;
            }
        };
        assert_eq!(answer["code"], code, "{answer}");
    }
    assert_eq!(app.call(&id).await?["status"], "waiting_for_mobile");
    // An operator can look up a call by Exotel's CallSid.
    let other_sid = call_sid();
    for (sid, token, status) in [
        (&sid, &fixture.stack.operator.token, 200),
        (&other_sid, &fixture.stack.operator.token, 404),
        (&sid, &app.token, 404),
    ] {
        let url = format!("{}/api/calls/{sid}", fixture.stack.http_url);
        let asking = fixture.http.get(url).bearer_auth(token).send().await?;
        let (answered, answer) = status_and_body(asking).await?;
        assert_eq!(answered.as_u16(), status, "{answer}");
        if status == 200 {
            assert_eq!(answer["call_id"], id.as_str());
        }
    }
    assert_eq!(app.respond("decline", &id).await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_calls_that_are_limited_to_participants() -> Result<()> {
    let fixture = Fixture::open().await?;
    let connect = async |token: &str| Client::connect(&fixture.stack.ws_url, token).await;
    let token = |extension| {
        fixture
            .stack
            .phone(extension)
            .map(|phone| phone.token.as_str())
    };
    let mut operator = connect(&fixture.stack.operator.token).await?;
    let mut participant = connect(token("1001").context("1001")?).await?;
    let mut other = connect(token("1002").context("1002")?).await?;
    let changed = [("STATUS_AUDIENCE".to_owned(), "participants".to_owned())];
    let mut broadcast = started(&fixture, "broadcast", changed).await?;
    broadcast.invoke(&example("broadcast-status")?).await?;
    for client in [&mut operator, &mut participant] {
        let message = next_change(client, SOON).await?;
        assert_eq!(message["data"]["from"], "+919876543210", "{message}");
    }
    let silence = next_change(&mut other, Duration::from_millis(300)).await;
    assert!(
        matches!(silence, Err(Error::MessageTimeout(_))),
        "{silence:?}"
    );
    Ok(())
}

/// The next message that is no replay. Calls of earlier tests may still ring.
async fn next_change(client: &mut Client, time: Duration) -> Result<Value, Error> {
    loop {
        let message = client.next(time).await?;
        if message["replay"].is_null() {
            return Ok(message);
        }
    }
}

/// A declined call to 1001.
async fn ended_call(fixture: &Fixture) -> Result<String> {
    let app = fixture.app("1001").await?;
    let number = fixture.number_of("1001");
    let (status, answer) = fixture
        .passthru(&call_sid(), &unused_mobile_number(), number)
        .await?;
    ensure!(status == StatusCode::OK, "{answer}");
    let id = app.receives_call().await?;
    let (status, answer) = app.respond("decline", &id).await?;
    ensure!(status == StatusCode::OK, "{answer}");
    Ok(id)
}

/// All routes.
struct Routes<'a> {
    fixture: &'a Fixture,
    call: &'a str,
    device: String,
}

impl<'a> Routes<'a> {
    const APPS: [&'static str; 8] = [
        "POST call-response",
        "GET call",
        "GET calls",
        "PUT device",
        "DELETE device",
        "GET numbers",
        "WS header",
        "WS ?token=",
    ];
    const WITNESSES: [&'static str; 8] = [
        "GET webhook",
        "POST webhook",
        "GET voicebot",
        "WS ?secret=",
        "WS Basic",
        "PBX incoming",
        "PBX bridged",
        "PBX ended",
    ];

    fn of(fixture: &'a Fixture, call: &'a str) -> Self {
        let device = format!("device-{}", uuid::Uuid::new_v4().simple());
        Self {
            fixture,
            call,
            device,
        }
    }

    async fn all_app_routes(&self, token: Option<&str>) -> Result<[u16; 8]> {
        let hangs_up = json!({
            "server_call_id": self.call, "extension": "1001", "action": "hangup",
            "timestamp": 1_732_175_943_000_u64,
        });
        let device = format!("/api/devices/{}", self.device);
        let call = format!("/api/calls/{}", self.call);
        let [header, query] = match token {
            Some(token) => [
                Credential::InHeader(token.into()),
                Credential::InQuery(token.into()),
            ],
            None => [Credential::InUrl, Credential::InUrl],
        };
        let url = &self.fixture.stack.ws_url;
        Ok([
            self.asks(Method::POST, "/api/call-response", token, Some(hangs_up))
                .await?,
            self.asks(Method::GET, &call, token, None).await?,
            self.asks(Method::GET, "/api/calls?extension=1001", token, None)
                .await?,
            self.put_device(token).await?,
            self.asks(Method::DELETE, &device, token, None).await?,
            self.asks(Method::GET, "/api/admin/numbers", token, None)
                .await?,
            connects(url, &header).await?,
            connects(url, &query).await?,
        ])
    }

    async fn put_device(&self, token: Option<&str>) -> Result<u16> {
        let body = json!({ "extension": "1001", "platform": "fcm", "token": format!("token-of-{}", self.device) });
        let path = format!("/api/devices/{}", self.device);
        self.asks(Method::PUT, &path, token, Some(body)).await
    }

    async fn device_exists(&self) -> Result<bool> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let row = aws_sdk_dynamodb::Client::new(&self.fixture.aws)
            .get_item()
            .table_name(&self.fixture.stack.aws.table)
            .key("pk", text("EXTENSION#1001"))
            .key("sk", text(&format!("DEVICE#{}", self.device)))
            .send()
            .await?;
        Ok(row.item.is_some())
    }

    async fn asks(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Result<u16> {
        let url = format!("{}{path}", self.fixture.stack.http_url);
        let mut request = self.fixture.http.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        status_of(request).await
    }

    /// The reports of Exotel and the PBX for one call each, from start to end.
    async fn all_reports(&self, secret: Option<&str>) -> Result<[u16; 8]> {
        let stack = &self.fixture.stack;
        let webhook = format!("{}/exotel/webhook", stack.http_url);
        let sid = call_sid();
        let [caller, pbxs_caller] = [unused_mobile_number(), unused_mobile_number()];
        let passthru = [
            ("CallSid", sid.as_str()),
            ("CallFrom", caller.as_str()),
            ("CallTo", self.fixture.number_of("1001")),
            ("Direction", "incoming"),
            ("CallType", "call-attempt"),
        ];
        let ended = [
            ("CallSid", sid.as_str()),
            ("EventType", "terminal"),
            ("Status", "completed"),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(secret.map(|secret| ("secret", secret)));
        let posted = format!("{webhook}?{}", query.finish());
        query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(secret.map(|secret| ("secret", secret)));
        query.extend_pairs(passthru);
        let asked = format!("{webhook}?{}", query.finish());
        let voicebot = asked.replace("/webhook?", "/voicebot?");
        let url = match secret {
            Some(secret) => format!("{}?secret={secret}", stack.ws_url),
            None => stack.ws_url.clone(),
        };
        let channel = format!("access-{sid}");
        let number = self.fixture.number_of("1001");
        let arrives = [
            ("channel_id", channel.as_str()),
            ("caller", pbxs_caller.as_str()),
            ("number", number),
        ];
        let talks = [("channel_id", channel.as_str()), ("call_id", self.call)];
        let mut leaves = arrives.to_vec();
        leaves.extend([("cause", "16"), ("answered", "0")]);
        Ok([
            status_of(self.fixture.http.get(asked)).await?,
            status_of(self.fixture.http.post(posted).form(&ended)).await?,
            status_of(self.fixture.http.get(voicebot)).await?,
            connects(&url, &Credential::InUrl).await?,
            connects_with_password(&stack.ws_url, secret).await?,
            self.pbx("incoming", secret, &arrives).await?,
            self.pbx("bridged", secret, &talks).await?,
            self.pbx("ended", secret, &leaves).await?,
        ])
    }

    async fn pbx(&self, what: &str, secret: Option<&str>, form: &[(&str, &str)]) -> Result<u16> {
        let url = format!("{}/asterisk/{what}", self.fixture.stack.http_url);
        let mut request = self.fixture.http.post(url).form(form);
        if let Some(secret) = secret {
            request = request.header("X-Ringback-Secret", secret);
        }
        status_of(request).await
    }
}

/// The status of a response. A rejected client gets the reason in JSON and nothing else.
async fn status_of(request: reqwest::RequestBuilder) -> Result<u16> {
    let (status, body) = status_and_body(request.send().await?).await?;
    if status == StatusCode::UNAUTHORIZED {
        ensure!(body["code"] == "unauthorized", "{body}");
    }
    Ok(status.as_u16())
}

async fn connects(url: &str, credential: &Credential) -> Result<u16> {
    match Client::connect_as(url, credential).await {
        Ok(client) => {
            client.close().await;
            Ok(OPEN)
        }
        Err(Error::Refused { status, .. }) => Ok(status),
        Err(error) => Err(error.into()),
    }
}

/// Connects like Exotel with a URL that has a user and a password before its host.
async fn connects_with_password(url: &str, password: Option<&str>) -> Result<u16> {
    let request = reqwest::Client::new()
        .get(url.replacen("ws", "http", 1))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let request = match password {
        Some(password) => request.basic_auth("exotel", Some(password)),
        None => request,
    };
    Ok(request.send().await?.status().as_u16())
}

/// The two functions that check tokens, with the environment of a deployment that uses published keys.
struct Binaries {
    call_status: RunningFunction,
    authorizer: RunningFunction,
    call: String,
}

impl Binaries {
    async fn start(fixture: &Fixture, deployment: &Deployment, call: &str) -> Result<Self> {
        let variables = deployment.variables();
        Ok(Self {
            call_status: started(fixture, "call-status", variables.clone()).await?,
            authorizer: started(fixture, "ws-authorizer", variables).await?,
            call: call.to_owned(),
        })
    }

    async fn call_status(&mut self, token: &str) -> Result<u16> {
        let mut asks = example("call-status")?;
        asks["pathParameters"]["id"] = self.call.as_str().into();
        asks["rawPath"] = format!("/api/calls/{}", self.call).into();
        asks["headers"]["authorization"] = format!("Bearer {token}").into();
        let answer = self.call_status.invoke(&asks).await?;
        let status = answer["statusCode"]
            .as_u64()
            .context("the answer has no status")?;
        Ok(u16::try_from(status)?)
    }

    async fn all(&mut self, token: &str) -> Result<[u16; 2]> {
        let status = self.call_status(token).await?;
        let mut connects = example("ws-authorizer-token")?;
        connects["queryStringParameters"] = json!({ "token": token });
        let policy = self.authorizer.invoke(&connects).await?;
        let effect = &policy["policyDocument"]["Statement"][0]["Effect"];
        // The status that API Gateway makes of the policy.
        let connected = if effect == "Allow" { 200 } else { 403 };
        Ok([status, connected])
    }
}

/// A function's binary in its deployed environment with some variables changed.
async fn started(
    fixture: &Fixture,
    name: &str,
    changed: impl IntoIterator<Item = (String, String)>,
) -> Result<RunningFunction> {
    let settings = ringback_local::settings::Settings::from_environment();
    let endpoint = &fixture.stack.aws.endpoint;
    let url = format!("{endpoint}/2015-03-31/functions/{STACK_NAME}-{name}/configuration");
    let deployed: Value = fixture.http.get(url).send().await?.json().await?;
    let variables = deployed["Environment"]["Variables"].clone();
    let mut environment: std::collections::BTreeMap<String, String> =
        serde_json::from_value(variables)?;
    let of_lambda = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", &fixture.stack.aws.region),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    environment.extend(of_lambda.map(|(name, value)| (name.to_owned(), value.to_owned())));
    environment.extend(changed);
    let bootstrap = settings
        .repository()
        .join(format!("target/lambda/{name}/bootstrap"));
    std::fs::create_dir_all(settings.state("access"))?;
    let log = settings.state("access").join(format!("{name}.log"));
    RunningFunction::start(
        name,
        &bootstrap,
        &environment,
        Duration::from_secs(29),
        &log,
    )
    .await
}
