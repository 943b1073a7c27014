//! A process may die between any two lines. Every scenario is played once for each moment at which it can: before and
//! after each write, and before and after each effect. Whoever asked gets no answer and asks again, as the PBX, the
//! app and Exotel do; timers fire when they are due. In the end nobody waits, nothing rings, and nobody was called
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::store::calls::{
    AllowanceRequest, AllowanceResult, CorrelationClaim, CreateResult, MemoryCallStore,
};
use crate::store::devices::{Device, PushAddress};
use ringback_core::call::{
    CallParty, CallSide, CallStatus, CallType, CancelAudience, ConditionalUpdate, Effect,
    EndReason, Readiness,
};
use ringback_core::ids::{CallSid, ChannelId, DeviceId, Leg as KnownLeg, PbxName};
use ringback_core::phone_number::{Caller, PhoneNumber};
use ringback_core::testing::leg;

const START: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const LIMITS: CallLimits = CallLimits {
    ring: Duration::from_secs(30),
    connect: Duration::from_secs(15),
    talk: Duration::from_secs(3600),
    check: Duration::from_secs(300),
};
/// How often those ask who get no answer: the dialplan's count.
const ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// How many steps a process has left to live.
struct Life {
    left: AtomicUsize,
    over: AtomicBool,
}

impl Life {
    fn of(steps: usize) -> Self {
        Self {
            left: AtomicUsize::new(steps),
            over: AtomicBool::new(false),
        }
    }

    /// Returns, or never does.
    async fn step(&self) {
        if self.over.load(SeqCst) || self.left.fetch_sub(1, SeqCst) == 0 {
            self.over.store(true, SeqCst);
            pending::<()>().await;
        }
    }

    fn next(&self) {
        self.over.store(false, SeqCst);
        self.left.store(usize::MAX, SeqCst);
    }

