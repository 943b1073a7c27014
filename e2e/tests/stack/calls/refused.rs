//! Rejected requests and their status codes.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use ringback_e2e::fixture::{Fixture, status_and_body};

const NO_CALL: &str = "0b8f3c1e-6d52-4f7a-9e11-2c3d4e5f6a7b";

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_has_its_status_code() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let url = format!("{}/api/call-response", fixture.stack.http_url);
    let good = json!({ "server_call_id": NO_CALL, "extension": "1001", "action": "accept", "timestamp": 1 });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body.to_string()
    };
    let cases = [
        (good.to_string(), StatusCode::NOT_FOUND, "no_such_call"),
        (
            with("extension", "1002".into()),
            StatusCode::FORBIDDEN,
            "not_your_extension",
        ),
        (
            with("action", "answer".into()),
            StatusCode::BAD_REQUEST,
            "bad_field",
        ),
        (
            with("server_call_id", 7.into()),
            StatusCode::BAD_REQUEST,
            "bad_field",
        ),
        ("{".to_owned(), StatusCode::BAD_REQUEST, "bad_field"),
        (
            with("padding", " ".repeat(17 * 1024).into()),
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_long",
        ),
    ];
    for (body, expected, code) in cases {
        let request = fixture
            .http
            .post(&url)
            .bearer_auth(&app.token)
            .header("content-type", "application/json");
        let (status, answer) = status_and_body(request.body(body.clone()).send().await?).await?;
        assert_eq!(
            (status, &answer["code"]),
            (expected, &code.into()),
            "{:.80}",
            body
        );
        assert_eq!(answer["success"], false);
        assert!(
            answer["error"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    for token in ["", "nonsense", &format!("{}x", app.token)] {
        let (status, _) = status_and_body(
            fixture
                .http
                .post(&url)
                .bearer_auth(token)
                .json(&good)
                .send()
                .await?,
        )
        .await?;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{token}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_visible_only_to_its_own_extension() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let other_app = fixture.unregistered_app("1002");
    let (caller, id) = app.is_called().await?;
    let path = format!("/api/calls/{id}");
    assert_eq!(
        other_app.ask(Method::GET, &path, None).await?.0,
        StatusCode::FORBIDDEN
    );
    for action in ["accept", "accept_ready", "decline", "hangup"] {
        let (status, answer) = other_app.respond(action, &id).await?;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::FORBIDDEN, &"not_your_call".into()),
            "{action}"
        );
    }
    let nowhere = format!("/api/calls/{NO_CALL}");
    assert_eq!(
        app.ask(Method::GET, &nowhere, None).await?.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        app.ask(Method::GET, "/api/calls/not-a-uuid", None).await?.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(app.call(&id).await?["status"], "waiting_for_mobile");
    caller.cancel().await?;
    app.wait_for_status(&id, "canceled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exotel_and_the_pbx_must_send_their_secrets() -> Result<()> {
    let fixture = Fixture::open().await?;
    let form = [
        ("channel_id", "1.1"),
        ("caller", "09876543210"),
        ("number", fixture.number_of("1001")),
    ];
    for hook in ["incoming", "bridged", "ended"] {
        let url = format!("{}/asterisk/{hook}", fixture.stack.http_url);
        let without = fixture.http.post(&url).form(&form).send().await?;
        assert_eq!(without.status(), StatusCode::UNAUTHORIZED, "{hook}");
        let wrong = fixture
            .http
            .post(&url)
            .header("X-Ringback-Secret", "guess")
            .form(&form)
            .send()
            .await?;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED, "{hook}");
    }
    for query in [
        "?CallSid=a",
        "?secret=guess&CallSid=a",
        "?secret=&CallSid=a",
    ] {
        let url = format!("{}/exotel/webhook{query}", fixture.stack.http_url);
        assert_eq!(
            fixture.http.get(url).send().await?.status(),
            StatusCode::UNAUTHORIZED,
            "{query}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_registered_only_by_their_own_extension() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let path = format!("/api/devices/{}", app.device);
    let body = |extension: &str, platform: &str, token: &str| {
        Some(json!({ "extension": extension, "platform": platform, "token": token }))
    };
    let cases = [
        (body("1002", "fcm", "t"), StatusCode::FORBIDDEN),
        (body("1001", "pigeon", "t"), StatusCode::BAD_REQUEST),
        (body("1001", "fcm", ""), StatusCode::BAD_REQUEST),
        (body("1001", "fcm", "a b"), StatusCode::BAD_REQUEST),
        (
            Some(json!({ "extension": "1001" })),
            StatusCode::BAD_REQUEST,
        ),
        (body("1001", "fcm", "t"), StatusCode::OK),
    ];
    for (body, expected) in cases {
        let (status, answer) = app.ask(Method::PUT, &path, body).await?;
        assert_eq!(status, expected, "{answer}");
    }
    for _ in 0..2 {
        assert_eq!(
            app.ask(Method::DELETE, &path, None).await?.0,
            StatusCode::OK
        );
    }
    let caller = fixture.dial("1001").await?;
    assert_eq!(
        caller.rejected(ringback_e2e::fixture::SOON).await?.0,
        486,
        "a deleted device does not ring"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reports_each_dependency() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (status, health) = status_and_body(
        fixture
            .http
            .get(format!("{}/health", fixture.stack.http_url))
            .send()
            .await?,
    )
    .await?;
    assert_eq!(status, StatusCode::OK, "{health}");
    assert_eq!(health["region"], fixture.stack.aws.region);
    assert_eq!(
        health["dependencies"],
        json!({ "dynamodb": "ok", "sqs": "ok", "asterisk": "ok" })
    );
    assert!(health["version"].is_string());
    Ok(())
}
