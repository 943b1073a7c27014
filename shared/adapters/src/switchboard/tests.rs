//! The switchboard on calls in memory, with effects that are recorded instead of carried out.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::*;
use crate::store::allowance::Purpose;
use crate::store::calls::{AllowanceRequest, AllowanceResult, MemoryCallStore};
use crate::store::devices::{Device, PushAddress};
use crate::testing;
use ringback_core::call::{
    ABANDONED_AFTER, CallParty, CallSide, CallStatus, CallType, Effect, EndReason, Readiness,
    RejectReason,
};
use ringback_core::ids::{CallSid, DeviceId};
use ringback_core::phone_number::{Caller, PhoneNumber};

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const UNTIL: Timestamp = Timestamp::from_millis(1_000_000_029_000);

/// An outside world in which the devices named ring, and in which effects can be made to fail.
#[derive(Default)]
struct Recorder {
    devices: Vec<&'static str>,
    done: Mutex<Vec<Effect>>,
    failing: Mutex<BTreeSet<&'static str>>,
    /// What Asterisk says when it is asked whether the phone talks.
    talks: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("made to fail")]
struct MadeToFail;

impl Effects for Recorder {
    type Error = MadeToFail;

    fn now(&self) -> Timestamp {
        NOW
    }

    async fn devices(&self, _extension: &Extension) -> Result<Vec<Device>, MadeToFail> {
        Ok(self.devices.iter().map(|name| device(name)).collect())
    }

    async fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Event>, MadeToFail> {
        let name = name_of(effect);
        if self.failing.lock().unwrap().contains(name) {
            return Err(MadeToFail);
        }
        self.done.lock().unwrap().push(effect.clone());
        let devices: BTreeSet<DeviceId> = self
            .devices
            .iter()
            .map(|name| device(name).device_id)
            .collect();
        Ok(match effect {
            Effect::SendPush if devices.is_empty() => Some(Event::PushNotSent(EndReason::NoDevice)),
            Effect::SendPush => Some(Event::PushSent {
                devices,
                finished_at: context.now,
            }),
            Effect::CheckBridge if self.talks.load(Relaxed) => Some(Event::Bridged),
            Effect::CheckBridge => Some(Event::NotBridged { rings: false }),
            Effect::Bridge => Some(Event::PhoneDialed),
            _ => None,
        })
    }
}

type Testing = Switchboard<MemoryCallStore, Recorder>;

fn switchboard(devices: &[&'static str]) -> Testing {
    let limits = CallLimits {
        ring: Duration::from_secs(30),
        connect: Duration::from_secs(15),
        talk: Duration::from_secs(3600),
        check: Duration::from_secs(300),
    };
    let recorder = Recorder {
        devices: devices.to_vec(),
        ..Recorder::default()
    };
    Switchboard::new(MemoryCallStore::default(), recorder, limits)
}

impl Testing {
    /// How often an effect has been carried out.
    fn count(&self, name: &str) -> usize {
        let done = self.effects.done.lock().unwrap();
        done.iter().filter(|effect| name_of(effect) == name).count()
    }

    fn fail(&self, name: &'static str) {
        self.effects.failing.lock().unwrap().insert(name);
    }

    fn mend(&self) {
        self.effects.failing.lock().unwrap().clear();
    }

    async fn saw(&self, report: &InboundCallReport) -> Call {
        self.report_inbound_call(report, NOW, UNTIL)
            .await
            .unwrap()
            .call
    }

    async fn happens(
        &self,
        call: &Call,
        event: &Event,
    ) -> Result<EventOutcome, SwitchboardError<MadeToFail>> {
        self.handle(call.call_id, event, NOW, UNTIL).await
    }

    async fn status(&self, call: &Call) -> CallStatus {
        self.store.find(call.call_id).await.unwrap().unwrap().status
    }
}

fn name_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::SendPush => "ring",
        Effect::CancelPush { .. } => "cancel",
        Effect::DialCallerPhone => "call caller",
        Effect::CheckBridge => "ask whether bridged",
        Effect::PlaceOutboundCall => "place",
        Effect::QueryExotel => "look up",
        Effect::Bridge => "bridge",
        Effect::SendBusy => "busy",
        Effect::HangUpCaller => "hang up caller",
        Effect::HangUpPhone => "hang up phone",
        Effect::ArmTimer(_) => "arm",
        Effect::MarkEffectsCompleted(_) => "settle",
        Effect::DisarmTimer => "disarm",
    }
}

