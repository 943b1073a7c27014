//! What the metrics of a region have counted.

use ringback::telemetry::metrics::{CallMetrics, Measurement, is_counted_in};
use ringback_core::call::CallStatus;
use ringback_core::ids::CallId;

use super::table::{REGIONS, Record};

/// What a region has counted.
#[derive(Default)]
pub struct Counted {
    /// How often each call is counted with each end. One that is taken back is not counted.
    ends: Vec<(CallId, CallStatus, i32)>,
    /// Calls with changes that the stream has repeated.
    pub repeated: Vec<CallId>,
}

impl Counted {
    /// The real metrics of this change, if this region counts it.
    pub fn count(&mut self, regions: usize, region: usize, record: &Record) {
        let stored_in = Some(REGIONS[record.stored_in]);
        if regions == 2 && !is_counted_in(REGIONS[region], stored_in) {
            return;
        }
        let id = record.after.call_id;
        let metrics = CallMetrics::of_change(record.before.as_deref(), &record.after);
        for measurement in metrics.measurements() {
            match measurement {
                Measurement::EndedAs(status) => self.add(id, *status, 1),
                Measurement::NotEndedAs(status) => self.add(id, *status, -1),
                Measurement::Count(_) | Measurement::Time(..) | Measurement::TimeToRing(..) => {}
            }
        }
    }

    fn add(&mut self, id: CallId, status: CallStatus, number: i32) {
        let mut ends = self.ends.iter_mut();
        match ends.find(|(call, known, _)| (*call, *known) == (id, status)) {
            Some((.., times)) => *times += number,
            None => self.ends.push((id, status, number)),
        }
    }

    /// The stream shows the changes of this call again: what they count is counted twice.
    pub fn is_repeated(&mut self, call: CallId) {
        self.repeated.push(call);
    }

    /// The ends with which the call is counted.
    pub fn of(&self, id: CallId) -> impl Iterator<Item = (CallStatus, i32)> {
        let of_call = self.ends.iter().filter(move |(call, ..)| *call == id);
        let ends = of_call.map(|(_, status, times)| (*status, *times));
        ends.filter(|(_, times)| *times != 0)
    }
}
