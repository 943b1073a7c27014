use std::time::Duration;

use crate::CallStage;

/// Why a simulated endpoint failed, or did not see what a test expects.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The SIP stack returned an error.
    #[error("{operation}")]
    Sip {
        /// The operation.
        operation: &'static str,
        /// The SIP stack's error.
        #[source]
        source: Box<rsipstack::Error>,
    },
    /// A socket operation failed.
    #[error("{operation}")]
    Socket {
        /// The operation.
        operation: &'static str,
        /// The I/O error.
        #[source]
        source: std::io::Error,
    },
    /// A number, an extension or an address is not valid in a SIP URI.
    #[error("{0:?} cannot be part of a SIP address")]
    Address(String),
    /// The certificate authority is not valid PEM.
    #[error("the certificate authority is not valid PEM")]
    Certificate,
    /// A cryptographic operation failed, or there were no random numbers.
    #[error("a cryptographic operation of SRTP failed")]
    Srtp,
    /// The registrar refused the registration.
    #[error("the PBX answered REGISTER with {0}")]
    RegisterRefused(u16),
    /// The PBX refused a request of an answered call.
    #[error("the PBX answered a request in a call with {0}")]
    RequestRefused(u16),
    /// A request of an answered call has no final response, or the call is not answered.
    #[error("a request in a call got no final response")]
    NotAnswered,
    /// The remote session description has no address, no port or no PCMU.
    #[error("no PCMU audio in the session description: {0}")]
    Sdp(String),
    /// The remote session description would send unencrypted media to an SRTP leg.
    #[error("the remote session description has no SRTP key")]
    UnencryptedMedia,
    /// The expected event did not happen in time.
    #[error("waited {waited:?} for {expected}, but saw only {seen:?}")]
    TimedOut {
        /// The expected event.
        expected: &'static str,
        /// The timeout.
        waited: Duration,
        /// The events of the call until then.
        seen: Vec<CallStage>,
    },
    /// The call ended in another way, so the expected event can no longer happen.
    #[error("waited for {expected}, but the call took another course: {seen:?}")]
    UnexpectedOutcome {
        /// The expected event.
        expected: &'static str,
        /// The events of the call.
        seen: Vec<CallStage>,
    },
    /// No audio from the other leg arrived in time.
    #[error("waited {waited:?} for the other leg's audio, and received {packets} packets in total")]
    NoAudio {
        /// The timeout.
        waited: Duration,
        /// How many RTP packets arrived from any sender.
        packets: u64,
    },
    /// No video from the other leg arrived in time.
    #[error("waited {waited:?} for the other leg's video, and received {frames} frames in total")]
    NoVideo {
        /// The timeout.
        waited: Duration,
        /// How many VP8 frames arrived from any sender.
        frames: u64,
    },
    /// The user agent has stopped.
    #[error("the SIP endpoint has stopped")]
    Stopped,
}

/// Wraps an error of the SIP stack with the operation that failed.
pub(crate) fn failed(operation: &'static str) -> impl FnOnce(rsipstack::Error) -> Error {
    move |source| Error::Sip {
        operation,
        source: Box::new(source),
    }
}
