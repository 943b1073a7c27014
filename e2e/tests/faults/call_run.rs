//! Runs one call from start to end while faults are active, and checks the result.

mod between_apps;
mod ending;
mod inbound;
mod outbound;

use ringback::platform::clock;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use ringback_core::timestamp::Timestamp;
use ringback_local::faults::rule::{Fault, RequestStep, Rule, System};
use ringback_local::settings::Settings;
use ringback_sip::{CallStage as SipStage, Caller, IncomingCall, OutgoingCall};
use serde_json::Value;
use tokio::time::timeout;

use crate::faults::{answer, rule};
use crate::harness::Harness;
use crate::pbx;
use crate::subscriber::Subscriber;
use ringback_e2e::fixture::Conversation;

/// The timeout for a call that does not end: longer than the PBX lets a caller wait.
const LOST_AFTER: Duration = Duration::from_secs(80);

/// How often a call is repeated because Asterisk itself crashed.
const CRASHES: u32 = 3;

/// FaultKind the caller and the callee do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    Answered,
    WebhookFirst,
    TwoAccept,
    OneOfTwoAccepts,
    HungUpByTheApp,
    Declined,
    CallerGivesUp,
    NobodyAnswers,
    AppToApp,
    AppGivesUp,
    Outbound,
    NumberBusy,
    ExotelRefuses,
    DoNotDisturb,
    AppToDoNotDisturb,
    CalleeTalks,
    ConnectsLate,
}

impl Scenario {
    pub(crate) const ALL: [Self; 17] = [
        Self::Answered,
        Self::WebhookFirst,
        Self::TwoAccept,
        Self::OneOfTwoAccepts,
        Self::HungUpByTheApp,
        Self::Declined,
        Self::CallerGivesUp,
        Self::NobodyAnswers,
        Self::AppToApp,
        Self::AppGivesUp,
        Self::Outbound,
        Self::NumberBusy,
        Self::ExotelRefuses,
        Self::DoNotDisturb,
        Self::AppToDoNotDisturb,
        Self::CalleeTalks,
        Self::ConnectsLate,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered, then the caller hangs up",
            Self::WebhookFirst => "reported by Exotel, then by the PBX, and answered",
            Self::TwoAccept => "two devices accept at once",
            Self::OneOfTwoAccepts => "two devices ring, one accepts",
            Self::HungUpByTheApp => "answered, then the app hangs up",
            Self::Declined => "declined",
            Self::CallerGivesUp => "the caller hangs up while it rings",
            Self::NobodyAnswers => "not answered",
            Self::AppToApp => "an app calls an app, answered",
            Self::AppGivesUp => "an app calls an app and hangs up while it rings",
            Self::Outbound => "an app calls a telephone, answered",
            Self::NumberBusy => "an app calls a telephone, busy",
            Self::ExotelRefuses => "an app calls a telephone, rejected by Exotel",
            Self::DoNotDisturb => "the callee wants no calls",
            Self::AppToDoNotDisturb => "an app calls an app whose person wants no calls",
            Self::CalleeTalks => "the callee talks to another one",
            Self::ConnectsLate => "an app connects while it rings, and answers",
        }
    }

    /// The end reason of the call, if the callee refuses it.
    const fn refusal(self) -> Option<&'static str> {
        match self {
            Self::DoNotDisturb | Self::AppToDoNotDisturb => Some("do_not_disturb"),
            Self::CalleeTalks => Some("busy"),
            _ => None,
        }
    }

    /// What this function does in this flow and in no other kind of flow. Its requests then have crashes of their own.
    pub(crate) fn special_work(self, function: &str) -> Option<&'static str> {
        let (work, functions): (_, &[_]) = match self {
            Self::ConnectsLate => ("replay", &["ws-connect", "ws-replay"]),
            _ if self.refusal().is_some() => (
                "refusal",
                &["asterisk-incoming", "broadcast", "devices", "ws-message"],
            ),
            _ => return None,
        };
        functions.contains(&function).then_some(work)
    }

    const fn is_between_apps(self) -> bool {
        matches!(
            self,
            Self::AppToApp | Self::AppGivesUp | Self::AppToDoNotDisturb
        )
    }

    const fn is_outbound(self) -> bool {
        matches!(
            self,
            Self::Outbound | Self::NumberBusy | Self::ExotelRefuses
        )
    }

    const fn devices(self) -> usize {
        match self {
            Self::TwoAccept | Self::OneOfTwoAccepts => 2,
            _ => 1,
        }
    }
}

