use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rsipstack::{
    dialog::{authenticate::Credential, registration::Registration},
    sip::{Header, Headers, StatusCode, headers::typed, prelude::HeadersExt},
    transaction::transaction::Transaction,
};

use crate::{
    CallEvent, CallEvents, CallStage, Caller, Error, EventTime, Media,
    agent::{self, Agent, CallSide, HangUpGuard, Invitation, Invitations, Leg},
    error::failed,
    events::EventLog,
    media::Camera,
    rtp::Encryption,
    sdp,
};

const REGISTRATION_SECONDS: u32 = 600;

/// The phone of one extension, with its own socket. It rings (180) as soon as it is called.
pub struct Phone {
    agent: Agent,
    invitations: Invitations,
    registration: Registration,
    registrar: SocketAddr,
    extension: String,
    camera: Camera,
    encryption: Encryption,
}

impl Phone {
    /// Creates a phone with UDP and RTP. It is not registered yet. Its address is the local address that reaches the
    /// PBX.
    pub async fn new(pbx: SocketAddr, extension: &str, password: &str) -> Result<Self, Error> {
        let local = local_address_towards(pbx).await?;
        Self::at(local, pbx, extension, password).await
    }

    /// Creates a phone as [`Phone::new`] does, at this local address.
    pub async fn at(
        local: SocketAddr,
        pbx: SocketAddr,
        extension: &str,
        password: &str,
    ) -> Result<Self, Error> {
        let agent = Agent::bind(local).await?;
        Self::with_agent(agent, pbx, extension, password, Encryption::Clear)
    }

    /// Creates a phone with TLS and SRTP. `ca_pem` is the authority that signed the PBX's certificate.
    pub async fn over_tls(
        pbx: SocketAddr,
        extension: &str,
        password: &str,
        ca_pem: &str,
    ) -> Result<Self, Error> {
        let agent = Agent::connect(local_address_towards(pbx).await?, pbx, ca_pem).await?;
        Self::with_agent(agent, pbx, extension, password, Encryption::Srtp)
    }

    fn with_agent(
        (agent, invitations): (Agent, Invitations),
        pbx: SocketAddr,
        extension: &str,
        password: &str,
        encryption: Encryption,
    ) -> Result<Self, Error> {
        let credential = Credential {
            username: extension.to_owned(),
            password: password.to_owned(),
            realm: None,
            auth_username: None,
        };
        let mut registration = Registration::new(agent.endpoint.clone(), Some(credential));
        registration.contact = Some(typed::Contact {
            display_name: None,
            uri: agent.uri(extension)?,
            params: Vec::new(),
        });
        Ok(Self {
            agent,
            invitations,
            registration,
            registrar: pbx,
            extension: extension.to_owned(),
            camera: Camera::None,
            encryption,
        })
    }

    /// Answers with unencrypted media, even if the offer is encrypted.
    pub fn without_srtp(self) -> Self {
        Self {
            encryption: Encryption::Clear,
            ..self
        }
    }

    /// Adds a camera: the phone accepts video when it is offered. Without a camera it refuses the video and takes the
    /// call as a voice call.
    pub fn with_video(self) -> Self {
        Self {
            camera: Camera::Vp8,
            ..self
        }
    }

    /// The phone's extension.
    pub fn extension(&self) -> &str {
        &self.extension
    }

    /// The phone's SIP address.
    pub fn address(&self) -> SocketAddr {
        self.agent.local
    }

    /// Registers with the PBX for ten minutes, with digest authentication.
    pub async fn register(&mut self) -> Result<(), Error> {
        self.register_for(REGISTRATION_SECONDS).await
    }

    /// Removes the registration.
    pub async fn unregister(&mut self) -> Result<(), Error> {
        self.register_for(0).await
    }

    async fn register_for(&mut self, seconds: u32) -> Result<(), Error> {
        let registrar = self.agent.uri_at(self.registrar, "")?;
        let response = self.registration.register(registrar, Some(seconds)).await;
        let code = response.map_err(failed("registering"))?.status_code;
        if code == StatusCode::OK {
            Ok(())
        } else {
            Err(Error::RegisterRefused(code.code()))
        }
    }

    /// Simulates a lost network: the phone stops receiving and sending SIP. The media of its calls must be muted
    /// separately.
    pub fn lose_network(&self) {
        self.agent.stop.cancel();
    }

    /// Waits for the next call, which is already ringing when this returns.
    pub async fn next_call(&mut self, within: Duration) -> Result<IncomingCall, Error> {
        let invitation = tokio::time::timeout(within, self.invitations.recv()).await;
        match invitation {
            Ok(Some(invitation)) => self.ring(invitation).await,
            Ok(None) => Err(Error::Stopped),
            Err(_) => Err(Error::TimedOut {
                expected: "an INVITE",
                waited: within,
                seen: Vec::new(),
            }),
        }
    }

