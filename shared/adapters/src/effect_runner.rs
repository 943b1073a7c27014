//! Carries out the effects that [`Switchboard`](crate::switchboard::Switchboard) decides on, each through the adapter of one
//! outside system: Asterisk, the push services, the timers, Exotel.

use std::borrow::Cow;
use std::error::Error as _;

use futures::future::join_all;
use futures::stream;
use ringback_core::call::{Call, Effect, Event};
use ringback_core::ids::{DeviceId, Extension};
use ringback_core::timestamp::Timestamp;
use serde_json::json;

use crate::asterisk::{
    Asterisk, AsteriskError, BridgeOutcome, BusyOutcome, CalledPhone, DialCallerOutcome,
};
use crate::exotel::{Exotel, ExotelError};
use crate::platform::clock;
use crate::push::{PushMessage, PushSender};
use crate::sip_provisioning::SipProvisioning;
use crate::store::StoreError;
use crate::store::connections::{Connections, DeliveryCounts};
use crate::store::devices::{Callee, Device};
use crate::switchboard::{EffectContext, Effects};
use crate::timers::{CallTimers, TimerError};

/// Carries out effects.
#[derive(Debug)]
pub struct EffectRunner {
    sip: SipProvisioning,
    pushes: PushSender,
    timers: CallTimers,
    connections: Connections,
    exotel: Option<Exotel>,
}

