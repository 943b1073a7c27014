/// A step in the life of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallStage {
    /// The called party rings (180 or 183).
    Ringing {
        /// The provisional response's code.
        code: u16,
    },
    /// The call is answered (200).
    Answered,
    /// The call got a final response other than 200. A CANCEL leads to 487.
    Rejected {
        /// The response code.
        code: u16,
        /// The reason phrase.
        reason: String,
    },
    /// The call is over: hung up, or cancelled while it rang.
    Ended {
        /// Whether the other side ended it.
        by_remote: bool,
    },
}

impl CallStage {
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Ended { .. })
    }
}
