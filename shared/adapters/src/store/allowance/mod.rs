//! How often an extension may do something: a token bucket in the table. A conditional write takes a token, without a read.
//!
//! Item: `pk` = `EXTENSION#{extension}`, `sk` = `ALLOWANCE#{purpose}`. `full_at` is the time at which the bucket is full again.
//! `taken_for` names the request that took the last token, so that a repeated request takes no second one. Taking a token adds
//! one interval to `full_at`. The bucket is empty while `full_at` is further ahead than all other tokens account for. (This is
//! the generic cell rate algorithm, ITU-T I.371.)
//!
//! An update expression cannot say `max(full_at, now) + interval`, so there are two different writes. The first one assumes a
//! full bucket, as nearly all are. When its condition fails, DynamoDB returns the item: either there is no token, or the
//! second write takes one. For any order of writes, number of processes and difference of clocks:
//!
//! - never more than `at_once` + time / interval tokens are taken;
//! - a request is rejected only if its token would be one too many;
//! - a request costs two writes at most, and one if the bucket is empty.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure as OnFailure;

use crate::platform::config::{ConfigError, Environment};
use crate::store::table::{
    ConditionalWrite, Item, ItemKey, StoreError, Table, conditional_write, expiry, millis, number,
    text,
};
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;

/// How much clocks may differ. A bucket with a `full_at` later than this allows was written with a wrong clock, or when more
/// tokens were allowed at once. It is replaced by a full one, because it would lock its extension out until then.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// An item expires this long after its bucket is full: long enough for clocks that differ.
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);

/// A minute, in milliseconds.
const MINUTE: u32 = 60_000;
/// A day, in milliseconds.
const DAY: u32 = 24 * 60 * MINUTE;

/// Two writes are enough unless the item changes in between.
const TRIES: usize = 4;

/// A rate limit: the size of a token bucket and the time in which it gets one token back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    at_once: u32,
    interval: Duration,
}

/// The action that an allowance limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Starting calls.
    Calls,
    /// Starting calls to telephone numbers.
    PhoneCalls,
    /// Registering devices.
    Registrations,
    /// Waiting for a call that another region may have stored.
    Waits,
}

/// How a token was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenTaken {
    /// This request took a token.
    Now,
    /// The last token was taken for the same request before.
    Before,
}

/// Why no token was taken.
#[derive(Debug, thiserror::Error)]
pub enum AllowanceError {
    /// The bucket is empty. The next token comes after this time.
    #[error("the extension has used up its allowance")]
    TooSoon(Duration),
    /// The table did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Allowance {
    /// How often an extension may start a call: `CALLS_PER_MINUTE` (10), `CALLS_AT_ONCE` (5).
    ///
    /// # Errors
    /// When one of them is not a number above 0.
    pub fn of_calls(environment: &Environment) -> Result<Self, ConfigError> {
        let times = environment.count("CALLS_PER_MINUTE", 10)?;
        Ok(Self::per_minute(
            times,
            environment.count("CALLS_AT_ONCE", 5)?,
        ))
    }

    /// How often an extension may register a device: `REGISTRATIONS_PER_MINUTE` (6), `REGISTRATIONS_AT_ONCE` (10).
    ///
    /// # Errors
    /// When one of them is not a number above 0.
    pub fn of_registrations(environment: &Environment) -> Result<Self, ConfigError> {
        let times = environment.count("REGISTRATIONS_PER_MINUTE", 6)?;
        Ok(Self::per_minute(
            times,
            environment.count("REGISTRATIONS_AT_ONCE", 10)?,
        ))
    }

    /// How often an extension may start a call to a telephone number: `PHONE_CALLS_PER_DAY` (100). All of them may be at once.
    /// Tokens come back evenly over the day, so any 24 hours see at most twice as many calls.
    ///
    /// # Errors
    /// When it is not a number above 0.
    pub fn of_phone_calls(environment: &Environment) -> Result<Self, ConfigError> {
        let times = environment.count("PHONE_CALLS_PER_DAY", 100)?;
        Ok(Self::per(DAY, times, times))
    }

    /// `times` a minute, and up to `at_once` at once after a pause. Values below 1 count as 1.
    #[must_use]
    pub fn per_minute(times: u32, at_once: u32) -> Self {
        Self::per(MINUTE, times, at_once)
    }

    fn per(period: u32, times: u32, at_once: u32) -> Self {
        // Rounded up to whole milliseconds, the stored unit, so that never more than `times` are allowed.
        let interval = u64::from(period.div_ceil(times.max(1))).max(1);
        Self {
            at_once: at_once.max(1),
            interval: Duration::from_millis(interval),
        }
    }

    /// The write that takes a token at `now` from a bucket that is full at `full_at`, or the time until there is a token.
    pub(crate) fn take(
        self,
        full_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<TokenWrite, Duration> {
        let from_full = self.take_from_full(now);
        let from_rest = self.take_from_rest(now);
        match full_at {
            Some(full_at) if !from_full.holds(Some(full_at)) => {
                if from_rest.holds(Some(full_at)) {
                    Ok(from_rest)
                } else {
                    Err(full_at.since(now + self.all_others()))
                }
            }
            _ => Ok(from_full),
        }
    }

    fn take_from_full(self, now: Timestamp) -> TokenWrite {
        TokenWrite::FromFull {
            now,
            full_at: now + self.interval,
            never: now + self.interval * self.at_once + CLOCKS_DIFFER,
        }
    }

    fn take_from_rest(self, now: Timestamp) -> TokenWrite {
        TokenWrite::FromRest {
            now,
            last: now + self.all_others(),
            interval: self.interval,
            kept_until: now + self.interval * self.at_once + KEPT_FOR,
        }
    }

    /// How long it takes until all tokens but one are back.
    fn all_others(self) -> Duration {
        self.interval * (self.at_once - 1)
    }
}

/// A conditional write that takes a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenWrite {
    /// The bucket is full, or new.
    FromFull {
        now: Timestamp,
        /// When it is full again.
        full_at: Timestamp,
        /// No bucket with right clocks is full later than this.
        never: Timestamp,
    },
    /// Some tokens are taken, but not all.
    FromRest {
        now: Timestamp,
        /// When a bucket with one token left is full.
        last: Timestamp,
        interval: Duration,
        kept_until: Timestamp,
    },
}