/// Why an effect failed that a person waits for. A failed push is only logged.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// A leg could not be created, ended or looked up.
    #[error(transparent)]
    Asterisk(#[from] AsteriskError),
    /// The devices of the extension could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No timer could be armed.
    #[error(transparent)]
    Timer(#[from] TimerError),
    /// This function was started without an Exotel account.
    #[error("this function has no Exotel account")]
    NoExotel,
}

impl EffectRunner {
    /// An effect runner without an Exotel account, see [`EffectRunner::with_exotel`].
    #[must_use]
    pub const fn new(
        sip: SipProvisioning,
        pushes: PushSender,
        timers: CallTimers,
        connections: Connections,
    ) -> Self {
        Self {
            sip,
            pushes,
            timers,
            connections,
            exotel: None,
        }
    }

    /// Adds the Exotel account, which functions need that place outbound calls or look them up.
    #[must_use]
    pub fn with_exotel(self, exotel: Exotel) -> Self {
        Self {
            exotel: Some(exotel),
            ..self
        }
    }

    async fn devices_of<'a>(
        &self,
        context: &'a EffectContext<'_>,
    ) -> Result<Cow<'a, [Device]>, EffectError> {
        match context.devices {
            Some(devices) => Ok(Cow::Borrowed(devices)),
            None => {
                let devices = self.pushes.devices().of(&context.call.extension);
                Ok(Cow::Owned(devices.await?))
            }
        }
    }

    /// Rings the devices through push services. If none accepts a push, connected clients ring without one.
    async fn ring(&self, context: &EffectContext<'_>) -> Result<Event, EffectError> {
        let call = context.call;
        let devices = self.devices_of(context).await?;
        let ringing = self.pushes.ring(call, &devices, context.until);
        let (result, ()) = futures::join!(ringing, self.restore_accounts(call, &devices));
        let clients = if result.needs_clients(call) {
            self.ring_clients(call).await?
        } else {
            0
        };
        let with_address = devices.iter().filter(|device| device.has_address()).count();
        Ok(result.event(call, with_address, clients, clock::now()))
    }

    /// Rings the connected clients of the extension, in one query. Returns how many there are. A client that did not take the message in
    /// time counts: only API Gateway knows that a connection is gone. A client of the other region gets a status update there.
    async fn ring_clients(&self, call: &Call) -> Result<u32, StoreError> {
        let now = clock::now();
        let data = PushMessage::incoming_call(call, now).data;
        let text = json!({ "type": "incoming_call", "data": data }).to_string();
        let (here, elsewhere) = self
            .connections
            .in_all_regions(&call.extension, now)
            .await?;
        let clients = stream::iter(here.into_iter().map(Ok));
        let sending = self.connections.send_to_all(clients, |_| &text, now);
        let DeliveryCounts { sent, gone, failed } = sending.await?;
        tracing::debug!(call_id = %call.call_id, sent, gone, failed, elsewhere, "connected clients rung");
        Ok(u32::try_from(sent + failed)
            .unwrap_or(u32::MAX)
            .saturating_add(elsewhere))
    }

    async fn bridge(&self, context: &EffectContext<'_>) -> Result<Option<Event>, EffectError> {
        let Some(caller_leg) = &context.call.caller_leg else {
            return Ok(None);
        };
        let Some(pbx) = self.asterisk().pbx_of(context.call)? else {
            return Ok(None);
        };
        let call = context.call;
        let call_id = call.call_id;
        let device = call.answered_by.as_ref().and_then(|by| by.device.as_ref());
        let phone = self.phone_of(&call.extension, device).await?;
        let bridging = pbx.bridge(call, &phone, caller_leg, context.until);
        // Each request has its own timeout. This one limits their sum, so that there is time left to answer.
        let time_left = context.until.since(clock::now());
        let bridging = tokio::time::timeout(time_left, bridging).await;
        let outcome = bridging.unwrap_or(Err(AsteriskError::PhoneOffline))?;
        Ok(match outcome {
            BridgeOutcome::Dialing => {
                tracing::debug!(%call_id, "calling the phone");
                None
            }
            BridgeOutcome::CallerGone => {
                tracing::info!(%call_id, "caller hung up before the phone was called");
                None
            }
            BridgeOutcome::PhoneSilent => {
                tracing::info!(%call_id, "the phone does not react to its INVITE");
                Some(Event::NotBridged { rings: true })
            }
            BridgeOutcome::PhoneMoved => Some(Event::PhoneMoved {
                attempt: call.phone_attempt,
            }),
        })
    }

    /// The phone to call: that of the device's own SIP account, if it has one, and otherwise that of the account that all devices of the
    /// extension share. An app that does not name its device is on the only one.
    async fn phone_of(
        &self,
        extension: &Extension,
        device: Option<&DeviceId>,
    ) -> Result<CalledPhone, StoreError> {
        let devices = self.pushes.devices();
        let own = match device {
            _ if !self.sip.settings().are_offered() => None,
            Some(device) => devices.sip_account(extension, device).await?,
            None => match devices.of(extension).await?.as_slice() {
                [only] => only.sip_account.clone(),
                _ => None,
            },
        };
        let transports = self.sip.settings().servers.transports();
        Ok(own.map_or_else(
            || CalledPhone::of_extension(extension),
            |account| CalledPhone::of_device(account, transports),
        ))
    }

    /// On the PBX of the call, or on all of them while the call may be on any.
    async fn restore_accounts(&self, call: &Call, devices: &[Device]) {
        let asterisk = self.asterisk();
        let pbxs = match asterisk.pbx_of(call) {
            Ok(Some(pbx)) => std::slice::from_ref(pbx),
            Ok(None) | Err(_) => asterisk.pbxs(),
        };
        join_all(pbxs.iter().map(|pbx| self.sip.restore(pbx, devices))).await;
    }

    const fn asterisk(&self) -> &Asterisk {
        self.sip.asterisk()
    }

    async fn check_bridge(&self, call: &Call) -> Result<Event, AsteriskError> {
        let leg = self.asterisk().phone_leg_state(call).await?;
        Ok(leg.bridge_event(call))
    }

    async fn dial_caller_phone(&self, context: &EffectContext<'_>) -> Option<Event> {
        let caller = context.call.kind.calling_app()?;
        Some(match self.dial(caller, context).await {
            Ok(DialCallerOutcome::Dialing) => Event::CallerPhoneDialed,
            Ok(DialCallerOutcome::RegisteredAt(pbx)) => Event::CallerPhoneLocated(pbx),
            Err(error) => {
                tracing::warn!(call_id = %context.call.call_id, %error, cause = ?error.source(), "the caller's own phone could not be called");
                Event::CallerUnreachable
            }
        })
    }

    async fn dial(
        &self,
        caller: &Extension,
        context: &EffectContext<'_>,
    ) -> Result<DialCallerOutcome, EffectError> {
        let call = context.call;
        let phone = self.phone_of(caller, call.kind.calling_device()).await?;
        let dialing = self.asterisk().dial_caller(call, &phone, context.until);
        Ok(dialing.await?)
    }

    async fn place_outbound_call(&self, call: &Call) -> Result<Event, EffectError> {
        let exotel = self.exotel.as_ref().ok_or(EffectError::NoExotel)?;
        let error = match exotel.place(call).await {
            Ok(placed) => {
                return Ok(Event::ExotelProgress {
                    call_sid: placed.call_sid,
                    status: placed.progress,
                });
            }
            Err(error) => error,
        };
        tracing::warn!(call_id = %call.call_id, %error, cause = ?error.source(), "Exotel did not place the call");
        Ok(error
            .end_reason()
            .map_or(Event::ExotelNoAnswer, Event::OutboundCallRejected))
    }

    async fn query_exotel(&self, call: &Call) -> Result<Option<Event>, EffectError> {
        let exotel = self.exotel.as_ref().ok_or(EffectError::NoExotel)?;
        let Some(call_sid) = call.call_sid.clone() else {
            return Ok(None);
        };
        let progress = match exotel.details(&call_sid).await {
            Ok(details) => details.progress,
            Err(ExotelError::NoSuchCall) => call.status_if_unknown_to_exotel(),
            // The next timer looks the call up again.
            Err(error) => {
                tracing::warn!(call_id = %call.call_id, %error, cause = ?error.source(), "outbound call could not be looked up at Exotel");
                None
            }
        };
        Ok(progress.map(|progress| Event::ExotelProgress {
            call_sid,
            status: progress,
        }))
    }
}

