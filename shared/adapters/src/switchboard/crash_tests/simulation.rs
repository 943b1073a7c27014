//! Simulates the outside systems and the process that crashes.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use ringback_core::call::{CallStatus, CallType, ConditionalUpdate, Effect};
use ringback_core::ids::{ChannelId, DeviceId, PbxName};
use ringback_core::testing::leg;

use super::super::tests::{
    LIMITS, NOW as START, accepted, call_sid, callee_app, caller_hung_up, device, extension,
    phone_number, push_sent, waiting_caller, webhook,
};
use super::*;
use crate::store::calls::{
    AllowanceRequest, AllowanceResult, CorrelationClaim, CreateResult, MemoryCallStore,
};
use crate::store::devices::Device;

/// How often the dialplan and the apps send a request that gets no answer, and the pause between.
const ATTEMPTS: usize = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The visibility timeout of the queue (`template.yaml`).
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(15);

const DEVICES: [&str; 2] = ["phone", "tablet"];

/// What happens outside.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// Exotel sends the webhook of its Passthru applet, once.
    Webhook,
    /// The caller's leg reaches Asterisk, and the dialplan reports it.
    CallerArrives,
    /// An app starts a call to another app.
    StartAppCall,
    /// An app starts a call to a telephone number.
    StartPhoneCall,
    /// The phone of the app that started the call answers, if it rings.
    CallingAppsPhoneAnswers,
    /// The app on the device "phone" accepts.
    Accept,
    /// The app on the device "phone" declines.
    Decline,
    /// The phone answers if it rings, and the dialplan reports it.
    PhoneAnswers,
    /// The phone answers if it rings, and every report of it is lost.
    PhoneAnswersUnreported,
    /// The caller hangs up.
    CallerHangsUp,
    /// Exotel's call gets this status, and Exotel reports it.
    Exotel(CallStatus),
    /// Exotel's call gets this status, and the report is lost.
    ExotelUnreported(CallStatus),
    /// Time passes, and timers fire.
    Wait(Duration),
}

/// The state of a leg in Asterisk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LegState {
    #[default]
    None,
    Ringing,
    Bridged,
    Down,
}

/// The state of the outside systems.
#[derive(Debug, Default)]
pub(super) struct OutsideState {
    pub(super) caller: LegState,
    pub(super) phone: LegState,
    /// The PBXs that dialed the phone of the app that started the call.
    pub(super) caller_pbxs: BTreeSet<String>,
    /// How often that phone was located. It is found on another PBX each time.
    located: usize,
    pub(super) ringing: BTreeSet<DeviceId>,
    timers: BTreeSet<Timestamp>,
    /// How often Exotel was asked to place the call.
    pub(super) placed: usize,
    exotel_status: Option<CallStatus>,
    pub(super) talked: bool,
}

/// The end of a scenario.
#[derive(Debug)]
pub(super) struct Simulated {
    pub(super) call: Option<Call>,
    pub(super) outside: OutsideState,
    /// How many steps the last process took.
    pub(super) steps: usize,
}

/// Runs a scenario, crashes its process after `crash_after` steps, and lets a day pass at the end.
pub(super) async fn simulate(actions: &[Action], crash_after: usize) -> Simulated {
    let systems = &Systems {
        store: MemoryCallStore::default(),
        outside: Mutex::default(),
        process: Process {
            steps_left: AtomicUsize::new(crash_after),
            has_crashed: AtomicBool::new(false),
        },
    };
    let mut simulation = Simulation {
        systems,
        switchboard: Switchboard::new(systems, systems, LIMITS),
        now: START,
        call: webhook().call_id,
    };
    for action in actions {
        simulation.act(*action).await;
        simulation.wait(Duration::from_secs(1)).await;
    }
    simulation.wait(Duration::from_secs(86_400)).await;
    Simulated {
        call: systems.store.find(simulation.call).await.unwrap(),
        outside: std::mem::take(&mut systems.outside.lock().unwrap()),
        steps: usize::MAX - systems.process.steps_left.load(SeqCst),
    }
}

/// A process that crashes after some steps.
struct Process {
    steps_left: AtomicUsize,
    has_crashed: AtomicBool,
}

impl Process {
    /// Runs `work` between two steps. Never returns if the process crashes before or after it.
    async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.step().await;
        let output = work.await;
        self.step().await;
        output
    }

    async fn step(&self) {
        if self.has_crashed.load(SeqCst) || self.steps_left.fetch_sub(1, SeqCst) == 0 {
            self.has_crashed.store(true, SeqCst);
            pending::<()>().await;
        }
    }

    /// The next process never crashes.
    fn restart(&self) {
        self.has_crashed.store(false, SeqCst);
        self.steps_left.store(usize::MAX, SeqCst);
    }
}

/// The table and the outside systems, as the process reaches them.
struct Systems {
    store: MemoryCallStore,
    outside: Mutex<OutsideState>,
    process: Process,
}