    fn spent(&self) -> usize {
        usize::MAX - self.left.load(SeqCst)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Leg {
    #[default]
    None,
    Rings,
    Talks,
    Down,
}

/// What is true outside, whatever the table says.
#[derive(Debug, Default)]
struct Facts {
    caller: Leg,
    /// Where the own leg of an app that calls was asked for. Its phone is found elsewhere each time it is looked for.
    callers_pbxs: BTreeSet<String>,
    looks: usize,
    phone: Leg,
    /// Devices that ring.
    ringing: BTreeSet<DeviceId>,
    timers: BTreeSet<Timestamp>,
    /// How often Exotel was asked to place the call, and how that call stands.
    placed: usize,
    at_exotel: Option<CallStatus>,
    talked: bool,
}

struct World {
    calls: MemoryCallStore,
    facts: Mutex<Facts>,
    life: Life,
}

#[derive(Debug, thiserror::Error)]
#[error("nothing fails here")]
struct Never;

impl CallStore for &World {
    async fn create(
        &self,
        call: &Call,
        claim: Option<&CorrelationClaim>,
    ) -> Result<CreateResult, StoreError> {
        self.life.step().await;
        let created = self.calls.create(call, claim).await;
        self.life.step().await;
        created
    }

    async fn take_allowance(
        &self,
        call: CallId,
        starter: &AllowanceRequest,
        now: Timestamp,
    ) -> Result<AllowanceResult, StoreError> {
        self.life.step().await;
        let allowed = self.calls.take_allowance(call, starter, now).await;
        self.life.step().await;
        allowed
    }

    async fn update(
        &self,
        id: CallId,
        update: &ConditionalUpdate,
    ) -> Result<UpdateResult, StoreError> {
        self.life.step().await;
        let saved = self.calls.update(id, update).await;
        self.life.step().await;
        saved
    }

    async fn count_live(
        &self,
        starter: &Extension,
        at_most: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        self.life.step().await;
        self.calls.count_live(starter, at_most, now).await
    }

    async fn find(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        self.life.step().await;
        self.calls.find(id).await
    }

    async fn find_by_correlation_key(
        &self,
        key: &CorrelationKey,
    ) -> Result<Option<CallId>, StoreError> {
        self.calls.find_by_correlation_key(key).await
    }

    async fn add_alias(
        &self,
        alias: CallId,
        id: CallId,
        expires_at: u64,
    ) -> Result<bool, StoreError> {
        self.life.step().await;
        let stored = self.calls.add_alias(alias, id, expires_at).await;
        self.life.step().await;
        stored
    }
}

impl Effects for &World {
    type Error = Never;

    fn now(&self) -> Timestamp {
        START
    }

    async fn devices(&self, _extension: &Extension) -> Result<Vec<Device>, Never> {
        Ok(["phone", "tablet"].map(device).into())
    }

    async fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Event>, Never> {
        self.life.step().await;
        let brought_about = self.facts.lock().unwrap().bring_about(effect, context);
        self.life.step().await;
        Ok(brought_about)
    }
}

impl Facts {
    fn bring_about(&mut self, effect: &Effect, context: &EffectContext<'_>) -> Option<Event> {
        match effect {
            Effect::SendPush => {
                let devices: BTreeSet<_> = ["phone", "tablet"]
                    .map(|name| device(name).device_id)
                    .into();
                self.ringing.extend(devices.clone());
                return Some(Event::PushSent {
                    devices,
                    finished_at: context.now,
                });
            }
            Effect::CancelPush { to, .. } => self.cancel(to),
            Effect::DialCallerPhone => {
                let Some(pbx) = &context.call.pbx else {
                    self.looks += 1;
                    return PbxName::try_from(format!("pbx{}", self.looks))
                        .ok()
                        .map(Event::CallerPhoneLocated);
                };
                self.callers_pbxs.insert(pbx.to_string());
                if self.caller == Leg::None {
                    self.caller = Leg::Rings;
                }
                return Some(Event::CallerPhoneDialed);
            }
            // Asterisk calls a phone for whoever asks, if there is no such leg any more.
            Effect::Bridge if matches!(self.phone, Leg::None | Leg::Down) => {
                self.phone = Leg::Rings;
                return Some(Event::PhoneDialed);
            }
            Effect::SendBusy | Effect::HangUpCaller if self.caller != Leg::None => {
                self.caller = Leg::Down;
                if self.phone == Leg::Talks {
                    self.phone = Leg::Down;
                }
            }
            Effect::HangUpPhone if self.phone != Leg::None => self.phone = Leg::Down,
            Effect::ArmTimer(at) => {
                self.timers.insert(*at);
            }
            Effect::PlaceOutboundCall => {
                self.placed += 1;
                self.at_exotel = Some(CallStatus::Initiated);
                return Some(reported(CallStatus::Initiated));
            }
            Effect::QueryExotel => return self.at_exotel.map(reported),
            Effect::CheckBridge => {
                let talks = self.phone == Leg::Talks;
                return Some(if talks {
                    Event::Bridged
                } else {
                    Event::NotBridged { rings: false }
                });
            }
            Effect::Bridge
            | Effect::SendBusy
            | Effect::HangUpCaller
            | Effect::HangUpPhone
            | Effect::MarkEffectsCompleted(_)
            | Effect::DisarmTimer => {}
        }
        None
    }

    fn cancel(&mut self, to: &CancelAudience) {
        self.ringing.retain(|device| !to.includes(device));
    }
}

fn device(name: &str) -> Device {
    let address = PushAddress::Fcm {
        token: name.to_owned(),
    };
    Device::new(DeviceId::try_from(name).unwrap(), address, START)
}

fn reported(progress: CallStatus) -> Event {
    Event::ExotelProgress {
        call_sid: CallSid::try_from("exotel-sid").unwrap(),
        status: progress,
    }
}

/// Somebody outside does something, and tells Ringback of it.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Exotel's Passthru: told once, whatever becomes of it.
    Passthru,
    /// The caller's leg reaches Asterisk, whose dialplan asks up to three times.
    CallerArrives,
    /// An app asks to call another, or a telephone.
    AppCallsApp,
    AppCallsTelephone,
    /// The phone of the app that calls is picked up.
    AppCallersPhoneWaits,
    /// A device's app says so, and again until it gets an answer.
    Accept,
    Decline,
    /// The phone is picked up if it rings, and the dialplan reports it.
    PhoneIsAnswered,
    /// The same, but the report is lost for good.
    PhoneIsAnsweredUnreported,
    CallerHangsUp,
    /// Exotel's call goes on, and is reported, or not.
    Exotel(CallStatus),
    ExotelUnreported(CallStatus),
    /// Time passes, and timers fire.
    Wait(Duration),
}

struct Play<'a> {
    world: &'a World,
    switchboard: Switchboard<&'a World, &'a World>,
    now: Timestamp,
    call: CallId,
}

