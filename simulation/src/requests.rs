//! What the simulated parts send to the functions, and the answers.

use std::fmt;

use ringback::switchboard::{InboundCallReport, NewCallRequest};
use ringback_core::call::{CorrelationKey, Event};
use ringback_core::ids::{CallId, CallSid, Extension, Leg};

/// A request to a function.
#[derive(Clone)]
pub enum Request {
    /// `POST /asterisk/incoming` for a caller from the trunk.
    CallerArrives(InboundCallReport),
    /// The other reports of the PBX.
    PbxReports(Named, Event),
    /// `POST /api/call-response`.
    AppResponds(CallId, Event),
    /// Exotel's webhook reports a caller.
    ExotelReportsCaller(InboundCallReport),
    /// Exotel's webhook reports how a call goes that it was asked to place.
    ExotelReports(CallId, Event),
    /// Exotel's webhook reports how a caller's calls go: all of them, or those of one extension.
    ExotelReportsSid(CallSid, Option<Extension>, Event),
    /// An app starts a call.
    AppCalls(NewCallRequest),
}

/// How a report of the PBX names its call.
#[derive(Clone, Debug)]
pub enum Named {
    Id(CallId),
    Leg(CallSid, Extension, Leg),
    Caller(CorrelationKey),
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The event was handled. This is the call's id.
    Done(CallId),
    /// The call has gone another way.
    Rejected,
    NoSuchCall,
    /// 5xx: the client repeats the request.
    Failed,
    /// The client gives up waiting.
    Nothing,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done(_) => "200",
            Self::Rejected => "409",
            Self::NoSuchCall => "404",
            Self::Failed => "500",
            Self::Nothing => "no answer",
        })
    }
}
