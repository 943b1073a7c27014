//! The timers of one region.

use ringback_core::call::{BackstopPhase, Call};
use ringback_core::ids::CallId;

/// The queue and the schedules of one region.
#[derive(Default)]
pub struct Timers {
    pub messages: Vec<Message>,
    pub schedules: Vec<(CallId, BackstopPhase)>,
    /// How many timers were armed in all.
    pub armed: usize,
    /// Messages that failed too often.
    pub dead: usize,
}

/// What a message or a schedule brings to `call-timeout`.
#[derive(Clone)]
pub struct Timer {
    pub call_id: CallId,
    pub overwritten: Option<Box<Call>>,
}

#[derive(Clone)]
pub struct Message {
    pub serial: u32,
    pub timer: Timer,
    pub visible_at: u64,
    pub receives: u32,
}