/// How a call ended for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallEnd {
    /// The caller talked to the callee.
    Bridged,
    /// The caller was rejected, with busy or another code.
    Busy,
    /// The caller hung up before either.
    Abandoned,
    /// None of these.
    Lost,
}

/// The result of one call.
#[derive(Debug)]
pub(crate) struct CallResult {
    pub(crate) end: CallEnd,
    /// The time until the caller was bridged or heard busy.
    pub(crate) waited: Duration,
    /// When that happened, by the wall clock.
    decided_at: Timestamp,
    /// The broken promises.
    pub(crate) problems: Vec<String>,
    /// The requests that the functions sent for this call.
    pub(crate) steps: Vec<RequestStep>,
    /// How often the faults were applied.
    pub(crate) hits: u32,
    /// The time from the first to the last fault.
    pub(crate) hit_for: Duration,
    /// How many attempts were repeated because Asterisk crashed.
    pub(crate) crashes: u32,
    /// FaultKind the parties observed, for diagnosis.
    pub(crate) observations: Observations,
}

/// FaultKind the parties of a call observed.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    pub(crate) call: Option<String>,
    pub(crate) state: Value,
    pub(crate) sip: Option<u16>,
    pub(crate) answers: Vec<(String, u16)>,
}

impl CallResult {
    /// Whether a promise was broken, apart from the time it took.
    pub(crate) fn is_lost(&self) -> bool {
        self.end == CallEnd::Lost || !self.problems.is_empty()
    }

    /// The caller's waiting time as the promise counts it: the ring starts when the call is first reported, not when
    /// the caller dials.
    pub(crate) fn counted(&self) -> Duration {
        let rings_until = self.observations.state["expires_at"].as_u64();
        match rings_until.map(Timestamp::from_millis) {
            Some(end) if self.end == CallEnd::Busy && self.decided_at > end => {
                ring() + self.decided_at.since(end)
            }
            _ => self.waited,
        }
    }
}

impl fmt::Display for CallResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            end,
            waited,
            problems,
            observations,
            ..
        } = self;
        let call = observations.call.as_deref().unwrap_or("no call");
        write!(
            f,
            "{call}: {end:?} after {waited:.1?}; {:?} {:?}; {problems:?}",
            observations.sip, observations.answers
        )
    }
}

/// The ring timeout of the stack.
pub(crate) fn ring() -> Duration {
    Settings::from_environment().ring()
}

/// The state of one call run.
pub(crate) struct CallRun {
    pub(crate) harness: Arc<Harness>,
    pub(crate) scenario: Scenario,
    pub(crate) caller: String,
    pub(crate) observations: Observations,
    pub(crate) problems: Vec<String>,
    pub(crate) began: Timestamp,
    /// Whether a push may be sent twice, because its sender may have crashed.
    pub(crate) may_repeat: bool,
    /// The devices that have stopped ringing by themselves: they answered, declined, or updates that another device has
    /// the call.
    pub(crate) informed: BTreeSet<String>,
}

/// The result of the call's legs.
pub(crate) struct CallLegs {
    pub(crate) end: CallEnd,
    pub(crate) waited: Duration,
    pub(crate) phone: Option<IncomingCall>,
}

/// Runs one call with these fault rules.
pub(crate) async fn run_call(
    harness: &Arc<Harness>,
    scenario: Scenario,
    rules: &[Rule],
) -> Result<CallResult> {
    run_call_with(harness, scenario, rules, rules.iter().any(stops_the_work)).await
}

/// Whether this fault can stop a function before it completes its effects, so that another invocation repeats them.
fn stops_the_work(rule: &Rule) -> bool {
    match rule.fault {
        Fault::Kill(_) | Fault::Silence | Fault::LoseAnswer | Fault::Delay { .. } => true,
        // After one rejected password, the function fetches the secret again and continues.
        Fault::Answer { status, .. } => status >= 500 || (status == 401 && rule.times.is_none()),
        Fault::Twice => false,
    }
}

