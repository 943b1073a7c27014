//! Exotel: the trunk on which callers arrive, and the way to call phone numbers.
//!
//! - [`ExotelWebhook`]: a report on a call, by the Passthru applet or a StatusCallback.
//! - [`StreamFrame`]: a WebSocket frame of a call's audio stream.
//! - [`Exotel`]: the voice API, which connects two phone numbers and looks calls up.
//! - [`dial_rules`]: which numbers apps may call.

pub mod dial_rules;
mod india_time;
mod status_words;
mod stream_frame;
mod voice_api;
mod webhook;

pub use stream_frame::{DtmfKey, KeypadKey, MAX_FRAME_BYTES, StreamFrame};
#[cfg(any(test, feature = "testing"))]
pub(crate) use voice_api::read_any_answer;
pub use voice_api::{CallDetails, ConnectRequest, Exotel, ExotelError, PlacedCall, ReplyError};
pub use webhook::{CallDirection, CallStage, ExotelWebhook, WebhookSource};