fn device(name: &str) -> Device {
    let address = PushAddress::Fcm {
        token: name.to_owned(),
    };
    Device::new(DeviceId::try_from(name).unwrap(), address, NOW)
}

/// What Exotel's webhook tells.
fn webhook() -> InboundCallReport {
    InboundCallReport {
        call_id: CallId::of_call_sid(&CallSid::try_from("sid-1").unwrap()),
        extension: Extension::try_from("1001").unwrap(),
        caller: Caller::on_network(PhoneNumber::parse("9876543210", "IN"), None),
        call_sid: CallSid::try_from("sid-1").ok(),
        caller_leg: None,
    }
}

/// What the PBX's hook tells of the same caller.
fn hook(call_sid: Option<&str>, leg: &str) -> InboundCallReport {
    let call_sid = call_sid.map(|sid| CallSid::try_from(sid).unwrap());
    let by_sid = call_sid.as_ref().map(CallId::of_call_sid);
    InboundCallReport {
        call_id: by_sid.unwrap_or_else(CallId::fresh),
        call_sid,
        caller_leg: Some(ringback_core::testing::leg("pbx1", leg)),
        ..webhook()
    }
}

fn accept(device: Option<&str>) -> Event {
    let by = CallParty {
        extension: Extension::try_from("1001").unwrap(),
        device: device.map(|name| DeviceId::try_from(name).unwrap()),
    };
    Event::Accepted {
        by,
        readiness: Readiness::Woken,
    }
}

#[tokio::test]
async fn a_webhook_that_comes_three_times_rings_once() {
    let switchboard = switchboard(&["phone"]);
    for _ in 0..3 {
        switchboard.saw(&webhook()).await;
    }
    assert_eq!(
        (switchboard.count("ring"), switchboard.count("arm")),
        (1, 1)
    );
}

#[tokio::test]
async fn two_witnesses_in_any_order_are_one_call_and_one_ring() {
    let with_sid = hook(Some("sid-1"), "leg-1");
    let without_sid = hook(None, "leg-1");
    let orders = [
        [webhook(), with_sid.clone()],
        [with_sid, webhook()],
        [webhook(), without_sid.clone()],
        [without_sid, webhook()],
    ];
    for [first, second] in orders {
        let switchboard = switchboard(&["phone"]);
        let one = switchboard.saw(&first).await;
        let other = switchboard.saw(&second).await;
        assert_eq!(one.call_id, other.call_id, "{first:?} then {second:?}");
        assert_eq!(switchboard.count("ring"), 1);
        assert_eq!(other.caller_leg.unwrap().as_str(), "leg-1");
        // Whatever the call's id, Exotel's later reports find it.
        let by_sid = CallId::of_call_sid(&CallSid::try_from("sid-1").unwrap());
        let left = switchboard
            .handle(
                by_sid,
                &Event::CallerLegEnded {
                    leg: None,
                    answered: false,
                    by: CallSide::Caller,
                },
                NOW,
                UNTIL,
            )
            .await;
        assert_eq!(left.unwrap().call.call_id, one.call_id);
    }
}

#[tokio::test]
async fn callers_with_withheld_numbers_are_not_mixed_up() {
    let switchboard = switchboard(&["phone"]);
    let withheld = |extension: &str, leg: &str| {
        let mut report = hook(None, leg);
        report.caller.number = None;
        report.extension = Extension::try_from(extension).unwrap();
        report
    };
    let one = switchboard.saw(&withheld("1001", "leg-1")).await;
    let other = switchboard.saw(&withheld("1002", "leg-2")).await;
    assert_ne!(one.call_id, other.call_id);
    let second_caller = switchboard.saw(&withheld("1001", "leg-3")).await;
    assert_ne!(one.call_id, second_caller.call_id);
    assert_eq!(switchboard.count("ring"), 3);
}