    async fn ring(&self, invitation: Invitation) -> Result<IncomingCall, Error> {
        let Invitation {
            transaction: mut invitation,
            arrived,
        } = invitation;
        let caller = caller_in_invite(&invitation)?;
        let media = Media::open(self.agent.ip(), self.camera, self.encryption).await?;
        let headers = invitation.original.headers.clone();
        let offer = invitation.original.body.clone();
        let log = EventLog::new();
        let (state, states) = self.agent.dialogs.new_dialog_state_channel();
        let contact = self.agent.uri(&self.extension)?;
        let mut dialog = self
            .agent
            .dialogs
            .get_or_create_server_invite(&invitation, state, None, Some(contact))
            .map_err(failed("taking an INVITE"))?;
        let tracking = agent::track_dialog(
            states,
            self.agent.dialogs.clone(),
            log.clone(),
            media.clone(),
            CallSide::Called,
        );
        tokio::spawn(tracking);
        let leg = Leg {
            dialog: dialog.clone(),
            log: log.clone(),
            media,
            side: CallSide::Called,
        };
        // Runs until the call is over: it answers the INVITE, and later the BYE or CANCEL.
        tokio::spawn(async move { dialog.handle(&mut invitation).await });
        leg.dialog.ringing(None, None).map_err(failed("ringing"))?;
        log.log(CallStage::Ringing { code: 180 });
        Ok(IncomingCall {
            arrived,
            caller,
            headers,
            offer,
            _hang_up: leg.hang_up_guard(),
            leg,
            agent: self.agent.clone(),
        })
    }
}

/// A free port at the local address that the system would send from. Sends nothing.
async fn local_address_towards(pbx: SocketAddr) -> Result<SocketAddr, Error> {
    let probe = async {
        let socket = tokio::net::UdpSocket::bind(any_address(pbx)).await?;
        socket.connect(pbx).await?;
        socket.local_addr()
    };
    let address = probe.await.map_err(|source| Error::Socket {
        operation: "finding the local address",
        source,
    })?;
    Ok(SocketAddr::new(address.ip(), 0))
}

fn any_address(family: SocketAddr) -> SocketAddr {
    if family.is_ipv4() {
        SocketAddr::from(([0; 4], 0))
    } else {
        SocketAddr::from(([0; 16], 0))
    }
}

fn caller_in_invite(invitation: &Transaction) -> Result<Caller, Error> {
    let header = invitation.original.from_header();
    let header = header.map_err(|error| failed("reading an INVITE's From")(error.into()))?;
    Caller::from_header(header.value())
}

/// A call that rings at a phone. Dropping the last clone rejects or hangs up the call.
#[derive(Clone)]
pub struct IncomingCall {
    arrived: EventTime,
    caller: Caller,
    headers: Headers,
    offer: Vec<u8>,
    leg: Leg,
    _hang_up: Arc<HangUpGuard>,
    /// Also keeps the socket open when the `Phone` is dropped before the call.
    agent: Agent,
}

impl IncomingCall {
    /// When the INVITE arrived.
    pub fn arrived(&self) -> EventTime {
        self.arrived
    }

    /// The caller, as the phone shows it.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The value of the INVITE's first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let has_name = |header: &&Header| header.name().eq_ignore_ascii_case(name);
        self.headers.iter().find(has_name).map(Header::value)
    }

    /// The values of the header `Reason` in the CANCEL of this call (RFC 3326). Empty before the CANCEL.
    pub fn cancel_reasons(&self) -> Vec<String> {
        let call_id = self.leg.dialog.id().call_id;
        self.agent.cancel_reasons.received(&call_id)
    }

    /// The INVITE's session description.
    pub fn offer(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.offer)
    }

    /// Whether the caller offers video (VP8).
    pub fn offers_video(&self) -> bool {
        sdp::video(&self.offer).is_some()
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

    /// Sends early media with a 183 and keeps ringing.
    pub fn send_early_media(&self) -> Result<(), Error> {
        self.leg.media.connect(&self.offer)?;
        let answer = self.leg.media.answer(&self.offer);
        let sent = self
            .leg
            .dialog
            .ringing(Some(agent::sdp_content_type()), Some(answer));
        sent.map_err(failed("sending a 183"))
    }

    /// Rings with a 180 that the PBX must acknowledge with a PRACK (RFC 3262). Returns whether it does so in time.
    pub async fn ring_reliably(&self, within: Duration) -> Result<bool, Error> {
        let headers = vec![
            Header::Require("100rel".into()),
            Header::Other("RSeq".into(), "1".into()),
        ];
        let sent = self.leg.dialog.ringing(Some(headers), None);
        sent.map_err(failed("ringing"))?;
        let acknowledged = async {
            while self.agent.pracks.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        Ok(tokio::time::timeout(within, acknowledged).await.is_ok())
    }

    /// Answers (200), and starts sending audio, and video if both sides have it. Returns the time of the answer.
    pub async fn answer(&self) -> Result<CallEvent, Error> {
        self.leg.media.connect(&self.offer)?;
        let answer = self.leg.media.answer(&self.offer);
        let headers = agent::sdp_content_type();
        let sent = self.leg.dialog.accept(Some(headers), Some(answer));
        sent.map_err(failed("answering a call"))?;
        self.leg.log.log(CallStage::Answered);
        let matches_stage = |stage: &CallStage| *stage == CallStage::Answered;
        let at_once = Duration::ZERO;
        self.events()
            .wait_for("the answer", at_once, matches_stage)
            .await
    }

    /// Rejects the call with a final response, such as 486 (busy) or 603 (declined).
    pub async fn reject(&self, code: u16) -> Result<(), Error> {
        self.leg.reject(StatusCode::from(code))
    }

    /// Hangs up an answered call (BYE), or declines a ringing one (603).
    pub async fn hang_up(&self) -> Result<(), Error> {
        self.leg.hang_up().await
    }

    /// Waits for the end of the call: a BYE, or a CANCEL before the answer.
    pub async fn ended(&self, within: Duration) -> Result<CallEvent, Error> {
        let matches_stage = |stage: &CallStage| matches!(stage, CallStage::Ended { .. });
        self.events()
            .wait_for("the call's end", within, matches_stage)
            .await
    }
}