impl Play<'_> {
    async fn act(&mut self, act: Act) {
        match act {
            Act::Passthru => self.told_once(&report(None)).await,
            Act::CallerArrives => {
                self.world.facts.lock().unwrap().caller = Leg::Rings;
                let leg = Some(leg("pbx1", "leg-1"));
                self.told(Asked::InboundCallReport(report(leg))).await;
            }
            Act::AppCallsApp => {
                let destination = Destination::App(extension("1001"), CallType::Voice);
                self.wants(destination).await;
            }
            Act::AppCallsTelephone => {
                let number = |text| PhoneNumber::parse(text, "IN").unwrap();
                let (from, to) = (number("9800001002"), number("9876543210"));
                self.wants(Destination::Number { from, to }).await;
            }
            Act::AppCallersPhoneWaits => {
                let waits_at = {
                    let facts = self.world.facts.lock().unwrap();
                    let rings = facts.caller == Leg::Rings;
                    facts.callers_pbxs.first().filter(|_| rings).cloned()
                };
                if let Some(pbx) = waits_at {
                    let leg = leg(&pbx, ChannelId::of_app_caller(self.call).as_str());
                    let arrived = Event::CallerReported {
                        caller_leg: Some(leg),
                        call_sid: None,
                    };
                    self.told(Asked::Event(arrived)).await;
                }
            }
            Act::Accept => {
                let readiness = Readiness::Woken;
                self.told(Asked::Event(Event::Accepted {
                    by: party(),
                    readiness,
                }))
                .await;
                // An app that has answered stops ringing by itself.
                self.stops_ringing();
            }
            Act::Decline => {
                self.told(Asked::Event(Event::Declined { by: party() }))
                    .await;
                self.stops_ringing();
            }
            Act::PhoneIsAnswered => {
                if self.is_answered() {
                    self.told(Asked::Event(Event::Bridged)).await;
                }
            }
            Act::PhoneIsAnsweredUnreported => {
                self.is_answered();
            }
            Act::CallerHangsUp => self.hangs_up().await,
            Act::Exotel(progress) => {
                if self.at_exotel(progress) {
                    self.told(Asked::Event(reported(progress))).await;
                }
            }
            Act::ExotelUnreported(progress) => {
                self.at_exotel(progress);
            }
            Act::Wait(time) => self.wait_until(self.now + time).await,
        }
    }

    fn stops_ringing(&self) {
        self.world
            .facts
            .lock()
            .unwrap()
            .ringing
            .remove(&device("phone").device_id);
    }

    /// Whether there was a call to pick up.
    fn is_answered(&self) -> bool {
        let mut facts = self.world.facts.lock().unwrap();
        let rings = facts.phone == Leg::Rings && facts.caller == Leg::Rings;
        if rings {
            (facts.phone, facts.caller, facts.talked) = (Leg::Talks, Leg::Talks, true);
        }
        rings
    }

    /// Whether Exotel had a call that could go on.
    fn at_exotel(&self, progress: CallStatus) -> bool {
        let mut facts = self.world.facts.lock().unwrap();
        facts.at_exotel = facts.at_exotel.map(|known| {
            if progress.rank() > known.rank() {
                progress
            } else {
                known
            }
        });
        facts.at_exotel.is_some()
    }

    async fn hangs_up(&mut self) {
        let answered = {
            let mut facts = self.world.facts.lock().unwrap();
            let talked = facts.caller == Leg::Talks;
            if facts.caller == Leg::None || facts.caller == Leg::Down {
                return;
            }
            facts.caller = Leg::Down;
            if facts.phone == Leg::Talks {
                facts.phone = Leg::Down;
            }
            talked
        };
        let left = Event::CallerLegEnded {
            leg: None,
            answered,
            by: CallSide::Caller,
        };
        self.told(Asked::Event(left)).await;
    }

    async fn wants(&mut self, destination: Destination) {
        let wanted = NewCallRequest {
            call_id: self.call,
            by: extension("1002"),
            destination,
            limits: crate::testing::start_limits(),
        };
        self.told(Asked::NewCallRequest(wanted)).await;
    }

    async fn told_once(&mut self, report: &InboundCallReport) {
        self.ask(&Asked::InboundCallReport(report.clone())).await;
    }

    async fn told(&mut self, asked: Asked) {
        for _ in 0..ATTEMPTS {
            if self.ask(&asked).await {
                return;
            }
            self.wait_until(self.now + PAUSE).await;
        }
    }

    /// Whether an answer came. If none did, the process has died, and the next one is a new one.
    async fn ask(&mut self, asked: &Asked) -> bool {
        let (now, until) = (self.now, self.now + Duration::from_secs(28));
        let mut asking = pin!(async {
            // An answer of any kind is an answer.
            match asked {
                Asked::InboundCallReport(report) => drop(
                    self.switchboard
                        .report_inbound_call(report, now, until)
                        .await,
                ),
                Asked::NewCallRequest(wanted) => {
                    drop(self.switchboard.start_call(wanted, now, until).await)
                }
                Asked::Event(event) => {
                    drop(self.switchboard.handle(self.call, event, now, until).await)
                }
            }
        });
        let answered = poll_fn(|context| match asking.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if self.world.life.over.load(SeqCst) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        let answered = answered.await;
        if !answered {
            self.world.life.next();
        }
        answered
    }

    /// Fires the timers that are due until then; one that is not answered comes again, as SQS brings it.
    async fn wait_until(&mut self, then: Timestamp) {
        loop {
            let next = self.world.facts.lock().unwrap().timers.first().copied();
            let Some(due) = next.filter(|due| *due <= then) else {
                break;
            };
            self.now = self.now.max(due);
            self.world.facts.lock().unwrap().timers.remove(&due);
            if !self.ask(&Asked::Event(Event::TimerFired)).await {
                let again = self.now + COMES_AGAIN_AFTER;
                self.world.facts.lock().unwrap().timers.insert(again);
            }
        }
        self.now = self.now.max(then);
    }
}