#[tokio::test]
async fn who_calls_again_after_hanging_up_is_a_new_call() {
    let switchboard = switchboard(&["phone"]);
    let first = switchboard.saw(&hook(None, "leg-1")).await;
    switchboard
        .happens(
            &first,
            &Event::CallerLegEnded {
                leg: None,
                answered: false,
                by: CallSide::Caller,
            },
        )
        .await
        .unwrap();
    let second = switchboard.saw(&hook(None, "leg-2")).await;
    assert_ne!(first.call_id, second.call_id);
    assert_eq!(
        switchboard.status(&second).await,
        CallStatus::WaitingForMobile
    );
    let webhook_of_second = switchboard.saw(&webhook()).await;
    assert_eq!(webhook_of_second.call_id, second.call_id);
}

#[tokio::test]
async fn of_two_devices_that_accept_at_once_one_is_bridged() {
    let switchboard = switchboard(&["phone", "tablet"]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    let (accept_phone, accept_tablet) = (accept(Some("phone")), accept(Some("tablet")));
    let (one, other) = futures::join!(
        switchboard.happens(&call, &accept_phone),
        switchboard.happens(&call, &accept_tablet)
    );
    assert_eq!(one.unwrap().rejected, None);
    assert_eq!(other.unwrap().rejected, Some(RejectReason::WrongStatus));
    assert_eq!(
        (switchboard.count("bridge"), switchboard.count("cancel")),
        (1, 1)
    );
}

#[tokio::test]
async fn an_accept_that_comes_twice_is_answered_twice_and_cancels_once() {
    let switchboard = switchboard(&["phone", "tablet"]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    for _ in 0..2 {
        let outcome = switchboard
            .happens(&call, &accept(Some("phone")))
            .await
            .unwrap();
        assert_eq!(
            (outcome.rejected, outcome.call.status),
            (None, CallStatus::MobileReady)
        );
    }
    assert_eq!(switchboard.count("cancel"), 1);
}

#[tokio::test]
async fn a_phone_that_is_ready_first_is_bridged_when_the_caller_arrives() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.saw(&webhook()).await;
    switchboard.happens(&call, &accept(None)).await.unwrap();
    assert_eq!(switchboard.count("bridge"), 0);
    switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    assert_eq!(switchboard.count("bridge"), 1);
}

#[tokio::test]
async fn an_arrival_whose_bridge_failed_is_tried_again() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.saw(&webhook()).await;
    switchboard.happens(&call, &accept(None)).await.unwrap();
    switchboard.fail("bridge");
    assert!(
        switchboard
            .report_inbound_call(&hook(Some("sid-1"), "leg-1"), NOW, UNTIL)
            .await
            .is_err()
    );
    switchboard.mend();
    switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    assert_eq!(switchboard.count("bridge"), 1);
}

#[tokio::test]
async fn an_accept_whose_bridge_failed_can_be_repeated() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    switchboard.fail("bridge");
    assert!(matches!(
        switchboard.happens(&call, &accept(None)).await,
        Err(SwitchboardError::Effect { .. })
    ));
    switchboard.mend();
    assert_eq!(
        switchboard
            .happens(&call, &accept(None))
            .await
            .unwrap()
            .rejected,
        None
    );
    assert_eq!(switchboard.count("bridge"), 1);
}

