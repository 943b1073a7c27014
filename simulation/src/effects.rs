//! The effects of a process: requests to the simulated PBX, push service, timers and Exotel.

use std::sync::Arc;
use std::time::Duration;

use ringback::asterisk::PhoneLegState;
use ringback::store::devices::Callee;
use ringback::switchboard::{EffectContext, Effects};
use ringback_core::call::{ABANDONED_AFTER, Call, CallStatus, CancelAudience, Effect, Event};
use ringback_core::ids::{ChannelId, Extension};
use ringback_core::timestamp::Timestamp;

use crate::clock::START;
use crate::faults::Fault;
use crate::pbx::{self, HungUpBy, Originated, Progress};
use crate::process::Process;
use crate::random::Part;
use crate::state::State;
use crate::state::phones::Account;
use crate::{exotel, phones, timers};

/// The effects of one process.
pub struct RunEffects(pub Arc<Process>);

/// Why an effect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// The phone did not register in time.
    #[error("the phone did not register in time")]
    PhoneOffline,
    /// The PBX did not answer.
    #[error("Asterisk did not answer")]
    Asterisk,
    /// No timer could be armed.
    #[error(transparent)]
    Timer(#[from] timers::NotArmed),
    /// The callee could not be looked up.
    #[error("the callee could not be looked up")]
    Callee,
}

const LOOK_AGAIN_AFTER: u64 = 200;
const WATCHES_AFTER: u64 = 300;
const CALLER_REGISTERS_WITHIN: Duration = Duration::from_secs(5);

impl RunEffects {
    /// One request to a PBX.
    async fn ari<T>(
        &self,
        pbx: usize,
        doing: &'static str,
        request: impl FnOnce(&mut State) -> T + Send,
    ) -> Result<T, EffectError> {
        let sim = &self.0.sim;
        self.0.step(doing).await;
        let way = if sim.fault(Fault::AriSlow) {
            sim.between(Part::Asterisk, 300, 2_000)
        } else {
            sim.between(Part::Asterisk, 2, 15)
        };
        sim.sleep(way).await;
        if sim.fault(Fault::AriFails) || sim.state().pbxs[pbx].is_down(sim.elapsed()) {
            return Err(EffectError::Asterisk);
        }
        let answer = request(&mut sim.state());
        sim.sleep(2).await;
        if sim.fault(Fault::AriAnswerLost) {
            return Err(EffectError::Asterisk);
        }
        self.0.step("after Asterisk answered").await;
        Ok(answer)
    }

    /// The PBX of the call, if it is known.
    fn pbx_of(&self, call: &Call) -> Option<usize> {
        let state = self.0.sim.state();
        match &call.pbx {
            Some(name) => state.pbxs.iter().position(|pbx| pbx.name == *name),
            None => (state.pbxs.len() == 1 || call.caller_leg.is_some()).then_some(0),
        }
    }

    async fn bridge(&self, context: &EffectContext<'_>) -> Result<Option<Event>, EffectError> {
        let call = context.call;
        let Some((leg, pbx)) = call.caller_leg.as_ref().zip(self.pbx_of(call)) else {
            return Ok(None);
        };
        let left = context.until.since(self.0.now());
        let dialing = self.dial_phone(call, leg, pbx, context.until);
        let dialed = tokio::time::timeout(left, dialing).await;
        dialed.unwrap_or(Err(EffectError::PhoneOffline))
    }

    async fn dial_phone(
        &self,
        call: &Call,
        caller: &ChannelId,
        pbx: usize,
        until: Timestamp,
    ) -> Result<Option<Event>, EffectError> {
        let until = call
            .deadline()
            .map_or(until, |deadline| deadline.min(until));
        let sim = &self.0.sim;
        if self.end_earlier_legs(pbx, call).await? == PhoneLegState::Answered {
            return Ok(None);
        }
        let id = call.phone_channel();
        let account = self.account_to_call(call);
        let originate = |state: &mut State| {
            pbx::dial_phone(sim, state, pbx, (call.call_id, &id), account, caller)
        };
        while self
            .ari(pbx, "before it dials the phone", originate)
            .await?
            == Originated::NotRegistered
        {
            let is_registered =
                move |state: &State, pbx| phones::contact(state, pbx, account).is_some();
            self.wait_for(pbx, until, is_registered).await?;
            let exists = |state: &mut State| state.pbxs[pbx].channel(caller).is_some();
            if !self
                .ari(pbx, "before it looks for the caller", exists)
                .await?
            {
                return Ok(None);
            }
            let next = ChannelId::of_phone(call.call_id, call.phone_attempt + 1);
            let exists = |state: &mut State| state.pbxs[pbx].channel(&next).is_some();
            if self
                .ari(pbx, "before it looks for a later leg", exists)
                .await?
            {
                return Ok(None);
            }
        }
        if self.end_earlier_legs(pbx, call).await? == PhoneLegState::Answered {
            return Ok(None);
        }
        self.watch_phone(pbx, call, &id, until).await
    }

