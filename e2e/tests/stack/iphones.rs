//! iPhones have two push addresses, a VoIP token and an alert token, and are reached through SNS. The real functions on the real table,
//! with platform applications in the local cloud, which has the endpoints of SNS but delivers nothing. It never disables an endpoint,
//! so a stand-in does that. The local stack must be running.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use aws_sdk_sns::config::Region;
use axum::http::StatusCode;
use ringback_e2e::fixture::{App, Fixture, call_sid, unused_mobile_number};
use ringback_e2e::observed_function::{ObservedFunction, example};
use ringback_e2e::timeline::Timeline;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const HERE: &str = "ap-south-1";
const THERE: &str = "ap-southeast-1";

/// The variables with the ARNs of two new platform applications.
type Applications = [(&'static str, String); 2];

async fn applications(fixture: &Fixture, region: &'static str) -> Result<Applications> {
    let config = aws_sdk_sns::config::Builder::from(&fixture.aws).region(Region::new(region));
    let sns = aws_sdk_sns::Client::from_conf(config.build());
    let create = async |platform: &str| {
        let application = sns
            .create_platform_application()
            .name(call_sid())
            .platform(platform)
            .attributes("PlatformCredential", "a key")
            .attributes("PlatformPrincipal", "a certificate")
            .send()
            .await?;
        application.platform_application_arn.context("its ARN")
    };
    Ok([
        ("SNS_APNS_APPLICATION_ARN", create("APNS").await?),
        ("SNS_APNS_VOIP_APPLICATION_ARN", create("APNS_VOIP").await?),
    ])
}

/// A function with these applications and variables.
async fn function(
    fixture: &Fixture,
    name: &str,
    applications: &Applications,
    variables: &[(&str, &str)],
) -> Result<ObservedFunction> {
    let applications = applications.iter().map(|(name, arn)| (*name, arn.as_str()));
    let variables: Vec<_> = applications.chain(variables.iter().copied()).collect();
    ObservedFunction::start_with(fixture, name, &variables).await
}

/// The app registers with a token of each of these push services.
async fn register(
    devices: &mut ObservedFunction,
    app: &App<'_>,
    platforms: &[&str],
) -> Result<Timeline> {
    let mut event = example("devices-put")?;
    event["headers"]["authorization"] = format!("Bearer {}", app.token).into();
    event["pathParameters"]["device_id"] = app.device.as_str().into();
    let addresses = platforms.iter().map(|platform| {
        json!({ "platform": platform, "token": format!("{platform}-{}", app.push_token) })
    });
    let addresses: Vec<Value> = addresses.collect();
    let body = json!({ "extension": app.extension, "addresses": addresses });
    event["body"] = body.to_string().into();
    Ok(devices.invoke(&event).await?.1)
}

/// The PBX reports a new caller of the app's extension. Returns the call's id.
async fn ring(
    fixture: &Fixture,
    incoming: &mut ObservedFunction,
    app: &App<'_>,
) -> Result<(String, Timeline)> {
    let channel = format!("iphones.{}", call_sid());
    let number = fixture.number_of(&app.extension);
    let caller = unused_mobile_number();
    let fields = [
        ("channel_id", channel.as_str()),
        ("caller", &caller),
        ("number", number),
    ];
    let (answer, timeline) = report(fixture, incoming, "incoming", &fields).await?;
    let id = answer["call_id"].as_str();
    let id = id.with_context(|| format!("the call has no id: {answer}"))?;
    Ok((id.to_owned(), timeline))
}

/// The PBX reports something.
async fn report(
    fixture: &Fixture,
    incoming: &mut ObservedFunction,
    what: &str,
    fields: &[(&str, &str)],
) -> Result<(Value, Timeline)> {
    let mut event = example(&format!("asterisk-incoming-{what}"))?;
    for (name, value) in &fixture.stack.headers.asterisk {
        event["headers"][name.to_ascii_lowercase()] = value.as_str().into();
    }
    event["isBase64Encoded"] = false.into();
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    event["body"] = form.finish().into();
    incoming.invoke(&event).await
}

/// The requests to SNS: the action, and the endpoint or the token that it is about.
fn sent_to_sns(timeline: &Timeline) -> Vec<(String, String)> {
    let forms = timeline.aws.iter().map(|request| {
        let form = form_urlencoded::parse(&request.body);
        form.into_owned().collect::<HashMap<String, String>>()
    });
    let actions = forms.filter_map(|form| {
        let about = ["TargetArn", "EndpointArn", "Token"];
        let about = about.into_iter().find_map(|name| form.get(name))?;
        Some((form.get("Action")?.clone(), about.clone()))
    });
    actions.collect()
}

/// The platforms of the endpoints that got a push, in alphabetical order.
fn pushed_to(timeline: &Timeline) -> Vec<String> {
    let sent = sent_to_sns(timeline).into_iter();
    let published = sent.filter(|(action, _)| action == "Publish");
    let mut platforms: Vec<String> = published
        .map(|(_, endpoint)| endpoint.split('/').nth(1).unwrap_or_default().to_owned())
        .collect();
    platforms.sort();
    platforms
}

fn decline(app: &App<'_>, id: &str) -> Result<Value> {
    let mut event = example("call-response-decline")?;
    event["headers"]["authorization"] = format!("Bearer {}", app.token).into();
    let body = json!({
        "server_call_id": id,
        "extension": app.extension,
        "action": "decline",
        "device_id": app.device,
    });
    event["body"] = body.to_string().into();
    Ok(event)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iphone_with_two_addresses_counts_as_one_device() -> Result<()> {
    let fixture = Fixture::open().await?;
    let applications = applications(&fixture, HERE).await?;
    let of_each_device = [("DECLINE_ENDS", "device")];
    let one_device = [("MAX_DEVICES_PER_EXTENSION", "1")];
    let mut devices = function(&fixture, "devices", &applications, &one_device).await?;
    let mut incoming = function(
        &fixture,
        "asterisk-incoming",
        &applications,
        &of_each_device,
    )
    .await?;
    let mut responses = function(&fixture, "call-response", &applications, &[]).await?;

    // Some apps register each token as soon as they have it.
    let iphone = fixture.unregistered_app("1001");
    register(&mut devices, &iphone, &["apns"]).await?;
    register(&mut devices, &iphone, &["apns_voip"]).await?;
    let (id, timeline) = ring(&fixture, &mut incoming, &iphone).await?;
    ensure!(pushed_to(&timeline) == ["APNS_VOIP"], "{timeline}");
    let (answer, timeline) = responses.invoke(&decline(&iphone, &id)?).await?;
    ensure!(answer["status"] == "declined", "the call goes on: {answer}");
    ensure!(pushed_to(&timeline).is_empty(), "{timeline}");

    // Two devices with two addresses each: one push to each of them, and the cancellation goes to the other's alert address.
    let two_devices = [("MAX_DEVICES_PER_EXTENSION", "2")];
    let mut devices = function(&fixture, "devices", &applications, &two_devices).await?;
    let ipad = fixture.unregistered_app("1001");
    register(&mut devices, &ipad, &["apns_voip", "apns"]).await?;
    let mut incoming = function(&fixture, "asterisk-incoming", &applications, &[]).await?;
    let (id, timeline) = ring(&fixture, &mut incoming, &iphone).await?;
    ensure!(
        pushed_to(&timeline) == ["APNS_VOIP", "APNS_VOIP"],
        "{timeline}"
    );
    let (_, timeline) = responses.invoke(&decline(&ipad, &id)?).await?;
    ensure!(pushed_to(&timeline) == ["APNS"], "{timeline}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_creates_its_own_endpoint_of_an_iphone_registered_in_another_one() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (here, there) = (
        applications(&fixture, HERE).await?,
        applications(&fixture, THERE).await?,
    );
    let iphone = fixture.unregistered_app("1001");
    let mut devices = function(&fixture, "devices", &here, &[]).await?;
    register(&mut devices, &iphone, &["apns_voip"]).await?;

    let mut incoming = function(&fixture, "asterisk-incoming", &there, &[]).await?;
    let mut endpoints = Vec::new();
    for _ in 0..2 {
        let (id, timeline) = ring(&fixture, &mut incoming, &iphone).await?;
        let sent = sent_to_sns(&timeline);
        let [(create, token), (publish, endpoint)] = sent.as_slice() else {
            anyhow::bail!("{sent:?}");
        };
        ensure!((&**create, &**publish) == ("CreatePlatformEndpoint", "Publish"));
        ensure!(*token == format!("apns_voip-{}", iphone.push_token));
        ensure!(endpoint.contains(THERE), "{endpoint}");
        endpoints.push(endpoint.clone());
        iphone.respond("decline", &id).await?;
    }
    ensure!(endpoints[0] == endpoints[1], "{endpoints:?}");

    // In its own region, the endpoint is known.
    let mut incoming = function(&fixture, "asterisk-incoming", &here, &[]).await?;
    let (id, timeline) = ring(&fixture, &mut incoming, &iphone).await?;
    ensure!(sent_to_sns(&timeline).len() == 1, "{timeline}");
    iphone.respond("decline", &id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_fcm_rejects_leaves_its_device_with_the_other_one() -> Result<()> {
    let fixture = Fixture::open().await?;
    let applications = applications(&fixture, HERE).await?;
    let mut devices = function(&fixture, "devices", &applications, &[]).await?;
    let mut incoming = function(&fixture, "asterisk-incoming", &applications, &[]).await?;
    let app = fixture.unregistered_app("1001");
    register(&mut devices, &app, &["fcm", "apns"]).await?;
    let dead = format!("fcm-{}", app.push_token);
    fixture
        .fcm_behaves(&json!({ "tokens": { dead: "UNREGISTERED" } }))
        .await?;
    for asks_fcm in [true, false] {
        let (id, timeline) = ring(&fixture, &mut incoming, &app).await?;
        let sends = timeline.push.iter();
        let asked = sends.filter(|request| request.uri.path().ends_with(":send"));
        ensure!(asked.count() == usize::from(asks_fcm), "{timeline}");
        ensure!(pushed_to(&timeline) == ["APNS"], "{timeline}");
        app.respond("decline", &id).await?;
    }
    fixture.fcm_behaves(&json!({})).await
}

/// SNS with one disabled endpoint. Returns its URL.
async fn sns_that_has_disabled_the_endpoint() -> Result<String> {
    let is_enabled = Arc::new(AtomicBool::new(false));
    let answer = async move |body: String| {
        let form = form_urlencoded::parse(body.as_bytes());
        let form: HashMap<String, String> = form.into_owned().collect();
        match form["Action"].as_str() {
            "Publish" if !is_enabled.load(Ordering::Relaxed) => (
                StatusCode::BAD_REQUEST,
                "<ErrorResponse><Error><Code>EndpointDisabled</Code><Message>Endpoint is disabled</Message></Error></ErrorResponse>",
            ),
            "Publish" => (
                StatusCode::OK,
                "<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>",
            ),
            "SetEndpointAttributes" => {
                is_enabled.store(true, Ordering::Relaxed);
                (StatusCode::OK, "<SetEndpointAttributesResponse/>")
            }
            _ => (StatusCode::NOT_IMPLEMENTED, ""),
        }
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let routes = axum::Router::new().fallback(move |body: String| {
        let answer = answer.clone();
        async move { answer(body).await }
    });
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(url)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iphone_whose_endpoint_sns_has_disabled_rings() -> Result<()> {
    let fixture = Fixture::open().await?;
    let applications = applications(&fixture, HERE).await?;
    let iphone = fixture.unregistered_app("1001");
    let mut devices = function(&fixture, "devices", &applications, &[]).await?;
    register(&mut devices, &iphone, &["apns_voip"]).await?;
    let sns = sns_that_has_disabled_the_endpoint().await?;
    let sns = [("AWS_ENDPOINT_URL_SNS", sns.as_str())];
    let mut incoming = function(&fixture, "asterisk-incoming", &applications, &sns).await?;
    for _ in 0..2 {
        let (id, _) = ring(&fixture, &mut incoming, &iphone).await?;
        let call = iphone.call(&id).await?;
        ensure!(call["status"] == "waiting_for_mobile", "{call}");
        iphone.respond("decline", &id).await?;
    }
    let log = incoming.log()?;
    let counted = |result: &str| {
        let values = log.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let is_this = line["service"] == "sns/apns_voip" && line["result"] == result;
            is_this.then(|| line["push_results"].as_u64())?
        });
        values.sum::<u64>()
    };
    ensure!((counted("disabled"), counted("sent")) == (1, 2), "{log}");
    Ok(())
}

/// A message to SNS: the platform, the payload and the attributes.
type Published = (String, Value, HashMap<String, String>);

/// The messages to SNS. Fails if Apple or SNS would not deliver one of them as it is meant.
fn published(timeline: &Timeline) -> Result<Vec<Published>> {
    let forms = timeline.aws.iter().map(|request| {
        let form = form_urlencoded::parse(&request.body);
        form.into_owned().collect::<HashMap<String, String>>()
    });
    let published = forms.filter(|form| form.get("Action").is_some_and(|it| it == "Publish"));
    let messages = published.map(|form| {
        let platform = form["TargetArn"].split('/').nth(1).context("platform")?;
        let wrapped: Value = serde_json::from_str(&form["Message"])?;
        let payload: Value = serde_json::from_str(wrapped[platform].as_str().context("payload")?)?;
        let attributes = (1..).map_while(|number| {
            let field = |name: &str| form.get(&format!("MessageAttributes.entry.{number}.{name}"));
            Some((field("Name")?.clone(), field("Value.StringValue")?.clone()))
        });
        let attributes = attributes.collect();
        check_as_documented(platform, &payload, &attributes)?;
        Ok((platform.to_owned(), payload, attributes))
    });
    messages.collect()
}

/// The rules of Apple's "Sending notification requests to APNs", and of SNS for `Publish`.
fn check_as_documented(
    platform: &str,
    payload: &Value,
    attributes: &HashMap<String, String>,
) -> Result<()> {
    let of_apns = |name: &str| attributes.get(&format!("AWS.SNS.MOBILE.APNS.{name}"));
    let (push_type, priority) = (of_apns("PUSH_TYPE"), of_apns("PRIORITY"));
    let push_type = push_type.context("no push type")?.as_str();
    ensure!(
        (push_type == "voip") == platform.starts_with("APNS_VOIP"),
        "{platform}: {push_type}"
    );
    let has_alert = payload["aps"]["alert"].is_object();
    ensure!(
        (push_type == "alert") == has_alert,
        "{push_type}: {payload}"
    );
    if push_type == "background" {
        ensure!(priority.is_some_and(|it| it == "5"), "{priority:?}");
        ensure!(payload["aps"]["content-available"] == 1, "{payload}");
    }
    let collapse_id = of_apns("COLLAPSE_ID").context("no collapse id")?;
    ensure!(collapse_id.len() <= 64, "{collapse_id}");
    let ttl = attributes.get(&format!("AWS.SNS.MOBILE.{platform}.TTL"));
    let ttl: u64 = ttl.context("no TTL")?.parse()?;
    ensure!((1..=2_419_200).contains(&ttl), "{ttl}");
    ensure!(payload.to_string().len() <= 4_096, "{payload}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iphone_learns_of_a_missed_call_by_an_alert_and_of_another_end_in_the_background()
-> Result<()> {
    let fixture = Fixture::open().await?;
    let applications = applications(&fixture, HERE).await?;
    let mut devices = function(&fixture, "devices", &applications, &[]).await?;
    let mut incoming = function(&fixture, "asterisk-incoming", &applications, &[]).await?;
    let mut responses = function(&fixture, "call-response", &applications, &[]).await?;
    let iphone = fixture.unregistered_app("1001");
    register(&mut devices, &iphone, &["apns_voip", "apns"]).await?;
    let channel = format!("iphones.{}", call_sid());
    let caller = unused_mobile_number();
    let number = fixture.number_of("1001");
    let fields = [
        ("channel_id", channel.as_str()),
        ("caller", &caller),
        ("number", number),
    ];
    let (answer, timeline) = report(&fixture, &mut incoming, "incoming", &fields).await?;
    let id = answer["call_id"].as_str().context("no id")?.to_owned();
    let [(platform, ..)] = published(&timeline)?.try_into().ok().context("one push")?;
    assert_eq!(platform, "APNS_VOIP");
    let fields = [fields.as_slice(), &[("cause", "16"), ("answered", "0")]].concat();
    let (_, timeline) = report(&fixture, &mut incoming, "ended", &fields).await?;
    ensure!(iphone.call(&id).await?["status"] == "canceled");
    let pushes = published(&timeline)?;
    let [(first, stop, stop_attributes), (second, notice, attributes)] = &pushes[..] else {
        anyhow::bail!("{pushes:?}");
    };
    assert_eq!((first.as_str(), second.as_str()), ("APNS", "APNS"));
    assert_eq!(
        stop_attributes["AWS.SNS.MOBILE.APNS.PUSH_TYPE"],
        "background"
    );
    assert_eq!(
        (&stop["call_id"], &stop["aps"]["alert"]),
        (&json!(id), &Value::Null)
    );
    assert_eq!(notice["aps"]["alert"]["title"], "Missed call");
    assert_eq!(notice["missed_calls"], "1");
    assert_eq!(
        attributes["AWS.SNS.MOBILE.APNS.COLLAPSE_ID"],
        "missed_calls"
    );
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.TTL"], "86400");

    let ipad = fixture.unregistered_app("1001");
    register(&mut devices, &ipad, &["apns_voip", "apns"]).await?;
    let (id, _) = ring(&fixture, &mut incoming, &iphone).await?;
    let (_, timeline) = responses.invoke(&decline(&ipad, &id)?).await?;
    let [(_, stop, attributes)] = published(&timeline)?.try_into().ok().context("one push")?;
    assert_eq!(stop["reason"], "declined_elsewhere");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PUSH_TYPE"], "background");
    Ok(())
}
