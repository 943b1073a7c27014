//! Effects are carried out: all at once, and what they cause comes back as an event.

use std::future::Future;

use futures::future::join_all;
use ringback_core::call::{Call, Effect, Event};
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;
use tokio::sync::OnceCell;

use super::{EventOutcome, Switchboard, SwitchboardError};
use crate::store::calls::CallStore;
use crate::store::devices::{Callee, Device};
use crate::telemetry::call_log_fields;

/// Carries effects out: [`crate::effect_runner::EffectRunner`] in outside systems, a recorder in tests.
pub trait Effects {
    /// Why an effect failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The time, after effects have taken theirs.
    fn now(&self) -> Timestamp;

    /// An extension that is called, as it is now.
    fn callee(
        &self,
        extension: &Extension,
    ) -> impl Future<Output = Result<Callee, Self::Error>> + Send;

    /// Fetches what the effects of such an event need and what does not depend on the call, while the event is saved. The effect
    /// reports what could not be fetched.
    fn prepare(&self, _event: &Event) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Carries one effect out, and returns the event that it caused.
    ///
    /// # Errors
    /// When a person would wait without need, because a leg could not be started or ended: the request fails and can be repeated.
    /// A failed push is logged and is no error.
    fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> impl Future<Output = Result<Option<Event>, Self::Error>> + Send;
}

/// What an effect is carried out for.
#[derive(Debug)]
pub struct EffectContext<'a> {
    /// The call.
    pub call: &'a Call,
    /// The devices of its extension, if they have been read already.
    pub devices: Option<&'a [Device]>,
    /// The time now.
    pub now: Timestamp,
    /// When this process must be done.
    pub until: Timestamp,
}

impl<S: CallStore + Sync, E: Effects + Sync> Switchboard<S, E> {
    /// Carries effects out, all at once. Only when all have succeeded is it recorded that they are completed, and only then is the
    /// durable timer deleted.
    pub(super) async fn carry_out(
        &self,
        call: Call,
        event: &Event,
        effects: Vec<Effect>,
        devices: Option<&[Device]>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        call_log_fields::note_call(call.call_id);
        let (name, by) = event.description();
        tracing::debug!(
            call_id = %call.call_id, call_sid = call.call_sid.as_ref().map(tracing::field::display), event = name, by, status = call.status.as_str(), ?effects,
            "call event"
        );
        let (last, first): (Vec<_>, Vec<_>) = effects.into_iter().partition(|effect| {
            matches!(
                effect,
                Effect::MarkEffectsCompleted(_) | Effect::DisarmTimer
            )
        });
        let context = EffectContext {
            call: &call,
            devices,
            now,
            until,
        };
        let results = self.run_all(&first, &context).await;
        let mut latest = call;
        let mut failure = None;
        for result in results {
            match result {
                Ok(Some(call)) if call.version > latest.version => latest = call,
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            None => self.complete(latest, last, now, until).await,
            Some(SwitchboardError::Effect { source, .. }) => Err(SwitchboardError::Effect {
                call: Box::new(latest),
                source,
            }),
            Some(error) => Err(error),
        }
    }

    /// Runs effects at once. What they cause is handled when the timers are armed: a recorded push says that no effect is pending any
    /// more, and then no repeated event would arm the timer.
    async fn run_all(
        &self,
        effects: &[Effect],
        context: &EffectContext<'_>,
    ) -> Vec<Result<Option<Call>, SwitchboardError<E::Error>>> {
        let is_timer = |effect: &&Effect| matches!(effect, Effect::ArmTimer(_));
        let (timers, others): (Vec<_>, Vec<_>) = effects.iter().partition(is_timer);
        let armed = OnceCell::new();
        let arm =
            || armed.get_or_init(|| join_all(timers.iter().map(|timer| self.run(timer, context))));
        let run_others = others.into_iter().map(|effect| async {
            let caused = self.run_one(effect, context).await?;
            arm().await;
            self.handle_caused(caused, context).await
        });
        let (_, mut results) = futures::join!(arm(), join_all(run_others));
        results.extend(armed.into_inner().unwrap_or_default());
        results
    }

    /// The effects that come last, one after the other.
    async fn complete(
        &self,
        mut call: Call,
        last: Vec<Effect>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        for effect in last {
            if let Effect::MarkEffectsCompleted(effects_pending_since) = effect {
                let completed = Event::EffectsCompleted {
                    effects_pending_since,
                };
                let now = self.effects.now().max(now);
                let handled = Box::pin(self.handle(call.call_id, &completed, now, until));
                call = handled.await?.call;
            } else if call.status.is_final() {
                // A call that was taken for unanswered may have been found bridged. It needs its timer.
                let context = EffectContext {
                    call: &call,
                    devices: None,
                    now,
                    until,
                };
                self.run(&effect, &context).await?;
            }
        }
        Ok(EventOutcome {
            call,
            rejected: None,
        })
    }

    /// Carries one effect out, and handles the event that it caused at once, with the time that it is then.
    pub(super) async fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Call>, SwitchboardError<E::Error>> {
        let caused = self.run_one(effect, context).await?;
        self.handle_caused(caused, context).await
    }

    async fn run_one(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Event>, SwitchboardError<E::Error>> {
        let caused = self.effects.run(effect, context).await;
        caused.map_err(|source| SwitchboardError::Effect {
            call: Box::new(context.call.clone()),
            source,
        })
    }

    async fn handle_caused(
        &self,
        caused: Option<Event>,
        context: &EffectContext<'_>,
    ) -> Result<Option<Call>, SwitchboardError<E::Error>> {
        let Some(event) = caused else {
            return Ok(None);
        };
        let handle = || {
            let now = self.effects.now().max(context.now);
            Box::pin(self.handle(context.call.call_id, &event, now, context.until))
        };
        let handled = match handle().await {
            // If another process has recorded other pushes, only this record makes Ringback cancel these.
            Err(SwitchboardError::Store(_)) if matches!(event, Event::PushSent(_)) => {
                handle().await
            }
            handled => handled,
        };
        Ok(Some(handled?.call))
    }
}
