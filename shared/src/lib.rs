//! Ringback: a caller hears ringback while a sleeping phone is woken, and is bridged when the phone is ready.
//!
//! Everything is *event → decide → save → effects*. To read it in order:
//!
//! 1. [`call`]: a call, what can happen to it and what follows. Pure: no I/O, no clock.
//! 2. [`switchboard`]: asks `call` what follows, saves it, has it carried out.
//! 3. [`calls`]: where calls are kept.
//! 4. [`outside`]: who carries an effect out: [`asterisk`], [`push`] (by FCM and SNS), [`timeouts`], [`exotel`].
//! 5. [`call_response`] and [`call_request`]: what a phone app says. [`exotel`] and [`asterisk::hook`]: what the two witnesses of a call report; [`form`]: how.
//! 6. [`devices`] and [`routes`]: which phones an extension has, and which extension a number leads to.
//!    [`registration`]: what an app says to be reached; [`allowance`]: how often they may do something;
//!    [`dialling`]: which telephone numbers they may have dialled.
//! 7. [`connections`] and [`status_update`]: who is connected, and what they hear of a call. [`streams`]: whose audio
//!    Exotel brings.
//!    [`posts`] and [`seldom`]: how many messages they get.
//! 8. [`replica`]: what one of two regions does about the other's calls.
//! 9. [`metrics`]: what is counted and timed; `sent`, `xray`: what goes out, seen and traced;
//!    [`subject`]: by which calls' ids.
//! 10. [`names`], [`clock`], [`config`], [`secrets`], [`auth`], [`signing`], [`gate`], [`http`], [`start`]: the door.

pub mod allowance;
pub mod asterisk;
pub mod auth;
pub mod call;
pub mod call_request;
pub mod call_response;
pub mod calls;
pub mod clock;
pub mod config;
pub mod connections;
pub mod devices;
pub mod dialling;
#[cfg(any(test, feature = "testing"))]
pub mod entry_points;
pub mod exotel;
pub mod form;
pub mod gate;
pub mod http;
mod https;
pub mod later;
pub mod metrics;
pub mod names;
pub mod outside;
pub mod posts;
pub mod push;
pub mod registration;
pub mod replica;
pub mod routes;
pub mod secrets;
pub mod seldom;
mod sent;
pub mod signing;
pub mod start;
pub mod status_update;
pub mod streams;
pub mod subject;
pub mod switchboard;
#[cfg(test)]
mod testing;
pub mod timeouts;
pub mod websocket;
mod xray;
