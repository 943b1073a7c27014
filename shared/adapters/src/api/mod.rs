//! What apps, Exotel and the PBX send over HTTP and WebSocket, and what they get back.

pub mod call_action;
#[cfg(any(test, feature = "testing"))]
pub mod entry_points;
pub mod form;
pub mod http;
pub mod new_call;
pub mod registration;
pub mod status_update;
pub mod websocket;