impl Effects for EffectRunner {
    type Error = EffectError;

    fn now(&self) -> Timestamp {
        clock::now()
    }

    async fn callee(&self, extension: &Extension) -> Result<Callee, EffectError> {
        Ok(self
            .pushes
            .devices()
            .callee(extension, clock::now())
            .await?)
    }

    async fn prepare(&self, event: &Event) {
        match event {
            // These normally lead to a push.
            Event::CallerReported { .. } => self.pushes.get_ready().await,
            // These normally lead to a request to Asterisk.
            Event::Accepted { .. }
            | Event::Declined { .. }
            | Event::HungUp { .. }
            | Event::TimerFired => self.asterisk().get_ready().await,
            _ => {}
        }
    }

    async fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Event>, EffectError> {
        let call = context.call;
        match effect {
            Effect::SendPush => return Ok(Some(self.ring(context).await?)),
            Effect::CancelPush { reason, to } => {
                let devices = self.devices_of(context).await?;
                self.pushes
                    .cancel(call, &devices, *reason, to, context.until)
                    .await;
            }
            Effect::DialCallerPhone => return Ok(self.dial_caller_phone(context).await),
            Effect::CheckBridge => return Ok(Some(self.check_bridge(call).await?)),
            Effect::PlaceOutboundCall => return Ok(Some(self.place_outbound_call(call).await?)),
            Effect::QueryExotel => return self.query_exotel(call).await,
            Effect::Bridge => return self.bridge(context).await,
            Effect::SendBusy => {
                if let Some(pbx) = self.asterisk().pbx_of(call)?
                    && pbx.send_busy(call).await? == BusyOutcome::IsBridged
                {
                    return Ok(Some(Event::Bridged));
                }
            }
            Effect::HangUp => {
                if let Some(pbx) = self.asterisk().pbx_of(call)? {
                    pbx.hang_up(call).await?;
                }
            }
            Effect::ArmTimer(at) => {
                let backstop = call.backstop(*at);
                self.timers.arm(call, *at, context.now, backstop).await?;
            }
            Effect::DisarmTimer => {
                if let Err(error) = self.timers.disarm(call).await {
                    tracing::warn!(call_id = %call.call_id, %error, "timer not disarmed");
                }
            }
            // The switchboard does this one itself.
            Effect::MarkEffectsCompleted(_) => {}
        }
        Ok(None)
    }
}
