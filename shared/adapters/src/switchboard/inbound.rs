//! Exotel's webhook and the PBX report an inbound call, in any order and more than once.

use ringback_core::call::{
    ABANDONED_AFTER, Call, CallKind, CallSettings, CallType, CorrelationKey, Effect, Event,
    NewCall, RejectReason, first_effects,
};
use ringback_core::ids::{CallId, CallSid, Extension, Leg};
use ringback_core::phone_number::Caller;
use ringback_core::timestamp::Timestamp;

use super::refusal::CalleeAnswer;
use super::{
    EffectContext, Effects, EventOutcome, SAVE_ATTEMPTS, Switchboard, SwitchboardError,
    while_preparing,
};
use crate::store::calls::{CallStore, CorrelationClaim, CreateResult};
use crate::telemetry::call_log_fields;

/// How many rings one CallSid may have at one extension. Exotel's retries are few; this limits the requests of one report.
pub(super) const MAX_RINGS: u32 = 20;

/// A caller waits for an extension, as Exotel's webhook or the PBX reports it.
#[derive(Clone, Debug)]
pub struct InboundCallReport {
    /// The id of the call, if the report names it, or else the id for a new call without a CallSid.
    pub call_id: Option<CallId>,
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

    /// The ids that the call may have, in the order in which they are tried: the one that the report names, and those of the rings.
    /// Without either, a fresh one.
    fn call_ids(&self) -> impl Iterator<Item = CallId> {
        let rings = self.call_sid.iter().flat_map(|sid| {
            (1..=MAX_RINGS).map(|ring| CallId::of_ring(sid, &self.extension, ring))
        });
        let rings = rings.filter(|id| Some(*id) != self.call_id);
        let is_unnamed = self.call_id.is_none() && self.call_sid.is_none();
        let fresh = is_unnamed.then(CallId::fresh);
        self.call_id.into_iter().chain(fresh).chain(rings)
    }

    pub(super) fn new_call(&self, call_id: CallId, settings: CallSettings, now: Timestamp) -> Call {
        let new = NewCall {
            call_id,
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
    /// repeated report changes nothing. A caller who comes back on a new leg, after the last ring of this CallSid and extension has
    /// ended, gets a new ring. `sign` adds the check field to the id of a new call ([`crate::auth::signing`]).
    ///
    /// # Errors
    /// See [`SwitchboardError`]. A call that was stored is not lost: the next report or the timer continues it.
    pub async fn report_inbound_call(
        &self,
        report: &InboundCallReport,
        sign: impl Fn(CallId) -> CallId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let event = report.event();
        let mut last = Err(SwitchboardError::Contended);
        for call_id in report.call_ids().map(sign) {
            let call = report.new_call(call_id, self.settings, now);
            // The futures are large, and one contains another.
            let handling = Box::pin(self.create_or_join(call, report, now, until));
            let handling = while_preparing(handling, self.effects.prepare(&event));
            last = call_log_fields::with_call(call_id, handling).await;
            let is_over =
                |outcome: &EventOutcome| outcome.rejected == Some(RejectReason::RingIsOver);
            if !last.as_ref().is_ok_and(is_over) {
                break;
            }
        }
        last
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
        let (mut created, callee) = futures::join!(
            self.store.create(&call, claim.as_ref()),
            self.ask_callee(&call, now, until),
        );
        for _ in 0..SAVE_ATTEMPTS {
            let holder = match created? {
                CreateResult::New => {
                    let effects = first_effects(&call);
                    let new = call.clone();
                    let begin = self.begin(call, effects, callee, now, until);
                    let (begun, ()) = futures::join!(begin, self.index_by_sid(&new));
                    return begun;
                }
                CreateResult::Existing(known) => {
                    // The process that stored it may have crashed before it was indexed.
                    if known.was_abandoned(now) {
                        self.index_by_sid(&known).await;
                    }
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
        if let Some(sid) = &report.call_sid {
            self.index_by_sid(&outcome.call).await;
            // A repeated webhook finds this call, also after it has ended.
            let (call, first_ring) = (&outcome.call, CallId::of_ring(sid, &report.extension, 1));
            let is_other = first_ring != call.call_id;
            if is_other
                && !(self
                    .store
                    .add_alias(first_ring, call.call_id, call.expires_at))
                .await?
            {
                tracing::warn!(call_id = %call.call_id, "CallSid belongs to another call");
            }
        }
        Ok(Correlation::Same(Box::new(outcome)))
    }

    /// Carries out the first effects of a call that was just stored, or refuses it.
    pub(super) async fn begin(
        &self,
        call: Call,
        effects: Vec<Effect>,
        callee: CalleeAnswer,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let leg = call.pbx.clone().zip(call.caller_leg.clone());
        let event = Event::CallerReported {
            caller_leg: leg.map(|(pbx, channel)| Leg { pbx, channel }),
            call_sid: call.call_sid.clone(),
        };
        let begun = match callee {
            CalleeAnswer::Refuses(refusal) => {
                let refused = Event::CalleeUnavailable(refusal);
                self.handle(call.call_id, &refused, now, until).await
            }
            CalleeAnswer::Rings(devices) => {
                let (call, devices) = (call.clone(), devices.as_deref());
                self.carry_out(call, &event, effects, devices, now, until)
                    .await
            }
        };
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
