use std::time::Duration;

use crate::Stage;

/// Why a simulated endpoint could not do, or did not see, what a test asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The SIP stack refused or failed.
    #[error("{doing}")]
    Sip {
        /// What we were doing.
        doing: &'static str,
        /// The stack's own error.
        #[source]
        source: Box<rsipstack::Error>,
    },
    /// A socket could not be opened or used.
    #[error("{doing}")]
    Socket {
        /// What we were doing.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A number, an extension or an address that cannot stand in a SIP URI.
    #[error("{0:?} cannot be part of a SIP address")]
    Address(String),
    /// The authority's certificate is not one, in PEM.
    #[error("the certificate authority cannot be read")]
    Certificate,
    /// The cryptographic library refused, or had no random numbers.
    #[error("SRTP failed")]
    Srtp,
    /// The registrar said no.
    #[error("the PBX answered REGISTER with {0}")]
    RegisterRefused(u16),
    /// The remote party's session description lacks an address, a port or PCMU.
    #[error("no PCMU audio in the session description: {0}")]
    Sdp(String),
    /// The other side would send audio in clear to an encrypted leg.
    #[error("the other side's session description has no key")]
    InClear,
    /// It did not happen in time.
    #[error("waited {waited:?} for {wanted}, and saw {seen:?}")]
    TimedOut {
        /// What the test waited for.
        wanted: &'static str,
        /// How long.
        waited: Duration,
        /// What had happened to the call until then.
        seen: Vec<Stage>,
    },
    /// It can no longer happen.
    #[error("waited for {wanted}, but the call went another way: {seen:?}")]
    WentAnotherWay {
        /// What the test waited for.
        wanted: &'static str,
        /// What happened to the call.
        seen: Vec<Stage>,
    },
    /// No audio of the other leg arrived in time.
    #[error("waited {waited:?} for the other party's audio, and received {packets} packets of any")]
    Silent {
        /// How long.
        waited: Duration,
        /// How many RTP packets arrived, whoever sent them.
        packets: u64,
    },
    /// No video of the other leg arrived in time.
    #[error("waited {waited:?} for the other party's video, and received {frames} frames of any")]
    Dark {
        /// How long.
        waited: Duration,
        /// How many VP8 frames arrived, whoever sent them.
        frames: u64,
    },
    /// The user agent has stopped.
    #[error("the SIP endpoint has stopped")]
    Stopped,
}

/// Says what we were doing when the SIP stack failed.
pub(crate) fn failed(doing: &'static str) -> impl FnOnce(rsipstack::Error) -> Error {
    move |source| Error::Sip {
        doing,
        source: Box::new(source),
    }
}
