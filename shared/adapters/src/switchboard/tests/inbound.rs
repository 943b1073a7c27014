//! Reports of inbound calls.

use std::collections::HashSet;

use ringback_core::call::{ABANDONED_AFTER, RejectReason};

use super::*;
use crate::switchboard::inbound::MAX_RINGS;

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
        let (sid, hung_up) = (call_sid("sid-1"), caller_hung_up(false));
        let ended = switchboard.handle_by_sid(&sid, None, &hung_up, NOW, UNTIL);
        let ended: Vec<CallId> = ended
            .await
            .unwrap()
            .iter()
            .map(|one| one.call.call_id)
            .collect();
        assert_eq!(ended, [first_call.call_id]);
        // A repeated webhook makes no new ring.
        switchboard.report(&webhook()).await;
        assert_eq!(switchboard.count("send_push"), 1);
    }
}

/// The trunk names no CallSid, and the caller has hung up before Exotel's webhook arrives. Later, a caller with this number is a new one.
#[tokio::test]
async fn a_late_webhook_of_a_caller_who_has_gone_rings_nobody() {
    for (late, pushes) in [(Duration::from_secs(2), 1), (Duration::from_secs(6), 2)] {
        let switchboard = switchboard(&["phone"]);
        let call = switchboard.report(&pbx_report(None, "leg-1")).await;
        switchboard
            .send(&call, caller_hung_up(false))
            .await
            .unwrap();
        let reported = switchboard.report_at(&webhook(), NOW + late).await.unwrap();
        assert_eq!(reported.call.call_id == call.call_id, pushes == 1);
        assert_eq!(switchboard.count("send_push"), pushes);
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
    let call_id = first_ring();
    let report = InboundCallReport {
        call_id: Some(call_id),
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

/// Exotel calls two extensions at once, and the trunk brings one INVITE to the number of each.
#[tokio::test]
async fn one_call_sid_rings_two_extensions() {
    let switchboard = switchboard(&["phone"]);
    let first = switchboard.report(&webhook()).await;
    let legs = ["1001", "1002"].map(|called| InboundCallReport {
        extension: extension(called),
        ..pbx_report(Some("sid-1"), &format!("leg-{called}"))
    });
    let mut calls = Vec::new();
    for leg in legs.iter().chain(&legs) {
        calls.push(switchboard.report(leg).await);
    }
    assert_eq!(calls[0].call_id, first.call_id);
    assert_eq!(
        (calls[1].extension.as_str(), switchboard.count("send_push")),
        ("1002", 2)
    );
    assert_eq!(
        [calls[2].call_id, calls[3].call_id],
        [calls[0].call_id, calls[1].call_id]
    );
    let by = CallParty {
        extension: extension("1002"),
        device: None,
    };
    let readiness = Readiness::Woken;
    switchboard
        .send(&calls[1], Event::Accepted { by, readiness })
        .await
        .unwrap();
    assert_eq!(
        switchboard.status(&calls[0]).await,
        CallStatus::WaitingForMobile
    );
    assert_eq!(switchboard.status(&calls[1]).await, CallStatus::MobileReady);
    // The end of Exotel's call reaches both.
    let (sid, end) = (call_sid("sid-1"), caller_hung_up(true));
    let ended = switchboard.handle_by_sid(&sid, None, &end, NOW, UNTIL);
    assert_eq!(ended.await.unwrap().len(), 2);
    for call in &calls {
        assert_eq!(switchboard.status(call).await, CallStatus::Completed);
    }
}

#[tokio::test]
async fn an_agent_who_is_done_ends_only_the_ring_of_his_extension() {
    let switchboard = switchboard(&["phone"]);
    let [first, second] = ["1001", "1002"].map(|called| InboundCallReport {
        extension: extension(called),
        ..webhook()
    });
    let first = switchboard.report(&first).await;
    let second = switchboard.report(&second).await;
    let (sid, called, done) = (call_sid("sid-1"), extension("1002"), Event::AgentDone);
    let handled = switchboard.handle_by_sid(&sid, Some(&called), &done, NOW, UNTIL);
    assert_eq!(handled.await.unwrap().len(), 1);
    assert_eq!(
        switchboard.status(&first).await,
        CallStatus::WaitingForMobile
    );
    assert_eq!(switchboard.status(&second).await, CallStatus::Canceled);
}

/// Exotel calls the next agent, or the same one again, after a ring without an answer.
#[tokio::test]
async fn a_new_leg_after_the_end_of_a_ring_is_a_new_ring() {
    let switchboard = switchboard(&["phone"]);
    let mut rings = Vec::new();
    for (number, leg) in ["1795149002.1", "1795149040.2", "1795149080.3"]
        .into_iter()
        .enumerate()
    {
        let report = pbx_report(Some("sid-1"), leg);
        let call = switchboard.report(&report).await;
        assert_eq!(call.status, CallStatus::WaitingForMobile);
        // The PBX repeats its report, and Exotel its webhook, while the phone rings and after that.
        let again = switchboard.report(&report).await;
        assert_eq!(again.call_id, call.call_id);
        switchboard.report(&webhook()).await;
        assert_eq!(switchboard.count("send_push"), number + 1);
        switchboard
            .send(&call, caller_hung_up(false))
            .await
            .unwrap();
        let late = switchboard.report(&report).await;
        assert_eq!(
            (late.call_id, late.status),
            (call.call_id, CallStatus::Canceled)
        );
        switchboard.report(&webhook()).await;
        assert_eq!(switchboard.count("send_push"), number + 1);
        rings.push(call.call_id);
    }
    let (sid, called) = (call_sid("sid-1"), extension("1001"));
    assert_eq!(
        rings,
        [1, 2, 3].map(|ring| CallId::of_ring(&sid, &called, ring))
    );
    // An older leg of the trunk starts no new ring.
    let old = switchboard
        .report(&pbx_report(Some("sid-1"), "1795149040.2"))
        .await;
    assert_eq!((old.call_id, switchboard.count("send_push")), (rings[1], 3));
}

#[tokio::test]
async fn the_end_of_a_leg_is_found_by_its_call_sid_in_any_ring() {
    let switchboard = switchboard(&["phone"]);
    let first = switchboard
        .report(&pbx_report(Some("sid-1"), "1795149002.1"))
        .await;
    switchboard
        .send(&first, caller_hung_up(false))
        .await
        .unwrap();
    let second = switchboard
        .report(&pbx_report(Some("sid-1"), "1795149040.2"))
        .await;
    let (sid, called, ended) = (
        call_sid("sid-1"),
        extension("1001"),
        leg("pbx1", "1795149040.2"),
    );
    let event = Event::CallerLegEnded {
        leg: Some(ended.clone()),
        answered: false,
        by: CallSide::Caller,
    };
    let handled = switchboard.handle_leg((&sid, &called), &ended, &event, NOW, UNTIL);
    assert_eq!(handled.await.unwrap().call.call_id, second.call_id);
    assert_eq!(switchboard.status(&second).await, CallStatus::Canceled);
    let elsewhere = extension("1002");
    let unknown = switchboard.handle_leg((&sid, &elsewhere), &ended, &event, NOW, UNTIL);
    assert!(matches!(unknown.await, Err(SwitchboardError::NoSuchCall)));
}

#[tokio::test]
async fn a_declined_caller_whose_leg_arrives_late_hears_busy() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.report(&webhook()).await;
    let by = callee_app(None);
    switchboard
        .send(&call, Event::Declined { by })
        .await
        .unwrap();
    let late = switchboard
        .report(&pbx_report(Some("sid-1"), "1795149002.1"))
        .await;
    assert_eq!(late.call_id, call.call_id);
    assert_eq!(switchboard.counts(["send_push", "send_busy"]), [1, 1]);
    // After that, the same leg is a repeated report, and another one is a new ring.
    switchboard
        .report(&pbx_report(Some("sid-1"), "1795149002.1"))
        .await;
    assert_eq!(switchboard.count("send_push"), 1);
    switchboard
        .report(&pbx_report(Some("sid-1"), "1795149040.2"))
        .await;
    assert_eq!(switchboard.count("send_push"), 2);
}

#[tokio::test]
async fn one_call_sid_rings_an_extension_a_limited_number_of_times() {
    let switchboard = switchboard(&["phone"]);
    let mut last = None;
    for ring in 0..=u64::from(MAX_RINGS) {
        let leg = format!("{}.1", 1_795_149_002 + ring);
        let outcome = switchboard
            .report_at(&pbx_report(Some("sid-1"), &leg), NOW)
            .await
            .unwrap();
        switchboard
            .send(&outcome.call, caller_hung_up(false))
            .await
            .unwrap();
        last = outcome.rejected;
    }
    assert_eq!(last, Some(RejectReason::RingIsOver));
    assert_eq!(switchboard.count("send_push"), 20);
}
