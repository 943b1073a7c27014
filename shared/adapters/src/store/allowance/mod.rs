//! How often an extension may do something: a token bucket in the table, taken from by a conditional write, unread.
//!
//! Item: `pk` = `EXTENSION#{extension}`, `sk` = `ALLOWANCE#{purpose}`; `full_at`, the moment at which the bucket is full
//! again; and `taken_for`, what the last token was taken for, so that asking again for the same takes no other. A token that is taken puts that moment off by one interval; there is none to take while it lies further
//! ahead than the other tokens account for. (Networks call this the generic cell rate algorithm, ITU-T I.371.)
//!
//! `max(full_at, now) + interval` is more than an update expression can say, so there are two writes, and the first
//! that is tried is the one for a full bucket, which nearly all are. If it is not, DynamoDB's refusal says how full it
//! is: then there is either no token, or one that the second write takes. With this, whatever the order and the
//! processes, by whose clocks time is told:
//!
//! - never more than `at_once` + time / interval tokens are taken;
//! - nobody is refused whose token would not be one too many;
//! - two writes are the most that it takes, and one is all that somebody costs who has no token left.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure as OnFailure};

use crate::platform::config::{ConfigError, Environment};
use crate::store::calls::StoreError;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;

type Item = HashMap<String, AttributeValue>;

/// How much clocks may differ. A bucket that would be full later than this allows was written by a clock that is wrong,
/// or when more was allowed at once, and is begun anew: it would shut its extension out for as long.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// An item outlives its bucket's emptiness by this: long enough for every clock.
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);

/// In milliseconds.
const MINUTE: u32 = 60_000;
const DAY: u32 = 24 * 60 * MINUTE;

/// More writes than it can take to find out how full a bucket is, unless its item is deleted meanwhile.
const TRIES: usize = 4;

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    at_once: u32,
    interval: Duration,
}

/// What an extension's allowance is for.
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

/// What a token was taken for is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// For the first time, as far as is known.
    Now,
    /// It was the last one that was taken, and this is the same request again.
    Before,
}

/// Why no token was taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is none. The next comes after this time.
    #[error("the extension has used its allowance up")]
    TooSoon(Duration),
    /// Whether there is one could not be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Allowance {
    /// How often an extension may start a call: `CALLS_PER_MINUTE` (10), `CALLS_AT_ONCE` (5).
    ///
    /// # Errors
    /// When one of them is no number above 0.
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
    /// When one of them is no number above 0.
    pub fn of_registrations(environment: &Environment) -> Result<Self, ConfigError> {
        let times = environment.count("REGISTRATIONS_PER_MINUTE", 6)?;
        Ok(Self::per_minute(
            times,
            environment.count("REGISTRATIONS_AT_ONCE", 10)?,
        ))
    }

    /// How often an extension may start a call to a telephone number: `PHONE_CALLS_PER_DAY` (100), all of them at once. The
    /// tokens come back evenly over the day, so that no 24 hours see more than twice as many.
    ///
    /// # Errors
    /// When it is no number above 0.
    pub fn of_phone_calls(environment: &Environment) -> Result<Self, ConfigError> {
        let times = environment.count("PHONE_CALLS_PER_DAY", 100)?;
        Ok(Self::per(DAY, times, times))
    }

    /// So often a minute, and after a time without any, so many at once. Nothing is allowed less than once.
    #[must_use]
    pub fn per_minute(times: u32, at_once: u32) -> Self {
        Self::per(MINUTE, times, at_once)
    }

    fn per(period: u32, times: u32, at_once: u32) -> Self {
        // Rounded up to whole milliseconds, the unit of what is stored: never more than `times`.
        let interval = u64::from(period.div_ceil(times.max(1))).max(1);
        Self {
            at_once: at_once.max(1),
            interval: Duration::from_millis(interval),
        }
    }

    /// The write that takes a token at `now` from a bucket that is full at `full_at`; or how long it is until there is
    /// one.
    pub(crate) fn take(self, full_at: Option<Timestamp>, now: Timestamp) -> Result<Take, Duration> {
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

    fn take_from_full(self, now: Timestamp) -> Take {
        Take::FromFull {
            now,
            full_at: now + self.interval,
            never: now + self.interval * self.at_once + CLOCKS_DIFFER,
        }
    }

    fn take_from_rest(self, now: Timestamp) -> Take {
        Take::FromRest {
            now,
            last: now + self.all_others(),
            interval: self.interval,
            kept_until: now + self.interval * self.at_once + KEPT_FOR,
        }
    }

    /// How long it takes for all tokens but one to come.
    fn all_others(self) -> Duration {
        self.interval * (self.at_once - 1)
    }
}

