//! Apps start calls: to other apps through Asterisk, and to telephone numbers through Exotel.

use std::time::Duration;

use ringback_core::call::{
    Call, CallKind, CallParty, CallSettings, CallType, Effect, Event, NewCall, first_effects,
};
use ringback_core::ids::{CallId, Extension};
use ringback_core::phone_number::PhoneNumber;
use ringback_core::timestamp::Timestamp;

use super::refusal::CalleeAnswer;
use super::{EffectContext, Effects, EventOutcome, Switchboard, SwitchboardError};
use crate::platform::config::{ConfigError, Environment};
use crate::store::allowance::{Allowance, Purpose};
use crate::store::calls::{AllowanceRequest, AllowanceResult, CallStore, CreateResult};
use crate::telemetry::call_log_fields;

/// A call that an app asks for.
#[derive(Clone, Debug)]
pub struct NewCallRequest {
    /// The id that the call gets, signed ([`crate::auth::signing`]). A request with the same id asks for the same call.
    pub call_id: CallId,
    /// The app.
    pub by: CallParty,
    /// Who is called.
    pub destination: Destination,
    /// How many calls this extension may start.
    pub limits: StartLimits,
}

/// Who is called.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Another app, through Asterisk.
    App(Extension, CallType),
    /// A telephone, through Exotel. Exotel first calls the number at which the app's user answers.
    Number {
        /// Called first.
        from: PhoneNumber,
        /// Called when the first has answered.
        to: PhoneNumber,
    },
}

/// How many calls the apps of an extension may start, and how long calls to telephone numbers may last.
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
    /// When one of them is not a number above 0.
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
pub enum StartLimit {
    /// Too many calls within a minute or so.
    Rate,
    /// Too many active calls.
    Concurrent,
    /// Too many calls to telephone numbers within a day.
    Daily,
}

impl StartLimit {
    /// The name of the rule in the metric `calls_refused`.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Concurrent => "concurrent",
            Self::Daily => "daily",
        }
    }
}

impl NewCallRequest {
    /// Whether `call`, which has this id, is the call that is asked for.
    #[must_use]
    pub fn is_for(&self, call: &Call) -> bool {
        match (&self.destination, &call.kind) {
            (
                Destination::Number { from, to },
                CallKind::ToNumber {
                    from: known_from,
                    to: known_to,
                },
            ) => from == known_from && to == known_to,
            (Destination::App(extension, call_type), CallKind::BetweenApps { .. }) => {
                call.extension == *extension && call.call_type == *call_type
            }
            (Destination::Number { .. } | Destination::App(..), _) => false,
        }
    }

    fn new_call(&self, settings: CallSettings, now: Timestamp) -> Call {
        let CallParty {
            extension: by,
            device,
        } = self.by.clone();
        let (kind, extension, call_type, talk) = match &self.destination {
            Destination::App(extension, call_type) => (
                CallKind::BetweenApps { caller: by, device },
                extension.clone(),
                *call_type,
                settings.talk,
            ),
            Destination::Number { from, to } => {
                let (from, to) = (from.clone(), to.clone());
                let talk = settings.talk.min(self.limits.longest_phone_call);
                (CallKind::ToNumber { from, to }, by, CallType::Voice, talk)
            }
        };
        let new = NewCall {
            call_id: self.call_id,
            extension,
            kind,
            call_type,
            caller_leg: None,
            call_sid: None,
        };
        Call::new(new, CallSettings { talk, ..settings }, now)
    }
}