impl TokenWrite {
    /// Whether the condition holds for a bucket that is full at `bucket`.
    pub(crate) fn holds(self, bucket: Option<Timestamp>) -> bool {
        match self {
            Self::FromFull { now, never, .. } => {
                bucket.is_none_or(|full_at| full_at <= now || full_at > never)
            }
            Self::FromRest { now, last, .. } => {
                bucket.is_some_and(|full_at| full_at > now && full_at <= last)
            }
        }
    }

    /// When the bucket is full after this write.
    pub(crate) fn applied(self, bucket: Option<Timestamp>) -> Timestamp {
        match self {
            Self::FromFull { full_at, .. } => full_at,
            Self::FromRest { interval, .. } => {
                bucket.unwrap_or(Timestamp::from_millis(0)) + interval
            }
        }
    }

    const fn condition(self) -> &'static str {
        match self {
            Self::FromFull { .. } => {
                "attribute_not_exists(full_at) OR full_at <= :now OR full_at > :never"
            }
            Self::FromRest { .. } => "full_at > :now AND full_at <= :last",
        }
    }

    const fn update(self) -> &'static str {
        match self {
            Self::FromFull { .. } => "SET full_at = :full_at, expires_at = :expires_at",
            Self::FromRest { .. } => "SET full_at = full_at + :interval, expires_at = :expires_at",
        }
    }

    fn values(self) -> Item {
        let moment = |name: &str, moment: Timestamp| (name.to_owned(), millis(moment));
        let expires_at = |moment: Timestamp| (":expires_at".to_owned(), expiry(moment));
        match self {
            Self::FromFull {
                now,
                full_at,
                never,
            } => Item::from([
                moment(":now", now),
                moment(":full_at", full_at),
                moment(":never", never),
                expires_at(full_at + KEPT_FOR),
            ]),
            Self::FromRest {
                now,
                last,
                interval,
                kept_until,
            } => {
                let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
                Item::from([
                    moment(":now", now),
                    moment(":last", last),
                    (":interval".to_owned(), number(interval)),
                    expires_at(kept_until),
                ])
            }
        }
    }
}

/// The key of an extension's bucket.
fn bucket(extension: &Extension, purpose: Purpose) -> ItemKey {
    let purpose = match purpose {
        Purpose::Calls => "calls",
        Purpose::PhoneCalls => "phone-calls",
        Purpose::Registrations => "registrations",
        Purpose::Waits => "waits",
    };
    ItemKey::of_extension(extension, format!("ALLOWANCE#{purpose}"))
}

/// When the bucket in an item is full.
fn full_at(item: &Item) -> Option<Timestamp> {
    let millis = item.get("full_at")?.as_n().ok()?.parse().ok()?;
    Some(Timestamp::from_millis(millis))
}

/// The buckets in the table.
#[derive(Clone, Debug)]
pub struct Allowances {
    table: Table,
}

impl Allowances {
    /// The buckets in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Takes a token at `now`. `what_for` names the request: repeated with the same name it takes no second token, unless
    /// another request has taken one in between.
    ///
    /// # Errors
    /// When the bucket is empty, and when the table cannot be written.
    pub async fn take(
        &self,
        extension: &Extension,
        purpose: Purpose,
        allowance: Allowance,
        what_for: Option<&str>,
        now: Timestamp,
    ) -> Result<TokenTaken, AllowanceError> {
        let mut full = None;
        for _ in 0..TRIES {
            let take = allowance.take(full, now).map_err(AllowanceError::TooSoon)?;
            let Some(standing) = self
                .write(take, bucket(extension, purpose), what_for)
                .await?
            else {
                return Ok(TokenTaken::Now);
            };
            if what_for.is_some() && taken_for(&standing) == what_for {
                return Ok(TokenTaken::Before);
            }
            full = full_at(&standing);
        }
        // The item kept changing, and not because other requests took tokens.
        let error = StoreError::unavailable(TAKING)("the bucket kept changing");
        Err(AllowanceError::Store(error))
    }

    /// Returns the item of the bucket if the condition failed.
    async fn write(
        &self,
        take: TokenWrite,
        bucket: ItemKey,
        what_for: Option<&str>,
    ) -> Result<Option<Item>, StoreError> {
        let mut write = self
            .table
            .update(bucket)
            .set_expression_attribute_values(Some(take.values()))
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        write = match what_for {
            None => write
                .update_expression(take.update())
                .condition_expression(take.condition()),
            Some(name) => write
                .update_expression(format!("{}, taken_for = :for", take.update()))
                .condition_expression(format!(
                    "({}) AND (attribute_not_exists(taken_for) OR taken_for <> :for)",
                    take.condition()
                ))
                .expression_attribute_values(":for", text(name)),
        };
        Ok(match conditional_write(write.send().await, TAKING)? {
            ConditionalWrite::Written(_) => None,
            ConditionalWrite::ConditionFailed(item) => Some(item.unwrap_or_default()),
        })
    }
}

/// What the last token was taken for.
fn taken_for(item: &Item) -> Option<&str> {
    item.get("taken_for")?.as_s().ok().map(String::as_str)
}

const TAKING: &str = "taking a token";
