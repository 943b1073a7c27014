use std::{net::SocketAddr, sync::Arc, time::Duration};

use rsipstack::{
    dialog::invitation::{InviteAsyncResult, InviteOption},
    sip::{Header, StatusCodeKind, Uri},
    transport::SipAddr,
};

use crate::{
    CallEvent, CallEvents, Error, Media, Moment, Stage,
    agent::{self, Agent, End, HangUpOnDrop, Leg, failed},
    events::EventLog,
};

/// Who calls, as the trunk presents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The caller's number. Of a withheld one, what the trunk tells the PBX in confidence; it may
    /// be empty.
    pub number: String,
    /// The caller's name. Any text.
    pub display_name: Option<String>,
    /// The caller does not want to be known: `From` is anonymous, and the number stands only in
    /// `P-Asserted-Identity`, with `Privacy: id` (RFC 3325).
    pub withheld: bool,
}

impl Caller {
    /// A caller with a number and no name.
    pub fn number(number: &str) -> Self {
        Self {
            number: number.to_owned(),
            display_name: None,
            withheld: false,
        }
    }

    /// A caller whose number neither the phone nor the PBX may know.
    pub fn withheld() -> Self {
        Self {
            withheld: true,
            ..Self::number("")
        }
    }

    /// The same caller, with a name.
    pub fn named(self, display_name: &str) -> Self {
        Self {
            display_name: Some(display_name.to_owned()),
            ..self
        }
    }

    fn presented_uri(&self, agent: &Agent) -> Result<Uri, Error> {
        if self.withheld {
            let anonymous = "sip:anonymous@anonymous.invalid";
            return Uri::try_from(anonymous).map_err(|_| Error::Address(anonymous.to_owned()));
        }
        agent.uri(&self.number)
    }

    fn presented_name(&self) -> Option<String> {
        if self.withheld {
            return Some("Anonymous".to_owned());
        }
        self.display_name.as_deref().map(quoted)
    }

    fn privacy(&self, agent: &Agent) -> Result<Vec<Header>, Error> {
        if !self.withheld {
            return Ok(Vec::new());
        }
        let mut headers = vec![Header::Other("Privacy".into(), "id".into())];
        if !self.number.is_empty() {
            let asserted = format!("<{}>", agent.uri(&self.number)?);
            headers.push(Header::Other("P-Asserted-Identity".into(), asserted));
        }
        Ok(headers)
    }
}