#[tokio::test]
async fn without_a_device_the_caller_hears_busy_at_once() {
    let switchboard = switchboard(&[]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    assert_eq!(
        (call.status, call.end_reason()),
        (CallStatus::Failed, Some(EndReason::NoDevice))
    );
    assert_eq!(
        (switchboard.count("busy"), switchboard.count("disarm")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_caller_whose_call_failed_before_the_leg_arrived_hears_busy_on_arrival() {
    let switchboard = switchboard(&[]);
    switchboard.saw(&webhook()).await;
    assert_eq!(switchboard.count("busy"), 0);
    switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    assert_eq!(switchboard.count("busy"), 1);
}

#[tokio::test]
async fn the_timer_is_taken_back_only_when_all_else_is_done() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    switchboard.fail("busy");
    let late = call.rings_until;
    assert!(
        switchboard
            .handle(call.call_id, &Event::TimerFired, late, late)
            .await
            .is_err()
    );
    assert_eq!(
        (switchboard.status(&call).await, switchboard.count("disarm")),
        (CallStatus::TimedOut, 0)
    );
    switchboard.mend();
    for (at, done) in [(late, (1, 0)), (late + ABANDONED_AFTER, (2, 1))] {
        switchboard
            .handle(call.call_id, &Event::TimerFired, at, at)
            .await
            .unwrap();
        let counts = (switchboard.count("busy"), switchboard.count("disarm"));
        assert_eq!(
            counts, done,
            "the first attempt may still be under way until it counts as dead"
        );
    }
}

#[tokio::test]
async fn the_second_timer_finds_nothing_to_do() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    let late = call.rings_until;
    for _ in 0..2 {
        switchboard
            .handle(call.call_id, &Event::TimerFired, late, late)
            .await
            .unwrap();
    }
    let counts = ["busy", "cancel", "disarm"].map(|name| switchboard.count(name));
    assert_eq!(counts, [1, 1, 1]);
}

#[tokio::test]
async fn what_a_dead_process_owed_is_done_by_whoever_comes_next() {
    let switchboard = switchboard(&["phone"]);
    let call = hook(Some("sid-1"), "leg-1").new_call(switchboard.limits, NOW);
    // Stored, and then the process died.
    switchboard.store.create(&call, None).await.unwrap();
    switchboard.saw(&webhook()).await;
    assert_eq!(switchboard.count("ring"), 0, "it may still be under way");
    let later = NOW + ABANDONED_AFTER;
    switchboard
        .report_inbound_call(&webhook(), later, UNTIL)
        .await
        .unwrap();
    assert_eq!(
        (switchboard.count("ring"), switchboard.count("arm")),
        (1, 2),
        "the first to come had the second's turn looked after"
    );
}

#[tokio::test]
async fn nobody_can_act_on_a_call_that_is_not_there() {
    let switchboard = switchboard(&["phone"]);
    let outcome = switchboard
        .handle(CallId::fresh(), &accept(None), NOW, UNTIL)
        .await;
    assert!(matches!(outcome, Err(SwitchboardError::NoSuchCall)));
}

#[tokio::test]
async fn a_call_whose_phones_could_not_be_rung_is_looked_after() {
    let switchboard = switchboard(&["phone"]);
    switchboard.fail("ring");
    let witnessed = switchboard
        .report_inbound_call(&hook(Some("sid-1"), "leg-1"), NOW, UNTIL)
        .await;
    let Err(SwitchboardError::Effect { call, .. }) = witnessed else {
        panic!("nobody rang, and nobody said so")
    };
    assert_eq!(
        switchboard.count("arm"),
        2,
        "the ring's timer, and one that looks after it"
    );
    switchboard.mend();
    let soon = NOW + ABANDONED_AFTER;
    switchboard
        .handle(call.call_id, &Event::TimerFired, soon, soon)
        .await
        .unwrap();
    assert_eq!(switchboard.count("ring"), 1);
}

#[tokio::test]
async fn a_phone_that_was_called_while_its_call_ended_is_taken_down_once_more() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    switchboard.fail("bridge");
    let accepted = switchboard.happens(&call, &accept(None)).await;
    assert!(accepted.is_err(), "its debt stays");
    let hung_up = Event::CallerLegEnded {
        leg: None,
        answered: false,
        by: CallSide::Caller,
    };
    let later = NOW + Duration::from_millis(300);
    switchboard
        .handle(call.call_id, &hung_up, later, UNTIL)
        .await
        .unwrap();
    assert_eq!(switchboard.count("hang up phone"), 1);
    // The originate comes through after all, and the accept's process settles its debt.
    switchboard
        .happens(
            &call,
            &Event::EffectsCompleted {
                effects_pending_since: NOW,
            },
        )
        .await
        .unwrap();
    assert_eq!(switchboard.count("hang up phone"), 2);
}

/// Without Exotel's id, the leg's makes another one: the region that was told first may have known the call by Exotel's.
#[tokio::test]
async fn a_caller_who_is_reported_once_more_elsewhere_is_the_same_call() {
    let switchboard = switchboard(&["phone"]);
    let told = CallId::of_call_sid(&CallSid::try_from("sid-1").unwrap());
    let again = InboundCallReport {
        call_id: told,
        ..hook(None, "leg-1")
    };
    let call = switchboard.saw(&again).await;
    assert_eq!(call.call_id, told);
    switchboard.saw(&again).await;
    assert_eq!(switchboard.count("ring"), 1);
}

/// Whoever repeats an accept owes nothing: no debt of its own tells it that the call has ended meanwhile.
#[tokio::test]
async fn a_phone_that_is_called_when_its_call_has_ended_is_taken_down() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.saw(&hook(Some("sid-1"), "leg-1")).await;
    switchboard.happens(&call, &accept(None)).await.unwrap();
    let called = Event::PhoneDialed;
    switchboard.happens(&call, &called).await.unwrap();
    assert_eq!(switchboard.count("hang up phone"), 0);
    let by = CallParty {
        extension: call.extension.clone(),
        device: None,
    };
    switchboard
        .happens(&call, &Event::HungUp { by })
        .await
        .unwrap();
    assert_eq!(switchboard.count("hang up phone"), 1);
    switchboard.happens(&call, &called).await.unwrap();
    assert_eq!(switchboard.count("hang up phone"), 2);
}