impl<S: CallStore + Sync, E: Effects + Sync> Switchboard<S, E> {
    /// Starts the call that an app asks for, if its extension may start one now. The same request again starts no second call,
    /// arms no timer, and counts as one call as long as no other one was asked for.
    ///
    /// Requests at the same moment do not see each other: an extension may exceed its limit of concurrent calls by as many calls as
    /// its rate allows within a second or so.
    ///
    /// # Errors
    /// See [`SwitchboardError`]. A destination that could not be called is no error: the call has failed, with its reason.
    pub async fn start_call(
        &self,
        request: &NewCallRequest,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let call = request.new_call(self.settings, now);
        call_log_fields::note_call(call.call_id);
        let limits = request.limits;
        // The first check, so that an app that asks too often costs one write and no more.
        let rate = (Purpose::Calls, limits.calls, StartLimit::Rate);
        self.take_allowance(request, rate, now).await?;
        let asking = async {
            if call.is_to_number() {
                return CalleeAnswer::Rings(None);
            }
            self.ask_callee(&call, now, until).await
        };
        let (known, active, callee) = futures::join!(
            self.store.find(call.call_id),
            self.store
                .count_live(&request.by.extension, limits.concurrent, now),
            asking,
        );
        // A stored call has its timer, and is within the limits.
        if let Some(known) = known? {
            return self.request_again(known, now, until).await;
        }
        if active? >= limits.concurrent {
            return Err(SwitchboardError::TooMany {
                limit: StartLimit::Concurrent,
                wait: self.settings.ring,
            });
        }
        if call.is_to_number() {
            let daily = (Purpose::PhoneCalls, limits.phone_calls, StartLimit::Daily);
            self.take_allowance(request, daily, now).await?;
        }
        self.arm_timer_before_storing(&call, now, until).await?;
        match self.store.create(&call, None).await? {
            CreateResult::New => Ok(self.begin_started(call, callee, now, until).await),
            CreateResult::Existing(known) => self.request_again(*known, now, until).await,
            CreateResult::KeyHeldBy(_) => Err(SwitchboardError::Contended),
        }
    }

    async fn take_allowance(
        &self,
        request: &NewCallRequest,
        (purpose, allowance, limit): (Purpose, Allowance, StartLimit),
        now: Timestamp,
    ) -> Result<(), SwitchboardError<E::Error>> {
        let starter = AllowanceRequest {
            extension: request.by.extension.clone(),
            purpose,
            allowance,
        };
        let taken = self.store.take_allowance(request.call_id, &starter, now);
        match taken.await? {
            AllowanceResult::Granted | AllowanceResult::GrantedBefore => Ok(()),
            AllowanceResult::Exhausted(wait) => Err(SwitchboardError::TooMany { limit, wait }),
        }
    }

    /// The app asks for a call that it has started.
    async fn request_again(
        &self,
        call: Call,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        self.decide_and_save(call, &Event::RequestedAgain, now, until)
            .await
    }

    /// No second report follows for a call that an app starts, and its backstop may be a minute late. So its timer is armed before
    /// the call is stored.
    async fn arm_timer_before_storing(
        &self,
        call: &Call,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(), SwitchboardError<E::Error>> {
        let context = EffectContext {
            call,
            devices: None,
            now,
            until,
        };
        self.run(&Effect::ArmTimer(call.rings_until), &context)
            .await?;
        Ok(())
    }

    /// The call is stored now and may ring. If something fails, the app gets the call as it is, and is never asked to start
    /// another one.
    async fn begin_started(
        &self,
        call: Call,
        callee: CalleeAnswer,
        now: Timestamp,
        until: Timestamp,
    ) -> EventOutcome {
        let mut effects = first_effects(&call);
        effects.retain(|effect| !matches!(effect, Effect::ArmTimer(_)));
        let begun = self.begin(call.clone(), effects, callee, now, until).await;
        begun.unwrap_or_else(|error| {
            tracing::error!(call_id = %call.call_id, %error, cause = ?std::error::Error::source(&error), "call setup failed");
            let call = match error {
                SwitchboardError::Effect { call, .. } => *call,
                SwitchboardError::NoSuchCall
                | SwitchboardError::NotHereYet(_)
                | SwitchboardError::Contended
                | SwitchboardError::TooMany { .. }
                | SwitchboardError::Store(_) => call,
            };
            EventOutcome {
                call,
                rejected: None,
            }
        })
    }
}
