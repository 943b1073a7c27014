//! Reports of inbound calls.

use std::collections::HashSet;

use ringback_core::call::ABANDONED_AFTER;

use super::*;

#[tokio::test]
async fn a_repeated_webhook_sends_one_push() {
    let switchboard = switchboard(&["phone"]);
    for _ in 0..3 {
        switchboard.report(&webhook()).await;
    }
    assert_eq!(switchboard.counts(["send_push", "arm_timer"]), [1, 1]);
}

#[tokio::test]
async fn the_webhook_and_the_pbx_report_one_call_in_any_order() {
    let (with_sid, without_sid) = (waiting_caller(), pbx_report(None, "leg-1"));
    let orders = [
        [webhook(), with_sid.clone()],
        [with_sid, webhook()],
        [webhook(), without_sid.clone()],
        [without_sid, webhook()],
    ];
    for [first, second] in orders {
        let switchboard = switchboard(&["phone"]);
        let first_call = switchboard.report(&first).await;
        let second_call = switchboard.report(&second).await;
        assert_eq!(
            first_call.call_id, second_call.call_id,
            "{first:?} then {second:?}"
        );
        assert_eq!(switchboard.count("send_push"), 1);
        assert_eq!(second_call.caller_leg.unwrap().as_str(), "leg-1");
        // Exotel's later reports find the call by their CallSid.
        let by_sid = CallId::of_call_sid(&call_sid("sid-1"));
        let hung_up = caller_hung_up(false);
        let ended = switchboard.handle(by_sid, &hung_up, NOW, UNTIL).await;
        assert_eq!(ended.unwrap().call.call_id, first_call.call_id);
    }
}

#[tokio::test]
async fn each_caller_with_a_withheld_number_has_a_separate_call() {
    let switchboard = switchboard(&["phone"]);
    let mut call_ids = HashSet::new();
    for (called, channel) in [("1001", "leg-1"), ("1002", "leg-2"), ("1001", "leg-3")] {
        let mut report = pbx_report(None, channel);
        report.caller.number = None;
        report.extension = extension(called);
        call_ids.insert(switchboard.report(&report).await.call_id);
    }
    assert_eq!((call_ids.len(), switchboard.count("send_push")), (3, 3));
}

#[tokio::test]
async fn a_second_call_after_hanging_up_is_a_new_call() {
    let switchboard = switchboard(&["phone"]);
    let first = switchboard.report(&pbx_report(None, "leg-1")).await;
    let ended = switchboard.send(&first, caller_hung_up(false)).await;
    ended.unwrap();
    let second = switchboard.report(&pbx_report(None, "leg-2")).await;
    assert_ne!(first.call_id, second.call_id);
    assert_eq!(
        switchboard.status(&second).await,
        CallStatus::WaitingForMobile
    );
    let webhook_of_second = switchboard.report(&webhook()).await;
    assert_eq!(webhook_of_second.call_id, second.call_id);
}

/// A report without a CallSid gets an id made from its leg. The region that got the first report may have made the id from the
/// CallSid.
#[tokio::test]
async fn a_report_that_names_the_call_id_is_about_that_call() {
    let switchboard = switchboard(&["phone"]);
    let call_id = CallId::of_call_sid(&call_sid("sid-1"));
    let report = InboundCallReport {
        call_id,
        ..pbx_report(None, "leg-1")
    };
    for _ in 0..2 {
        assert_eq!(switchboard.report(&report).await.call_id, call_id);
    }
    assert_eq!(switchboard.count("send_push"), 1);
}

#[tokio::test]
async fn a_phone_that_is_ready_first_is_bridged_when_the_caller_arrives() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.report(&webhook()).await;
    switchboard.send(&call, accepted(None)).await.unwrap();
    assert_eq!(switchboard.count("bridge"), 0);
    switchboard.report(&waiting_caller()).await;
    assert_eq!(switchboard.count("bridge"), 1);
}

#[tokio::test]
async fn a_repeated_report_retries_a_bridge_that_failed() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.report(&webhook()).await;
    switchboard.send(&call, accepted(None)).await.unwrap();
    switchboard.make_fail("bridge");
    let failed = switchboard.report_at(&waiting_caller(), NOW).await;
    assert!(failed.is_err());
    switchboard.make_succeed();
    switchboard.report(&waiting_caller()).await;
    assert_eq!(switchboard.count("bridge"), 1);
}

#[tokio::test]
async fn a_caller_hears_busy_at_once_if_no_device_is_registered() {
    let (switchboard, call) = ringing_call(&[]).await;
    assert_eq!(
        (call.status, call.end_reason()),
        (CallStatus::Failed, Some(EndReason::NoDevice))
    );
    assert_eq!(switchboard.counts(["send_busy", "disarm_timer"]), [1, 1]);
}

#[tokio::test]
async fn a_caller_whose_call_has_already_failed_hears_busy_on_arrival() {
    let switchboard = switchboard(&[]);
    switchboard.report(&webhook()).await;
    assert_eq!(switchboard.count("send_busy"), 0);
    switchboard.report(&waiting_caller()).await;
    assert_eq!(switchboard.count("send_busy"), 1);
}

#[tokio::test]
async fn a_later_report_runs_the_pending_effects_of_a_crashed_process() {
    let (switchboard, _) = stored_call(&["phone"]).await;
    switchboard.report(&webhook()).await;
    assert_eq!(
        switchboard.counts(["send_push", "arm_timer"]),
        [0, 1],
        "the first process may still run: a timer checks again later"
    );
    let later = NOW + ABANDONED_AFTER;
    switchboard.report_at(&webhook(), later).await.unwrap();
    assert_eq!(switchboard.counts(["send_push", "arm_timer"]), [1, 2]);
}

#[tokio::test]
async fn a_report_after_the_ring_time_sends_no_push() {
    let (switchboard, _) = stored_call(&["phone"]).await;
    let later = NOW + Duration::from_secs(300);
    switchboard.report_at(&webhook(), later).await.unwrap();
    assert_eq!(switchboard.counts(["send_push", "arm_timer"]), [0, 1]);
}
