//! No phone transfers a call (`docs/decisions/transfers.md`).

use anyhow::{Context, Result, ensure};
use ringback_e2e::baresip::Baresip;
use ringback_e2e::fixture::{App, Conversation, Fixture, SOON};
use ringback_e2e::sip_account::SipAccount;
use ringback_sip::{Leg, Phone};

use super::hears_again;

/// A `Refer-To` for an attended transfer: to the party of another leg.
fn in_place_of(leg: &Leg, fixture: &Fixture) -> String {
    let replaces = leg.replaces();
    let (_, dialog) = replaces.split_once(": ").unwrap();
    let dialog: String = form_urlencoded::byte_serialize(dialog.as_bytes()).collect();
    format!("<sip:1002@{}?Replaces={dialog}>", fixture.pbx)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_of_any_kind_is_declined_and_the_call_continues() -> Result<()> {
    let fixture = Fixture::open().await?;
    let other_app = fixture.app("1002").await?;
    let other = Conversation::start(&other_app, &mut fixture.phone("1002").await?).await?;
    let targets = [
        format!("<sip:1002@{}>", fixture.pbx),
        format!("<sip:09876543210@{}>", fixture.pbx),
        "<sip:1002@elsewhere.example.com>".to_owned(),
        "<tel:+919876543210>".to_owned(),
        in_place_of(other.callee.leg(), &fixture),
    ];
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    cannot_transfer(&app, &mut phone, &targets).await?;
    // The cloud creates the endpoint of this one.
    let app = fixture.app("1001").await?;
    let account = SipAccount::of(&app).await?;
    let mut phone = account.phone(&fixture, 0, false).await?;
    cannot_transfer(&app, &mut phone, &targets).await?;
    other.both_hear().await?;
    other.end(&other_app).await?;
    app.unregister().await
}

/// Both parties of a call try to transfer it.
async fn cannot_transfer(app: &App<'_>, phone: &mut Phone, targets: &[String]) -> Result<()> {
    let talk = Conversation::start(app, phone).await?;
    for target in targets {
        for leg in [talk.callee.leg(), talk.caller.leg()] {
            let code = leg.refer(target).await.with_context(|| target.clone())?;
            ensure!(code == 603, "{target}: {code}");
        }
    }
    hears_again(talk.caller.media(), talk.callee.media()).await?;
    hears_again(talk.callee.media(), talk.caller.media()).await?;
    talk.end(app).await?;
    Ok(())
}

/// Why `allow_transfer` stays off. If a newer Asterisk fails this test, read the decision again.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_may_transfer_would_take_over_the_call_of_another_one() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let other_app = fixture.app("1002").await?;
    let account = SipAccount::of(&app).await?;
    let endpoint = account.text("username");
    fixture
        .set_endpoint(endpoint, &[("allow_transfer", "yes")])
        .await?;
    let mut phone = account.phone(&fixture, 0, false).await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    let other = Conversation::start(&other_app, &mut fixture.phone("1002").await?).await?;
    other.both_hear().await?;
    let target = in_place_of(other.callee.leg(), &fixture);
    ensure!(talk.callee.leg().refer(&target).await? == 202);
    other.callee.ended(SOON).await?;
    other_app.wait_for_status(&other.id, "completed").await?;
    app.wait_for_status(&talk.id, "completed").await?;
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_shows_that_its_transfer_is_declined() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = Baresip::register(&fixture, "1001").await?;
    let (caller, id) = app.is_called().await?;
    app.respond("accept_ready", &id).await?;
    phone.event("CALL_INCOMING").await?;
    phone.run("accept").await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    let transfer = format!("transfer sip:1002@{}", fixture.pbx);
    phone.run(&transfer).await?;
    let event = phone.event("TRANSFER_FAILED").await?;
    ensure!(event["param"] == "603 Decline", "{event}");
    // Baresip 1.0 hangs up then. Newer versions resume the call.
    let call = app.wait_for_status(&id, "completed").await?;
    ensure!(call["reason"] == "callee_hung_up", "{call}");
    Ok(())
}
