//! How to interpret Exotel's answer when Ringback looks an outbound call up.

use super::{Call, CallStatus};

impl Call {
    /// The status to assume when Exotel says that it has no such call. `None`: assume nothing, and ask again later.
    ///
    /// A call that has been answered did exist. Then a wrong account, or a delay at Exotel, is more likely.
    #[must_use]
    pub const fn status_if_unknown_to_exotel(&self) -> Option<CallStatus> {
        if self.bridged_at.is_none() {
            Some(CallStatus::Failed)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::a_call;
    use crate::timestamp::Timestamp;

    #[test]
    fn a_call_that_exotel_does_not_know_has_failed_unless_it_was_answered() {
        let mut call = a_call(Timestamp::from_millis(1_710_417_600_000));
        let failed = Some(CallStatus::Failed);
        assert_eq!(call.status_if_unknown_to_exotel(), failed);
        call.bridged_at = Some(call.rings_until);
        assert_eq!(call.status_if_unknown_to_exotel(), None);
    }
}
