//! One caller in an Exotel call flow, as Exotel's help and its users describe it: the Passthru applet, then a Connect applet that calls
//! one agent or more over the trunk. Its popup URL reports each agent: `busy` with `Dial`, `Ringing` and `Answered`, then `free` with
//! `Terminal` (docs/compatibility.md).

use anyhow::Result;
use reqwest::StatusCode;
use ringback_sip::{Caller, OutgoingCall};
use serde_json::Value;

use crate::fixture::{CALLER, Fixture, SOON, call_sid, status_and_body};

/// The caller, in national form.
const CALLER_AT_EXOTEL: &str = "09876543210";

/// What the popup URL reports of an agent.
#[derive(Clone, Copy, Debug)]
pub enum AgentEvent {
    /// Exotel begins to call the agent.
    Dial,
    /// His phone rings. Not every operator reports it.
    Ringing,
    /// He talks.
    Answered,
    /// Exotel is done with him.
    Terminal,
}

impl AgentEvent {
    const fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::Dial => ("busy", "Dial"),
            Self::Ringing => ("busy", "Ringing"),
            Self::Answered => ("busy", "Answered"),
            Self::Terminal => ("free", "Terminal"),
        }
    }
}

/// One caller.
pub struct ExotelFlow<'a> {
    fixture: &'a Fixture,
    /// Exotel's id of the call.
    pub sid: String,
    /// The `Direction` in the reports of the popup URL: Exotel's help and its users disagree.
    direction: &'static str,
}

impl<'a> ExotelFlow<'a> {
    /// A new caller.
    pub fn begin(fixture: &'a Fixture) -> Self {
        Self {
            fixture,
            sid: call_sid(),
            direction: "incoming",
        }
    }

    /// The same with another `Direction` in the reports of the popup URL.
    pub fn with_direction(self, direction: &'static str) -> Self {
        Self { direction, ..self }
    }

    /// The Passthru applet reports the caller, who has dialled the number of this extension.
    pub async fn passes_through(&self, extension: &str) -> Result<Value> {
        let number = self.fixture.number_of(extension);
        let passthru = self.fixture.passthru(&self.sid, CALLER_AT_EXOTEL, number);
        let (status, answer) = passthru.await?;
        anyhow::ensure!(status == StatusCode::OK, "{status}: {answer}");
        Ok(answer)
    }

    /// The popup URL reports the agent.
    pub async fn reports(&self, extension: &str, event: AgentEvent) -> Result<Value> {
        let (status, event) = event.fields();
        let number = self.fixture.number_of(extension);
        let sid = &self.sid;
        let query = format!(
            "&CallSid={sid}&CallFrom={CALLER_AT_EXOTEL}&CallTo={number}&Direction={}&From={CALLER_AT_EXOTEL}&To={number}\
             &DialWhomNumber={number}&Status={status}&EventType={event}",
            self.direction,
        );
        let url = format!("{}{query}", self.fixture.stack.exotel_webhook_url);
        let answer = self.fixture.http.get(url).send().await?;
        let (status, answer) = status_and_body(answer).await?;
        anyhow::ensure!(status == StatusCode::OK, "{status}: {answer}");
        Ok(answer)
    }

    /// The Connect applet calls an agent: an INVITE with the CallSid to the number of the extension. Waits until it rings.
    pub async fn calls(&self, extension: &str) -> Result<OutgoingCall> {
        let caller = Caller::number(CALLER);
        self.fixture
            .dial_as(extension, caller, Some(&self.sid))
            .await
    }

    /// Exotel's call is over: a StatusCallback.
    pub async fn ends(&self, status: &str) -> Result<()> {
        let fields = [
            ("CallSid", self.sid.as_str()),
            ("EventType", "terminal"),
            ("Status", status),
            ("Direction", "inbound"),
        ];
        let post = self
            .fixture
            .http
            .post(&self.fixture.stack.exotel_webhook_url);
        let (status, answer) = status_and_body(post.form(&fields).send().await?).await?;
        anyhow::ensure!(status == StatusCode::OK, "{status}: {answer}");
        Ok(())
    }
}

/// The trunk gives a leg up, as Exotel does when its ring time is over or another agent has answered.
pub async fn gives_up(leg: &OutgoingCall) -> Result<()> {
    leg.cancel().await?;
    leg.rejected(SOON).await?;
    Ok(())
}
