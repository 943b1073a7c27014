//! Exotel's words for the status of a call.

use ringback_core::call::CallStatus;

/// The status that Exotel's `Status` names. `None` for a word that Exotel does not document.
#[must_use]
pub(crate) fn status_of_word(word: &str) -> Option<CallStatus> {
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