/// Runs one call with these fault rules. If `repeats` is set, a push may be sent twice: its sender may have crashed or
/// not completed.
pub(crate) async fn run_call_with(
    harness: &Arc<Harness>,
    scenario: Scenario,
    rules: &[Rule],
    repeats: bool,
) -> Result<CallResult> {
    let mut crashes = 0;
    loop {
        let pbx = pbx::process();
        let mut subscriber = harness.subscriber().await?;
        let result = run_once(harness, &mut subscriber, scenario, rules, repeats).await;
        harness.put_back(subscriber).await;
        // When Asterisk restarts, it forgets all calls. No promise covers them, so repeat the call.
        if pbx::process() == pbx || crashes == CRASHES {
            return result.map(|result| CallResult { crashes, ..result });
        }
        println!("  Asterisk itself has crashed: {result:?}");
        crashes += 1;
        pbx::wait_until_back(&harness.fixture).await?;
    }
}

async fn run_once(
    harness: &Arc<Harness>,
    subscriber: &mut Subscriber,
    scenario: Scenario,
    rules: &[Rule],
    repeats: bool,
) -> Result<CallResult> {
    subscriber.prepare(scenario.devices()).await?;
    let mut callee = None;
    if scenario.is_between_apps() {
        let callee = callee.insert(harness.subscriber().await?);
        callee.prepare(1).await?;
    }
    let mut talk = None;
    if scenario == Scenario::CalleeTalks {
        talk = Some(harness.conversation_among_crashes(subscriber).await?);
        let extension = &subscriber.account.extension;
        harness.fixture.notes_talk(extension, true).await?;
    }
    let mut run = CallRun {
        harness: Arc::clone(harness),
        scenario,
        caller: harness.new_caller(),
        observations: Observations::default(),
        problems: Vec::new(),
        began: clock::now(),
        may_repeat: repeats,
        informed: BTreeSet::new(),
    };
    let subscribers: Vec<&Subscriber> = std::iter::once(&*subscriber)
        .chain(callee.as_ref())
        .collect();
    let mut marks = Harness::marks(&subscribers, &run.caller);
    // A call is stored under its id without the check field, the last 8 characters.
    marks.extend(talk.as_ref().map(|talk| talk.id[..28].to_owned()));
    let faults = ActiveFaults::begin(harness, &marks, scenario, rules).await?;

    let began = clock::now();
    harness.begun.fetch_add(1, Ordering::Relaxed);
    let legs = run.act(subscriber, callee.as_mut()).await;
    let met = faults.met(rules.len()).await;
    let steps = faults.end().await;
    let called = callee.as_mut().unwrap_or(subscriber);
    let afterwards = run.rings_again(called, talk).await;
    // Return the subscriber in any case: the next call needs it.
    if let Some(callee) = callee {
        harness.put_back(callee).await;
    }
    let (legs, (hits, hit_for), steps) = (legs?, met?, steps?);
    afterwards?;
    Ok(CallResult {
        end: legs.end,
        waited: legs.waited,
        decided_at: began + legs.waited,
        problems: run.problems,
        steps,
        hits,
        hit_for,
        crashes: 0,
        observations: run.observations,
    })
}

/// The fault rules of one call run.
struct ActiveFaults<'a> {
    harness: &'a Harness,
    name: String,
}

impl<'a> ActiveFaults<'a> {
    async fn begin(
        harness: &'a Harness,
        marks: &BTreeSet<String>,
        scenario: Scenario,
        rules: &[Rule],
    ) -> Result<Self> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        harness.faults.begin(&name, marks).await?;
        let refusal = (scenario == Scenario::ExotelRefuses).then(exotel_refuses);
        for (place, rule) in rules.iter().chain(&refusal).enumerate() {
            let rule = Rule {
                test_call: Some(name.clone()),
                ..rule.clone()
            };
            harness
                .faults
                .make(&format!("{name}-{place}"), &rule)
                .await?;
        }
        Ok(Self { harness, name })
    }

    /// How often the first `rules` rules were applied, and from when to when.
    async fn met(&self, rules: usize) -> Result<(u32, Duration)> {
        let (mut hits, mut hit_for) = (0, Duration::ZERO);
        for place in 0..rules {
            let standing = self
                .harness
                .faults
                .met(&format!("{}-{place}", self.name))
                .await?;
            let (first, last) = standing.first_and_last_ms.unwrap_or_default();
            hits += standing.applied;
            hit_for = hit_for.max(Duration::from_millis(u64::try_from(last - first)?));
        }
        Ok((hits, hit_for))
    }

    /// Ends the run. Returns the requests that the functions sent.
    async fn end(self) -> Result<Vec<RequestStep>> {
        Ok(self.harness.faults.end(&self.name).await?.steps)
    }
}

