//! The end of an unanswered INVITE: the trunk cancels it, with or without a `Reason` header (RFC 3326), or the PBX rejects it with 486 or
//! 480 (`UnansweredStatus`).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use ringback_sip::{Caller, OutgoingCall};

use ringback_e2e::clients::status_updates;
use ringback_e2e::fixture::{App, CALLER, Fixture, SOON, call_sid};
use ringback_e2e::observed_function::{ObservedFunction, passthru};
use ringback_e2e::pbx::DialplanGlobals;

/// The longest ring timeout of a test stack; see `RING_TIMEOUT_SECONDS` in the Makefile.
const LONGEST_RING: Duration = Duration::from_secs(35);
const COMPLETED_ELSEWHERE: &str = r#"SIP;cause=200;text="Call completed elsewhere""#;
/// How FreeSWITCH, among others, cancels for a caller who gives up.
const ORIGINATOR_CANCEL: &str = r#"SIP;cause=487;text="ORIGINATOR_CANCEL""#;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_answered_or_declined_elsewhere_is_not_missed() -> Result<()> {
    let fixture = Fixture::open().await?;
    for (reasons, expected) in [
        (&[COMPLETED_ELSEWHERE][..], "answered_elsewhere"),
        // Asterisk sends both.
        (
            &[COMPLETED_ELSEWHERE, "Q.850;cause=26"],
            "answered_elsewhere",
        ),
        (
            &[r#"SIP;cause=600;text="Busy Everywhere""#],
            "declined_elsewhere",
        ),
        (&[r#"SIP;cause=603;text="Decline""#], "declined_elsewhere"),
        (&[ORIGINATOR_CANCEL], "caller_hung_up"),
        (&[], "caller_hung_up"),
    ] {
        let app = fixture.app("1001").await?;
        let mut client = fixture.client("1001").await?;
        let (caller, id) = app.is_called().await?;
        caller.cancel_because(reasons).await?;
        let cancel = app.push("call_cancelled").await?;
        assert_eq!(cancel["data"]["reason"], expected, "{reasons:?}");
        let updates = status_updates(&mut client, &id).await?;
        let last = updates.last().context("no update")?;
        assert_eq!(
            (&last["status"], &last["reason"]),
            (&"canceled".into(), &expected.into()),
            "{reasons:?}"
        );
        let call = app.call(&id).await?;
        assert_eq!(call["reason"], expected, "{reasons:?}");
        let shows_reason = call["history"].to_string().contains(expected);
        assert_eq!(shows_reason, expected != "caller_hung_up", "{call}");
        app.unregister().await?;
    }
    Ok(())
}

/// Asterisk shows this reason as it shows "answered elsewhere".
#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_may_cancel_with_normal_clearing_for_a_caller_who_gives_up() -> Result<()> {
    let fixture = Fixture::open().await?;
    let globals = DialplanGlobals::of(&fixture, 0)?;
    for (set, expected) in [("", "answered_elsewhere"), ("yes", "caller_hung_up")] {
        let app = fixture.app("1001").await?;
        globals.set("RINGBACK_CALLER_CANCELS_WITH_16", set).await?;
        let (caller, _) = app.is_called().await?;
        caller.cancel_because(&["Q.850;cause=16"]).await?;
        let cancel = app.push("call_cancelled").await?;
        globals.set("RINGBACK_CALLER_CANCELS_WITH_16", "").await?;
        assert_eq!(cancel["data"]["reason"], expected);
        app.unregister().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ringing_phone_shows_no_missed_call_if_another_one_has_answered() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut phone = fixture.registered_phone("1001").await?;
    for reasons in [&[COMPLETED_ELSEWHERE][..], &[]] {
        let app = fixture.app("1001").await?;
        let (caller, id) = app.is_called().await?;
        assert_eq!(app.respond("accept_ready", &id).await?.0, StatusCode::OK);
        let ringing = phone.next_call(SOON).await?;
        caller.cancel_because(reasons).await?;
        ringing.ended(SOON).await?;
        let received = ringing.cancel_reasons();
        let is_elsewhere = received.contains(&COMPLETED_ELSEWHERE.to_owned());
        assert_eq!(is_elsewhere, !reasons.is_empty(), "{received:?}");
        app.unregister().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_caller_gets_the_configured_status_and_a_declined_one_486() -> Result<()> {
    let fixture = Fixture::open().await?;
    for (declines, expected) in [(false, 480), (true, 486)] {
        let app = fixture.app("1001").await?;
        let (caller, id) = rings_with_status(&app, &fixture, "480").await?;
        if declines {
            let (status, answer) = app.respond("decline", &id).await?;
            ensure!(status == StatusCode::OK, "{answer}");
        }
        let (code, _) = caller.rejected(LONGEST_RING).await?;
        let ended = if declines { "declined" } else { "timed_out" };
        app.wait_for_status(&id, ended).await?;
        assert_eq!(code, expected, "{ended}");
        app.unregister().await?;
    }
    Ok(())
}

/// The cloud does not end the call in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_pbx_that_ends_the_wait_itself_uses_the_same_status() -> Result<()> {
    let fixture = Fixture::open().await?;
    let globals = DialplanGlobals::of(&fixture, 0)?;
    let longest_wait = globals.get("RINGBACK_MAX_WAIT_SECONDS").await?;
    for (setting, expected) in [("480", 480), ("486", 486)] {
        let app = fixture.app("1001").await?;
        globals.set("RINGBACK_MAX_WAIT_SECONDS", "2").await?;
        let ringing = rings_with_status(&app, &fixture, setting).await;
        globals
            .set("RINGBACK_MAX_WAIT_SECONDS", &longest_wait)
            .await?;
        let (code, _) = ringing?.0.rejected(SOON).await?;
        assert_eq!(code, expected);
        app.unregister().await?;
    }
    Ok(())
}

/// A call that `exotel-webhook` stores with this setting. The deployed functions and the PBX end it.
async fn rings_with_status(
    app: &App<'_>,
    fixture: &Fixture,
    setting: &str,
) -> Result<(OutgoingCall, String)> {
    let variables = [("UNANSWERED_STATUS", setting)];
    let mut webhook = ObservedFunction::start_with(fixture, "exotel-webhook", &variables).await?;
    let sid = call_sid();
    webhook
        .invoke(&passthru(fixture, CALLER, &sid, "1001")?)
        .await?;
    let id = app.receives_call().await?;
    let caller = fixture.dial_as("1001", Caller::number(CALLER), Some(&sid));
    let caller = caller.await?;
    // The PBX reports the caller.
    tokio::time::sleep(Duration::from_millis(700)).await;
    Ok((caller, id))
}