impl CallStore for &Systems {
    async fn create(
        &self,
        call: &Call,
        claim: Option<&CorrelationClaim>,
    ) -> Result<CreateResult, StoreError> {
        self.process.run(self.store.create(call, claim)).await
    }

    async fn take_allowance(
        &self,
        call: CallId,
        request: &AllowanceRequest,
        now: Timestamp,
    ) -> Result<AllowanceResult, StoreError> {
        let taking = self.store.take_allowance(call, request, now);
        self.process.run(taking).await
    }

    async fn update(
        &self,
        id: CallId,
        update: &ConditionalUpdate,
    ) -> Result<UpdateResult, StoreError> {
        self.process.run(self.store.update(id, update)).await
    }

    async fn count_live(
        &self,
        extension: &Extension,
        at_most: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let counting = self.store.count_live(extension, at_most, now);
        self.process.run(counting).await
    }

    async fn find(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        self.process.run(self.store.find(id)).await
    }

    async fn find_by_correlation_key(
        &self,
        key: &CorrelationKey,
    ) -> Result<Option<CallId>, StoreError> {
        let finding = self.store.find_by_correlation_key(key);
        self.process.run(finding).await
    }

    async fn add_alias(
        &self,
        alias: CallId,
        id: CallId,
        expires_at: u64,
    ) -> Result<bool, StoreError> {
        let adding = self.store.add_alias(alias, id, expires_at);
        self.process.run(adding).await
    }
}

impl Effects for &Systems {
    type Error = Infallible;

    fn now(&self) -> Timestamp {
        START
    }

    async fn devices(&self, _extension: &Extension) -> Result<Vec<Device>, Infallible> {
        Ok(DEVICES.map(device).into())
    }

    async fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Event>, Infallible> {
        let running = async { self.outside.lock().unwrap().run(effect, context) };
        Ok(self.process.run(running).await)
    }
}

impl OutsideState {
    fn run(&mut self, effect: &Effect, context: &EffectContext<'_>) -> Option<Event> {
        match effect {
            Effect::SendPush => {
                self.ringing
                    .extend(DEVICES.map(|name| device(name).device_id));
                return Some(push_sent(&DEVICES, context.now));
            }
            Effect::CancelPush { to, .. } => self.ringing.retain(|device| !to.includes(device)),
            Effect::DialCallerPhone => return Some(self.dial_caller_phone(context.call)),
            // Asterisk dials a phone again if its leg has ended.
            Effect::Bridge if matches!(self.phone, LegState::None | LegState::Down) => {
                self.phone = LegState::Ringing;
                return Some(Event::PhoneDialed);
            }
            Effect::CheckBridge if self.phone == LegState::Bridged => return Some(Event::Bridged),
            Effect::CheckBridge => return Some(Event::NotBridged { rings: false }),
            Effect::PlaceOutboundCall => {
                self.placed += 1;
                self.exotel_status = Some(CallStatus::Initiated);
                return self.exotel_status.map(exotel_progress);
            }
            Effect::QueryExotel => return self.exotel_status.map(exotel_progress),
            Effect::SendBusy | Effect::HangUpCaller => self.end_caller_leg(),
            Effect::HangUpPhone if self.phone != LegState::None => self.phone = LegState::Down,
            Effect::ArmTimer(at) => {
                self.timers.insert(*at);
            }
            Effect::Bridge
            | Effect::HangUpPhone
            | Effect::MarkEffectsCompleted(_)
            | Effect::DisarmTimer => {}
        }
        None
    }

    fn dial_caller_phone(&mut self, call: &Call) -> Event {
        let Some(pbx) = &call.pbx else {
            self.located += 1;
            let pbx = format!("pbx{}", self.located);
            return Event::CallerPhoneLocated(PbxName::try_from(pbx).unwrap());
        };
        self.caller_pbxs.insert(pbx.to_string());
        if self.caller == LegState::None {
            self.caller = LegState::Ringing;
        }
        Event::CallerPhoneDialed
    }

    /// Ends the caller's leg, and the phone's if the two are bridged.
    fn end_caller_leg(&mut self) {
        if self.caller == LegState::None {
            return;
        }
        self.caller = LegState::Down;
        if self.phone == LegState::Bridged {
            self.phone = LegState::Down;
        }
    }

    /// Bridges the legs if both ring, and returns whether it did.
    fn answer_phone(&mut self) -> bool {
        let rings = self.phone == LegState::Ringing && self.caller == LegState::Ringing;
        if rings {
            (self.phone, self.caller) = (LegState::Bridged, LegState::Bridged);
            self.talked = true;
        }
        rings
    }

    /// Moves Exotel's call on to this status, and returns whether there is such a call.
    fn advance_exotel(&mut self, status: CallStatus) -> bool {
        if let Some(known) = &mut self.exotel_status
            && status.rank() > known.rank()
        {
            *known = status;
        }
        self.exotel_status.is_some()
    }
}

fn exotel_progress(status: CallStatus) -> Event {
    Event::ExotelProgress {
        call_sid: call_sid("exotel-sid"),
        status,
    }
}

