//! Simulated SIP endpoints: a [`Trunk`] that calls a PBX as Exotel does, and [`Phone`]s that register and take calls.
//! They use real SIP over UDP or TLS and real RTP or SRTP, so a test sees what a caller and a phone see: response
//! codes, times, and whether audio and video arrive.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use ringback_sip::{Caller, Phone, Trunk};
//! # async fn example() -> Result<(), ringback_sip::Error> {
//! let pbx = "127.0.0.1:5060".parse().unwrap();
//! let soon = Duration::from_secs(5);
//! let mut phone = Phone::new(pbx, "1001", "password").await?;
//! phone.register().await?;
//!
//! let trunk = Trunk::bind("127.0.0.2:0").await?;
//! let call = trunk.call(pbx, "08047491899", Caller::number("+919876543210"), None).await?;
//! call.ringing(soon).await?;
//!
//! let incoming = phone.next_call(soon).await?;
//! incoming.answer().await?;
//! call.answered(soon).await?;
//! call.media().hears(incoming.media(), soon).await?;
//!
//! incoming.hang_up().await?;
//! call.ended(soon).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`Trunk`] and [`Phone`], the [`CallEvents`] of both, then the media (SDP, RTP, SRTP) and the user
//! agent.

mod agent;
mod caller;
mod cancel_reasons;
mod error;
mod events;
mod media;
mod phone;
mod requests;
mod rtp;
mod sdp;
mod srtp;
mod stage;
mod tls;
mod trunk;

pub use agent::Leg;
pub use caller::{CALLER_HEADER, Caller};
pub use error::Error;
pub use events::{CallEvent, CallEvents, EventTime};
pub use media::Media;
pub use phone::{IncomingCall, Phone};
pub use sdp::Hold;
pub use stage::CallStage;
pub use trunk::{OutgoingCall, Trunk};
