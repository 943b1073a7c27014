//! Timers fire: on time, twice, late, or after an effect has failed.

use ringback_core::call::ABANDONED_AFTER;

use super::*;

#[tokio::test]
async fn a_timer_retries_a_push_that_failed() {
    let switchboard = switchboard(&["phone"]);
    switchboard.make_fail("send_push");
    let reported = switchboard.report_at(&waiting_caller(), NOW).await;
    let Err(SwitchboardError::Effect { call, .. }) = reported else {
        panic!("the failed push is not reported: {reported:?}")
    };
    assert_eq!(
        switchboard.count("arm_timer"),
        2,
        "one for the end of the ring, one for the retry"
    );
    switchboard.make_succeed();
    let soon = NOW + ABANDONED_AFTER;
    switchboard.fire_timer(&call, soon).await.unwrap();
    assert_eq!(switchboard.count("send_push"), 1);
}

#[tokio::test]
async fn the_timer_is_disarmed_only_after_all_other_effects() {
    let (switchboard, call) = ringing_call(&["phone"]).await;
    switchboard.make_fail("send_busy");
    let ring_end = call.rings_until;
    assert!(switchboard.fire_timer(&call, ring_end).await.is_err());
    assert_eq!(switchboard.status(&call).await, CallStatus::TimedOut);
    assert_eq!(switchboard.count("disarm_timer"), 0);
    switchboard.make_succeed();
    // Until the first attempt counts as crashed, it may still run.
    for (now, counts) in [(ring_end, [1, 0]), (ring_end + ABANDONED_AFTER, [2, 1])] {
        switchboard.fire_timer(&call, now).await.unwrap();
        assert_eq!(switchboard.counts(["send_busy", "disarm_timer"]), counts);
    }
}

#[tokio::test]
async fn a_second_timer_has_no_effects() {
    let (switchboard, call) = ringing_call(&["phone"]).await;
    for _ in 0..2 {
        let fired = switchboard.fire_timer(&call, call.rings_until).await;
        fired.unwrap();
        let counts = switchboard.counts(["send_busy", "cancel_push", "disarm_timer"]);
        assert_eq!(counts, [1, 1, 1]);
    }
}

/// The region of the timer was down, and the other region may have bridged the call.
#[tokio::test]
async fn a_late_timer_ends_a_call_only_if_it_is_not_bridged() {
    for (is_bridged, status, busy) in [
        (true, CallStatus::InProgress, 0),
        (false, CallStatus::TimedOut, 1),
    ] {
        let (switchboard, call) = ringing_call(&["phone"]).await;
        switchboard.effects.is_bridged.store(is_bridged, Relaxed);
        let late = call.rings_until + ABANDONED_AFTER;
        let fired = switchboard.fire_timer(&call, late).await.unwrap();
        assert_eq!(fired.call.status, status);
        assert_eq!(switchboard.count("send_busy"), busy);
    }
}

mod at_the_deadline_of_an_accepted_call {
    //! The report that the legs were bridged may be lost, so Ringback asks Asterisk before it ends the call.

    use super::*;

    async fn accepted_call() -> (TestSwitchboard, Call, Timestamp) {
        let (switchboard, call) = ringing_call(&["phone"]).await;
        let outcome = switchboard.send(&call, accepted(None)).await;
        let call = outcome.unwrap().call;
        let deadline = call.deadline().unwrap();
        (switchboard, call, deadline)
    }

    #[tokio::test]
    async fn a_bridged_call_continues() {
        let (switchboard, call, deadline) = accepted_call().await;
        switchboard.effects.is_bridged.store(true, Relaxed);
        let fired = switchboard.fire_timer(&call, deadline).await.unwrap();
        assert_eq!(fired.call.status, CallStatus::InProgress);
        assert_eq!(switchboard.count("hang_up"), 0);
    }

    #[tokio::test]
    async fn a_waiting_caller_hears_busy_at_once() {
        let (switchboard, call, deadline) = accepted_call().await;
        let fired = switchboard.fire_timer(&call, deadline).await.unwrap();
        assert_eq!(
            (fired.call.status, fired.call.end_reason()),
            (CallStatus::Failed, Some(EndReason::NotConnected))
        );
        assert_eq!(switchboard.count("send_busy"), 1);
    }

    #[tokio::test]
    async fn the_call_fails_if_asterisk_does_not_answer_twice() {
        let (switchboard, call, deadline) = accepted_call().await;
        let second = deadline + ABANDONED_AFTER;
        switchboard.make_fail("check_bridge");
        for attempt in [deadline, second] {
            assert!(switchboard.fire_timer(&call, attempt).await.is_err());
        }
        let last = second + ABANDONED_AFTER;
        let fired = switchboard.fire_timer(&call, last).await.unwrap();
        assert_eq!(fired.call.status, CallStatus::Failed);
    }
}
