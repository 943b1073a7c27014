//! The SIP user agent behind trunks and phones: one UDP socket or one TLS connection, and the code that both sides of a
//! call share.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rsipstack::{
    EndpointBuilder,
    dialog::{
        dialog::{DialogState, DialogStateReceiver, TerminatedReason, TransactionHandle},
        dialog_layer::DialogLayer,
        invite_dialog::InviteDialog,
    },
    sip::{Header, Method, StatusCode, Transport, Uri},
    transaction::{TransactionReceiver, endpoint::EndpointInnerRef, transaction::Transaction},
    transport::{SipAddr, TransportLayer, udp::UdpConnection},
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    CallStage, Error, Media,
    cancel_reasons::CancelReasons,
    error::failed,
    events::{CallEvents, EventLog, EventTime},
    tls,
};

/// New incoming calls.
pub(crate) type Invitations = mpsc::UnboundedReceiver<Invitation>;

/// An INVITE, and when it arrived.
pub(crate) struct Invitation {
    pub(crate) transaction: Transaction,
    pub(crate) arrived: EventTime,
}

#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) local: SocketAddr,
    transport: Transport,
    pub(crate) endpoint: EndpointInnerRef,
    pub(crate) dialogs: Arc<DialogLayer>,
    /// How many PRACK requests have arrived (RFC 3262).
    pub(crate) pracks: Arc<AtomicU32>,
    pub(crate) cancel_reasons: CancelReasons,
    /// Stops the SIP stack's tasks and closes the socket.
    pub(crate) stop: CancellationToken,
    /// Triggers `stop` when the last clone of the agent is dropped.
    _stop: Arc<DropGuard>,
}

impl Agent {
    /// Opens a UDP socket at this address.
    pub(crate) async fn bind(address: SocketAddr) -> Result<(Self, Invitations), Error> {
        let stop = CancellationToken::new();
        let transport = TransportLayer::new(stop.clone());
        let socket = UdpConnection::create_connection(address, None, Some(stop.child_token()));
        let socket = socket.await.map_err(failed("opening a SIP socket"))?;
        let local = socket.get_addr().get_socketaddr();
        let local = local.map_err(failed("reading the SIP socket's address"))?;
        transport.add_transport(socket.into());
        Self::with_transport(transport, Transport::Udp, local, stop)
    }

    /// Opens one TLS connection to the PBX, from this local address.
    pub(crate) async fn connect(
        from: SocketAddr,
        pbx: SocketAddr,
        ca_pem: &str,
    ) -> Result<(Self, Invitations), Error> {
        let stop = CancellationToken::new();
        let transport = TransportLayer::new(stop.clone());
        let local = tls::connect(&transport, from, pbx, ca_pem).await?;
        Self::with_transport(transport, Transport::Tls, local, stop)
    }

    fn with_transport(
        layer: TransportLayer,
        transport: Transport,
        local: SocketAddr,
        stop: CancellationToken,
    ) -> Result<(Self, Invitations), Error> {
        let cancel_reasons = CancelReasons::default();
        let endpoint = EndpointBuilder::new()
            .with_inspector(Box::new(cancel_reasons.clone()))
            .with_user_agent("ringback-sip")
            .with_cancel_token(stop.clone())
            .with_transport_layer(layer)
            .build();
        let incoming = endpoint.incoming_transactions();
        let incoming = incoming.map_err(failed("reading SIP requests"))?;
        let dialogs = Arc::new(DialogLayer::new(endpoint.inner.clone()));
        let (sender, invitations) = mpsc::unbounded_channel();
        let pracks = Arc::new(AtomicU32::new(0));
        let agent = Self {
            local,
            transport,
            endpoint: endpoint.inner.clone(),
            dialogs: dialogs.clone(),
            pracks: pracks.clone(),
            cancel_reasons,
            stop: stop.clone(),
            _stop: Arc::new(stop.clone().drop_guard()),
        };
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            tokio::select! {
                _ = endpoint.serve() => {}
                () = dispatch(incoming, dialogs, sender, pracks) => {}
            }
        }));
        Ok((agent, invitations))
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.local.ip()
    }

    pub(crate) fn uri(&self, user: &str) -> Result<Uri, Error> {
        uri(user, self.local, self.transport)
    }

    /// The URI of a user at the PBX, or of the PBX itself when the user is empty.
    pub(crate) fn uri_at(&self, pbx: SocketAddr, user: &str) -> Result<Uri, Error> {
        uri(user, pbx, self.transport)
    }

    pub(crate) fn sip_address_of(&self, pbx: SocketAddr) -> SipAddr {
        match self.transport {
            Transport::Tls => SipAddr::new(Transport::Tls, pbx.into()),
            _ => SipAddr::from(pbx),
        }
    }
}

