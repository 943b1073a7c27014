//! Exotel's words for the status of a call, and what they mean here.
//!
//! - `Status` of the voice API and of StatusCallbacks: <https://developer.exotel.com/api/call-details>
//! - `CallType` and `DialCallStatus` of the Passthru applet:
//!   <https://support.exotel.com/support/solutions/articles/48283-working-with-passthru-applet>

use ringback_core::call::OutboundProgress;

/// The progress that a `Status` means for an outbound call. `None` for a word that Exotel does not document.
pub(super) fn progress_of_word(word: &str) -> Option<OutboundProgress> {
    Some(match word.to_ascii_lowercase().as_str() {
        "queued" | "initiated" => OutboundProgress::Initiated,
        "ringing" => OutboundProgress::Ringing,
        "in-progress" => OutboundProgress::InProgress,
        "completed" => OutboundProgress::Completed,
        "busy" => OutboundProgress::Busy,
        "no-answer" => OutboundProgress::NoAnswer,
        "failed" => OutboundProgress::Failed,
        "canceled" | "cancelled" => OutboundProgress::Canceled,
        _ => return None,
    })
}

/// Whether a `Status`, `CallType` or `DialCallStatus` means that an inbound call has ended. `CallType` says how an earlier
/// Connect applet of the flow ended.
pub(super) fn means_ended(word: &str) -> bool {
    matches!(
        word,
        "completed"
            | "failed"
            | "busy"
            | "no-answer"
            | "canceled"
            | "client-hangup"
            | "incomplete"
            | "voicemail"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_status_has_a_progress() {
        for (word, progress) in [
            ("queued", OutboundProgress::Initiated),
            ("initiated", OutboundProgress::Initiated),
            ("ringing", OutboundProgress::Ringing),
            ("in-progress", OutboundProgress::InProgress),
            ("completed", OutboundProgress::Completed),
            ("busy", OutboundProgress::Busy),
            ("no-answer", OutboundProgress::NoAnswer),
            ("failed", OutboundProgress::Failed),
            ("canceled", OutboundProgress::Canceled),
        ] {
            assert_eq!(progress_of_word(word), Some(progress), "{word}");
            assert_eq!(means_ended(word), progress.is_final(), "{word}");
        }
        let british = progress_of_word("Cancelled");
        assert_eq!(british, Some(OutboundProgress::Canceled));
        assert_eq!(progress_of_word("free"), None);
    }
}
