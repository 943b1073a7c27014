//! SIP accounts of devices, on two real PBXs with real SIP phones.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringback_e2e::fixture::{App, Fixture, SOON};
use ringback_sip::{Error, Phone};
use serde_json::{Value, json};

/// The account that a registration returns.
struct Account {
    answer: Value,
}

impl Account {
    /// Registers the device with `sip`.
    async fn of(app: &App<'_>) -> Result<Self> {
        let (status, answer) = register(app, json!({ "sip": true })).await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        let answer = answer["sip"].clone();
        ensure!(answer.is_object(), "no account");
        Ok(Self { answer })
    }

    fn text(&self, name: &str) -> &str {
        self.answer[name].as_str().unwrap()
    }

    /// A phone with this account at a PBX, over UDP and RTP, or over TLS and SRTP.
    async fn phone(&self, fixture: &Fixture, pbx: usize, encrypted: bool) -> Result<Phone> {
        let scheme = if encrypted { "sips:" } else { "sip:" };
        let uris = self.answer["servers"][pbx]["uris"].as_array();
        let uri = uris
            .into_iter()
            .flatten()
            .find_map(|uri| uri.as_str()?.strip_prefix(scheme))
            .context("no such URI")?;
        let address = uri.split(';').next().unwrap().parse()?;
        let (user, password) = (self.text("username"), self.text("password"));
        Ok(if encrypted {
            let ca_pem = &fixture.stack.ari.ca_pem;
            Phone::over_tls(address, user, password, ca_pem).await?
        } else {
            Phone::new(address, user, password).await?
        })
    }

    async fn registers(&self, fixture: &Fixture, pbx: usize) -> Result<bool> {
        match self.phone(fixture, pbx, false).await?.register().await {
            Ok(()) => Ok(true),
            Err(Error::RegisterRefused(401)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

async fn register(app: &App<'_>, more: Value) -> Result<(StatusCode, Value)> {
    let mut body =
        json!({ "extension": app.extension, "platform": "fcm", "token": app.push_token });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let path = format!("/api/devices/{}", app.device);
    app.ask(Method::PUT, &path, Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_registers_at_every_pbx_with_its_own_account() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let account = Account::of(&app).await?;
    assert!(account.text("username").starts_with("1001-"));
    assert_eq!(account.text("realm"), "ringback");
    let days_30 = 30 * 24 * 60 * 60 * 1000;
    let now = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp())? * 1000;
    let expires_at = account.answer["expires_at"].as_u64().unwrap();
    assert!(expires_at.abs_diff(now + days_30) < 60_000, "{expires_at}");
    let servers = account.answer["servers"].as_array().unwrap();
    assert_eq!(servers.len(), fixture.stack.pbxs.len());
    for (index, pbx) in fixture.stack.pbxs.iter().enumerate() {
        assert_eq!(servers[index]["pbx"], pbx.name.as_str());
        assert_eq!(servers[index]["domain"], "127.0.0.1");
        for encrypted in [false, true] {
            let mut phone = account.phone(&fixture, index, encrypted).await?;
            phone.register().await?;
            phone.unregister().await?;
        }
    }
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_registration_keeps_the_name_and_replaces_the_password_at_once() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let first = Account::of(&app).await?;
    assert!(first.registers(&fixture, 0).await?);
    let second = Account::of(&app).await?;
    assert_eq!(second.text("username"), first.text("username"));
    for pbx in 0..fixture.stack.pbxs.len() {
        assert!(!first.registers(&fixture, pbx).await?, "{pbx}");
        assert!(second.registers(&fixture, pbx).await?, "{pbx}");
    }
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_sip_or_that_is_deleted_or_evicted_loses_its_account() -> Result<()> {
    let fixture = Fixture::open().await?;
    for how in ["without sip", "deleted", "evicted"] {
        let app = fixture.unregistered_app("1001");
        let account = Account::of(&app).await?;
        let mut phone = account.phone(&fixture, 0, false).await?;
        phone.register().await?;
        assert!(is_online(&fixture, account.text("username")).await?);
        let mut others = Vec::new();
        match how {
            "without sip" => drop(register(&app, json!({ "sip": false })).await?),
            "deleted" => app.unregister().await?,
            _ => {
                for _ in 0..5 {
                    others.push(fixture.app("1001").await?);
                }
            }
        }
        for pbx in 0..fixture.stack.pbxs.len() {
            assert!(!account.registers(&fixture, pbx).await?, "{how}, {pbx}");
        }
        // The phone was registered. Its contact is gone too, and does not come back with another account.
        assert!(
            !is_online(&fixture, account.text("username")).await?,
            "{how}"
        );
        let again = Account::of(&app).await?;
        assert_ne!(again.text("username"), account.text("username"), "{how}");
        app.unregister().await?;
        for other in others {
            other.unregister().await?;
        }
    }
    Ok(())
}

/// Whether the first PBX has a contact for an account.
async fn is_online(fixture: &Fixture, name: &str) -> Result<bool> {
    let ari = &fixture.stack.ari;
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let url = format!("{}/endpoints/PJSIP/{name}", ari.local_url);
        let request = fixture.http.get(url);
        let request = request.basic_auth(&ari.username, Some(&ari.password));
        let endpoint: Value = request.send().await?.json().await?;
        match endpoint["state"].as_str() {
            Some("online") => return Ok(true),
            None => return Ok(false),
            _ if tokio::time::Instant::now() > deadline => return Ok(false),
            // Asterisk asks the phone first.
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sip_must_be_true_or_false() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let (status, answer) = register(&app, json!({ "sip": "yes" })).await?;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::BAD_REQUEST, &json!("bad_field"))
    );
    Ok(())
}