enum Asked {
    InboundCallReport(InboundCallReport),
    NewCallRequest(NewCallRequest),
    Event(Event),
}

fn extension(name: &str) -> Extension {
    Extension::try_from(name).unwrap()
}

fn party() -> CallParty {
    CallParty {
        extension: extension("1001"),
        device: Some(device("phone").device_id),
    }
}

fn sid() -> CallSid {
    CallSid::try_from("sid-1").unwrap()
}

fn report(caller_leg: Option<KnownLeg>) -> InboundCallReport {
    InboundCallReport {
        call_id: CallId::of_call_sid(&sid()),
        extension: extension("1001"),
        caller: Caller::on_network(PhoneNumber::parse("9876543210", "IN"), None),
        call_sid: Some(sid()),
        caller_leg,
    }
}

/// How a play ended.
struct End {
    call: Option<Call>,
    facts: Facts,
    steps: usize,
}

/// Plays a scenario in which a process dies after so many steps, and then lets a day pass.
async fn play(acts: &[Act], dies_after: usize) -> End {
    let world = &World {
        calls: MemoryCallStore::default(),
        facts: Mutex::default(),
        life: Life::of(dies_after),
    };
    let mut play = Play {
        world,
        switchboard: Switchboard::new(world, world, LIMITS),
        now: START,
        call: CallId::of_call_sid(&sid()),
    };
    for act in acts {
        play.act(*act).await;
        play.wait_until(play.now + Duration::from_secs(1)).await;
    }
    play.wait_until(play.now + Duration::from_secs(86_400))
        .await;
    End {
        call: world.calls.find(play.call).await.unwrap(),
        facts: std::mem::take(&mut world.facts.lock().unwrap()),
        steps: world.life.spent(),
    }
}

