//! The frames of a call's audio stream, as Exotel's AudioStream and Voicebot applets send them.
//!
//! Most frames are audio and arrive many times a second. They are ignored without reading a table or a secret.

use futures::StreamExt;
use ringback::api::http::{ApiError, ApiErrorCode};
use ringback::exotel::{DtmfKey, MAX_FRAME_BYTES, StreamFrame};
use ringback::platform::invocation::InvocationContext;
use ringback::start::LiveSwitchboard;
use ringback::store::connections::Connections;
use ringback::store::streams::{AudioStream, AudioStreams};
use ringback_core::call::{Call, CallStatus, Event};
use ringback_core::ids::CallSid;
use ringback_core::timestamp::Timestamp;
use serde_json::{Value, json};

/// Handles frames: changes the stream's call, and sends keys to the call's clients.
pub(crate) struct StreamHandler {
    pub(crate) streams: AudioStreams,
    pub(crate) connections: Connections,
}

/// A connection of Exotel's.
#[derive(Clone, Copy)]
pub(crate) struct StreamConnection<'a> {
    pub(crate) id: &'a str,
    /// The only call that it may stream. `None` if it may stream any.
    pub(crate) only_call: Option<&'a CallSid>,
}

impl StreamConnection<'_> {
    fn may_stream(&self, call_sid: &CallSid) -> Result<(), ApiError> {
        match self.only_call.is_none_or(|only| only == call_sid) {
            true => Ok(()),
            false => Err(ApiError::with_message(
                ApiErrorCode::NotAllowed,
                "the token of this connection is for another call",
            )),
        }
    }
}

impl StreamHandler {
    /// Handles a frame from a connection of Exotel's. Exotel expects no answer.
    pub(crate) async fn handle_frame(
        &self,
        switchboard: &LiveSwitchboard,
        connection: StreamConnection<'_>,
        text: &str,
        invocation: InvocationContext,
    ) -> Result<(), ApiError> {
        let connection_id = connection.id;
        if text.len() > MAX_FRAME_BYTES {
            return Err(ApiErrorCode::FrameTooLong.into());
        }
        let frame = StreamFrame::parse(text)
            .map_err(|error| ApiError::with_message(ApiErrorCode::BadFrame, error.to_string()))?;
        match frame {
            StreamFrame::Ignored => Ok(()),
            StreamFrame::Start {
                call_sid,
                sample_rate,
            } => {
                connection.may_stream(&call_sid)?;
                let started = Event::StreamStarted;
                if let Some(call) =
                    handle_event(switchboard, &call_sid, &started, invocation).await?
                {
                    tracing::info!(call_id = %call.call_id, connection_id, sample_rate, "stream started");
                    self.store(connection_id, &call, call_sid, invocation.now)
                        .await?;
                }
                Ok(())
            }
            StreamFrame::Dtmf(dtmf) => self.send_key(connection_id, &dtmf, invocation.now).await,
            StreamFrame::Stop { call_sid, reason } => {
                connection.may_stream(&call_sid)?;
                let stopped = Event::StreamStopped(reason);
                if let Some(call) =
                    handle_event(switchboard, &call_sid, &stopped, invocation).await?
                {
                    tracing::info!(call_id = %call.call_id, connection_id, reason = reason.as_str(), "stream stopped");
                }
                Ok(())
            }
        }
    }

    /// Stores which call the connection streams: a later frame with a key does not name the call.
    async fn store(
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

    /// Sends a pressed key to the clients of all participants. A client that cannot be reached is skipped.
    async fn send_key(
        &self,
        connection_id: &str,
        dtmf: &DtmfKey,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let Some(stream) = self.streams.over(connection_id).await? else {
            tracing::warn!(connection_id, "DTMF key of an unknown stream ignored");
            return Ok(());
        };
        let text = call_dtmf(&stream, dtmf, now).to_string();
        let clients = futures::stream::iter(&stream.participants)
            .flat_map(|extension| Box::pin(self.connections.of(extension)));
        let deliveries = self
            .connections
            .send_to_all(clients, |_| &text, now)
            .await?;
        tracing::info!(call_id = %stream.call_id, ?deliveries, "DTMF key sent");
        Ok(())
    }
}

/// The call that the audio belongs to: of several with one CallSid, the one that talks. `None` if the call is unknown. That is no error,
/// because Exotel could do nothing about it.
async fn handle_event(
    switchboard: &LiveSwitchboard,
    call_sid: &CallSid,
    event: &Event,
    invocation: InvocationContext,
) -> Result<Option<Call>, ApiError> {
    let InvocationContext { now, deadline } = invocation;
    let handled = switchboard.handle_by_sid(call_sid, None, event, now, deadline);
    let calls = handled.await?.into_iter().map(|outcome| outcome.call);
    let talks = |call: &Call| call.status == CallStatus::InProgress;
    let call = calls.max_by_key(|call| (talks(call), !call.status.is_final(), call.created_at));
    if call.is_none() {
        tracing::warn!(%call_sid, "stream of an unknown call");
    }
    Ok(call)
}

/// The message of a pressed key. It has the form of `call_status_update`.
fn call_dtmf(stream: &AudioStream, dtmf: &DtmfKey, now: Timestamp) -> Value {
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
