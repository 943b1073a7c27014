use std::{net::SocketAddr, sync::Arc, time::Duration};

use rsipstack::{
    dialog::invitation::{InviteAsyncResult, InviteOption},
    sip::{Header, StatusCodeKind},
};

use crate::{
    CallEvent, CallEvents, CallStage, Caller, Error, EventTime, Media,
    agent::{self, Agent, CallSide, HangUpGuard, Leg},
    error::failed,
    events::EventLog,
    media::Camera,
    rtp::Encryption,
};

/// A SIP trunk. The PBX identifies it by its address.
pub struct Trunk {
    agent: Agent,
    headers: Vec<Header>,
    camera: Camera,
    encryption: Encryption,
}

impl Trunk {
    /// Opens a trunk with UDP and RTP. Port 0 takes any free port.
    pub async fn bind(address: &str) -> Result<Self, Error> {
        let (agent, _invitations) = Agent::bind(socket(address)?).await?;
        Ok(Self {
            agent,
            headers: Vec::new(),
            camera: Camera::None,
            encryption: Encryption::Clear,
        })
    }

    /// Opens a trunk with TLS and SRTP. `ca_pem` is the authority that signed the PBX's certificate. Port 0 takes any
    /// free port.
    pub async fn over_tls(address: &str, pbx: SocketAddr, ca_pem: &str) -> Result<Self, Error> {
        let (agent, _invitations) = Agent::connect(socket(address)?, pbx, ca_pem).await?;
        Ok(Self {
            agent,
            headers: Vec::new(),
            camera: Camera::None,
            encryption: Encryption::Srtp,
        })
    }

    /// Offers unencrypted media.
    pub fn without_srtp(self) -> Self {
        Self {
            encryption: Encryption::Clear,
            ..self
        }
    }

    /// Adds a header to each INVITE.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(Header::Other(name.into(), value.into()));
        self
    }

    /// Offers video in each call. Exotel's trunk does not.
    pub fn with_video(self) -> Self {
        Self {
            camera: Camera::Vp8,
            ..self
        }
    }

    /// The trunk's local address.
    pub fn address(&self) -> SocketAddr {
        self.agent.local
    }

    /// Sends an INVITE to the number `did`, with `X-Exotel-CallSid` if `call_sid` is given. Returns at once; the call's
    /// events show the progress.
    pub async fn call(
        &self,
        pbx: SocketAddr,
        did: &str,
        caller: Caller,
        call_sid: Option<&str>,
    ) -> Result<OutgoingCall, Error> {
        let media = Media::open(self.agent.ip(), self.camera, self.encryption).await?;
        let mut headers = caller.headers(&self.agent)?;
        headers.extend(self.headers.iter().cloned());
        headers.extend(call_sid.map(|sid| Header::Other("X-Exotel-CallSid".into(), sid.into())));
        let invite = InviteOption {
            caller_display_name: caller.quoted_name(),
            caller: caller.uri(&self.agent)?,
            callee: self.agent.uri_at(pbx, did)?,
            destination: Some(self.agent.sip_address_of(pbx)),
            offer: Some(media.offer()),
            contact: self.agent.uri("trunk")?,
            headers: Some(headers),
            ..Default::default()
        };
        let log = EventLog::new();
        let placed = EventTime::now();
        let (state, states) = self.agent.dialogs.new_dialog_state_channel();
        let (dialog, outcome) = self
            .agent
            .dialogs
            .do_invite_async(invite, state)
            .map_err(failed("sending an INVITE"))?;
        let tracking = agent::track_dialog(
            states,
            self.agent.dialogs.clone(),
            log.clone(),
            media.clone(),
            CallSide::Calling,
        );
        tokio::spawn(tracking);
        let rejection_log = log.clone();
        tokio::spawn(async move { log_rejection(outcome.await.ok(), &rejection_log) });
        let leg = Leg {
            dialog,
            log,
            media,
            side: CallSide::Calling,
        };
        Ok(OutgoingCall {
            placed,
            _hang_up: leg.hang_up_guard(),
            leg,
            agent: self.agent.clone(),
        })
    }
}

