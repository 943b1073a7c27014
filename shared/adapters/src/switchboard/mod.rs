//! Events come in, [`decide`] says what follows, the change is saved, the effects are carried out.
//!
//! This is the only place where a call is changed.

#[cfg(test)]
mod deaths;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, join_all, select};
use tokio::time::timeout;

use crate::platform::config::{ConfigError, Environment};
use crate::store::allowance::{Allowance, Purpose};
use crate::store::calls::{
    Allowed, Calls, CorrelationClaim, CorrelationKey, Created, ReplicationWaitError, Saved,
    Starter, StoreError,
};
use crate::store::devices::Device;
use crate::telemetry::call_log_fields;
use ringback_core::call::{
    ABANDONED_AFTER, Call, CallLimits, CallType, Decision, Effect, Event, Incoming, Outgoing,
    RejectReason, Set, decide, effects_after, first_effects, initiate, ring, usual,
};
use ringback_core::ids::{CallId, CallSid, Extension, Leg};
use ringback_core::phone_number::{Caller, PhoneNumber};
use ringback_core::timestamp::Timestamp;

/// Carries effects out. [`crate::effect_runner::EffectRunner`] does so in the world, a recorder in tests.
pub trait Effects {
    /// Why an effect could not be carried out.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The time, once effects have taken theirs.
    fn now(&self) -> Timestamp;

    /// The devices of an extension, looked up while its call is being stored.
    fn devices(
        &self,
        extension: &Extension,
    ) -> impl Future<Output = Result<Vec<Device>, Self::Error>> + Send;

    /// Fetches what the effects of such an event will need and no call is needed for, while the event is being saved. What
    /// cannot be had is told when it is needed.
    fn get_ready(&self, _event: &Event) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Carries one effect out. What it brought about comes back as an event.
    ///
    /// An error means that a person waits in vain (a leg could not be brought up or taken down): the request fails
    /// and can be repeated. A push that fails is logged and is no error.
    fn perform(
        &self,
        effect: &Effect,
        job: &EffectContext<'_>,
    ) -> impl Future<Output = Result<Option<Event>, Self::Error>> + Send;
}

/// What an effect is carried out for.
#[derive(Debug)]
pub struct EffectContext<'a> {
    /// The call.
    pub call: &'a Call,
    /// Its extension's devices, if they have been looked up already.
    pub devices: Option<&'a [Device]>,
    /// The time now.
    pub now: Timestamp,
    /// Until when this process may work on it.
    pub until: Timestamp,
}

/// A caller whom a witness (Exotel's webhook or the PBX) reports to be waiting for an extension.
#[derive(Clone, Debug)]
pub struct InboundCallReport {
    /// The signed id ([`crate::auth::signing`]) for a new call, or the call's id if the witness knows it already.
    pub call_id: CallId,
    /// Whose phone is wanted.
    pub extension: Extension,
    /// Who calls.
    pub caller: Caller,
    /// Exotel's id of the call. Without it, witnesses meet by caller and extension, for as long as the phone rings.
    pub call_sid: Option<CallSid>,
    /// The leg on which the caller waits, when the PBX is the witness.
    pub caller_leg: Option<Leg>,
}

impl InboundCallReport {
    fn place(&self) -> CorrelationKey {
        CorrelationKey {
            extension: self.extension.clone(),
            caller: self.caller.number.clone(),
        }
    }

    /// Only a PBX that knows the CallSid needs no place to meet: Exotel will name the same one. Exotel cannot know
    /// whether the PBX will.
    const fn needs_a_place(&self) -> bool {
        self.call_sid.is_none() || self.caller_leg.is_none()
    }

    fn announcement(&self) -> Event {
        Event::CallerReported {
            caller_leg: self.caller_leg.clone(),
            call_sid: self.call_sid.clone(),
        }
    }

    fn call(&self, limits: CallLimits, now: Timestamp) -> Call {
        let incoming = Incoming {
            call_id: self.call_id,
            extension: self.extension.clone(),
            caller: self.caller.clone(),
            call_type: CallType::Voice,
            caller_leg: self.caller_leg.clone(),
            call_sid: self.call_sid.clone(),
        };
        ring(incoming, limits, now)
    }
}