/// The inside of a SIP quoted string.
fn quoted(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable
        .flat_map(|c| {
            matches!(c, '"' | '\\')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}

/// A SIP trunk, which a PBX knows by its address.
pub struct Trunk {
    agent: Agent,
}

impl Trunk {
    /// Opens the trunk's socket; port 0 takes any free port.
    pub async fn bind(address: &str) -> Result<Self, Error> {
        let address = address.parse();
        let address = address.map_err(|_| Error::Address("the trunk's socket".to_owned()))?;
        let (agent, _invitations) = Agent::bind(address).await?;
        Ok(Self { agent })
    }

    /// Where the trunk sends from.
    pub fn address(&self) -> SocketAddr {
        self.agent.local
    }

    /// Sends an INVITE for the number `did`, with `X-Exotel-CallSid` when there is one, and does
    /// not wait for anything: the call's events tell what becomes of it.
    pub async fn call(
        &self,
        pbx: SocketAddr,
        did: &str,
        caller: Caller,
        call_sid: Option<&str>,
    ) -> Result<OutgoingCall, Error> {
        let media = Media::open(self.agent.ip()).await?;
        let mut headers = caller.privacy(&self.agent)?;
        headers.extend(call_sid.map(|sid| Header::Other("X-Exotel-CallSid".into(), sid.into())));
        let invite = InviteOption {
            caller_display_name: caller.presented_name(),
            caller: caller.presented_uri(&self.agent)?,
            callee: agent::uri(did, pbx)?,
            destination: Some(SipAddr::from(pbx)),
            offer: Some(media.offer()),
            contact: self.agent.uri("trunk")?,
            headers: Some(headers),
            ..Default::default()
        };
        let log = EventLog::new();
        let placed = Moment::now();
        let (state, states) = self.agent.dialogs.new_dialog_state_channel();
        let (dialog, outcome) = self
            .agent
            .dialogs
            .do_invite_async(invite, state)
            .map_err(failed("sending an INVITE"))?;
        let story = agent::follow(
            states,
            self.agent.dialogs.clone(),
            log.clone(),
            media.clone(),
            End::Calling,
        );
        tokio::spawn(story);
        let noting = log.clone();
        tokio::spawn(async move { note_refusal(outcome.await.ok(), &noting) });
        let leg = Leg {
            dialog,
            log,
            media,
            end: End::Calling,
        };
        Ok(OutgoingCall {
            placed,
            _hang_up: leg.hang_up_on_drop(),
            leg,
            _agent: self.agent.clone(),
        })
    }
}

/// A final response that is not 200. The stack's state change knows less of it than this.
fn note_refusal(outcome: Option<InviteAsyncResult>, log: &EventLog) {
    match outcome {
        Some(Ok((_, Some(response)))) => {
            if response.status_code.kind() != StatusCodeKind::Successful {
                log.note(agent::rejected(&response.status_code));
            }
        }
        // No answer at all: what RFC 3261 takes for a 408.
        _ => log.note(Stage::Rejected {
            code: 408,
            reason: "No response".to_owned(),
        }),
    }
}

/// A call the trunk has placed. Dropping the last clone hangs up.
#[derive(Clone)]
pub struct OutgoingCall {
    placed: Moment,
    leg: Leg,
    _hang_up: Arc<HangUpOnDrop>,
    /// A call outlives the handle of the trunk that placed it.
    _agent: Agent,
}

impl OutgoingCall {
    /// When the INVITE was sent.
    pub fn placed(&self) -> Moment {
        self.placed
    }

    /// What has happened to this call.
    pub fn events(&self) -> CallEvents {
        self.leg.events()
    }

    /// This leg's audio.
    pub fn media(&self) -> &Media {
        &self.leg.media
    }

    /// Waits for the 180 or 183.
    pub async fn ringing(&self, within: Duration) -> Result<CallEvent, Error> {
        let is_it = |stage: &Stage| matches!(stage, Stage::Ringing { .. });
        self.events().wait_for("180 Ringing", within, is_it).await
    }

    /// Waits for the 200.
    pub async fn answered(&self, within: Duration) -> Result<CallEvent, Error> {
        let is_it = |stage: &Stage| *stage == Stage::Answered;
        self.events().wait_for("200 OK", within, is_it).await
    }

    /// Waits for a final response other than 200, and gives its code.
    pub async fn rejected(&self, within: Duration) -> Result<(u16, CallEvent), Error> {
        let is_it = |stage: &Stage| matches!(stage, Stage::Rejected { .. });
        let event = self.events().wait_for("a rejection", within, is_it).await?;
        match event.stage {
            Stage::Rejected { code, .. } => Ok((code, event)),
            _ => Err(Error::Stopped),
        }
    }

    /// Waits for the end of an answered call.
    pub async fn ended(&self, within: Duration) -> Result<CallEvent, Error> {
        let is_it = |stage: &Stage| matches!(stage, Stage::Ended { .. });
        self.events()
            .wait_for("the call's end", within, is_it)
            .await
    }

    /// Gives up an unanswered call (CANCEL). Its end is a rejection with 487.
    pub async fn cancel(&self) -> Result<(), Error> {
        let result = self.leg.dialog.cancel().await;
        result.map_err(failed("cancelling a call"))
    }

    /// Ends the call: BYE once it was answered, CANCEL before.
    pub async fn hang_up(&self) -> Result<(), Error> {
        self.leg.hang_up().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted(r#"O"Neil \ 😀"#), r#"O\"Neil \\ 😀"#);
        assert_eq!(quoted("a\r\nVia: b"), "aVia: b");
    }
}
