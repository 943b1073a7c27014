//! The call that a reply of Exotel's voice API contains.
//!
//! <https://developer.exotel.com/api/call-details>

use reqwest::Response;
use ringback_core::call::CallStatus;
use ringback_core::ids::CallSid;
use ringback_core::phone_number::PhoneNumber;
use ringback_core::timestamp::Timestamp;
use serde::Deserialize;

use super::error::ReplyError;
use crate::exotel::india_time::parse_india_time;
use crate::exotel::status_words::progress_of_word;

/// A call that Exotel has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedCall {
    /// Exotel's id of the call.
    pub call_sid: CallSid,
    /// [`CallStatus::Initiated`], or the end of a call that has ended already.
    pub progress: CallStatus,
}

/// A call, as Exotel has recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallDetails {
    /// Exotel's id of the call.
    pub call_sid: CallSid,
    /// The progress; `None` where Exotel uses a status that it does not document.
    pub progress: Option<CallStatus>,
    /// When the call started.
    pub started_at: Option<Timestamp>,
    /// When the call ended. Exotel may fill this in some minutes after the end.
    pub ended_at: Option<Timestamp>,
    /// The number that is called first.
    pub from: Option<PhoneNumber>,
    /// The number that is called second.
    pub to: Option<PhoneNumber>,
}

/// The fields of a call that Ringback reads.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CallRecord {
    sid: CallSid,
    status: Option<String>,
    from: Option<String>,
    to: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
}

impl CallRecord {
    /// Reads the call in a reply.
    pub(super) async fn from_reply(reply: Response) -> Result<Self, ReplyError> {
        Self::parse(&reply.bytes().await.map_err(ReplyError::incomplete)?)
    }

    fn parse(body: &[u8]) -> Result<Self, ReplyError> {
        #[derive(Deserialize)]
        struct Envelope {
            #[serde(rename = "Call")]
            call: CallRecord,
        }
        serde_json::from_slice(body)
            .map(|envelope: Envelope| envelope.call)
            // Drops serde's message, which may quote private values.
            .map_err(|_| ReplyError::NoCall)
    }

    fn progress(&self) -> Option<CallStatus> {
        self.status.as_deref().and_then(progress_of_word)
    }

    /// The reply to a connect says `in-progress` before any phone rings, so only a final status counts.
    pub(super) fn into_placed_call(self) -> PlacedCall {
        let end = self.progress().filter(|progress| progress.is_final());
        PlacedCall {
            call_sid: self.sid,
            progress: end.unwrap_or(CallStatus::Initiated),
        }
    }

    pub(super) fn into_details(self, country: &str) -> CallDetails {
        let progress = self.progress();
        let has_ended = progress.is_some_and(CallStatus::is_final);
        let time = |text: Option<&str>| text.and_then(parse_india_time);
        let number = |text: Option<&str>| text.and_then(|text| PhoneNumber::parse(text, country));
        CallDetails {
            progress,
            started_at: time(self.start_time.as_deref()),
            // Before the end of a call, Exotel sends a placeholder as its end time.
            ended_at: time(self.end_time.as_deref()).filter(|_| has_ended),
            from: number(self.from.as_deref()),
            to: number(self.to.as_deref()),
            call_sid: self.sid,
        }
    }
}

/// Parses any bytes as a reply of Exotel, for the fuzzers.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_answer(body: &[u8]) {
    let _placed = CallRecord::parse(body).map(CallRecord::into_placed_call);
    let _details = CallRecord::parse(body).map(|call| call.into_details("IN"));
    let message = super::error::error_message(body);
    assert!(!message.contains(char::is_numeric) && !message.contains(char::is_control));
}