/// A call that an app asks for.
#[derive(Clone, Debug)]
pub struct NewCallRequest {
    /// The id that it is to have, signed ([`crate::auth::signing`]). Asked for again with the same id, it is the same call.
    pub call_id: CallId,
    /// Whose app asks.
    pub by: Extension,
    /// Who is to be called.
    pub whom: Destination,
    /// How many calls this extension may start.
    pub within: StartLimits,
}

/// How many calls an extension's apps may start, and how long those to telephone numbers may last.
#[derive(Clone, Copy, Debug)]
pub struct StartLimits {
    /// Calls of any kind.
    pub calls: Allowance,
    /// Calls to telephone numbers.
    pub phone_calls: Allowance,
    /// Active calls at the same time.
    pub concurrent: u32,
    /// How long a call to a telephone number may last. Exotel ends it then (`TimeLimit`).
    pub longest_phone_call: Duration,
}

impl StartLimits {
    /// `CALLS_PER_MINUTE`, `CALLS_AT_ONCE`, `PHONE_CALLS_PER_DAY`, `CONCURRENT_CALLS_PER_EXTENSION` (3) and
    /// `MAX_PHONE_CALL_SECONDS` (3,600).
    ///
    /// # Errors
    /// When one of them is no number above 0.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let longest = environment.count("MAX_PHONE_CALL_SECONDS", 3_600)?;
        Ok(Self {
            calls: Allowance::of_calls(environment)?,
            phone_calls: Allowance::of_phone_calls(environment)?,
            concurrent: environment.count("CONCURRENT_CALLS_PER_EXTENSION", 3)?,
            longest_phone_call: Duration::from_secs(longest.into()),
        })
    }
}

/// Which of the [`StartLimits`] a call would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Too many calls within a minute or so.
    Rate,
    /// Too many active calls.
    Concurrent,
    /// Too many calls to telephone numbers within a day.
    Daily,
}

impl Limit {
    /// The rule's name, as the metric `calls_refused` has it.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Concurrent => "concurrent",
            Self::Daily => "daily",
        }
    }
}

/// Whom an app calls.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Another app, through Asterisk.
    App(Extension, CallType),
    /// A telephone, through Exotel, which first calls the one at which the app's person answers.
    Number {
        /// Called first.
        from: PhoneNumber,
        /// Called then.
        to: PhoneNumber,
    },
}

impl NewCallRequest {
    /// Whether `call`, which has this id, is the one that is wanted.
    #[must_use]
    pub fn is(&self, call: &Call) -> bool {
        match &self.whom {
            Destination::Number { from, to } => {
                call.to.as_ref() == Some(to) && call.caller.number.as_ref() == Some(from)
            }
            Destination::App(extension, call_type) => {
                !call.is_outbound() && call.extension == *extension && call.call_type == *call_type
            }
        }
    }

    fn call(&self, limits: CallLimits, now: Timestamp) -> Call {
        let (call_id, by) = (self.call_id, self.by.clone());
        match &self.whom {
            Destination::App(extension, call_type) => {
                let incoming = Incoming {
                    call_id,
                    extension: extension.clone(),
                    caller: Caller::app(by),
                    call_type: *call_type,
                    caller_leg: None,
                    call_sid: None,
                };
                ring(incoming, limits, now)
            }
            Destination::Number { from, to } => {
                let outgoing = Outgoing {
                    call_id,
                    extension: by,
                    from: from.clone(),
                    to: to.clone(),
                };
                let talk = limits.talk.min(self.within.longest_phone_call);
                initiate(outgoing, CallLimits { talk, ..limits }, now)
            }
        }
    }
}

/// How an event was dealt with.
#[derive(Debug)]
pub struct Outcome {
    /// The call as it now is.
    pub call: Call,
    /// Why the event was refused, if it was.
    pub refused: Option<RejectReason>,
}

/// Why an event could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum SwitchboardError<E: std::error::Error + 'static> {
    /// There is no such call: it never was, or has expired.
    #[error("there is no such call")]
    NoSuchCall,
    /// Another region may have stored it, and the app's extension waits for a call already. Asking again after this time, or
    /// in the other region, may help.
    #[error("the call is not in this region yet")]
    NotHereYet(Duration),
    /// The extension starts too many calls. Asking again after `wait` may succeed.
    #[error("the extension starts too many calls")]
    TooMany {
        /// Which limit it has reached.
        limit: Limit,
        /// When a token comes; for [`Limit::Concurrent`], a guess.
        wait: Duration,
    },
    /// Rivals kept changing the call. Trying again helps.
    #[error("the call kept changing")]
    Contended,
    /// The table. Trying again may help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An effect was not carried out, though the change before it was saved. Repeating the event tries it again.
    #[error("an effect could not be carried out")]
    Effect {
        /// The call as it was saved.
        call: Box<Call>,
        /// Why.
        source: E,
    },
}

