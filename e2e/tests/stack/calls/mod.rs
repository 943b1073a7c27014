//! Calls, end to end: real SIP legs through a real Asterisk, the real functions deployed from the real template, apps
//! that speak HTTP, and stand-ins for FCM and Exotel alone. Needs a running stack (`make up`); `make test` has one.

mod answered;
mod audio_streams;
mod between_apps;
mod encrypted;
mod ended;
mod inbound_reports;
mod outbound;
mod refused;
mod status_updates;
mod store;
mod unanswered;