/// Builds `sip:user@address`. Escapes the characters that could end the user part. The SIP library escapes `%` once
/// more, so the PBX sees such a user as wrong, but cannot be injected.
fn uri(user: &str, address: SocketAddr, transport: Transport) -> Result<Uri, Error> {
    let parameter = match transport {
        Transport::Tls => ";transport=tls",
        _ => "",
    };
    let text = if user.is_empty() {
        format!("sip:{address}{parameter}")
    } else {
        format!("sip:{}@{address}{parameter}", escaped(user))
    };
    Uri::try_from(text.as_str()).map_err(|_| Error::Address(user.to_owned()))
}

fn escaped(user: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-_.*#".contains(&byte);
    let escaped = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    user.bytes().map(escaped).collect()
}

pub(crate) fn sdp_content_type() -> Vec<Header> {
    vec![Header::ContentType("application/sdp".into())]
}

/// Routes each request to its dialog, or to `invitations` if it is a new INVITE.
async fn dispatch(
    mut incoming: TransactionReceiver,
    dialogs: Arc<DialogLayer>,
    invitations: mpsc::UnboundedSender<Invitation>,
    pracks: Arc<AtomicU32>,
) {
    while let Some(mut request) = incoming.recv().await {
        if request.original.method == Method::PRack {
            pracks.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(mut dialog) = dialogs.match_dialog(&request) {
            tokio::spawn(async move {
                if let Err(error) = dialog.handle(&mut request).await {
                    tracing::debug!(%error, "handling a request inside a dialog failed");
                }
            });
        } else if request.original.method == Method::Invite {
            let arrived = EventTime::now();
            // A phone rings by itself, before its user looks at it.
            if let Err(error) = request.reply(StatusCode::Ringing).await {
                tracing::debug!(%error, "ringing failed");
            }
            // If the receiver is gone, the transaction is dropped and the stack ends it.
            let _ = invitations.send(Invitation {
                transaction: request,
                arrived,
            });
        } else {
            tokio::spawn(answer_outside_dialogs(request));
        }
    }
}

/// Answers requests outside a dialog. OPTIONS (the PBX checks whether the phone is alive) and NOTIFY get 200. All
/// others belong to a call that is already over and get 481.
async fn answer_outside_dialogs(mut request: Transaction) {
    let code = match request.original.method {
        Method::Options | Method::Notify => StatusCode::OK,
        Method::Ack => return,
        _ => StatusCode::CallTransactionDoesNotExist,
    };
    if let Err(error) = request.reply(code).await {
        tracing::debug!(%error, "answering a request outside a dialog failed");
    }
}

/// One side of a call: its dialog, event log and media.
#[derive(Clone)]
pub struct Leg {
    pub(crate) dialog: InviteDialog,
    pub(crate) log: EventLog,
    pub(crate) media: Media,
    pub(crate) side: CallSide,
}

impl Leg {
    pub(crate) fn events(&self) -> CallEvents {
        self.log.events()
    }

    /// Sends BYE on an answered call. Before the answer, the caller sends CANCEL and the phone rejects with 603.
    pub(crate) async fn hang_up(&self) -> Result<(), Error> {
        self.media.mute();
        if self.side == CallSide::Called && self.dialog.state().can_cancel() {
            return self.reject(StatusCode::Decline);
        }
        self.dialog.hangup().await.map_err(failed("hanging up"))
    }

    pub(crate) fn reject(&self, status: StatusCode) -> Result<(), Error> {
        let stage = rejected_stage(&status);
        let sent = self.dialog.reject(Some(status), None);
        sent.map_err(failed("rejecting a call"))?;
        self.log.log(stage);
        Ok(())
    }
}

pub(crate) fn rejected_stage(status: &StatusCode) -> CallStage {
    // The SIP library formats a status code as "486 Busy Here".
    let text = status.to_string();
    CallStage::Rejected {
        code: status.code(),
        reason: text
            .split_once(' ')
            .map_or(text.clone(), |(_, reason)| reason.into()),
    }
}

/// Hangs up when the last handle to the call is dropped.
pub(crate) struct HangUpGuard(Leg);

impl Leg {
    pub(crate) fn hang_up_guard(&self) -> Arc<HangUpGuard> {
        Arc::new(HangUpGuard(self.clone()))
    }
}

impl Drop for HangUpGuard {
    fn drop(&mut self) {
        let leg = self.0.clone();
        leg.media.mute();
        if leg.events().is_over() {
            return;
        }
        // `drop` cannot await, and there is no runtime to spawn on while a test ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { leg.hang_up().await });
        }
    }
}