enum Request {
    Report(InboundCallReport),
    Start(NewCallRequest),
    Event(Event),
}

struct Simulation<'a> {
    systems: &'a Systems,
    switchboard: Switchboard<&'a Systems, &'a Systems>,
    now: Timestamp,
    call: CallId,
}

impl Simulation<'_> {
    async fn act(&mut self, action: Action) {
        if let Action::Wait(time) = action {
            return self.wait(time).await;
        }
        let Some(request) = self.request_of(action) else {
            return;
        };
        if matches!(action, Action::Webhook) {
            self.send(&request).await;
        } else {
            self.send_until_answered(&request).await;
        }
        if matches!(action, Action::Accept | Action::Decline) {
            // An app stops ringing when its user accepts or declines.
            let mut outside = self.systems.outside.lock().unwrap();
            outside.ringing.remove(&device("phone").device_id);
        }
    }

    /// Changes the outside state, and returns the request that follows.
    fn request_of(&self, action: Action) -> Option<Request> {
        let mut outside = self.systems.outside.lock().unwrap();
        let event = match action {
            Action::Webhook => return Some(Request::Report(webhook())),
            Action::CallerArrives => {
                outside.caller = LegState::Ringing;
                return Some(Request::Report(waiting_caller()));
            }
            Action::StartAppCall => {
                let destination = Destination::App(extension("1001"), CallType::Voice);
                return Some(self.start_request(destination));
            }
            Action::StartPhoneCall => {
                let (from, to) = (phone_number("9800001002"), phone_number("9876543210"));
                return Some(self.start_request(Destination::Number { from, to }));
            }
            Action::CallingAppsPhoneAnswers => {
                let pbx = outside.caller_pbxs.first();
                let pbx = pbx.filter(|_| outside.caller == LegState::Ringing)?;
                let channel = ChannelId::of_app_caller(self.call);
                Event::CallerReported {
                    caller_leg: Some(leg(pbx, channel.as_str())),
                    call_sid: None,
                }
            }
            Action::Accept => accepted(Some("phone")),
            Action::Decline => Event::Declined {
                by: callee_app(Some("phone")),
            },
            Action::PhoneAnswers => outside.answer_phone().then_some(Event::Bridged)?,
            Action::PhoneAnswersUnreported => {
                outside.answer_phone();
                return None;
            }
            Action::CallerHangsUp => {
                let answered = match outside.caller {
                    LegState::None | LegState::Down => return None,
                    LegState::Ringing => false,
                    LegState::Bridged => true,
                };
                outside.end_caller_leg();
                caller_hung_up(answered)
            }
            Action::Exotel(status) => {
                let is_placed = outside.advance_exotel(status);
                is_placed.then(|| exotel_progress(status))?
            }
            Action::ExotelUnreported(status) => {
                outside.advance_exotel(status);
                return None;
            }
            Action::Wait(_) => return None,
        };
        Some(Request::Event(event))
    }

    fn start_request(&self, destination: Destination) -> Request {
        Request::Start(NewCallRequest {
            call_id: self.call,
            by: extension("1002"),
            destination,
            limits: crate::testing::start_limits(),
        })
    }

    async fn send_until_answered(&mut self, request: &Request) {
        for _ in 0..ATTEMPTS {
            if self.send(request).await {
                return;
            }
            self.wait(RETRY_PAUSE).await;
        }
    }

    /// Sends a request to the process, and returns whether it answers, with success or an error. If it crashes instead, another
    /// process takes its place.
    async fn send(&mut self, request: &Request) -> bool {
        let (now, until) = (self.now, self.now + Duration::from_secs(28));
        let switchboard = &self.switchboard;
        let mut answer = pin!(async {
            match request {
                Request::Report(report) => {
                    drop(switchboard.report_inbound_call(report, now, until).await);
                }
                Request::Start(request) => drop(switchboard.start_call(request, now, until).await),
                Request::Event(event) => {
                    drop(switchboard.handle(self.call, event, now, until).await)
                }
            }
        });
        let process = &self.systems.process;
        let answers = poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if process.has_crashed.load(SeqCst) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        let answers = answers.await;
        if !answers {
            process.restart();
        }
        answers
    }

    /// Lets time pass. SQS delivers a timer again if the process crashes on it.
    async fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.next_timer(end) {
            self.now = self.now.max(due);
            if !self.send(&Request::Event(Event::TimerFired)).await {
                let mut outside = self.systems.outside.lock().unwrap();
                outside.timers.insert(self.now + VISIBILITY_TIMEOUT);
            }
        }
        self.now = self.now.max(end);
    }

    /// Takes the next timer that is due by `end`.
    fn next_timer(&self, end: Timestamp) -> Option<Timestamp> {
        let timers = &mut self.systems.outside.lock().unwrap().timers;
        let due = timers.first().copied().filter(|due| *due <= end)?;
        timers.remove(&due);
        Some(due)
    }
}
