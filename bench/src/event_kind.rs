//! The kinds of event that the bench measures, and events of each kind.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::critical_path::PathGoal;
use crate::fixture::{Fixture, call_id};

/// A measured kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`name` says it")]
pub enum EventKind {
    Webhook,
    WebhookForExtension,
    Arrival,
    AcceptReady,
    Timeout,
    AcceptReadyByWebSocket,
    Ping,
    Media,
    CallStatus,
    StatusUpdate,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Webhook,
        Self::WebhookForExtension,
        Self::Arrival,
        Self::AcceptReady,
        Self::Timeout,
        Self::AcceptReadyByWebSocket,
        Self::Ping,
        Self::Media,
        Self::CallStatus,
        Self::StatusUpdate,
    ];

    /// Its name in the results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook, by number",
            Self::WebhookForExtension => "webhook, `?extension=`",
            Self::Arrival => "PBX hook, a caller",
            Self::AcceptReady => "`accept_ready`",
            Self::Timeout => "ring timeout",
            Self::AcceptReadyByWebSocket => "WebSocket: `accept_ready`",
            Self::Ping => "WebSocket: `ping`",
            Self::Media => "WebSocket: a stream's audio",
            Self::CallStatus => "`GET /api/calls/{id}`",
            Self::StatusUpdate => "status update to one client",
        }
    }

    /// The function that handles it.
    #[must_use]
    pub const fn function(self) -> &'static str {
        match self {
            Self::Webhook | Self::WebhookForExtension => "exotel-webhook",
            Self::Arrival => "asterisk-incoming",
            Self::AcceptReady => "call-response",
            Self::Timeout => "call-timeout",
            Self::AcceptReadyByWebSocket | Self::Ping | Self::Media => "ws-message",
            Self::CallStatus => "call-status",
            Self::StatusUpdate => "broadcast",
        }
    }

    /// The end of the critical path of this event, if a person waits for it.
    #[must_use]
    pub const fn goal(self) -> Option<PathGoal> {
        match self {
            Self::Webhook | Self::WebhookForExtension => Some(PathGoal::Push),
            Self::AcceptReady => Some(PathGoal::Originate),
            _ => None,
        }
    }

    /// Events of this kind, each for another call in the state in which such an event arrives.
    ///
    /// # Errors
    /// When a function fails.
    pub async fn events(self, fixture: &mut Fixture, count: usize) -> Result<Vec<Value>> {
        let mut pbx = fixture.start_function("asterisk-incoming").await?;
        let mut events = Vec::new();
        for _ in 0..count {
            let sid = fixture.call_sid();
            let event = match self {
                Self::Webhook => fixture.passthru(&sid)?,
                Self::WebhookForExtension => {
                    let mut event = fixture.passthru(&sid)?;
                    let query = event["rawQueryString"].as_str().context("a query")?;
                    event["rawQueryString"] = format!("{query}&extension=1001").into();
                    event
                }
                Self::Arrival => fixture.arrival(&sid)?,
                Self::Ping => fixture.paths.event("ws-message-ping")?,
                Self::Media => fixture.paths.event("ws-message-exotel-media")?,
                Self::StatusUpdate => fixture.change()?,
                Self::AcceptReady
                | Self::Timeout
                | Self::AcceptReadyByWebSocket
                | Self::CallStatus => {
                    let ringing = pbx.invoke_timed(&fixture.arrival(&sid)?).await?;
                    self.event_of(fixture, &call_id(&ringing)?)?
                }
            };
            events.push(event);
        }
        Ok(events)
    }

    fn event_of(self, fixture: &Fixture, call: &str) -> Result<Value> {
        match self {
            Self::Timeout => fixture.timer(call),
            Self::AcceptReadyByWebSocket => fixture.accept_ready_by_websocket(call),
            Self::CallStatus => fixture.status(call),
            _ => fixture.accept_ready(call),
        }
    }
}