/// Plays a scenario for each moment of death, the last of which lies after its end.
async fn at_every_moment(acts: &[Act], check: impl Fn(&End, usize)) {
    let steps = play(acts, usize::MAX).await.steps;
    assert!(steps > 0);
    for moment in 0..=steps {
        let end = play(acts, moment).await;
        let facts = &end.facts;
        let call = end.call.as_ref();
        let context = format!("death at step {moment} of {steps}: {facts:?} {call:#?}");
        assert!(
            call.is_none_or(|call| call.status.is_final()),
            "not over; {context}"
        );
        let stopped = [Leg::None, Leg::Down];
        assert!(stopped.contains(&facts.phone), "the phone's leg; {context}");
        assert!(
            call.is_none() || stopped.contains(&facts.caller),
            "the caller's leg; {context}"
        );
        assert!(facts.ringing.is_empty(), "a device rings; {context}");
        assert!(facts.callers_pbxs.len() <= 1, "called twice; {context}");
        assert!(facts.placed <= 1, "placed twice; {context}");
        check(&end, moment);
    }
}

/// The visibility timeout of the queue (`template.yaml`).
const COMES_AGAIN_AFTER: Duration = Duration::from_secs(15);

const A_MOMENT: Act = Act::Wait(Duration::from_secs(7));
const TALK: Act = Act::Wait(Duration::from_secs(60));

#[tokio::test]
async fn a_call_that_is_answered_is_talked() {
    let acts = [
        Act::Passthru,
        Act::CallerArrives,
        A_MOMENT,
        Act::Accept,
        A_MOMENT,
        Act::PhoneIsAnswered,
        TALK,
        Act::CallerHangsUp,
    ];
    at_every_moment(&acts, |end, moment| {
        assert!(
            end.facts.talked,
            "death at step {moment}: {:?} {:#?}",
            end.facts, end.call
        )
    })
    .await;
}

#[tokio::test]
async fn a_call_that_is_over_at_once_leaves_no_device_ringing() {
    let acts = [
        Act::Passthru,
        Act::CallerArrives,
        A_MOMENT,
        Act::Accept,
        Act::PhoneIsAnswered,
        Act::CallerHangsUp,
    ];
    at_every_moment(&acts, |_, _| {}).await;
}

#[tokio::test]
async fn a_caller_who_gives_up_as_the_phone_is_ready_leaves_no_device_ringing() {
    let acts = [
        Act::Passthru,
        Act::CallerArrives,
        A_MOMENT,
        Act::Accept,
        Act::CallerHangsUp,
    ];
    at_every_moment(&acts, |_, _| {}).await;
}

#[tokio::test]
async fn a_call_that_only_the_pbx_sees_is_talked() {
    let acts = [
        Act::CallerArrives,
        A_MOMENT,
        Act::Accept,
        A_MOMENT,
        Act::PhoneIsAnswered,
        TALK,
        Act::CallerHangsUp,
    ];
    at_every_moment(&acts, |end, moment| {
        assert!(
            end.facts.talked,
            "death at step {moment}: {:?} {:#?}",
            end.facts, end.call
        )
    })
    .await;
}

#[tokio::test]
async fn a_call_whose_phone_is_ready_before_the_caller_arrives_is_talked() {
    let acts = [
        Act::Passthru,
        A_MOMENT,
        Act::Accept,
        Act::CallerArrives,
        A_MOMENT,
        Act::PhoneIsAnswered,
        TALK,
        Act::CallerHangsUp,
    ];
    at_every_moment(&acts, |end, moment| {
        // The one request that nobody repeats is Exotel's: a call that it alone had told of may not exist.
        let was_told = end
            .call
            .as_ref()
            .is_some_and(|call| call.ready_at.is_some());
        assert!(end.facts.talked || !was_told, "{moment} {:?}", end.facts);
    })
    .await;
}