/// Exotel rejects the number.
fn exotel_refuses() -> Rule {
    let body = r#"{"RestException":{"Status":403,"Message":"not allowed"}}"#;
    rule(System::Exotel, "Exotel connect", None, answer(403, body))
}

impl CallRun {
    /// Runs the scenario and checks the result.
    async fn act(
        &mut self,
        subscriber: &mut Subscriber,
        callee: Option<&mut Subscriber>,
    ) -> Result<CallLegs> {
        if self.scenario.refusal() == Some("do_not_disturb") {
            let called = callee.as_deref().unwrap_or(subscriber);
            called.devices[0].do_not_disturb(Some(LOST_AFTER)).await?;
        }
        let (legs, called) = match callee {
            Some(callee) => (self.between_apps(subscriber, callee).await?, callee),
            None if self.scenario.is_outbound() => (self.outbound(subscriber).await?, subscriber),
            None => (self.inbound(subscriber).await?, subscriber),
        };
        self.check(called, &legs).await?;
        Ok(legs)
    }

    /// After a refused call, the person takes calls again: the next one rings.
    async fn rings_again(
        &mut self,
        called: &mut Subscriber,
        talk: Option<Conversation>,
    ) -> Result<()> {
        if self.scenario.refusal().is_none() {
            return Ok(());
        }
        match talk {
            Some(talk) if talk.caller.events().is_over() => {
                self.problem("the other conversation was cut off");
            }
            Some(talk) => {
                talk.caller.hang_up().await?;
                talk.callee.ended(ring()).await?;
            }
            None => called.devices[0].do_not_disturb(None).await?,
        }
        let (harness, repeats) = (Arc::clone(&self.harness), self.may_repeat);
        let next = run_once(&harness, called, Scenario::CallerGivesUp, &[], repeats);
        let next = Box::pin(next).await?;
        if next.end != CallEnd::Abandoned || next.is_lost() {
            self.problem(format!("the next call: {next}"));
        }
        Ok(())
    }

    pub(crate) async fn dial(
        &mut self,
        subscriber: &Subscriber,
        sid: Option<&str>,
    ) -> Result<OutgoingCall> {
        let pbx = self.harness.fixture.stack.sip.address.parse()?;
        let caller = Caller::number(&self.caller);
        Ok(self
            .harness
            .trunk
            .call(pbx, &subscriber.number, caller, sid)
            .await?)
    }

    pub(crate) fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Waits until the caller is bridged or rejected.
    pub(crate) async fn wait_for_outcome(&mut self, call: &OutgoingCall) -> (CallEnd, Duration) {
        let decided = |stage: &SipStage| {
            matches!(
                stage,
                SipStage::Answered | SipStage::Rejected { .. } | SipStage::Ended { .. }
            )
        };
        match call.events().wait_for("an end", LOST_AFTER, decided).await {
            Ok(event) => {
                let waited = event.at.since(call.placed());
                let end = match event.stage {
                    SipStage::Answered => CallEnd::Bridged,
                    SipStage::Rejected { code: 487, .. } => CallEnd::Abandoned,
                    SipStage::Rejected { code, .. } => {
                        self.observations.sip = Some(code);
                        CallEnd::Busy
                    }
                    SipStage::Ended { .. } | SipStage::Ringing { .. } => CallEnd::Busy,
                };
                (end, waited)
            }
            Err(_) => (CallEnd::Lost, LOST_AFTER),
        }
    }
}

/// The phone's next call, or `None` when the caller is gone.
pub(crate) async fn phone_rings(
    subscriber: &mut Subscriber,
    call: &OutgoingCall,
) -> Option<IncomingCall> {
    let events = call.events();
    let over = events.wait_for("an end", LOST_AFTER, |stage| {
        !matches!(stage, SipStage::Ringing { .. })
    });
    tokio::select! {
        leg = subscriber.phone.next_call(LOST_AFTER) => leg.ok(),
        _ = over => timeout(Duration::from_millis(200), subscriber.phone.next_call(LOST_AFTER)).await.ok()?.ok(),
    }
}