/// A write that takes a token, if its condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// The bucket is full, or new.
    FromFull {
        now: Timestamp,
        /// When it is full again.
        full_at: Timestamp,
        /// No bucket takes this long to fill.
        never: Timestamp,
    },
    /// Some are gone, but not all.
    FromRest {
        now: Timestamp,
        /// A bucket with its last token is full then.
        last: Timestamp,
        interval: Duration,
        kept_until: Timestamp,
    },
}

impl Take {
    /// Whether the condition holds for a bucket that is full then.
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

    /// When the bucket is full again that a token was taken from.
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
        let number =
            |name: &str, value: u64| (name.to_owned(), AttributeValue::N(value.to_string()));
        let moment = |name: &str, moment: Timestamp| number(name, moment.as_millis());
        let expires_at =
            |kept_until: Timestamp| number(":expires_at", kept_until.as_secs_rounded_up());
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
                    number(":interval", interval),
                    expires_at(kept_until),
                ])
            }
        }
    }
}

/// The key of an extension's bucket.
fn bucket(extension: &Extension, purpose: Purpose) -> Item {
    let purpose = match purpose {
        Purpose::Calls => "calls",
        Purpose::PhoneCalls => "phone-calls",
        Purpose::Registrations => "registrations",
        Purpose::Waits => "waits",
    };
    let text = |name: &str, value: String| (name.to_owned(), AttributeValue::S(value));
    Item::from([
        text("pk", format!("EXTENSION#{extension}")),
        text("sk", format!("ALLOWANCE#{purpose}")),
    ])
}

/// When the bucket in an item is full.
fn full_at(item: &Item) -> Option<Timestamp> {
    let millis = item.get("full_at")?.as_n().ok()?.parse().ok()?;
    Some(Timestamp::from_millis(millis))
}

/// The buckets in the table.
#[derive(Clone, Debug)]
pub struct Allowances {
    client: Client,
    table: String,
}

impl Allowances {
    /// The buckets in this table.
    #[must_use]
    pub const fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Takes a token at `now`. What it is taken for may have a name, under which it is taken once, if no other is taken
    /// meanwhile.
    ///
    /// # Errors
    /// When there is none, and when the table cannot be written: nothing is unlimited.
    pub async fn take(
        &self,
        extension: &Extension,
        purpose: Purpose,
        allowance: Allowance,
        what_for: Option<&str>,
        now: Timestamp,
    ) -> Result<Taken, Refused> {
        let mut full = None;
        for _ in 0..TRIES {
            let take = allowance.take(full, now).map_err(Refused::TooSoon)?;
            let Some(standing) = self
                .write(take, bucket(extension, purpose), what_for)
                .await?
            else {
                return Ok(Taken::Now);
            };
            if what_for.is_some() && taken_for(&standing) == what_for {
                return Ok(Taken::Before);
            }
            full = full_at(&standing);
        }
        Err(Refused::Store(contended()))
    }

    /// `None` if the write went through; otherwise the bucket as it is.
    async fn write(
        &self,
        take: Take,
        bucket: Item,
        what_for: Option<&str>,
    ) -> Result<Option<Item>, StoreError> {
        let mut write = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(bucket))
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
                .expression_attribute_values(":for", AttributeValue::S(name.to_owned())),
        };
        match write.send().await {
            Ok(_) => Ok(None),
            Err(SdkError::ServiceError(refused)) => match refused.err() {
                UpdateItemError::ConditionalCheckFailedException(failed) => {
                    Ok(Some(failed.item.clone().unwrap_or_default()))
                }
                _ => Err(StoreError::unavailable(TAKING)(SdkError::ServiceError(
                    refused,
                ))),
            },
            Err(error) => Err(StoreError::unavailable(TAKING)(error)),
        }
    }
}

/// What the last token was taken for.
fn taken_for(item: &Item) -> Option<&str> {
    item.get("taken_for")?.as_s().ok().map(String::as_str)
}

const TAKING: &str = "taking a token";

/// The bucket's item kept changing in ways that no rival's taking explains.
fn contended() -> StoreError {
    StoreError::unavailable(TAKING)("the bucket kept changing")
}
