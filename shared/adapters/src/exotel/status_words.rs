//! Exotel's words for the status of a call, and what they mean here.
//!
//! - `Status` of the voice API and of StatusCallbacks: <https://developer.exotel.com/api/call-details>
//! - `CallType` and `DialCallStatus` of the Passthru applet:
//!   <https://support.exotel.com/support/solutions/articles/48283-working-with-passthru-applet>

use ringback_core::call::CallStatus;

/// The progress that a `Status` means for an outbound call. `None` for a word that Exotel does not document.
pub(super) fn progress_of_word(word: &str) -> Option<CallStatus> {
    Some(match word.to_ascii_lowercase().as_str() {
        "queued" | "initiated" => CallStatus::Initiated,
        "ringing" => CallStatus::Ringing,
        "in-progress" => CallStatus::InProgress,
        "completed" => CallStatus::Completed,
        "busy" => CallStatus::Declined,
        "no-answer" => CallStatus::TimedOut,
        "failed" => CallStatus::Failed,
        "canceled" | "cancelled" => CallStatus::Canceled,
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
            ("queued", CallStatus::Initiated),
            ("initiated", CallStatus::Initiated),
            ("ringing", CallStatus::Ringing),
            ("in-progress", CallStatus::InProgress),
            ("completed", CallStatus::Completed),
            ("busy", CallStatus::Declined),
            ("no-answer", CallStatus::TimedOut),
            ("failed", CallStatus::Failed),
            ("canceled", CallStatus::Canceled),
        ] {
            assert_eq!(progress_of_word(word), Some(progress), "{word}");
            assert_eq!(means_ended(word), progress.is_final(), "{word}");
        }
        let british = progress_of_word("Cancelled");
        assert_eq!(british, Some(CallStatus::Canceled));
        assert_eq!(progress_of_word("free"), None);
    }
}