#[tokio::test]
async fn no_phone_rings_for_a_call_whose_time_is_up() {
    let switchboard = switchboard(&["phone"]);
    let call = hook(Some("sid-1"), "leg-1").new_call(switchboard.limits, NOW);
    // Stored, and then the process died, before the timers.
    switchboard.store.create(&call, None).await.unwrap();
    let five_minutes_later = NOW + Duration::from_secs(300);
    switchboard
        .report_inbound_call(&webhook(), five_minutes_later, five_minutes_later)
        .await
        .unwrap();
    assert_eq!(
        (switchboard.count("ring"), switchboard.count("arm")),
        (0, 1)
    );
}

#[tokio::test]
async fn an_early_decline_of_one_device_waits_for_those_that_ring() {
    for (rang, status) in [
        (vec!["phone", "tablet"], CallStatus::WaitingForMobile),
        (vec!["tablet"], CallStatus::Declined),
    ] {
        let switchboard = switchboard(&[]);
        let call = hook(Some("sid-1"), "leg-1").new_call(switchboard.limits, NOW);
        switchboard.store.create(&call, None).await.unwrap();
        let by = CallParty {
            extension: call.extension.clone(),
            device: Some(device("tablet").device_id),
        };
        let declined = switchboard
            .happens(&call, &Event::Declined { by })
            .await
            .unwrap();
        assert_eq!(declined.call.status, CallStatus::WaitingForMobile);
        let devices = rang.iter().map(|name| device(name).device_id).collect();
        let rang = Event::PushSent {
            devices,
            finished_at: NOW,
        };
        switchboard.happens(&call, &rang).await.unwrap();
        assert_eq!(switchboard.status(&call).await, status);
        let busy = usize::from(status == CallStatus::Declined);
        assert_eq!(switchboard.count("busy"), busy);
    }
}

mod a_report_that_the_legs_were_joined_is_lost {
    //! Asterisk is asked before such a call is given up.

    use super::*;

    /// A call whose phone was ready, at its deadline.
    async fn at_its_deadline(switchboard: &Testing) -> (Call, Timestamp) {
        let mut report = webhook();
        report.caller_leg = Some(ringback_core::testing::leg("pbx1", "leg-1"));
        let call = switchboard.saw(&report).await;
        let by = CallParty {
            extension: call.extension.clone(),
            device: None,
        };
        let accept = Event::Accepted {
            by,
            readiness: Readiness::Woken,
        };
        let call = switchboard.happens(&call, &accept).await.unwrap().call;
        let deadline = call.deadline().unwrap();
        (call, deadline)
    }

    #[tokio::test]
    async fn two_who_talk_go_on_talking() {
        let switchboard = switchboard(&["phone"]);
        switchboard.effects.talks.store(true, Relaxed);
        let (call, deadline) = at_its_deadline(&switchboard).await;
        let fired = switchboard.handle(call.call_id, &Event::TimerFired, deadline, UNTIL);
        assert_eq!(fired.await.unwrap().call.status, CallStatus::InProgress);
        assert_eq!(switchboard.count("hang up phone"), 0);
    }

    #[tokio::test]
    async fn one_who_waits_hears_busy_at_once() {
        let switchboard = switchboard(&["phone"]);
        let (call, deadline) = at_its_deadline(&switchboard).await;
        let fired = switchboard.handle(call.call_id, &Event::TimerFired, deadline, UNTIL);
        let call = fired.await.unwrap().call;
        assert_eq!(
            (call.status, call.end_reason()),
            (CallStatus::Failed, Some(EndReason::NotConnected))
        );
        assert_eq!(switchboard.count("busy"), 1);
    }

