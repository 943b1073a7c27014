//! Tests of the switchboard with calls in memory. Effects are recorded and reach no outside system.

mod answers;
mod app_actions;
mod inbound;
mod refusals;
mod start_call;
mod timers;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ringback_core::call::{
    CallParty, CallSide, CallStatus, CallWaiting, DeclineEnds, Effect, EndReason, PushedDevices,
    Readiness, Rejection,
};
use ringback_core::ids::{CallSid, DeviceId};
use ringback_core::phone_number::{Caller, PhoneNumber};
use ringback_core::testing::leg;

use super::*;
use crate::asterisk::PhoneLegState;
use crate::store::calls::MemoryCallStore;
use crate::store::devices::{Callee, Device};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const UNTIL: Timestamp = Timestamp::from_millis(1_000_000_029_000);
pub(super) const SETTINGS: CallSettings = CallSettings {
    ring: Duration::from_secs(30),
    connect: Duration::from_secs(15),
    talk: Duration::from_secs(3600),
    check: Duration::from_secs(300),
    decline_ends: DeclineEnds::Call,
    kept_seconds: 7 * 24 * 60 * 60,
    unanswered: Rejection::BusyHere,
    call_waiting: CallWaiting::Ring,
};

/// Records effects, and reports their success unless their name is in `failing`.
#[derive(Default)]
struct EffectRecorder {
    /// The devices that accept a push.
    devices: Vec<&'static str>,
    done: Mutex<Vec<Effect>>,
    failing: Mutex<BTreeSet<&'static str>>,
    /// What Asterisk answers to `CheckBridge`.
    is_bridged: AtomicBool,
    /// What the callee's items say, besides the devices.
    callee: Mutex<Callee>,
}

#[derive(Debug, thiserror::Error)]
#[error("the test makes this effect fail")]
struct EffectFailed;

impl Effects for EffectRecorder {
    type Error = EffectFailed;

    fn now(&self) -> Timestamp {
        NOW
    }

    async fn callee(&self, _extension: &Extension) -> Result<Callee, EffectFailed> {
        Ok(Callee {
            devices: self.devices.iter().map(|name| device(name)).collect(),
            ..self.callee.lock().unwrap().clone()
        })
    }

    async fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Event>, EffectFailed> {
        if self.failing.lock().unwrap().contains(effect_name(effect)) {
            return Err(EffectFailed);
        }
        self.done.lock().unwrap().push(effect.clone());
        Ok(match effect {
            Effect::SendPush if self.devices.is_empty() => {
                Some(Event::PushNotSent(EndReason::NoDevice))
            }
            Effect::SendPush => Some(push_sent(&self.devices, context.now)),
            Effect::CheckBridge if self.is_bridged.load(Relaxed) => Some(Event::Bridged),
            Effect::CheckBridge => Some(PhoneLegState::None.bridge_event(context.call)),
            _ => None,
        })
    }
}

fn effect_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::SendPush => "send_push",
        Effect::CancelPush { .. } => "cancel_push",
        Effect::DialCallerPhone => "dial_caller_phone",
        Effect::CheckBridge => "check_bridge",
        Effect::PlaceOutboundCall => "place_outbound_call",
        Effect::QueryExotel => "query_exotel",
        Effect::Bridge => "bridge",
        Effect::SendBusy => "send_busy",
        Effect::HangUp => "hang_up",
        Effect::ArmTimer(_) => "arm_timer",
        Effect::MarkEffectsCompleted(_) => "mark_effects_completed",
        Effect::DisarmTimer => "disarm_timer",
    }
}

type TestSwitchboard = Switchboard<MemoryCallStore, EffectRecorder>;
type EventResult = Result<EventOutcome, SwitchboardError<EffectFailed>>;