impl<E: std::error::Error> From<ReplicationWaitError> for SwitchboardError<E> {
    fn from(why: ReplicationWaitError) -> Self {
        match why {
            ReplicationWaitError::WaitsAlready(wait) => Self::NotHereYet(wait),
            ReplicationWaitError::Store(error) => Self::Store(error),
        }
    }
}

/// What a call said that was told of a caller who may be its own.
enum Joined {
    /// It is its own caller.
    Its(Box<Outcome>),
    /// It is another one. The call keeps its place while it `stands`.
    Stranger { stands: bool },
}

/// How often a change is tried again when a rival saved first. Each rival moves the call on, and a call has only a
/// handful of moves.
const TRIES: usize = 8;

/// What takes longer than this to be got ready is in trouble, and is left to whoever needs it, with the time that is left.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// What is not ready when all is done is given up: nothing may be under way in a process that is frozen until its next
/// invocation.
async fn while_getting_ready<T>(
    dealing: impl Future<Output = T>,
    getting_ready: impl Future<Output = ()>,
) -> T {
    let getting_ready = timeout(READY_WITHIN, getting_ready);
    match select(pin!(dealing), pin!(getting_ready)).await {
        Either::Left((done, _)) => done,
        Either::Right((_, dealing)) => dealing.await,
    }
}

/// Deals with the events of calls.
#[derive(Debug)]
pub struct Switchboard<C, P> {
    calls: C,
    outside: P,
    limits: CallLimits,
}

impl<C: Calls + Sync, P: Effects + Sync> Switchboard<C, P> {
    /// A switchboard over these calls and this outside world.
    pub const fn new(calls: C, outside: P, limits: CallLimits) -> Self {
        Self {
            calls,
            outside,
            limits,
        }
    }

    /// How long each part of a new call may last.
    pub const fn limits(&self) -> CallLimits {
        self.limits
    }

    /// A witness has seen a caller waiting: the first makes the call and rings the phone, the others add what they
    /// know. A repeated sighting changes nothing.
    ///
    /// # Errors
    /// See [`SwitchboardError`]. A call that was stored is not lost: the next sighting or the timer goes on with it.
    pub async fn witness(
        &self,
        sighting: &InboundCallReport,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        let call = sighting.call(self.limits, now);
        let (call_id, event) = (call.call_id, sighting.announcement());
        // Large, and one within another.
        let dealing = Box::pin(self.deal_with_sighting(call, sighting, now, until));
        let dealing = while_getting_ready(dealing, self.outside.get_ready(&event));
        call_log_fields::with_call(call_id, dealing).await
    }

    async fn deal_with_sighting(
        &self,
        call: Call,
        sighting: &InboundCallReport,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        let mut meeting = sighting.needs_a_place().then(|| CorrelationClaim {
            place: sighting.place(),
            now,
            instead_of: None,
        });
        let (mut created, devices) = futures::join!(
            self.calls.create(&call, meeting.as_ref()),
            self.outside.devices(&sighting.extension),
        );
        for _ in 0..TRIES {
            let other = match created? {
                Created::New => {
                    let effects = first_effects(&call);
                    return self.begin(call, effects, devices.ok(), now, until).await;
                }
                Created::Known(known) => {
                    return self
                        .deal_with(*known, &sighting.announcement(), now, until)
                        .await;
                }
                Created::Meets(other) => other,
            };
            let stands = match self.join(other, sighting, now, until).await? {
                Joined::Its(outcome) => return Ok(*outcome),
                Joined::Stranger { stands } => stands,
            };
            meeting = (!stands).then(|| CorrelationClaim {
                place: sighting.place(),
                now,
                instead_of: Some(other),
            });
            created = self.calls.create(&call, meeting.as_ref()).await;
        }
        Err(SwitchboardError::Contended)
    }

