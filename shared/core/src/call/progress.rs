//! How far a call that we asked Exotel for has come.

/// How far a call that we asked Exotel for has come, in Exotel's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutboundProgress {
    /// Exotel has taken the request (`queued`).
    Initiated,
    /// A phone rings.
    Ringing,
    /// A phone was answered.
    InProgress,
    /// The two have talked, and are done.
    Completed,
    /// A phone was busy.
    Busy,
    /// A phone was not answered in time.
    NoAnswer,
    /// The call could not be made.
    Failed,
    /// The call was taken back before it was answered.
    Canceled,
}

impl OutboundProgress {
    /// What a `CallStatus` of Exotel's means; `None` for a word that it does not document.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "queued" | "initiated" => Self::Initiated,
            "ringing" => Self::Ringing,
            "in-progress" => Self::InProgress,
            "completed" => Self::Completed,
            "busy" => Self::Busy,
            "no-answer" => Self::NoAnswer,
            "failed" => Self::Failed,
            "canceled" | "cancelled" => Self::Canceled,
            _ => return None,
        })
    }

    /// Exotel's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::InProgress => "in-progress",
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// How far this is. A call only ever moves on to a higher rank; all ends have the same, the highest.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Initiated => 0,
            Self::Ringing => 1,
            Self::InProgress => 2,
            Self::Completed | Self::Busy | Self::NoAnswer | Self::Failed | Self::Canceled => 3,
        }
    }

    /// Whether the call is over.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.rank() == Self::Completed.rank()
    }

    /// Where a call that stands here stands after a report, which may be late or a repetition: a `ringing` that was
    /// overtaken never takes an answered or finished call back, and the first end that is told is the end.
    #[must_use]
    pub const fn after(self, reported: Self) -> Self {
        if reported.rank() > self.rank() {
            reported
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const ALL: [OutboundProgress; 8] = [
        OutboundProgress::Initiated,
        OutboundProgress::Ringing,
        OutboundProgress::InProgress,
        OutboundProgress::Completed,
        OutboundProgress::Busy,
        OutboundProgress::NoAnswer,
        OutboundProgress::Failed,
        OutboundProgress::Canceled,
    ];

    fn told(reports: &[OutboundProgress]) -> OutboundProgress {
        let initiated = OutboundProgress::Initiated;
        reports.iter().fold(initiated, |call, r| call.after(*r))
    }

    fn reports() -> impl Strategy<Value = Vec<OutboundProgress>> {
        proptest::collection::vec(select(&ALL), 0..12)
    }

    #[test]
    fn every_word_is_understood_and_queued_means_initiated() {
        for progress in ALL {
            let word = progress.as_str();
            assert_eq!(OutboundProgress::of_word(word), Some(progress));
        }
        let queued = OutboundProgress::of_word("queued");
        assert_eq!(queued, Some(OutboundProgress::Initiated));
        assert_eq!(OutboundProgress::of_word("free"), None);
    }

    #[test]
    fn a_late_ringing_does_not_take_a_call_back() {
        for later in &ALL[2..] {
            assert_eq!(later.after(OutboundProgress::Ringing), *later);
        }
    }

    proptest! {
        #[test]
        fn a_call_never_goes_back(reports in reports(), late in select(&ALL)) {
            let before = told(&reports);
            prop_assert!(before.after(late).rank() >= before.rank());
        }

        #[test]
        fn a_finished_call_stays_as_it_ended(end in select(&ALL[3..]), late in reports()) {
            prop_assert!(end.is_final());
            prop_assert_eq!(late.iter().fold(end, |call, report| call.after(*report)), end);
        }

        #[test]
        fn a_repeated_report_changes_nothing(reports in reports(), again in any::<prop::sample::Index>()) {
            prop_assume!(!reports.is_empty());
            let after = told(&reports);
            prop_assert_eq!(after.after(*again.get(&reports)), after);
        }

        #[test]
        fn with_one_end_the_order_of_the_reports_does_not_matter(
            end in select(&ALL[3..]),
            shuffled in Just(ALL[..3].repeat(2)).prop_shuffle(),
            place in any::<prop::sample::Index>(),
        ) {
            let mut reports = shuffled;
            reports.insert(place.index(reports.len() + 1), end);
            prop_assert_eq!(told(&reports), end);
        }
    }
}