    async fn end_earlier_legs(
        &self,
        pbx: usize,
        call: &Call,
    ) -> Result<PhoneLegState, EffectError> {
        for leg in call.phone_channels().skip(1) {
            if self.end_unanswered_leg(pbx, &leg).await? == PhoneLegState::Answered {
                return Ok(PhoneLegState::Answered);
            }
        }
        Ok(PhoneLegState::None)
    }

    async fn end_unanswered_leg(
        &self,
        pbx: usize,
        leg: &ChannelId,
    ) -> Result<PhoneLegState, EffectError> {
        let end = |state: &mut State| {
            pbx::end_leg(&self.0.sim, state, pbx, leg, pbx::NORMAL, HungUpBy::Neither);
        };
        let mut retries = 0;
        loop {
            let state = self.leg_state(pbx, leg).await?;
            if state != PhoneLegState::Ringing {
                return Ok(state);
            }
            match self.ari(pbx, "before it takes a leg down", end).await {
                Err(_) if retries < 2 => retries += 1,
                ended => return ended.map(|()| PhoneLegState::None),
            }
            self.0.sim.sleep(300).await;
        }
    }

    /// The SIP account of the device that has accepted.
    fn account_to_call(&self, call: &Call) -> Account {
        let state = self.0.sim.state();
        let extension = self.0.sim.plan().calls[state.truth.caller_of(call.call_id)].extension;
        let device = call.answered_by.as_ref().and_then(|by| by.device.as_ref());
        state.phones.account_to_call(extension, device)
    }

    async fn watch_phone(
        &self,
        pbx: usize,
        call: &Call,
        id: &ChannelId,
        until: Timestamp,
    ) -> Result<Option<Event>, EffectError> {
        let until = until.min(self.0.now() + ABANDONED_AFTER);
        let look = |state: &mut State| pbx::phone_progress(state, pbx, id);
        loop {
            let progress = self.ari_with_retries(pbx, "before it watches the phone's leg", look);
            match progress.await? {
                Progress::Reached => return Ok(None),
                Progress::CallerGone => {
                    self.take_down(pbx, id, pbx::NORMAL).await?;
                    return Ok(None);
                }
                Progress::Moved => {
                    return Ok(Some(Event::PhoneMoved {
                        attempt: call.phone_attempt,
                    }));
                }
                Progress::Unanswered => {}
            }
            if self.0.now() + Duration::from_millis(WATCHES_AFTER) >= until {
                return Ok(Some(Event::NotBridged { rings: true }));
            }
            self.0.sim.sleep(WATCHES_AFTER).await;
        }
    }

    async fn wait_for(
        &self,
        pbx: usize,
        until: Timestamp,
        is_registered: impl Fn(&State, usize) -> bool + Copy + Send + Sync,
    ) -> Result<(), EffectError> {
        while self.0.now() + Duration::from_millis(LOOK_AGAIN_AFTER) < until {
            self.0.sim.sleep(LOOK_AGAIN_AFTER).await;
            let look = |state: &mut State| is_registered(state, pbx);
            if self.ari(pbx, "before it looks for the phone", look).await? {
                return Ok(());
            }
        }
        Err(EffectError::PhoneOffline)
    }

    async fn dial_caller(&self, context: &EffectContext<'_>) -> Event {
        let until = context.until.min(self.0.now() + CALLER_REGISTERS_WITHIN);
        let call = context.call;
        let dialed = match self.pbx_of(call) {
            Some(pbx) => self
                .dial_caller_on(pbx, call, until)
                .await
                .map(|()| Event::CallerPhoneDialed),
            None => self.find_caller(until).await,
        };
        dialed.unwrap_or(Event::CallerUnreachable)
    }

    async fn dial_caller_on(
        &self,
        pbx: usize,
        call: &Call,
        until: Timestamp,
    ) -> Result<(), EffectError> {
        let sim = &self.0.sim;
        let originate = |state: &mut State| pbx::dial_caller(sim, state, pbx, call.call_id);
        while self
            .ari(pbx, "before it dials the caller", originate)
            .await?
            == Originated::NotRegistered
        {
            self.wait_for(pbx, until, phones::is_caller_registered)
                .await?;
        }
        Ok(())
    }