/// Logs the state changes of a dialog and answers requests inside it, until the call is over.
pub(crate) async fn track_dialog(
    mut states: DialogStateReceiver,
    dialogs: Arc<DialogLayer>,
    log: EventLog,
    media: Media,
    side: CallSide,
) {
    while let Some(state) = states.recv().await {
        match state {
            DialogState::Early(_, response) => log.log(CallStage::Ringing {
                code: response.status_code.code(),
            }),
            DialogState::Confirmed(_, response) => {
                if side == CallSide::Calling {
                    connect_media(&media, &response.body);
                }
                log.log(CallStage::Answered);
            }
            // A re-INVITE or UPDATE: a session refresh, or a new address for the media.
            DialogState::Updated(_, request, handle) => {
                connect_media(&media, &request.body);
                accept_update(&handle, &media, &request.body).await;
            }
            DialogState::Info(_, _, handle)
            | DialogState::Options(_, _, handle)
            | DialogState::Notify(_, _, handle)
            | DialogState::Message(_, _, handle) => {
                let _ = handle.reply(StatusCode::OK).await;
            }
            DialogState::Terminated(id, reason) => {
                media.mute();
                if let Some(by_remote) = ended_by_other_side(&reason, side) {
                    log.log(CallStage::Ended { by_remote });
                }
                dialogs.remove_dialog(&id);
                return;
            }
            DialogState::Calling(_)
            | DialogState::Trying(_)
            | DialogState::WaitAck(..)
            | DialogState::Publish(..)
            | DialogState::Refer(..) => {}
        }
    }
}

/// Our side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallSide {
    Calling,
    Called,
}

/// Whether the other side ended the call. `None` when the INVITE got a final response, which is logged elsewhere with
/// its code.
fn ended_by_other_side(reason: &TerminatedReason, side: CallSide) -> Option<bool> {
    match (reason, side) {
        // The caller (UAC) sent BYE, or the called party (UAS) did.
        (TerminatedReason::UacBye, side) => Some(side == CallSide::Called),
        (TerminatedReason::UasBye, side) => Some(side == CallSide::Calling),
        (TerminatedReason::UacCancel, CallSide::Called) => Some(true),
        (TerminatedReason::Timeout, _) => Some(true),
        _ => None,
    }
}

fn connect_media(media: &Media, description: &[u8]) {
    if description.is_empty() {
        return;
    }
    if let Err(error) = media.connect(description) {
        tracing::warn!(%error, "the remote session description is not usable");
    }
}

async fn accept_update(handle: &TransactionHandle, media: &Media, offered: &[u8]) {
    let body = media.answer(offered);
    let answer = handle.respond(StatusCode::OK, Some(sdp_content_type()), Some(body));
    if let Err(error) = answer.await {
        tracing::debug!(%error, "accepting a session update failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_cannot_inject_into_a_uri() {
        let address = SocketAddr::from(([127, 0, 0, 1], 5060));
        let text = |user| {
            let uri = uri(user, address, Transport::Udp);
            uri.map(|uri| uri.to_string()).ok()
        };
        assert_eq!(
            text("+919876543210").as_deref(),
            Some("sip:+919876543210@127.0.0.1:5060")
        );
        let hostile = text("1>\r\n@").unwrap_or_default();
        let (user, host) = hostile.split_once('@').unwrap_or_default();
        assert_eq!(host, "127.0.0.1:5060", "{hostile:?}");
        assert!(!user.contains(['>', '\r', '\n']), "{hostile:?}");
    }
}
