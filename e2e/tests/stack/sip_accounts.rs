//! SIP accounts of devices, on two real PBXs with real SIP phones.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringback_e2e::fixture::{Fixture, SOON};
use ringback_e2e::sip_account::SipAccount;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_registers_at_every_pbx_with_its_own_account() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let account = SipAccount::of(&app).await?;
    assert!(account.text("username").starts_with("1001-"));
    assert_eq!(account.text("realm"), "ringback");
    let days_30 = 30 * 24 * 60 * 60 * 1000;
    let now = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp())? * 1000;
    let expires_at = account.answer()["expires_at"].as_u64().unwrap();
    assert!(expires_at.abs_diff(now + days_30) < 60_000, "{expires_at}");
    let servers = account.answer()["servers"].as_array().unwrap();
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
    let first = SipAccount::of(&app).await?;
    assert!(first.registers(&fixture, 0).await?);
    let second = SipAccount::of(&app).await?;
    assert_eq!(second.text("username"), first.text("username"));
    for pbx in 0..fixture.stack.pbxs.len() {
        assert!(!first.registers(&fixture, pbx).await?, "{pbx}");
        assert!(second.registers(&fixture, pbx).await?, "{pbx}");
    }
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_without_sip_keeps_the_account() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let account = SipAccount::of(&app).await?;
    // An iPhone sends its second push token by itself.
    let (status, answer) = app.register(json!({})).await?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer.get("sip"), None);
    assert!(account.registers(&fixture, 0).await?);
    let again = SipAccount::of(&app).await?;
    assert_eq!(again.text("username"), account.text("username"));
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_at_the_same_time_get_one_account() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let registrations = (0..5).map(|_| app.register(json!({ "sip": true })));
    let mut accounts = Vec::new();
    for answer in futures::future::join_all(registrations).await {
        let (status, answer) = answer?;
        // The slower ones are asked to try again.
        if status != StatusCode::SERVICE_UNAVAILABLE {
            ensure!(status == StatusCode::OK, "{status}: {answer}");
            accounts.push(SipAccount::in_answer(&answer)?);
        }
    }
    let names: BTreeSet<_> = accounts.iter().map(|it| it.text("username")).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    for pbx in 0..fixture.stack.pbxs.len() {
        let mut usable = 0;
        for account in &accounts {
            usable += usize::from(account.registers(&fixture, pbx).await?);
        }
        assert_eq!(usable, 1, "of {} at PBX {pbx}", accounts.len());
    }
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_sip_or_that_is_deleted_or_evicted_loses_its_account() -> Result<()> {
    let fixture = Fixture::open().await?;
    for how in ["without sip", "deleted", "evicted"] {
        let app = fixture.unregistered_app("1001");
        let account = SipAccount::of(&app).await?;
        let mut phone = account.phone(&fixture, 0, false).await?;
        phone.register().await?;
        assert!(is_online(&fixture, account.text("username")).await?);
        let mut others = Vec::new();
        match how {
            "without sip" => drop(app.register(json!({ "sip": false })).await?),
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
        let name = account.text("username");
        for endpoint in [name, &format!("{name}-webrtc")] {
            let path = format!("/endpoints/PJSIP/{endpoint}");
            let status = ari(&fixture, 0, Method::GET, &path).await?;
            assert_eq!(status, StatusCode::NOT_FOUND, "{how}, {endpoint}");
        }
        let again = SipAccount::of(&app).await?;
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
    let (status, answer) = app.register(json!({ "sip": "yes" })).await?;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::BAD_REQUEST, &json!("bad_field"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_that_accepts_is_the_one_that_is_called() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut apps = [
        fixture.unregistered_app("1001"),
        fixture.unregistered_app("1001"),
    ];
    for round in 0..10 {
        // Each round has new push tokens and passwords, and the phones register in turns.
        let (accepting, first) = (round % 2, round / 2 % 2);
        let mut phones = Vec::new();
        for app in &mut apps {
            app.push_token = format!("token-{}", uuid::Uuid::new_v4().simple());
            let account = SipAccount::of(app).await?;
            phones.push(account.phone(&fixture, 0, false).await?);
        }
        for index in [first, 1 - first] {
            phones[index].register().await?;
        }
        let [this, other] = [&apps[accepting], &apps[1 - accepting]];
        let (caller, id) = this.is_called().await?;
        other.receives_call().await?;
        let (status, answer) = this.respond("accept", &id).await?;
        assert_eq!(status, StatusCode::OK, "round {round}: {answer}");
        let callee = phones[accepting].next_call(SOON).await;
        let callee = callee.with_context(|| format!("round {round}"))?;
        callee.answer().await?;
        caller.answered(SOON).await?;
        callee.media().hears(caller.media(), SOON).await?;
        let cancel = other.push("call_cancelled").await?;
        assert_eq!(cancel["data"]["reason"], "answered_elsewhere", "{round}");
        assert_eq!(this.count_pushes("call_cancelled").await?, 0, "{round}");
        caller.hang_up().await?;
        this.wait_for_status(&id, "completed").await?;
        let not_called = phones[1 - accepting].next_call(Duration::from_millis(200));
        assert!(not_called.await.is_err(), "round {round}");
    }
    for app in &apps {
        app.unregister().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_device_is_called_even_if_it_does_not_name_itself() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let mut phone = SipAccount::of(&app)
        .await?
        .phone(&fixture, 0, false)
        .await?;
    phone.register().await?;
    let (caller, id) = app.is_called().await?;
    let (status, answer) = app.respond_without_device("accept", &id).await?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let called = phone.next_call(SOON).await?;
    called.answer().await?;
    caller.answered(SOON).await?;
    called.media().hears(caller.media(), SOON).await?;
    caller.hang_up().await?;
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_accepts_before_it_registers_is_waited_for() -> Result<()> {
    let fixture = Fixture::open().await?;
    let [this, other] = [
        fixture.unregistered_app("1001"),
        fixture.unregistered_app("1001"),
    ];
    let mut own = SipAccount::of(&this)
        .await?
        .phone(&fixture, 0, true)
        .await?;
    let mut others = SipAccount::of(&other)
        .await?
        .phone(&fixture, 0, false)
        .await?;
    let mut shared = fixture.registered_phone("1001").await?;
    others.register().await?;
    let (caller, id) = this.is_called().await?;
    let (accepted, called) = tokio::join!(this.respond("accept", &id), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        own.register().await?;
        anyhow::Ok(own.next_call(SOON).await?)
    });
    let (status, answer) = accepted?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let called = called?;
    called.answer().await?;
    caller.answered(SOON).await?;
    called.media().hears(caller.media(), SOON).await?;
    let at_once = Duration::from_millis(200);
    assert!(others.next_call(at_once).await.is_err());
    assert!(shared.next_call(at_once).await.is_err());
    // Its account ends during the conversation, which goes on.
    this.unregister().await?;
    called.media().hears(caller.media(), SOON).await?;
    caller.hang_up().await?;
    called.ended(SOON).await?;
    other.unregister().await?;
    shared.unregister().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_device_that_starts_a_call_picks_up_for_it() -> Result<()> {
    let fixture = Fixture::open().await?;
    let [this, other] = [
        fixture.unregistered_app("1001"),
        fixture.unregistered_app("1001"),
    ];
    let mut own = SipAccount::of(&this)
        .await?
        .phone(&fixture, 0, false)
        .await?;
    let mut others = SipAccount::of(&other)
        .await?
        .phone(&fixture, 0, false)
        .await?;
    own.register().await?;
    others.register().await?;
    let callee = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let call = json!({ "type": "incoming_call", "recipientId": "1002", "deviceId": this.device });
    client.send(call).await?;
    let leg = own.next_call(SOON).await?;
    assert_eq!(leg.header("Answer-Mode"), Some("Auto"));
    callee.receives_call().await?;
    assert!(others.next_call(Duration::from_millis(200)).await.is_err());
    leg.answer().await?;
    leg.hang_up().await?;
    this.unregister().await?;
    other.unregister().await
}

/// Sends a request to ARI of Asterisk itself, past the proxy.
async fn ari(fixture: &Fixture, pbx: usize, method: Method, path: &str) -> Result<StatusCode> {
    let ari = &fixture.stack.pbxs[pbx].ari;
    let request = fixture
        .http
        .request(method, format!("{}{path}", ari.local_url));
    let request = request.basic_auth(&ari.username, Some(&ari.password));
    Ok(request.send().await?.status())
}

/// Deletes what the cloud has written to a PBX's database, as if the PBX had started with an empty one.
async fn lose_database(fixture: &Fixture, pbx: usize, accounts: &[&SipAccount]) -> Result<()> {
    const OBJECTS: &str = "/asterisk/config/dynamic/res_pjsip";
    ari(
        fixture,
        pbx,
        Method::DELETE,
        &format!("{OBJECTS}/aor/ringback-accounts"),
    )
    .await?;
    for account in accounts {
        let name = account.text("username");
        let endpoints = [
            format!("endpoint/{name}"),
            format!("endpoint/{name}-webrtc"),
        ];
        let others = [format!("auth/{name}"), format!("aor/{name}")];
        for object in endpoints.into_iter().chain(others) {
            let path = format!("{OBJECTS}/{object}");
            assert_eq!(ari(fixture, pbx, Method::DELETE, &path).await?, 204);
        }
    }
    Ok(())
}

/// Runs the function that a schedule runs every minute.
async fn run_scheduled_function(fixture: &Fixture) -> Result<()> {
    let name = format!("{}-sip-accounts", ringback_local::settings::STACK_NAME);
    let endpoint = &fixture.stack.aws.endpoint;
    let url = format!("{endpoint}/2015-03-31/functions/{name}/invocations");
    let answer = fixture.http.post(url).body("{}").send().await?;
    ensure!(answer.headers().get("x-amz-function-error").is_none());
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pbx_that_lost_its_database_gets_all_accounts_again() -> Result<()> {
    let fixture = Fixture::open().await?;
    run_scheduled_function(&fixture).await?;
    let apps = [
        fixture.unregistered_app("1001"),
        fixture.unregistered_app("1002"),
    ];
    let (one, two) = (
        SipAccount::of(&apps[0]).await?,
        SipAccount::of(&apps[1]).await?,
    );
    for pbx in 0..fixture.stack.pbxs.len() {
        lose_database(&fixture, pbx, &[&one, &two]).await?;
        assert!(!one.registers(&fixture, pbx).await?);
    }
    run_scheduled_function(&fixture).await?;
    for pbx in 0..fixture.stack.pbxs.len() {
        assert!(one.registers(&fixture, pbx).await?, "{pbx}");
        assert!(two.registers(&fixture, pbx).await?, "{pbx}");
    }
    for app in &apps {
        app.unregister().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reaches_a_device_whose_pbx_has_just_lost_its_database() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let account = SipAccount::of(&app).await?;
    let mut phone = account.phone(&fixture, 0, false).await?;
    lose_database(&fixture, 0, &[&account]).await?;
    assert!(phone.register().await.is_err());
    let (caller, id) = app.is_called().await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    while let Err(error) = phone.register().await {
        ensure!(tokio::time::Instant::now() < deadline, "{error}");
    }
    let (status, answer) = app.respond("accept_ready", &id).await?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let called = phone.next_call(SOON).await?;
    called.answer().await?;
    caller.answered(SOON).await?;
    caller.hang_up().await?;
    app.unregister().await
}
