//! The faults of one run. Each fault that happens has a number, so that a run can be repeated without some of them.

use fastrand::Rng;

use crate::random::generator;

/// A fault that can happen at many places of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A function process crashes at one of its steps.
    Crash,
    /// A function process starts up to 4 s late.
    ColdStart,
    /// The table does not answer, and has done nothing.
    StoreFails,
    /// The table has done what it was asked to do, and its answer is lost.
    StoreAnswerLost,
    /// The table answers after up to 3 s.
    StoreSlow,
    /// A request does not reach its function.
    RequestLost,
    /// The answer of a function is lost.
    AnswerLost,
    /// A request reaches its function twice.
    RequestTwice,
    /// SQS delivers a message up to 20 s late.
    QueueLate,
    /// SQS delivers a message twice.
    QueueTwice,
    /// SQS never delivers a message.
    QueueLost,
    /// SQS rejects a message.
    QueueFails,
    /// The scheduler rejects a schedule.
    SchedulerFails,
    /// One write is replicated up to 15 s late, after later ones.
    ReplicationLate,
    /// A record of the stream comes again although it was handled.
    StreamTwice,
    /// The stream stands still for up to 10 s.
    StreamLate,
    /// Asterisk does not answer, and has done nothing.
    AriFails,
    /// Asterisk answers after up to 2 s.
    AriSlow,
    /// Asterisk has done what it was asked to do, and its answer is lost.
    AriAnswerLost,
    /// A report of the PBX is lost, with all its repetitions.
    HookLost,
    /// The push service rejects a push.
    PushRejected,
    /// The push service accepts a push and never delivers it.
    PushLost,
    /// A push arrives up to 20 s late.
    PushLate,
    /// A report of Exotel is lost.
    ExotelLost,
    /// A report of Exotel comes again later.
    ExotelTwice,
    /// A report of Exotel comes late, after later ones.
    ExotelLate,
    /// Exotel rejects a call.
    ExotelRejects,
    /// Exotel has placed a call, and its answer is lost.
    ExotelAnswerLost,
}

const ALL: [Fault; 28] = [
    Fault::Crash,
    Fault::ColdStart,
    Fault::StoreFails,
    Fault::StoreAnswerLost,
    Fault::StoreSlow,
    Fault::RequestLost,
    Fault::AnswerLost,
    Fault::RequestTwice,
    Fault::QueueLate,
    Fault::QueueTwice,
    Fault::QueueLost,
    Fault::QueueFails,
    Fault::SchedulerFails,
    Fault::ReplicationLate,
    Fault::StreamTwice,
    Fault::StreamLate,
    Fault::AriFails,
    Fault::AriSlow,
    Fault::AriAnswerLost,
    Fault::HookLost,
    Fault::PushRejected,
    Fault::PushLost,
    Fault::PushLate,
    Fault::ExotelLost,
    Fault::ExotelTwice,
    Fault::ExotelLate,
    Fault::ExotelRejects,
    Fault::ExotelAnswerLost,
];

/// The first numbers are those of the faults that a scenario plans: the loss of a region, a cut of replication, the restart
/// of a PBX.
pub const REGION_LOSS: u32 = 0;
/// Replication is cut.
pub const CUT: u32 = 1;
/// A PBX restarts.
pub const RESTART: u32 = 2;
const FIRST: u32 = 10;

/// Which faults may happen in a run, and which have happened.
#[derive(Debug)]
pub struct Faults {
    /// How likely each fault is at each of its places, in thousandths, and its own generator.
    kinds: [(u32, Rng); ALL.len()],
    left: u32,
    next: u32,
    without: Vec<u32>,
    happened: Vec<(u32, Fault)>,
}

impl Faults {
    /// Draws the faults of a run: a quarter of the kinds, and up to six faults. `without` leaves these numbers out.
    pub fn draw(seed: u64, without: &[u32]) -> Self {
        let kinds = ALL.map(|fault| {
            let mut rng = generator(seed, &format!("{fault:?}"));
            let rate = match rng.u32(0..4) {
                0 => [20, 100, 400][rng.usize(0..3)],
                _ => 0,
            };
            (rate, rng)
        });
        Self {
            kinds,
            left: generator(seed, "faults").u32(0..7),
            next: FIRST,
            without: without.to_vec(),
            happened: Vec::new(),
        }
    }

    /// Whether the fault happens here and now. Returns its number.
    pub fn happens(&mut self, fault: Fault) -> Option<u32> {
        let (rate, rng) = &mut self.kinds[fault as usize];
        if self.left == 0 || *rate == 0 || rng.u32(0..1000) >= *rate {
            return None;
        }
        self.left -= 1;
        let number = self.next;
        self.next += 1;
        if self.without.contains(&number) {
            return None;
        }
        self.happened.push((number, fault));
        Some(number)
    }

    /// The faults that have happened.
    pub fn happened(&self) -> &[(u32, Fault)] {
        &self.happened
    }

    /// How often this fault has happened.
    pub fn count(&self, fault: Fault) -> u64 {
        let same = self.happened.iter().filter(|(_, known)| *known == fault);
        u64::try_from(same.count()).unwrap_or(0)
    }

    /// Whether this planned fault is left out.
    pub fn is_without(&self, number: u32) -> bool {
        self.without.contains(&number)
    }
}
