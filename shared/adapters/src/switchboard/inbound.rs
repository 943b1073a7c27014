//! Exotel's webhook and the PBX report an inbound call, in any order and more than once.

use ringback_core::call::{
    ABANDONED_AFTER, Call, CallKind, CallSettings, CallType, CorrelationKey, Effect, Event,
    NewCall, first_effects,
};
use ringback_core::ids::{CallId, CallSid, Extension, Leg};
use ringback_core::phone_number::Caller;
use ringback_core::timestamp::Timestamp;

use super::{
    EffectContext, Effects, EventOutcome, SAVE_ATTEMPTS, Switchboard, SwitchboardError,
    while_preparing,
};
use crate::store::calls::{CallStore, CorrelationClaim, CreateResult};
use crate::store::devices::Device;
use crate::telemetry::call_log_fields;

/// A caller waits for an extension, as Exotel's webhook or the PBX reports it.
#[derive(Clone, Debug)]
pub struct InboundCallReport {
    /// The signed id ([`crate::auth::signing`]) for a new call, or the call's id if the report names it.
    pub call_id: CallId,
    /// The extension that is called.
    pub extension: Extension,
    /// Who calls.
    pub caller: Caller,
    /// Exotel's id of the call. Without it, reports are matched by caller and extension while the phone rings.
    pub call_sid: Option<CallSid>,
    /// The leg on which the caller waits, if the PBX reports.
    pub caller_leg: Option<Leg>,
}

impl InboundCallReport {
    fn correlation_key(&self) -> CorrelationKey {
        CorrelationKey {
            extension: self.extension.clone(),
            caller: self.caller.number.clone(),
        }
    }

    /// A PBX that knows the CallSid needs no correlation key, because Exotel names the same CallSid. Exotel cannot know whether
    /// the PBX will name it.
    const fn needs_correlation_key(&self) -> bool {
        self.call_sid.is_none() || self.caller_leg.is_none()
    }

    fn claim(&self, now: Timestamp, instead_of: Option<CallId>) -> CorrelationClaim {
        CorrelationClaim {
            key: self.correlation_key(),
            now,
            instead_of,
        }
    }

    fn event(&self) -> Event {
        Event::CallerReported {
            caller_leg: self.caller_leg.clone(),
            call_sid: self.call_sid.clone(),
        }
    }

    pub(super) fn new_call(&self, settings: CallSettings, now: Timestamp) -> Call {
        let new = NewCall {
            call_id: self.call_id,
            extension: self.extension.clone(),
            kind: CallKind::to_app(self.caller.clone()),
            call_type: CallType::Voice,
            caller_leg: self.caller_leg.clone(),
            call_sid: self.call_sid.clone(),
        };
        Call::new(new, settings, now)
    }
}

/// Whether a report is about the call that holds its correlation key.
enum Correlation {
    Same(Box<EventOutcome>),
    /// It is about another call. The key stays with the holder while it rings (`is_active`).
    Other {
        is_active: bool,
    },
}

impl<S: CallStore + Sync, E: Effects + Sync> Switchboard<S, E> {
    /// Handles the report of an inbound call: the first report makes the call and rings the phone, the others add what they know. A
    /// repeated report changes nothing.
    ///
    /// # Errors
    /// See [`SwitchboardError`]. A call that was stored is not lost: the next report or the timer continues it.
    pub async fn report_inbound_call(
        &self,
        report: &InboundCallReport,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let call = report.new_call(self.settings, now);
        let (call_id, event) = (call.call_id, report.event());
        // The futures are large, and one contains another.
        let handling = Box::pin(self.create_or_join(call, report, now, until));
        let handling = while_preparing(handling, self.effects.prepare(&event));
        call_log_fields::with_call(call_id, handling).await
    }

    async fn create_or_join(
        &self,
        call: Call,
        report: &InboundCallReport,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let needs_key = report.needs_correlation_key();
        let mut claim = needs_key.then(|| report.claim(now, None));
        let (mut created, devices) = futures::join!(
            self.store.create(&call, claim.as_ref()),
            self.effects.devices(&report.extension),
        );
        for _ in 0..SAVE_ATTEMPTS {
            let holder = match created? {
                CreateResult::New => {
                    let effects = first_effects(&call);
                    return self.begin(call, effects, devices.ok(), now, until).await;
                }
                CreateResult::Existing(known) => {
                    return self
                        .decide_and_save(*known, &report.event(), now, until)
                        .await;
                }
                CreateResult::KeyHeldBy(holder) => holder,
            };
            let is_active = match self.join(holder, report, now, until).await? {
                Correlation::Same(outcome) => return Ok(*outcome),
                Correlation::Other { is_active } => is_active,
            };
            // A holder that rings keeps the key. Any other one gives it up.
            claim = (!is_active).then(|| report.claim(now, Some(holder)));
            created = self.store.create(&call, claim.as_ref()).await;
        }
        Err(SwitchboardError::Contended)
    }

    /// Gives the report to the call that holds its correlation key.
    async fn join(
        &self,
        holder: CallId,
        report: &InboundCallReport,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Correlation, SwitchboardError<E::Error>> {
        let outcome = match self.handle(holder, &report.event(), now, until).await {
            Ok(outcome) if outcome.rejected.is_none() => outcome,
            Ok(other) => {
                let is_active = !other.call.status.is_final() && now < other.call.rings_until;
                return Ok(Correlation::Other { is_active });
            }
            // The claim has outlived its call.
            Err(SwitchboardError::NoSuchCall) => {
                return Ok(Correlation::Other { is_active: false });
            }
            Err(error) => return Err(error),
        };
        if report.call_sid.is_some() {
            self.add_call_sid(&outcome.call).await?;
        }
        Ok(Correlation::Same(Box::new(outcome)))
    }

    /// Carries out the first effects of a call that was just stored.
    pub(super) async fn begin(
        &self,
        call: Call,
        effects: Vec<Effect>,
        // `None` if they could not be read. The push reads them again, and the timers are armed in any case.
        devices: Option<Vec<Device>>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let leg = call.pbx.clone().zip(call.caller_leg.clone());
        let event = Event::CallerReported {
            caller_leg: leg.map(|(pbx, channel)| Leg { pbx, channel }),
            call_sid: call.call_sid.clone(),
        };
        let begun = self
            .carry_out(
                call.clone(),
                &event,
                effects,
                devices.as_deref(),
                now,
                until,
            )
            .await;
        if begun.is_err() {
            // No other report may follow, so a timer continues the call as soon as this attempt counts as crashed.
            let retry = Effect::ArmTimer(now + ABANDONED_AFTER);
            let context = EffectContext {
                call: &call,
                devices: None,
                now,
                until,
            };
            if let Err(error) = self.effects.run(&retry, &context).await {
                tracing::error!(call_id = %call.call_id, %error, "call setup failed and no timer is armed");
            }
        }
        begun
    }
}