    #[tokio::test]
    async fn an_asterisk_that_does_not_answer_is_asked_once() {
        let switchboard = switchboard(&["phone"]);
        switchboard.fail("ask whether bridged");
        let (call, deadline) = at_its_deadline(&switchboard).await;
        let fired = switchboard.handle(call.call_id, &Event::TimerFired, deadline, UNTIL);
        assert!(fired.await.is_err());
        let later = deadline + ABANDONED_AFTER;
        let fired = switchboard.handle(call.call_id, &Event::TimerFired, later, UNTIL);
        assert_eq!(fired.await.unwrap().call.status, CallStatus::Failed);
    }
}

mod a_timer_comes_late {
    //! Its region was away, and another may have gone on with the call.

    use super::*;

    async fn long_after_the_ring(talks: bool) -> (Testing, Call) {
        let switchboard = switchboard(&["phone"]);
        switchboard.effects.talks.store(talks, Relaxed);
        let mut report = webhook();
        report.caller_leg = Some(ringback_core::testing::leg("pbx1", "leg-1"));
        let call = switchboard.saw(&report).await;
        let late = call.rings_until + ABANDONED_AFTER;
        let fired = switchboard.handle(call.call_id, &Event::TimerFired, late, UNTIL);
        let call = fired.await.unwrap().call;
        (switchboard, call)
    }

    #[tokio::test]
    async fn two_who_talk_go_on_talking() {
        let (switchboard, call) = long_after_the_ring(true).await;
        assert_eq!(call.status, CallStatus::InProgress);
        assert_eq!(switchboard.count("busy"), 0);
    }

    #[tokio::test]
    async fn one_who_waits_hears_busy_at_once() {
        let (switchboard, call) = long_after_the_ring(false).await;
        assert_eq!(call.status, CallStatus::TimedOut);
        assert_eq!(switchboard.count("busy"), 1);
    }
}

mod an_app_calls {
    //! Calls that apps start.

    use super::*;
    use crate::store::allowance::Allowance;
    use ringback_core::ids::Reference;

    fn extension(name: &str) -> Extension {
        Extension::try_from(name).unwrap()
    }

    fn wanted(destination: Destination) -> NewCallRequest {
        let by = extension("1002");
        let reference = Reference::try_from("tap-1").unwrap();
        NewCallRequest {
            call_id: CallId::of_reference(&by, &reference),
            by,
            destination,
            limits: testing::start_limits(),
        }
    }

    fn an_app() -> NewCallRequest {
        wanted(Destination::App(extension("1001"), CallType::Video))
    }

    fn a_number() -> NewCallRequest {
        let number = |text| PhoneNumber::parse(text, "IN").unwrap();
        wanted(Destination::Number {
            from: number("9800001002"),
            to: number("9876543210"),
        })
    }

    #[tokio::test]
    async fn another_app_is_woken_while_the_callers_own_phone_is_called() {
        let switchboard = switchboard(&["phone"]);
        let call = switchboard
            .start_call(&an_app(), NOW, UNTIL)
            .await
            .unwrap()
            .call;
        assert_eq!(call.status, CallStatus::WaitingForMobile);
        assert_eq!(
            (call.extension.as_str(), call.caller().shown()),
            ("1001", "1002")
        );
        assert_eq!(call.call_type, CallType::Video);
        for (effect, times) in [("arm", 1), ("ring", 1), ("call caller", 1), ("place", 0)] {
            assert_eq!(switchboard.count(effect), times, "{effect}");
        }
    }

    #[tokio::test]
    async fn a_number_is_placed_once_however_often_it_is_asked_for() {
        let switchboard = switchboard(&[]);
        for _ in 0..3 {
            let call = switchboard
                .start_call(&a_number(), NOW, UNTIL)
                .await
                .unwrap()
                .call;
            assert_eq!(call.status, CallStatus::Initiated);
        }
        let later = NOW + ABANDONED_AFTER;
        switchboard
            .start_call(&a_number(), later, UNTIL)
            .await
            .unwrap();
        assert_eq!(switchboard.count("place"), 1);
    }

    #[tokio::test]
    async fn the_same_app_call_asked_for_twice_rings_once() {
        let switchboard = switchboard(&["phone"]);
        for _ in 0..2 {
            switchboard.start_call(&an_app(), NOW, UNTIL).await.unwrap();
        }
        assert_eq!(switchboard.count("ring"), 1);
    }

