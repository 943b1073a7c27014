//! The stream of a call's audio, as Exotel's Stream and Voicebot applets bring it.
//!
//! Many times a second there is audio, and nothing is done about it: no table, no secret, no other system is asked.

use futures::StreamExt;
use ringback::api::http::{ApiError, ApiErrorCode};
use ringback::exotel::{Dtmf, Frame, LONGEST_FRAME};
use ringback::platform::invocation::InvocationContext;
use ringback::start::LiveSwitchboard;
use ringback::store::connections::Connections;
use ringback::store::streams::{AudioStream, AudioStreams};
use ringback::switchboard::SwitchboardError;
use ringback_core::call::{Call, Event};
use ringback_core::ids::{CallId, CallSid};
use ringback_core::timestamp::Timestamp;
use serde_json::{Value, json};

/// Streams, and the clients who hear of them.
pub(crate) struct Streaming {
    pub(crate) streams: AudioStreams,
    pub(crate) connections: Connections,
}

impl Streaming {
    /// A frame that came over a connection of Exotel's. Exotel waits for no answer.
    pub(crate) async fn frame(
        &self,
        switchboard: &LiveSwitchboard,
        connection_id: &str,
        text: &str,
        invocation: InvocationContext,
    ) -> Result<(), ApiError> {
        if text.len() > LONGEST_FRAME {
            return Err(ApiErrorCode::FrameTooLong.into());
        }
        let frame = Frame::parse(text)
            .map_err(|error| ApiError::with_message(ApiErrorCode::BadFrame, error.to_string()))?;
        match frame {
            Frame::Passing => Ok(()),
            Frame::Start {
                call_sid,
                sample_rate,
            } => {
                let call = tell(switchboard, &call_sid, &Event::StreamStarted, invocation).await?;
                if let Some(call) = call {
                    tracing::info!(call_id = %call.call_id, connection_id, sample_rate, "stream started");
                    self.begin(connection_id, &call, call_sid, invocation.now)
                        .await?;
                }
                Ok(())
            }
            Frame::Dtmf(dtmf) => self.dtmf(connection_id, &dtmf, invocation.now).await,
            Frame::Stop { call_sid, reason } => {
                let stopped = Event::StreamStopped(reason);
                if let Some(call) = tell(switchboard, &call_sid, &stopped, invocation).await? {
                    tracing::info!(call_id = %call.call_id, connection_id, reason = reason.as_str(), "stream stopped");
                }
                Ok(())
            }
        }
    }

    async fn begin(
        &self,
        connection_id: &str,
        call: &Call,
        call_sid: CallSid,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let stream = AudioStream::of(call, call_sid);
        self.streams.begin(connection_id, &stream, now).await?;
        Ok(())
    }

    /// Every participant's clients hear of a key. One that is not reached costs the others nothing.
    async fn dtmf(&self, connection_id: &str, dtmf: &Dtmf, now: Timestamp) -> Result<(), ApiError> {
        let Some(stream) = self.streams.over(connection_id).await? else {
            tracing::warn!(
                connection_id,
                "a key was pressed in a stream of no known call"
            );
            return Ok(());
        };
        let text = key_pressed(&stream, dtmf, now).to_string();
        let clients = futures::stream::iter(&stream.participants)
            .flat_map(|extension| Box::pin(self.connections.of(extension)));
        let deliveries = self
            .connections
            .send_to_all(clients, |_| &text, now)
            .await?;
        tracing::info!(call_id = %stream.call_id, ?deliveries, "a key was passed on");
        Ok(())
    }
}

/// What a stream means for its call. A call that nobody knows is none of ours; Exotel could do nothing about it.
async fn tell(
    switchboard: &LiveSwitchboard,
    call_sid: &CallSid,
    event: &Event,
    invocation: InvocationContext,
) -> Result<Option<Call>, ApiError> {
    let id = CallId::of_call_sid(call_sid);
    let InvocationContext { now, deadline } = invocation;
    match switchboard.handle(id, event, now, deadline).await {
        Ok(outcome) => Ok(Some(outcome.call)),
        Err(SwitchboardError::NoSuchCall) => {
            tracing::warn!(%call_sid, "the stream of a call that is not known");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// S2 knows no such message; it is built like its others.
fn key_pressed(stream: &AudioStream, dtmf: &Dtmf, now: Timestamp) -> Value {
    let mut data = json!({
        "callSid": stream.call_sid,
        "callId": stream.call_id,
        "digit": dtmf.digit.to_string(),
        "timestamp": now.to_iso(),
    });
    if let Some(duration) = dtmf.duration_ms {
        data["durationMs"] = duration.into();
    }
    if let Some(number) = dtmf.sequence_number {
        data["sequenceNumber"] = number.into();
    }
    json!({ "type": "call_dtmf", "data": data })
}
