//! Calls from start to end: real SIP legs through a real Asterisk, the real functions deployed from the real template,
//! and apps that use HTTP.

mod answered;
mod answers;
mod audio_streams;
mod between_apps;
mod during_call;
mod encrypted;
mod ended;
mod exotel_flows;
mod final_status;
mod hold;
mod inbound_reports;
mod invite_size;
mod missed;
mod moves;
mod numbers;
mod outbound;
mod reach;
mod recent;
mod refused;
mod softphone;
mod status_updates;
mod store;
mod unanswered;
