//! A process may crash between any two lines. Each scenario runs once for every step at which its process can crash: before and
//! after each access to the table and each effect. The client of a crashed process gets no answer and asks again, as the PBX, the
//! app and Exotel do, and timers fire when they are due. In the end the call must be over, no leg may be up, no device may ring,
//! and no number may have been called twice.

mod simulation;

use std::cell::Cell;

use super::tests::LIMITS;
use super::*;
use ringback_core::call::{CallStatus, EndReason};
use simulation::{Action, LegState, Simulated, simulate};

const MOMENT: Action = Action::Wait(Duration::from_secs(7));
const TALK: Action = Action::Wait(Duration::from_secs(60));

/// Exotel's webhook and the PBX report a call, and an app accepts it.
const ACCEPTED: &[Action] = &[
    Action::Webhook,
    Action::CallerArrives,
    MOMENT,
    Action::Accept,
];

/// The dialed phone answers, and the caller hangs up after a while.
const ANSWERED: &[Action] = &[MOMENT, Action::PhoneAnswers, TALK, Action::CallerHangsUp];

/// Runs a scenario once for each step at which its process can crash, and once without a crash.
async fn crash_at_each_step(actions: &[Action], check: impl Fn(&Simulated)) {
    let steps = simulate(actions, usize::MAX).await.steps;
    assert!(steps > 0);
    for crash_step in 0..=steps {
        let end = simulate(actions, crash_step).await;
        let context = format!("crash at step {crash_step} of {steps}: {end:#?}");
        let (call, outside) = (end.call.as_ref(), &end.outside);
        let is_down = |leg| matches!(leg, LegState::None | LegState::Down);
        assert!(
            call.is_none_or(|call| call.status.is_final()),
            "the call is not over; {context}"
        );
        assert!(is_down(outside.phone), "the phone's leg is up; {context}");
        assert!(
            call.is_none() || is_down(outside.caller),
            "the caller's leg is up; {context}"
        );
        assert!(outside.ringing.is_empty(), "a device rings; {context}");
        assert!(
            outside.caller_pbxs.len() <= 1,
            "the caller's phone is dialed on two PBXs; {context}"
        );
        assert!(outside.placed <= 1, "placed twice; {context}");
        check(&end);
    }
}

/// Checks that the two sides talk at each crash step.
async fn always_answered(actions: &[Action]) {
    crash_at_each_step(actions, |end| assert!(end.outside.talked, "{end:#?}")).await;
}

#[tokio::test]
async fn an_accepted_call_is_answered() {
    always_answered(&[ACCEPTED, ANSWERED].concat()).await;
}

#[tokio::test]
async fn a_call_without_a_webhook_is_answered() {
    always_answered(&[&ACCEPTED[1..], ANSWERED].concat()).await;
}

#[tokio::test]
async fn a_call_between_apps_is_answered() {
    let started = [
        Action::StartAppCall,
        Action::CallingAppsPhoneAnswers,
        MOMENT,
        Action::CallingAppsPhoneAnswers,
        Action::Accept,
    ];
    always_answered(&[&started, ANSWERED].concat()).await;
}

#[tokio::test]
async fn a_call_that_is_accepted_before_the_caller_arrives_is_answered() {
    let accepted_first = [
        Action::Webhook,
        MOMENT,
        Action::Accept,
        Action::CallerArrives,
    ];
    crash_at_each_step(&[&accepted_first, ANSWERED].concat(), |end| {
        // Exotel does not repeat its webhook. After a crash, the call may not exist when the app accepts it.
        let was_accepted = end
            .call
            .as_ref()
            .is_some_and(|call| call.ready_at.is_some());
        assert!(end.outside.talked || !was_accepted, "{end:#?}");
    })
    .await;
}

#[tokio::test]
async fn a_caller_who_hangs_up_early_leaves_no_leg_and_no_device_ringing() {
    for last in [
        &[Action::PhoneAnswers, Action::CallerHangsUp][..],
        &[Action::CallerHangsUp],
    ] {
        crash_at_each_step(&[ACCEPTED, last].concat(), |_| {}).await;
    }
}

#[tokio::test]
async fn a_call_that_is_declined_or_given_up_is_not_answered() {
    for last in [Action::CallerHangsUp, Action::Decline] {
        let actions = [&ACCEPTED[..3], &[last]].concat();
        crash_at_each_step(&actions, |end| assert!(!end.outside.talked, "{end:#?}")).await;
    }
}

#[tokio::test]
async fn an_unanswered_call_ends_in_time() {
    let actions = [
        Action::Webhook,
        Action::CallerArrives,
        Action::Wait(Duration::from_secs(120)),
    ];
    crash_at_each_step(&actions, |end| {
        let call = end.call.as_ref().expect("the PBX repeats its report");
        assert_eq!(call.end_reason(), Some(EndReason::NoAnswer), "{end:#?}");
        let late = call.ended_at().unwrap().since(call.rings_until);
        // SQS delivers the timer of a crashed process again after its visibility timeout.
        assert!(late <= Duration::from_secs(95), "{late:?}: {end:#?}");
    })
    .await;
}

#[tokio::test]
async fn a_lost_report_does_not_end_a_bridged_call() {
    let last = [MOMENT, Action::PhoneAnswersUnreported, TALK, TALK];
    let ended_early = Cell::new(0);
    crash_at_each_step(&[ACCEPTED, &last].concat(), |end| {
        let call = end.call.as_ref().expect("the PBX repeats its report");
        assert!(end.outside.talked, "{end:#?}");
        let talked_for = call.ended_at().unwrap().since(call.ready_at.unwrap());
        if talked_for < LIMITS.talk {
            assert_eq!(call.end_reason(), Some(EndReason::NotConnected));
            ended_early.set(ended_early.get() + 1);
        }
    })
    .await;
    // Ringback asks Asterisk once. A crash between that decision and the stored answer ends the call: before and after the
    // question, after the write before it, and before the write after it.
    assert!(ended_early.get() <= 4, "{ended_early:?}");
}

#[tokio::test]
async fn a_call_to_a_telephone_ends_as_exotel_reports_it() {
    use Action::{Exotel, ExotelUnreported};
    use CallStatus::{Completed, InProgress};
    for [answered, ended] in [
        [Exotel(InProgress), Exotel(Completed)],
        [Exotel(InProgress), ExotelUnreported(Completed)],
        [ExotelUnreported(InProgress), ExotelUnreported(Completed)],
        [ExotelUnreported(InProgress), Exotel(Completed)],
    ] {
        let actions = [Action::StartPhoneCall, answered, TALK, ended];
        crash_at_each_step(&actions, |end| {
            let Some(call) = &end.call else { return };
            let expected = if end.outside.placed == 1 && call.call_sid.is_some() {
                (CallStatus::Completed, Some(EndReason::HungUp))
            } else {
                // The process crashed before it stored Exotel's answer, and Exotel reports nothing.
                (CallStatus::Failed, Some(EndReason::NeverReported))
            };
            assert_eq!((call.status, call.end_reason()), expected, "{end:#?}");
        })
        .await;
    }
}

/// Without this test, a simulation that counts no steps would pass all others.
#[tokio::test]
async fn a_scenario_has_many_steps() {
    let actions = [ACCEPTED, &[MOMENT, Action::PhoneAnswers]].concat();
    let steps = simulate(&actions, usize::MAX).await.steps;
    assert!(steps > 20, "{steps}");
}
