//! Calls that are refused: the callee is busy or has set do-not-disturb.

use std::sync::atomic::Ordering::Relaxed;

use ringback_core::call::{Call, CallType};

use super::*;

fn busy() -> CallSettings {
    CallSettings {
        call_waiting: CallWaiting::Busy,
        ..SETTINGS
    }
}

/// 1001 talks to its first caller, and a hint says so. Asterisk knows both legs.
async fn conversation(settings: CallSettings) -> (TestSwitchboard, Call) {
    let mut switchboard = switchboard(&["phone"]);
    switchboard.settings = settings;
    let first = switchboard.report(&waiting_caller()).await;
    switchboard
        .send(&first, accepted(Some("phone")))
        .await
        .unwrap();
    switchboard.send(&first, Event::Bridged).await.unwrap();
    switchboard.effects.is_bridged.store(true, Relaxed);
    switchboard.hint(&[first.call_id]);
    (switchboard, first)
}

impl TestSwitchboard {
    fn hint(&self, calls: &[CallId]) {
        self.effects.callee.lock().unwrap().during_calls = calls.to_vec();
    }

    async fn second_call(&self) -> Call {
        let mut second = pbx_report(Some("sid-2"), "leg-2");
        second.caller.number = Some(phone_number("9876543299"));
        self.report(&second).await
    }
}

fn refused_as(call: &Call) -> Option<EndReason> {
    call.end_reason()
        .filter(|_| call.status == CallStatus::Declined)
}

#[tokio::test]
async fn a_second_caller_hears_busy_while_the_first_one_talks() {
    let (switchboard, first) = conversation(busy()).await;
    let second = switchboard.second_call().await;
    assert_eq!(refused_as(&second), Some(EndReason::Busy));
    assert_eq!(switchboard.counts(["send_push", "send_busy"]), [1, 1]);
    let ended = switchboard.send(&first, caller_hung_up(true)).await;
    ended.unwrap();
    let third = switchboard
        .report(&pbx_report(Some("sid-3"), "leg-3"))
        .await;
    assert_eq!(third.status, CallStatus::WaitingForMobile);
}

#[tokio::test]
async fn a_second_call_rings_by_default() {
    let (switchboard, _) = conversation(SETTINGS).await;
    let second = switchboard.second_call().await;
    assert_eq!(second.status, CallStatus::WaitingForMobile);
}

/// A crash of Asterisk ends a conversation without a report.
#[tokio::test]
async fn nobody_is_busy_in_a_conversation_that_asterisk_has_lost() {
    let (switchboard, first) = conversation(busy()).await;
    switchboard.effects.is_bridged.store(false, Relaxed);
    let second = switchboard.second_call().await;
    assert_eq!(second.status, CallStatus::WaitingForMobile);
    assert_eq!(switchboard.status(&first).await, CallStatus::Completed);
}

#[tokio::test]
async fn a_call_rings_if_asterisk_does_not_answer_whether_its_callee_talks() {
    let (switchboard, first) = conversation(busy()).await;
    switchboard.make_fail("check_bridge");
    let second = switchboard.second_call().await;
    assert_eq!(second.status, CallStatus::WaitingForMobile);
    assert_eq!(switchboard.status(&first).await, CallStatus::InProgress);
}

#[tokio::test]
async fn an_app_calls_somebody_who_talks_and_its_own_phone_is_not_dialed() {
    let (switchboard, _) = conversation(busy()).await;
    let request = NewCallRequest {
        call_id: CallId::fresh(),
        by: CallParty {
            extension: extension("1002"),
            device: None,
        },
        destination: Destination::App(extension("1001"), CallType::Voice),
        limits: crate::testing::start_limits(),
    };
    let started = switchboard.start_call(&request, NOW, UNTIL).await.unwrap();
    assert_eq!(refused_as(&started.call), Some(EndReason::Busy));
    assert_eq!(
        switchboard.counts(["send_push", "dial_caller_phone"]),
        [1, 0]
    );
}

#[tokio::test]
async fn no_call_rings_before_the_end_of_do_not_disturb() {
    let switchboard = switchboard(&["phone"]);
    let until = NOW + Duration::from_secs(60);
    switchboard
        .effects
        .callee
        .lock()
        .unwrap()
        .do_not_disturb_until = Some(until);
    let refused = switchboard.report(&waiting_caller()).await;
    assert_eq!(refused_as(&refused), Some(EndReason::DoNotDisturb));
    let next = pbx_report(Some("sid-2"), "leg-2");
    let later = switchboard.report_at(&next, until).await.unwrap().call;
    assert_eq!(later.status, CallStatus::WaitingForMobile);
    assert_eq!(switchboard.count("send_push"), 1);
}

/// The trunk tries again, with the same CallSid.
#[tokio::test]
async fn a_refused_caller_who_comes_back_on_a_new_leg_hears_busy_again() {
    let (switchboard, _) = conversation(busy()).await;
    let first_try = switchboard.second_call().await;
    let again = switchboard
        .report(&pbx_report(Some("sid-2"), "leg-3"))
        .await;
    assert_ne!(first_try.call_id, again.call_id);
    assert_eq!(refused_as(&again), Some(EndReason::Busy));
}