    /// An app starts a call, if its extension may start one now. Asking again for the same call starts no second one, arms no
    /// timer, and counts as one as long as no other has been asked for.
    ///
    /// Calls that are started at the same moment do not see each other: the limit on concurrent calls may be exceeded by as
    /// many as the rate allows within a second or so.
    ///
    /// # Errors
    /// See [`SwitchboardError`]. That the other side could not be called is no error: the call has failed, and says why.
    pub async fn start(
        &self,
        wanted: &NewCallRequest,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        let call = wanted.call(self.limits, now);
        call_log_fields::note_call(call.call_id);
        let StartLimits {
            calls,
            phone_calls,
            concurrent,
            ..
        } = wanted.within;
        // First, so that an app that asks too often costs this one write and no more.
        self.take(wanted, Purpose::Calls, calls, Limit::Rate, now)
            .await?;
        let (known, live) = futures::join!(
            self.calls.find(call.call_id),
            self.calls.live(&wanted.by, concurrent, now),
        );
        // A call that is stored has its timer, and is within the limits.
        if let Some(known) = known? {
            return self.ask_again(known, now, until).await;
        }
        if live? >= concurrent {
            return Err(SwitchboardError::TooMany {
                limit: Limit::Concurrent,
                wait: self.limits.ring,
            });
        }
        if call.is_outbound() {
            self.take(wanted, Purpose::PhoneCalls, phone_calls, Limit::Daily, now)
                .await?;
        }
        self.look_after(&call, now, until).await?;
        match self.calls.create(&call, None).await? {
            Created::New => Ok(self.begin_started(call, now, until).await),
            Created::Known(known) => self.ask_again(*known, now, until).await,
            Created::Meets(_) => Err(SwitchboardError::Contended),
        }
    }

    /// Takes a token for the call, or says when there is one.
    async fn take(
        &self,
        wanted: &NewCallRequest,
        purpose: Purpose,
        allowance: Allowance,
        limit: Limit,
        now: Timestamp,
    ) -> Result<(), SwitchboardError<P::Error>> {
        let starter = Starter {
            extension: wanted.by.clone(),
            purpose,
            allowance,
        };
        match self.calls.allow(wanted.call_id, &starter, now).await? {
            Allowed::Now | Allowed::Before => Ok(()),
            Allowed::TooSoon(wait) => Err(SwitchboardError::TooMany { limit, wait }),
        }
    }

    /// The app asks for a call that it has started.
    async fn ask_again(
        &self,
        call: Call,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        let again = Event::CallerReported {
            caller_leg: None,
            call_sid: None,
        };
        self.deal_with(call, &again, now, until).await
    }

