//! The HTTP and WebSocket API: requests of apps, Exotel and the PBX, and the answers to them.

pub mod admin;
pub mod answer;
pub mod call_response;
pub mod do_not_disturb;
#[cfg(any(test, feature = "testing"))]
pub mod entry_points;
pub mod error;
pub mod error_code;
pub mod http;
mod json_fields;
pub mod new_call;
pub mod registration;
pub mod request;
pub mod status_update;
pub mod websocket;
