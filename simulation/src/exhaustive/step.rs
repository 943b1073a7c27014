//! One step from a state to the next one, and the faults among the steps.

use super::state::Time;

/// One thing that can happen. The numbers are places in the lists of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Replicate(usize),
    Deliver(usize),
    Perform {
        process: usize,
        task: usize,
    },
    CallerPhoneAnswers,
    PhoneAnswers,
    PhoneGivesUp,
    PbxGivesUp,
    React(u8),
    CallerLeaves,
    HangUp,
    /// A fault no longer holds this back.
    Release(Held),
    Fault(Fault),
    /// Time passes until this moment.
    Wait(Time),
}

/// Something that a fault holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Replica(usize),
    Message(usize),
    Process(usize),
    /// All replication.
    Cut,
}

/// One fault. The numbers are places in the lists of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A message is lost. An app or the dialplan, which waits for an answer, sends it again.
    Lost(usize),
    /// A message comes again later.
    Twice(usize),
    /// A process crashes before it saves what a message brings.
    CrashBefore(usize),
    /// A process crashes between two of its steps.
    Crash(usize),
    /// The client of a process gets no answer. The process continues.
    AnswerLost(usize),
    /// Asterisk does not answer a request of a process, which is the task of this number.
    Ari {
        process: usize,
        task: usize,
        is_done: bool,
    },
    /// Something is held back. The client of a process that stalls gets no answer.
    Held(Held),
}
