//! Exotel, the way callers come from and the way out to phone numbers.
//!
//! - [`ExotelWebhook`]: what Exotel reports of a call, by its Passthru applet and its StatusCallbacks.
//! - [`Frame`]: what comes with the stream of a call's audio.
//! - [`Exotel`]: its voice API, which connects two numbers and knows how their call stands.

mod api;
pub mod dialling;
mod notice;
mod status_words;
mod stream;

#[cfg(any(test, feature = "testing"))]
pub(crate) use api::read_any_answer;
pub use api::{CallDetails, ConnectRequest, Exotel, ExotelError, NoAnswer, Placed};
pub use notice::{Direction, ExotelWebhook, Source, Stage};
pub use stream::{Digit, Dtmf, Frame, LONGEST_FRAME};

use time::PrimitiveDateTime;
use time::macros::{format_description, offset};

use ringback_core::timestamp::Timestamp;

/// `2024-03-14 17:30:00`: Exotel writes India's time, and no zone.
fn indian_time(text: &str) -> Option<Timestamp> {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let moment = PrimitiveDateTime::parse(text, format)
        .ok()?
        .assume_offset(offset!(+5:30));
    let seconds = u64::try_from(moment.unix_timestamp()).ok()?;
    Some(Timestamp::from_millis(seconds * 1000))
}