fn socket(address: &str) -> Result<SocketAddr, Error> {
    let address = address.parse();
    address.map_err(|_| Error::Address("the trunk's socket".to_owned()))
}

/// Logs a final response other than 200. The dialog state does not contain the response code.
fn log_rejection(outcome: Option<InviteAsyncResult>, log: &EventLog) {
    match outcome {
        Some(Ok((_, Some(response)))) => {
            if response.status_code.kind() != StatusCodeKind::Successful {
                log.log(agent::rejected_stage(&response.status_code));
            }
        }
        // No response at all counts as 408 (RFC 3261, section 8.1.3.1).
        _ => log.log(CallStage::Rejected {
            code: 408,
            reason: "No response".to_owned(),
        }),
    }
}

/// A call that the trunk has placed. Dropping the last clone hangs up.
#[derive(Clone)]
pub struct OutgoingCall {
    placed: EventTime,
    leg: Leg,
    _hang_up: Arc<HangUpGuard>,
    /// Also keeps the socket open when the `Trunk` is dropped before the call.
    agent: Agent,
}

impl OutgoingCall {
    /// When the INVITE was sent.
    pub fn placed(&self) -> EventTime {
        self.placed
    }

    /// The events of this call.
    pub fn events(&self) -> CallEvents {
        self.leg.events()
    }

    /// This side of the call, for requests while the parties talk.
    pub fn leg(&self) -> &Leg {
        &self.leg
    }

    /// The audio and video of this leg.
    pub fn media(&self) -> &Media {
        &self.leg.media
    }

    /// Waits for the 180 or 183.
    pub async fn ringing(&self, within: Duration) -> Result<CallEvent, Error> {
        let matches_stage = |stage: &CallStage| matches!(stage, CallStage::Ringing { .. });
        self.events()
            .wait_for("180 Ringing", within, matches_stage)
            .await
    }

    /// Waits for the 200.
    pub async fn answered(&self, within: Duration) -> Result<CallEvent, Error> {
        let matches_stage = |stage: &CallStage| *stage == CallStage::Answered;
        self.events()
            .wait_for("200 OK", within, matches_stage)
            .await
    }

    /// Waits for a final response other than 200, and returns its code.
    pub async fn rejected(&self, within: Duration) -> Result<(u16, CallEvent), Error> {
        let matches_stage = |stage: &CallStage| matches!(stage, CallStage::Rejected { .. });
        let event = self
            .events()
            .wait_for("a rejection", within, matches_stage)
            .await?;
        match event.stage {
            CallStage::Rejected { code, .. } => Ok((code, event)),
            _ => Err(Error::Stopped),
        }
    }

    /// Waits for the end of an answered call.
    pub async fn ended(&self, within: Duration) -> Result<CallEvent, Error> {
        let matches_stage = |stage: &CallStage| matches!(stage, CallStage::Ended { .. });
        self.events()
            .wait_for("the call's end", within, matches_stage)
            .await
    }

    /// Cancels an unanswered call (CANCEL). The call then ends with 487.
    pub async fn cancel(&self) -> Result<(), Error> {
        let result = self.leg.dialog.cancel().await;
        result.map_err(failed("cancelling a call"))
    }

    /// Cancels an unanswered call, with these values of the header `Reason` (RFC 3326).
    pub async fn cancel_because(&self, reasons: &[&str]) -> Result<(), Error> {
        let call_id = self.leg.dialog.id().call_id;
        self.agent.cancel_reasons.send_with(&call_id, reasons);
        self.cancel().await
    }

    /// Ends the call: BYE if it was answered, CANCEL if not.
    pub async fn hang_up(&self) -> Result<(), Error> {
        self.leg.hang_up().await
    }
}