    async fn find_caller(&self, until: Timestamp) -> Result<Event, EffectError> {
        let pbxs = self.0.sim.plan().pbxs;
        loop {
            for pbx in 0..pbxs {
                let look = |state: &mut State| {
                    phones::is_caller_registered(state, pbx).then(|| state.pbxs[pbx].name.clone())
                };
                if let Ok(Some(name)) = self
                    .ari(pbx, "before it looks for the caller's phone", look)
                    .await
                {
                    return Ok(Event::CallerPhoneLocated(name));
                }
            }
            if self.0.now() + Duration::from_millis(LOOK_AGAIN_AFTER) >= until {
                return Err(EffectError::PhoneOffline);
            }
            self.0.sim.sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    async fn take_down(&self, pbx: usize, leg: &ChannelId, cause: u16) -> Result<(), EffectError> {
        let end = |state: &mut State| {
            pbx::end_leg(&self.0.sim, state, pbx, leg, cause, HungUpBy::Neither);
        };
        self.ari_with_retries(pbx, "before it takes a leg down", end)
            .await
    }

    /// A request about a leg that is to end. It is tried three times.
    async fn ari_with_retries<T>(
        &self,
        pbx: usize,
        doing: &'static str,
        request: impl Fn(&mut State) -> T + Send + Sync,
    ) -> Result<T, EffectError> {
        let mut tries = 0;
        loop {
            match self.ari(pbx, doing, &request).await {
                Err(_) if tries < 2 => tries += 1,
                ended => return ended,
            }
            self.0.sim.sleep(300).await;
        }
    }

    /// Ends the caller's leg, and then the phone's, as the adapter does.
    async fn end_legs(
        &self,
        pbx: usize,
        call: &Call,
        caller: Option<ChannelId>,
        cause: u16,
    ) -> Result<(), EffectError> {
        let caller = match caller {
            Some(leg) => self.take_down(pbx, &leg, cause).await,
            None => Ok(()),
        };
        if call.ready_at.is_some() {
            for phone in call.phone_channels() {
                self.take_down(pbx, &phone, pbx::NORMAL).await?;
            }
        }
        caller
    }

    /// Asterisk's requests for a call that was not answered, as the adapter makes them.
    async fn send_busy(&self, call: &Call) -> Result<Option<Event>, EffectError> {
        let Some(pbx) = self.pbx_of(call) else {
            return Ok(None);
        };
        let caller = call.caller_channel();
        let trunk_leg = caller
            .as_ref()
            .filter(|_| call.kind.calling_app().is_none());
        let (is_answered, is_bridged) = match trunk_leg {
            Some(leg) => {
                let look =
                    |state: &mut State| state.pbxs[pbx].channel(leg).is_some_and(|leg| leg.is_up);
                let is_answered = self.ari_with_retries(pbx, "before it looks for a leg", look);
                let is_answered = is_answered.await?;
                let is_bridged = is_answered && self.is_bridged(pbx, call, leg).await?;
                (is_answered, is_bridged)
            }
            None => {
                let phone = self.phone_leg(pbx, call).await?;
                (false, phone == PhoneLegState::Answered)
            }
        };
        if is_bridged {
            return Ok(Some(Event::Bridged));
        }
        let caller = caller.filter(|_| !is_answered);
        self.end_legs(pbx, call, caller, pbx::USER_BUSY).await?;
        Ok(None)
    }

    async fn phone_leg(&self, pbx: usize, call: &Call) -> Result<PhoneLegState, EffectError> {
        let mut furthest = PhoneLegState::None;
        for leg in call.phone_channels_of_both_regions() {
            match self.leg_state(pbx, &leg).await? {
                PhoneLegState::None => {}
                PhoneLegState::Ringing => furthest = PhoneLegState::Ringing,
                PhoneLegState::Answered => return Ok(PhoneLegState::Answered),
            }
        }
        let Some(caller) = call.caller_channel() else {
            return Ok(furthest);
        };
        Ok(if self.is_bridged(pbx, call, &caller).await? {
            PhoneLegState::Answered
        } else {
            furthest
        })
    }

    async fn is_bridged(
        &self,
        pbx: usize,
        call: &Call,
        caller: &ChannelId,
    ) -> Result<bool, EffectError> {
        let look = |state: &mut State| {
            let caller = state.pbxs[pbx].channel(caller);
            let phone = caller.and_then(|leg| leg.bridged_to.as_ref()?.phone_of());
            phone.is_some_and(|(bridged, _)| bridged == call.call_id)
        };
        self.ari_with_retries(pbx, "before it looks for the caller's bridge", look)
            .await
    }

    async fn leg_state(&self, pbx: usize, id: &ChannelId) -> Result<PhoneLegState, EffectError> {
        let look = |state: &mut State| match state.pbxs[pbx].channel(id) {
            None => PhoneLegState::None,
            Some(channel) if channel.is_up => PhoneLegState::Answered,
            Some(_) => PhoneLegState::Ringing,
        };
        self.ari_with_retries(pbx, "before it looks for the phone's leg", look)
            .await
    }

    async fn check_bridge(&self, call: &Call) -> Result<Event, EffectError> {
        let all = 0..self.0.sim.plan().pbxs;
        let pbxs = match self.pbx_of(call) {
            Some(pbx) => pbx..pbx + 1,
            None if call.status == CallStatus::InProgress => all,
            None => 0..0,
        };
        let mut furthest = PhoneLegState::None;
        for pbx in pbxs {
            furthest = furthest.max(self.phone_leg(pbx, call).await?);
        }
        Ok(furthest.bridge_event(call))
    }

    async fn ring(&self, call: &Call) -> Event {
        self.0.step("before it sends pushes").await;
        let way = self.0.sim.between(Part::Pushes, 30, 300);
        self.0.sim.sleep(way).await;
        let result = phones::ring(&self.0.sim, call, self.0.now());
        self.0.step("after it sent pushes").await;
        let clients = if result.needs_clients(call) {
            self.0.step("before it rings connected clients").await;
            self.0.sim.sleep(10).await;
            phones::ring_clients(&self.0.sim, self.0.region, call)
        } else {
            0
        };
        let devices = phones::count(&self.0.sim, call);
        result.event(call, devices, clients, self.0.now())
    }

    async fn cancel(&self, call: &Call, to: &CancelAudience) {
        self.0.step("before it sends cancellations").await;
        let way = self.0.sim.between(Part::Pushes, 30, 300);
        self.0.sim.sleep(way).await;
        phones::cancel(&self.0.sim, call, to);
        self.0.step("after it sent cancellations").await;
    }
}

impl Effects for RunEffects {
    type Error = EffectError;

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// Without the devices: a ring finds them in the state.
    async fn callee(&self, extension: &Extension) -> Result<Callee, EffectError> {
        let sim = &self.0.sim;
        self.0.step("before it looks up the callee").await;
        sim.sleep(5).await;
        if sim.fault(Fault::StoreFails) {
            return Err(EffectError::Callee);
        }
        let until = phones::number_of(sim, extension).and_then(|of| sim.plan().do_not_disturb[of]);
        Ok(Callee {
            devices: Vec::new(),
            do_not_disturb_until: until.map(|until| START + Duration::from_millis(until)),
            during_calls: sim.state().tables[self.0.region].during_calls(extension),
        })
    }

    async fn run(
        &self,
        effect: &Effect,
        context: &EffectContext<'_>,
    ) -> Result<Option<Event>, EffectError> {
        let call = context.call;
        self.0.note(|| format!("does {effect:?}"));
        match effect {
            Effect::SendPush => return Ok(Some(self.ring(call).await)),
            Effect::CancelPush { to, .. } => self.cancel(call, to).await,
            Effect::DialCallerPhone => return Ok(Some(self.dial_caller(context).await)),
            Effect::Bridge => return self.bridge(context).await,
            Effect::CheckBridge => return self.check_bridge(call).await.map(Some),
            Effect::PlaceOutboundCall => return Ok(Some(exotel::place(&self.0, call).await)),
            Effect::QueryExotel => return Ok(exotel::look_up(&self.0, call).await),
            Effect::SendBusy => return self.send_busy(call).await,
            Effect::HangUp => {
                if let Some(pbx) = self.pbx_of(call) {
                    self.end_legs(pbx, call, call.caller_channel(), pbx::NORMAL)
                        .await?;
                }
            }
            Effect::ArmTimer(at) => {
                self.0.step("before it arms a timer").await;
                self.0.sim.sleep(8).await;
                let backstop = call.backstop(*at);
                timers::arm(&self.0, call, *at, context.now, backstop).await?;
                self.0.step("after it armed a timer").await;
            }
            Effect::DisarmTimer => {
                self.0.step("before it disarms the timer").await;
                self.0.sim.sleep(8).await;
                timers::disarm(&self.0, call);
            }
            Effect::MarkEffectsCompleted(_) => {}
        }
        Ok(None)
    }
}