    /// No second witness comes to a call that an app starts: its timer is armed before it is there.
    async fn look_after(
        &self,
        call: &Call,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(), SwitchboardError<P::Error>> {
        let job = EffectContext {
            call,
            devices: None,
            now,
            until,
        };
        self.perform(&Effect::ArmTimer(call.rings_until), &job)
            .await?;
        Ok(())
    }

    /// Whatever fails now, the call is there, and may ring somewhere: whoever asked is told how it stands, and never to
    /// ask for another one.
    async fn begin_started(&self, call: Call, now: Timestamp, until: Timestamp) -> Outcome {
        let mut effects = first_effects(&call);
        effects.retain(|effect| !matches!(effect, Effect::ArmTimer(_)));
        let begun = self.begin(call.clone(), effects, None, now, until).await;
        begun.unwrap_or_else(|error| {
            tracing::error!(call_id = %call.call_id, %error, cause = ?std::error::Error::source(&error), "a call began badly");
            let call = match error {
                SwitchboardError::Effect { call, .. } => *call,
                SwitchboardError::NoSuchCall
                | SwitchboardError::NotHereYet(_)
                | SwitchboardError::Contended
                | SwitchboardError::TooMany { .. }
                | SwitchboardError::Store(_) => call,
            };
            Outcome {
                call,
                refused: None,
            }
        })
    }

    /// The frames of a stream know an outbound call by Exotel's id alone. Its reports do not need it.
    async fn name_outbound(&self, call: &Call) {
        if let Err(error) = self.name_by_sid(call).await {
            tracing::warn!(call_id = %call.call_id, %error, "an outbound call is not found by its CallSid");
        }
    }

    /// Lets a call be found by Exotel's id too, for reports that carry no other.
    async fn name_by_sid(&self, call: &Call) -> Result<(), StoreError> {
        let alias = call.call_sid.as_ref().map(CallId::of_call_sid);
        match alias.filter(|alias| *alias != call.call_id) {
            Some(alias) => {
                let stored = self.calls.alias(alias, call.call_id, call.expires_at);
                if !stored.await? {
                    tracing::warn!(call_id = %call.call_id, "the CallSid is another call's already");
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Something happened to a call.
    ///
    /// # Errors
    /// See [`SwitchboardError`]; any of them may be answered by repeating the event.
    pub async fn handle(
        &self,
        id: CallId,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        let dealing = Box::pin(self.deal_with_event(id, event, now, until));
        let dealing = while_getting_ready(dealing, self.outside.get_ready(event));
        call_log_fields::with_call(id, dealing).await
    }

    async fn deal_with_event(
        &self,
        id: CallId,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        match self.look_once_there(id, event, now).await? {
            Saved::As(call) => {
                let effects = effects_after(&call, event, now);
                self.carry_out(call, event, effects, None, now, until).await
            }
            Saved::Not(Some(stored)) => self.deal_with(stored, event, now, until).await,
            Saved::Not(None) => Err(SwitchboardError::NoSuchCall),
        }
    }

    /// [`Self::look`], at a call that may be on its way from another region.
    async fn look_once_there(
        &self,
        id: CallId,
        event: &Event,
        now: Timestamp,
    ) -> Result<Saved, SwitchboardError<P::Error>> {
        let mut saved = self.look(id, event, now).await?;
        if matches!(saved, Saved::Not(None)) {
            for pause in self.calls.pauses(event.app(), now).await? {
                tokio::time::sleep(*pause).await;
                saved = self.look(id, event, now).await?;
                if !matches!(saved, Saved::Not(None)) {
                    break;
                }
            }
        }
        Ok(saved)
    }

    /// Tries the usual change, where there is one, or finds out how the call stands.
    async fn look(&self, id: CallId, event: &Event, now: Timestamp) -> Result<Saved, StoreError> {
        match usual(event, now) {
            None => Ok(Saved::Not(self.calls.find(id).await?)),
            Some(attempt) => self.calls.attempt(id, &attempt).await,
        }
    }

    /// The call that last rang for this caller and extension, for a witness who knows no id.
    ///
    /// # Errors
    /// The table's.
    pub async fn met_at(&self, place: &CorrelationKey) -> Result<Option<CallId>, StoreError> {
        self.calls.met_at(place).await
    }

    async fn begin(
        &self,
        call: Call,
        effects: Vec<Effect>,
        // Without the devices, ringing looks for them; the timers are armed whatever becomes of that.
        devices: Option<Vec<Device>>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        let leg = call.pbx.clone().zip(call.caller_leg.clone());
        let event = Event::CallerReported {
            caller_leg: leg.map(|(pbx, channel)| Leg { pbx, channel }),
            call_sid: call.call_sid.clone(),
        };
        let begun = self
            .carry_out(call, &event, effects, devices.as_deref(), now, until)
            .await;
        if let Err(SwitchboardError::Effect { call, .. }) = &begun {
            // Nobody else may come: a timer looks after the call as soon as this attempt counts as dead.
            let look_after = Effect::ArmTimer(now + ABANDONED_AFTER);
            let job = EffectContext {
                call,
                devices: None,
                now,
                until,
            };
            if let Err(error) = self.outside.perform(&look_after, &job).await {
                tracing::error!(call_id = %call.call_id, %error, "nobody looks after this call");
            }
        }
        begun
    }

    /// Tells the call that is met at the caller's place that another witness has seen its caller.
    async fn join(
        &self,
        other: CallId,
        sighting: &InboundCallReport,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Joined, SwitchboardError<P::Error>> {
        let told = self
            .handle(other, &sighting.announcement(), now, until)
            .await;
        let outcome = match told {
            Ok(outcome) if outcome.refused.is_none() => outcome,
            Ok(stranger) => {
                return Ok(Joined::Stranger {
                    stands: !stranger.call.status.is_final(),
                });
            }
            // Its claim has outlived the call itself.
            Err(SwitchboardError::NoSuchCall) => return Ok(Joined::Stranger { stands: false }),
            Err(error) => return Err(error),
        };
        if sighting.call_sid.is_some() {
            self.name_by_sid(&outcome.call).await?;
        }
        Ok(Joined::Its(Box::new(outcome)))
    }

    /// Decides on the call as it was read, until the decision could be saved.
    async fn deal_with(
        &self,
        mut call: Call,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        for _ in 0..TRIES {
            match decide(&call, event, now) {
                Decision::Refuse(refusal) => {
                    call_log_fields::note_call(call.call_id);
                    return Ok(Outcome {
                        call,
                        refused: Some(refusal),
                    });
                }
                Decision::Stay { effects } => {
                    return self.carry_out(call, event, effects, None, now, until).await;
                }
                Decision::Advance { change, effects } => {
                    let names = change.sets.iter().any(|set| matches!(set, Set::CallSid(_)));
                    let attempt = call.attempt(change);
                    match self.calls.attempt(call.call_id, &attempt).await? {
                        Saved::As(next) => {
                            if names && next.is_outbound() {
                                self.name_outbound(&next).await;
                            }
                            return self.carry_out(next, event, effects, None, now, until).await;
                        }
                        Saved::Not(stored) => call = stored.ok_or(SwitchboardError::NoSuchCall)?,
                    }
                }
            }
        }
        Err(SwitchboardError::Contended)
    }

    /// Carries effects out, all at once. Only when all have succeeded is it recorded that nothing is owed any more,
    /// and only then is the durable timer taken back.
    async fn carry_out(
        &self,
        call: Call,
        event: &Event,
        effects: Vec<Effect>,
        devices: Option<&[Device]>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        call_log_fields::note_call(call.call_id);
        tracing::info!(
            call_id = %call.call_id, call_sid = call.call_sid.as_ref().map(tracing::field::display), event = event.as_str(), by = event.by(), status = call.status.as_str(), ?effects,
            "call"
        );
        let (closing, at_once): (Vec<_>, Vec<_>) = effects.into_iter().partition(|effect| {
            matches!(
                effect,
                Effect::MarkEffectsCompleted(_) | Effect::DisarmTimer
            )
        });
        let job = EffectContext {
            call: &call,
            devices,
            now,
            until,
        };
        let results = join_all(at_once.iter().map(|effect| self.perform(effect, &job))).await;
        let mut latest = call.clone();
        let mut failure = None;
        for result in results {
            match result {
                Ok(Some(call)) if call.version > latest.version => latest = call,
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            None => self.close(latest, closing, now, until).await,
            Some(SwitchboardError::Effect { source, .. }) => Err(SwitchboardError::Effect {
                call: Box::new(latest),
                source,
            }),
            Some(error) => Err(error),
        }
    }

    /// What comes last, one after the other.
    async fn close(
        &self,
        mut call: Call,
        closing: Vec<Effect>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Outcome, SwitchboardError<P::Error>> {
        for effect in closing {
            if let Effect::MarkEffectsCompleted(effects_pending_since) = effect {
                let settled = Event::EffectsCompleted {
                    effects_pending_since,
                };
                let now = self.outside.now().max(now);
                let handled = Box::pin(self.handle(call.call_id, &settled, now, until));
                call = handled.await?.call;
            } else {
                let job = EffectContext {
                    call: &call,
                    devices: None,
                    now,
                    until,
                };
                self.perform(&effect, &job).await?;
            }
        }
        Ok(Outcome {
            call,
            refused: None,
        })
    }

    /// Carries one effect out, and deals with what that brings about as soon as it does, at the time that it then is.
    async fn perform(
        &self,
        effect: &Effect,
        job: &EffectContext<'_>,
    ) -> Result<Option<Call>, SwitchboardError<P::Error>> {
        let brought_about = self.outside.perform(effect, job).await;
        let brought_about = brought_about.map_err(|source| SwitchboardError::Effect {
            call: Box::new(job.call.clone()),
            source,
        })?;
        let Some(event) = brought_about else {
            return Ok(None);
        };
        let now = self.outside.now().max(job.now);
        let handled = Box::pin(self.handle(job.call.call_id, &event, now, job.until));
        Ok(Some(handled.await?.call))
    }
}