#[tokio::test]
async fn a_call_that_nobody_answers_ends_in_time() {
    let acts = [
        Act::Passthru,
        Act::CallerArrives,
        Act::Wait(Duration::from_secs(120)),
    ];
    at_every_moment(&acts, |end, moment| {
        let call = end.call.as_ref().expect("the PBX told of it");
        assert_eq!(call.end_reason(), Some(EndReason::NoAnswer), "{moment}");
        let late = call.ended_at().unwrap().since(call.rings_until);
        // A timer whose process died is brought again by SQS after its visibility timeout.
        assert!(late <= Duration::from_secs(95), "{moment}: {late:?} late");
    })
    .await;
}

#[tokio::test]
async fn a_caller_who_gives_up_and_a_person_who_declines_leave_nothing_behind() {
    for last in [Act::CallerHangsUp, Act::Decline] {
        let acts = [Act::Passthru, Act::CallerArrives, A_MOMENT, last];
        at_every_moment(&acts, |end, moment| assert!(!end.facts.talked, "{moment}")).await;
    }
}

#[tokio::test]
async fn two_who_talk_are_not_parted_by_a_report_that_was_lost() {
    let acts = [
        Act::Passthru,
        Act::CallerArrives,
        A_MOMENT,
        Act::Accept,
        A_MOMENT,
        Act::PhoneIsAnsweredUnreported,
        TALK,
        TALK,
    ];
    at_every_moment(&acts, |end, moment| {
        let call = end.call.as_ref().expect("the PBX told of it");
        let talked_for = call.ended_at().unwrap().since(call.ready_at.unwrap());
        assert!(
            talked_for >= LIMITS.talk || moment > 0,
            "{moment}: {talked_for:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_app_that_calls_another_talks_to_it() {
    let acts = [
        Act::AppCallsApp,
        Act::AppCallersPhoneWaits,
        A_MOMENT,
        Act::AppCallersPhoneWaits,
        Act::Accept,
        A_MOMENT,
        Act::PhoneIsAnswered,
        TALK,
        Act::CallerHangsUp,
    ];
    at_every_moment(&acts, |end, moment| {
        assert!(
            end.facts.talked,
            "death at step {moment}: {:?} {:#?}",
            end.facts, end.call
        )
    })
    .await;
}

#[tokio::test]
async fn a_call_that_exotel_places_comes_to_its_true_end() {
    use CallStatus::{Completed, InProgress};
    let ends = [
        vec![Act::Exotel(InProgress), TALK, Act::Exotel(Completed)],
        vec![
            Act::Exotel(InProgress),
            TALK,
            Act::ExotelUnreported(Completed),
        ],
        vec![
            Act::ExotelUnreported(InProgress),
            TALK,
            Act::ExotelUnreported(Completed),
        ],
        vec![
            Act::ExotelUnreported(InProgress),
            TALK,
            Act::Exotel(Completed),
        ],
    ];
    for end in ends {
        let acts: Vec<Act> = [Act::AppCallsTelephone].into_iter().chain(end).collect();
        at_every_moment(&acts, |end, moment| {
            let Some(call) = &end.call else { return };
            let ended_as = (call.status, call.end_reason());
            let expected = if end.facts.placed == 1 && call.call_sid.is_some() {
                (CallStatus::Completed, Some(EndReason::HungUp))
            } else {
                // Exotel's answer died with the process, and nothing was reported either.
                (CallStatus::Failed, Some(EndReason::NeverReported))
            };
            assert_eq!(ended_as, expected, "{moment}");
        })
        .await;
    }
}

/// Nothing here says how often a process is asked; but a play that never dies must be worth playing.
#[tokio::test]
async fn a_play_has_many_moments() {
    let acts = [
        Act::Passthru,
        Act::CallerArrives,
        A_MOMENT,
        Act::Accept,
        A_MOMENT,
        Act::PhoneIsAnswered,
    ];
    let by_act: BTreeMap<usize, usize> = [(acts.len(), play(&acts, usize::MAX).await.steps)].into();
    assert!(by_act[&acts.len()] > 20, "{by_act:?}");
}