    #[tokio::test]
    async fn an_app_that_starts_calls_too_often_has_to_wait_and_nobodys_phone_rings() {
        let switchboard = switchboard(&["phone"]);
        let mut wanted = an_app();
        wanted.limits.calls = Allowance::per_minute(60, 3);
        for _ in 0..3 {
            let another = another(&wanted);
            switchboard.start_call(&another, NOW, UNTIL).await.unwrap();
        }
        let refused = switchboard.start_call(&another(&wanted), NOW, UNTIL).await;
        let wait = Duration::from_secs(1);
        assert!(
            matches!(&refused, Err(SwitchboardError::TooMany { limit: StartLimit::Rate, wait: until }) if *until == wait),
            "{refused:?}"
        );
        assert_eq!(switchboard.count("ring"), 3);
        let later = NOW + wait;
        let another = another(&wanted);
        switchboard
            .start_call(&another, later, UNTIL)
            .await
            .unwrap();
    }

    fn another(wanted: &NewCallRequest) -> NewCallRequest {
        NewCallRequest {
            call_id: CallId::fresh(),
            ..wanted.clone()
        }
    }

    #[tokio::test]
    async fn asking_again_for_a_call_arms_no_timer_however_often_and_however_late() {
        for wanted in [an_app(), a_number()] {
            let switchboard = switchboard(&["phone"]);
            let call = switchboard
                .start_call(&wanted, NOW, UNTIL)
                .await
                .unwrap()
                .call;
            let armed = switchboard.count("arm");
            for late in [Duration::ZERO, ABANDONED_AFTER, ABANDONED_AFTER * 2] {
                for _ in 0..10 {
                    let now = NOW + late;
                    let again = switchboard.start_call(&wanted, now, UNTIL).await.unwrap();
                    assert_eq!(again.call.call_id, call.call_id);
                }
            }
            assert_eq!(switchboard.count("arm"), armed);
        }
    }

    /// The first attempt took its token and died before it stored the call. The second attempt arms the timer.
    #[tokio::test]
    async fn asking_again_for_a_call_that_was_never_stored_starts_it_with_its_timer() {
        let switchboard = switchboard(&[]);
        let wanted = a_number();
        let starter = AllowanceRequest {
            extension: wanted.by.clone(),
            purpose: Purpose::Calls,
            allowance: wanted.limits.calls,
        };
        let allowed = switchboard
            .store
            .take_allowance(wanted.call_id, &starter, NOW)
            .await;
        assert_eq!(allowed.unwrap(), AllowanceResult::Granted);
        switchboard.start_call(&wanted, NOW, UNTIL).await.unwrap();
        assert_eq!(
            (switchboard.count("arm") > 0, switchboard.count("place")),
            (true, 1)
        );
    }

