//! What an allowance promises, for any times, processes and clocks.

use proptest::prelude::*;

use super::*;

/// A moment that all tests are about.
const NOON: u64 = 1_710_417_600_000;

/// The table: the bucket's item, and conditional writes that happen one after the other.
#[derive(Default)]
struct Table {
    full_at: Option<Timestamp>,
}

impl Table {
    fn write(&mut self, take: Take) -> Result<(), Option<Timestamp>> {
        if !take.holds(self.full_at) {
            return Err(self.full_at);
        }
        self.full_at = Some(take.applied(self.full_at));
        Ok(())
    }
}

/// A process that wants a token: what its clock says, and what it knows of the bucket.
#[derive(Clone, Copy, Debug)]
struct Asking {
    now: Timestamp,
    known: Option<Timestamp>,
    writes: usize,
}

/// How one of them came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Taken(Timestamp),
    Refused(Timestamp, Duration),
}

/// Lets processes ask, each for one token. `turns` says whose write is next: so one's first write, its second, and
/// the writes of others come in any order.
fn all_ask(allowance: Allowance, clocks: &[u64], turns: &[usize]) -> (Vec<Answer>, usize) {
    let ask = |now: &u64| Asking {
        now: Timestamp::from_millis(*now),
        known: None,
        writes: 0,
    };
    let mut waiting: Vec<Asking> = clocks.iter().map(ask).collect();
    let (mut table, mut answers, mut most_writes) = (Table::default(), Vec::new(), 0);
    let mut turns = turns.iter().cycle();
    while !waiting.is_empty() {
        let whose = turns.next().unwrap() % waiting.len();
        let asking = &mut waiting[whose];
        asking.writes += 1;
        let answer = match allowance.take(asking.known, asking.now) {
            Err(wait) => Some(Answer::Refused(asking.now, wait)),
            Ok(take) => match table.write(take) {
                Ok(()) => Some(Answer::Taken(asking.now)),
                Err(standing) => {
                    asking.known = standing;
                    // It is refused at once, without another turn, if what it was told leaves no token.
                    let refused = allowance.take(standing, asking.now).err();
                    refused.map(|wait| Answer::Refused(asking.now, wait))
                }
            },
        };
        if let Some(answer) = answer {
            most_writes = most_writes.max(waiting[whose].writes);
            answers.push(answer);
            waiting.remove(whose);
        }
    }
    (answers, most_writes)
}

impl Allowance {
    /// Whether one token more, at `now`, would be one too many after these: more than `at_once` + time / interval
    /// since any of them.
    fn is_used_up(self, taken: &[Timestamp], now: Timestamp) -> bool {
        taken.iter().enumerate().any(|(index, since)| {
            let with_this_one = i128::try_from(taken.len() - index + 1).unwrap();
            let time = i128::from(now.as_millis()) - i128::from(since.as_millis());
            let interval = i128::try_from(self.interval.as_millis()).unwrap();
            (with_this_one - i128::from(self.at_once)) * interval > time
        })
    }
}

fn allowances() -> impl Strategy<Value = Allowance> {
    (1_u32..=600, 1_u32..=20).prop_map(|(times, at_once)| Allowance::per_minute(times, at_once))
}

/// Times within a few buckets' filling, so that there is something to refuse.
fn clocks() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        // One clock.
        prop::collection::vec(0_u64..1_000, 1..60).prop_map(|steps| {
            let mut now = NOON;
            steps
                .into_iter()
                .map(|step| {
                    now += step;
                    now
                })
                .collect()
        }),
        // Clocks that differ by as much as they may.
        prop::collection::vec(0_u64..55_000, 1..60)
            .prop_map(|times| times.into_iter().map(|time| NOON + time).collect()),
    ]
}

proptest! {
    /// In the order in which the tokens were taken, by the clocks of those who took them: neither too many, nor too few.
    #[test]
    fn never_more_are_taken_than_allowed_and_nobody_is_refused_within(
        allowance in allowances(),
        clocks in clocks(),
        turns in prop::collection::vec(0_usize..4, 1..100),
    ) {
        let (answers, writes) = all_ask(allowance, &clocks, &turns);
        prop_assert!(writes <= 2, "{} writes", writes);
        let mut taken = Vec::new();
        for answer in answers {
            match answer {
                Answer::Taken(now) => {
                    prop_assert!(!allowance.is_used_up(&taken, now), "one too many at {now:?} after {taken:?}");
                    taken.push(now);
                }
                Answer::Refused(now, wait) => {
                    prop_assert!(allowance.is_used_up(&taken, now), "refused at {now:?} after {taken:?}");
                    prop_assert!(wait > Duration::ZERO);
                }
            }
        }
    }

    #[test]
    fn who_waits_as_long_as_told_is_not_refused_again(
        allowance in allowances(),
        clocks in prop::collection::vec(0_u64..3_000, 1..60),
    ) {
        let (mut table, mut now) = (Table::default(), Timestamp::from_millis(NOON));
        for step in clocks {
            now = now + Duration::from_millis(step);
            if let Err(wait) = allowance.take(table.full_at, now) {
                let early = now + (wait - Duration::from_millis(1));
                prop_assert!(allowance.take(table.full_at, early).is_err());
                now = now + wait;
            }
            let take = allowance.take(table.full_at, now).unwrap();
            prop_assert_eq!(table.write(take), Ok(()));
        }
    }

    /// A wrong clock, or a setting that has been changed, shuts nobody out for long.
    #[test]
    fn whatever_stands_in_the_table_nobody_waits_longer_than_a_bucket_takes_to_fill(
        allowance in allowances(),
        full_at in any::<u64>(),
    ) {
        let full_at = Some(Timestamp::from_millis(full_at));
        match allowance.take(full_at, Timestamp::from_millis(NOON)) {
            Ok(take) => prop_assert!(take.holds(full_at)),
            Err(wait) => prop_assert!(wait <= allowance.interval + CLOCKS_DIFFER),
        }
    }
}

#[test]
fn what_one_may_do_in_a_minute_is_what_it_says() {
    for (times, at_once) in [(1, 1), (7, 3), (10, 5), (599, 1), (600, 20)] {
        let allowance = Allowance::per_minute(times, at_once);
        let mut table = Table::default();
        let taken = (0..60_000).filter(|millis| {
            let now = Timestamp::from_millis(NOON + millis);
            let take = allowance.take(table.full_at, now);
            take.is_ok_and(|take| table.write(take).is_ok())
        });
        let taken = u32::try_from(taken.count()).unwrap();
        // An interval is rounded up to whole milliseconds.
        let lost = times * times / 60_000 + 1;
        let allowed = at_once + times - 1;
        assert!(
            taken <= allowed && taken + lost >= allowed,
            "{taken} of {allowed}"
        );
    }
}
