//! Apps accept, decline and hang up.

use ringback_core::call::RejectReason;

use super::*;

#[tokio::test]
async fn an_action_on_an_unknown_call_fails() {
    let switchboard = switchboard(&["phone"]);
    let accepted = accepted(None);
    let result = switchboard.handle(CallId::fresh(), &accepted, NOW, UNTIL);
    assert!(matches!(result.await, Err(SwitchboardError::NoSuchCall)));
}

#[tokio::test]
async fn one_of_two_devices_that_accept_at_once_is_bridged() {
    let (switchboard, call) = ringing_call(&["phone", "tablet"]).await;
    let (first, second) = futures::join!(
        switchboard.send(&call, accepted(Some("phone"))),
        switchboard.send(&call, accepted(Some("tablet")))
    );
    assert_eq!(first.unwrap().rejected, None);
    assert_eq!(second.unwrap().rejected, Some(RejectReason::WrongStatus));
    assert_eq!(switchboard.counts(["bridge", "cancel_push"]), [1, 1]);
}

#[tokio::test]
async fn a_repeated_accept_gets_the_same_answer_and_cancels_once() {
    let (switchboard, call) = ringing_call(&["phone", "tablet"]).await;
    for _ in 0..2 {
        let outcome = switchboard.send(&call, accepted(Some("phone"))).await;
        let outcome = outcome.unwrap();
        assert_eq!(
            (outcome.rejected, outcome.call.status),
            (None, CallStatus::MobileReady)
        );
    }
    assert_eq!(switchboard.count("cancel_push"), 1);
}

#[tokio::test]
async fn a_repeated_accept_retries_a_bridge_that_failed() {
    let (switchboard, call) = ringing_call(&["phone"]).await;
    switchboard.make_fail("bridge");
    assert!(matches!(
        switchboard.send(&call, accepted(None)).await,
        Err(SwitchboardError::Effect { .. })
    ));
    switchboard.make_succeed();
    let outcome = switchboard.send(&call, accepted(None)).await.unwrap();
    assert_eq!(outcome.rejected, None);
    assert_eq!(switchboard.count("bridge"), 1);
}

#[tokio::test]
async fn a_decline_before_the_push_is_sent_ends_the_call_if_no_other_device_rings() {
    for (devices, status, busy) in [
        (&["phone", "tablet"][..], CallStatus::WaitingForMobile, 0),
        (&["tablet"][..], CallStatus::Declined, 1),
    ] {
        let switchboard = switchboard(&[]);
        let mut call = waiting_caller().new_call(first_ring(), SETTINGS, NOW);
        call.settings.decline_ends = DeclineEnds::Device;
        switchboard.store.create(&call, None).await.unwrap();
        let by = callee_app(Some("tablet"));
        let declined = switchboard.send(&call, Event::Declined { by }).await;
        assert_eq!(declined.unwrap().call.status, CallStatus::WaitingForMobile);
        let sent = switchboard.send(&call, push_sent(devices, NOW)).await;
        sent.unwrap();
        assert_eq!(switchboard.status(&call).await, status);
        assert_eq!(switchboard.count("send_busy"), busy);
    }
}