fn switchboard(devices: &[&'static str]) -> TestSwitchboard {
    let recorder = EffectRecorder {
        devices: devices.to_vec(),
        ..EffectRecorder::default()
    };
    Switchboard::new(MemoryCallStore::default(), recorder, SETTINGS)
}

/// A caller waits in Asterisk, and the devices have got a push.
async fn ringing_call(devices: &[&'static str]) -> (TestSwitchboard, Call) {
    let switchboard = switchboard(devices);
    let call = switchboard.report(&waiting_caller()).await;
    (switchboard, call)
}

/// A process stored this call and crashed before it ran an effect.
async fn stored_call(devices: &[&'static str]) -> (TestSwitchboard, Call) {
    let switchboard = switchboard(devices);
    let call = waiting_caller().new_call(first_ring(), SETTINGS, NOW);
    switchboard.store.create(&call, None).await.unwrap();
    (switchboard, call)
}

impl TestSwitchboard {
    /// How often each effect has succeeded.
    fn counts<const N: usize>(&self, names: [&str; N]) -> [usize; N] {
        let done = self.effects.done.lock().unwrap();
        names.map(|name| done.iter().filter(|one| effect_name(one) == name).count())
    }

    fn count(&self, name: &str) -> usize {
        self.counts([name])[0]
    }

    fn make_fail(&self, name: &'static str) {
        self.effects.failing.lock().unwrap().insert(name);
    }

    fn make_succeed(&self) {
        self.effects.failing.lock().unwrap().clear();
    }

    async fn report(&self, report: &InboundCallReport) -> Call {
        self.report_at(report, NOW).await.unwrap().call
    }

    async fn report_at(&self, report: &InboundCallReport, now: Timestamp) -> EventResult {
        self.report_inbound_call(report, |id| id, now, UNTIL).await
    }

    async fn send(&self, call: &Call, event: Event) -> EventResult {
        self.handle(call.call_id, &event, NOW, UNTIL).await
    }

    async fn fire_timer(&self, call: &Call, now: Timestamp) -> EventResult {
        self.handle(call.call_id, &Event::TimerFired, now, UNTIL)
            .await
    }

    async fn status(&self, call: &Call) -> CallStatus {
        self.store.find(call.call_id).await.unwrap().unwrap().status
    }
}

pub(super) fn extension(name: &str) -> Extension {
    Extension::try_from(name).unwrap()
}

pub(super) fn call_sid(text: &str) -> CallSid {
    CallSid::try_from(text).unwrap()
}

pub(super) fn phone_number(text: &str) -> PhoneNumber {
    PhoneNumber::parse(text, "IN").unwrap()
}

pub(super) fn device(name: &str) -> Device {
    crate::testing::device(name, [])
}

/// An app of extension 1001, which is called.
pub(super) fn callee_app(device: Option<&str>) -> CallParty {
    CallParty {
        extension: extension("1001"),
        device: device.map(|name| DeviceId::try_from(name).unwrap()),
    }
}

/// The id of the first ring of [`webhook`].
pub(super) fn first_ring() -> CallId {
    CallId::of_ring(&call_sid("sid-1"), &extension("1001"), 1)
}

/// The report of Exotel's webhook.
pub(super) fn webhook() -> InboundCallReport {
    InboundCallReport {
        call_id: None,
        extension: extension("1001"),
        caller: Caller::on_network(Some(phone_number("9876543210")), None),
        call_sid: Some(call_sid("sid-1")),
        caller_leg: None,
    }
}

/// The PBX's report of the same caller, who waits on this leg. It may lack Exotel's id.
fn pbx_report(sid: Option<&str>, channel: &str) -> InboundCallReport {
    InboundCallReport {
        call_sid: sid.map(call_sid),
        caller_leg: Some(leg("pbx1", channel)),
        ..webhook()
    }
}

pub(super) fn waiting_caller() -> InboundCallReport {
    pbx_report(Some("sid-1"), "leg-1")
}

pub(super) fn accepted(device: Option<&str>) -> Event {
    Event::Accepted {
        by: callee_app(device),
        readiness: Readiness::Woken,
    }
}

pub(super) fn caller_hung_up(answered: bool) -> Event {
    Event::CallerLegEnded {
        leg: None,
        answered,
        by: CallSide::Caller,
    }
}

pub(super) fn push_sent(devices: &[&str], finished_at: Timestamp) -> Event {
    Event::PushSent(PushedDevices {
        devices: devices.iter().map(|name| device(name).device_id).collect(),
        are_all: true,
        retry_at: None,
        earlier: [].into(),
        clients: 0,
        at: finished_at,
    })
}

#[tokio::test]
async fn an_effect_that_needs_prepared_data_gets_it() {
    let (ready, needed) = tokio::sync::oneshot::channel();
    let handling = async { needed.await.unwrap() };
    let preparing = async {
        tokio::task::yield_now().await;
        ready.send("ready").unwrap();
    };
    assert_eq!(while_preparing(handling, preparing).await, "ready");
}

#[tokio::test]
async fn an_effect_that_needs_no_prepared_data_does_not_wait_for_it() {
    let hangs = std::future::pending();
    assert_eq!(while_preparing(async { "done" }, hangs).await, "done");
}

#[tokio::test(start_paused = true)]
async fn preparation_that_takes_too_long_keeps_no_lock_that_an_effect_needs() {
    let token = tokio::sync::Mutex::new("token");
    let preparing = async {
        let _locked = token.lock().await;
        std::future::pending().await
    };
    let handling = async {
        tokio::task::yield_now().await;
        *token.lock().await
    };
    let handled = timeout(UNTIL.since(NOW), while_preparing(handling, preparing));
    assert_eq!(handled.await, Ok("token"));
}
