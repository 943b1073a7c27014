//! What Exotel knows of its calls.

use ringback_core::call::CallStatus;
use ringback_core::ids::CallId;

/// The calls that Exotel was asked to place, and what truly became of them.
#[derive(Default)]
pub struct Exotel {
    placed: Vec<(CallId, CallStatus)>,
}

impl Exotel {
    pub fn placed(&self, call: CallId) -> Option<CallStatus> {
        let known = self.placed.iter().find(|(known, _)| *known == call);
        known.map(|(_, status)| *status)
    }

    pub fn reach(&mut self, call: CallId, status: CallStatus) {
        match self.placed.iter_mut().find(|(known, _)| *known == call) {
            Some((_, known)) => *known = status,
            None => self.placed.push((call, status)),
        }
    }
}

/// What the trunk knows of each caller of the plan.
#[derive(Clone, Copy, Default)]
pub struct TrunkCall {
    pub pbx: usize,
    pub attempts: u32,
    pub is_over: bool,
}
