//! Properties of an allowance for any times, number of processes and clocks.

use proptest::prelude::*;

use super::*;

/// The time around which all tests happen.
const NOON: u64 = 1_710_417_600_000;

/// The bucket's item in a table that carries out one conditional write after the other.
#[derive(Default)]
struct BucketItem {
    full_at: Option<Timestamp>,
}

impl BucketItem {
    fn write(&mut self, take: TokenWrite) -> Result<(), Option<Timestamp>> {
        if !take.holds(self.full_at) {
            return Err(self.full_at);
        }
        self.full_at = Some(take.applied(self.full_at));
        Ok(())
    }
}

/// A process that takes a token: its clock, and what it knows about the bucket.
#[derive(Clone, Copy, Debug)]
struct Request {
    now: Timestamp,
    known: Option<Timestamp>,
    writes: usize,
}

/// The result of a request, at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestResult {
    Taken(Timestamp),
    Rejected(Timestamp, Duration),
}

/// Each process takes one token. `turns` chooses the process of the next write, so that first and second writes of several
/// processes interleave in any order. Returns the results and the largest number of writes of one process.
fn take_all(allowance: Allowance, clocks: &[u64], turns: &[usize]) -> (Vec<RequestResult>, usize) {
    let ask = |now: &u64| Request {
        now: Timestamp::from_millis(*now),
        known: None,
        writes: 0,
    };
    let mut waiting: Vec<Request> = clocks.iter().map(ask).collect();
    let (mut bucket, mut results, mut most_writes) = (BucketItem::default(), Vec::new(), 0);
    let mut turns = turns.iter().cycle();
    while !waiting.is_empty() {
        let next = turns.next().unwrap() % waiting.len();
        let request = &mut waiting[next];
        request.writes += 1;
        let result = match allowance.take(request.known, request.now) {
            Err(wait) => Some(RequestResult::Rejected(request.now, wait)),
            Ok(take) => match bucket.write(take) {
                Ok(()) => Some(RequestResult::Taken(request.now)),
                Err(standing) => {
                    request.known = standing;
                    // A process that now knows that there is no token does not write again.
                    let rejected = allowance.take(standing, request.now).err();
                    rejected.map(|wait| RequestResult::Rejected(request.now, wait))
                }
            },
        };
        if let Some(result) = result {
            most_writes = most_writes.max(waiting[next].writes);
            results.push(result);
            waiting.remove(next);
        }
    }
    (results, most_writes)
}

impl Allowance {
    /// Whether one more token at `now` would be too many after these: more than `at_once` + time / interval since any of them.
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

/// Times so close together that some requests are rejected.
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
        // Clocks that differ by nearly as much as allowed.
        prop::collection::vec(0_u64..55_000, 1..60)
            .prop_map(|times| times.into_iter().map(|time| NOON + time).collect()),
    ]
}

proptest! {
    /// Checks every result in the order of the writes, by the clock of the process.
    #[test]
    fn a_request_is_rejected_exactly_when_its_token_would_be_one_too_many(
        allowance in allowances(),
        clocks in clocks(),
        turns in prop::collection::vec(0_usize..4, 1..100),
    ) {
        let (results, writes) = take_all(allowance, &clocks, &turns);
        prop_assert!(writes <= 2, "{} writes", writes);
        let mut taken = Vec::new();
        for result in results {
            match result {
                RequestResult::Taken(now) => {
                    prop_assert!(!allowance.is_used_up(&taken, now), "one too many at {now:?} after {taken:?}");
                    taken.push(now);
                }
                RequestResult::Rejected(now, wait) => {
                    prop_assert!(allowance.is_used_up(&taken, now), "rejected at {now:?} after {taken:?}");
                    prop_assert!(wait > Duration::ZERO);
                }
            }
        }
    }

    #[test]
    fn a_request_after_the_given_wait_succeeds(
        allowance in allowances(),
        clocks in prop::collection::vec(0_u64..3_000, 1..60),
    ) {
        let (mut bucket, mut now) = (BucketItem::default(), Timestamp::from_millis(NOON));
        for step in clocks {
            now = now + Duration::from_millis(step);
            if let Err(wait) = allowance.take(bucket.full_at, now) {
                let early = now + (wait - Duration::from_millis(1));
                prop_assert!(allowance.take(bucket.full_at, early).is_err());
                now = now + wait;
            }
            let take = allowance.take(bucket.full_at, now).unwrap();
            prop_assert_eq!(bucket.write(take), Ok(()));
        }
    }

    /// A wrong clock or a changed setting must not lock an extension out for long.
    #[test]
    fn with_any_stored_value_the_wait_is_at_most_an_interval_and_the_clock_difference(
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
fn a_minute_allows_the_configured_number_of_tokens() {
    for (times, at_once) in [(1, 1), (7, 3), (10, 5), (599, 1), (600, 20)] {
        let allowance = Allowance::per_minute(times, at_once);
        let mut bucket = BucketItem::default();
        let taken = (0..60_000).filter(|millis| {
            let now = Timestamp::from_millis(NOON + millis);
            let take = allowance.take(bucket.full_at, now);
            take.is_ok_and(|take| bucket.write(take).is_ok())
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
