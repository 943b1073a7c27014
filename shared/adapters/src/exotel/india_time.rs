//! The dates of Exotel, which are in India's time zone and do not say so.

use ringback_core::timestamp::Timestamp;
use time::PrimitiveDateTime;
use time::macros::{format_description, offset};

/// Parses `2024-03-14 17:30:00` as India Standard Time (UTC+5:30).
pub(super) fn parse_india_time(text: &str) -> Option<Timestamp> {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let moment = PrimitiveDateTime::parse(text, format)
        .ok()?
        .assume_offset(offset!(+5:30));
    let seconds = u64::try_from(moment.unix_timestamp()).ok()?;
    Some(Timestamp::from_millis(seconds * 1000))
}