    async fn is_refused(
        switchboard: &Testing,
        wanted: &NewCallRequest,
        now: Timestamp,
        by: StartLimit,
    ) {
        let refused = switchboard.start_call(wanted, now, UNTIL).await;
        assert!(
            matches!(&refused, Err(SwitchboardError::TooMany { limit, .. }) if *limit == by),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn only_so_many_calls_go_on_at_the_same_time_and_an_end_makes_room() {
        let switchboard = switchboard(&["phone"]);
        let mut wanted = an_app();
        wanted.limits.concurrent = 2;
        let first = switchboard
            .start_call(&wanted, NOW, UNTIL)
            .await
            .unwrap()
            .call;
        let second = another(&wanted);
        switchboard.start_call(&second, NOW, UNTIL).await.unwrap();
        let third = another(&wanted);
        is_refused(&switchboard, &third, NOW, StartLimit::Concurrent).await;
        assert_eq!(switchboard.count("ring"), 2);
        // Asking again for an active call is allowed.
        let again = switchboard.start_call(&second, NOW, UNTIL).await.unwrap();
        assert_eq!(again.call.call_id, second.call_id);
        // Another extension does not notice.
        let other = NewCallRequest {
            by: extension("1003"),
            ..another(&wanted)
        };
        switchboard.start_call(&other, NOW, UNTIL).await.unwrap();
        let by = CallParty {
            extension: extension("1001"),
            device: None,
        };
        switchboard
            .happens(&first, &Event::Declined { by })
            .await
            .unwrap();
        switchboard.start_call(&third, NOW, UNTIL).await.unwrap();
    }

    #[tokio::test]
    async fn a_call_whose_end_was_lost_blocks_its_starter_no_longer_than_it_can_last() {
        let switchboard = switchboard(&[]);
        let mut wanted = a_number();
        wanted.limits.concurrent = 1;
        let call = switchboard
            .start_call(&wanted, NOW, UNTIL)
            .await
            .unwrap()
            .call;
        let next = another(&wanted);
        let before = call.ends_by().before(Duration::from_millis(1));
        is_refused(&switchboard, &next, before, StartLimit::Concurrent).await;
        switchboard
            .start_call(&next, call.ends_by(), UNTIL)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn calls_to_telephones_have_a_limit_of_their_own_and_a_shorter_time() {
        let switchboard = switchboard(&["phone"]);
        let limits = StartLimits {
            phone_calls: Allowance::per_minute(1, 1),
            longest_phone_call: Duration::from_secs(60),
            ..a_number().limits
        };
        let limited = |wanted: NewCallRequest| NewCallRequest { limits, ..wanted };
        let first = limited(a_number());
        let call = switchboard
            .start_call(&first, NOW, UNTIL)
            .await
            .unwrap()
            .call;
        assert_eq!(call.limits.talk, Duration::from_secs(60));
        is_refused(&switchboard, &another(&first), NOW, StartLimit::Daily).await;
        assert_eq!(switchboard.count("place"), 1);
        // The same call again, and a call to an app, are none of those.
        switchboard.start_call(&first, NOW, UNTIL).await.unwrap();
        let to_app = another(&limited(an_app()));
        let call = switchboard
            .start_call(&to_app, NOW, UNTIL)
            .await
            .unwrap()
            .call;
        assert!(call.limits.talk > Duration::from_secs(60));
    }

    #[tokio::test]
    async fn an_outbound_call_is_found_by_exotels_id_once_it_has_one() {
        let switchboard = switchboard(&[]);
        let call = switchboard
            .start_call(&a_number(), NOW, UNTIL)
            .await
            .unwrap()
            .call;
        let sid = CallSid::try_from("sid-9").unwrap();
        let answered = Event::ExotelProgress {
            call_sid: sid.clone(),
            status: CallStatus::InProgress,
        };
        let call = switchboard.happens(&call, &answered).await.unwrap().call;
        switchboard.add_call_sid(&call).await.unwrap();
        let by_sid = switchboard
            .store
            .find(CallId::of_call_sid(&sid))
            .await
            .unwrap();
        assert_eq!(by_sid.unwrap().call_id, call.call_id);
        assert_eq!(call.status, CallStatus::InProgress);
    }

    #[tokio::test]
    async fn a_call_of_which_nothing_is_heard_is_looked_up_until_it_is_over() {
        let switchboard = switchboard(&[]);
        let call = switchboard
            .start_call(&a_number(), NOW, UNTIL)
            .await
            .unwrap()
            .call;
        let placed = Event::ExotelProgress {
            call_sid: CallSid::try_from("sid-9").unwrap(),
            status: CallStatus::Initiated,
        };
        switchboard.happens(&call, &placed).await.unwrap();
        let mut now = call.rings_until;
        for looked_up in 1..=3 {
            switchboard
                .handle(call.call_id, &Event::TimerFired, now, UNTIL)
                .await
                .unwrap();
            assert_eq!(switchboard.count("look up"), looked_up);
            now = now + Duration::from_secs(300);
        }
        assert_eq!(switchboard.count("arm"), 4);
    }
}

#[tokio::test]
async fn what_gets_ready_is_waited_for_by_what_needs_it_and_by_nothing_else() {
    // What needs it, and can have it only when it is ready.
    let (ready, needed) = tokio::sync::oneshot::channel();
    let dealing = async { needed.await.unwrap() };
    let getting_ready = async {
        tokio::task::yield_now().await;
        ready.send("ready").unwrap();
    };
    assert_eq!(while_preparing(dealing, getting_ready).await, "ready");
    // What does without, while whoever is asked hangs.
    let hangs = std::future::pending();
    assert_eq!(while_preparing(async { "done" }, hangs).await, "done");
}
