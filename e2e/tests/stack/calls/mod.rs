//! Calls from start to end: real SIP legs through a real Asterisk, the real functions deployed from the real template,
//! and apps that use HTTP.

mod answered;
mod answers;
mod audio_streams;
mod between_apps;
mod encrypted;
mod ended;
mod exotel_flows;
mod inbound_reports;
mod missed;
mod moves;
mod outbound;
mod reach;
mod recent;
mod refused;
mod status_updates;
mod store;
mod unanswered;
