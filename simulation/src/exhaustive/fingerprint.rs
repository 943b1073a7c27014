//! Which states are equal: those that differ only in what nothing reads any more.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::scope::{Moment, Scope};
use super::state::{Content, Do, Happens, Process, Source, State, Task, Work};

/// Two states have the same fingerprint once in about 10^19 pairs.
pub fn fingerprint(scope: &Scope, state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    let had_fault = state.faults_left < scope.faults;
    let State {
        clock,
        stored,
        replicas,
        cut_since,
        reports_to: _,
        messages,
        processes,
        caller,
        phone,
        devices,
        faults_left,
        truth,
    } = state;
    (clock, stored, replicas, cut_since, messages).hash(&mut hasher);
    (caller, phone, faults_left).hash(&mut hasher);
    for process in processes {
        hash_process(process, *faults_left, &mut hasher);
    }
    for device in devices {
        let mut device = *device;
        if had_fault {
            // Without a fault, a push is sent once.
            device.pushes = device.pushes.min(1);
        }
        let rings_on = |since: &u32| scope.at != Moment::AtOnce || *since == *clock;
        device.rings = device.rings.filter(rings_on);
        device.hash(&mut hasher);
    }
    let mut truth = *truth;
    // Without a fault, who accepts is bridged.
    truth.is_accept_done &= !had_fault;
    truth.hash(&mut hasher);
    hasher.finish()
}

/// A process that cannot fail needs not know who asked for what, unless the sender waits for the answer.
fn hash_process(process: &Process, faults_left: u8, hasher: &mut DefaultHasher) {
    let Process {
        region,
        content,
        from,
        work,
        held_since,
    } = process;
    let is_awaited = matches!(
        from,
        Source::App(_) | Source::Arrival { .. } | Source::CallingApp
    );
    if faults_left > 0 || is_awaited || has_failed(work) {
        (content, from).hash(hasher);
    } else {
        (Content::Event(Happens::TimerFired), Source::Copy).hash(hasher);
    }
    (region, held_since).hash(hasher);
    hash_work(work, hasher);
}

fn has_failed(work: &Work) -> bool {
    let inner = |task: &Task| match task {
        Task::Inner(work) => has_failed(work),
        Task::Do(_) | Task::Handle(_) => false,
    };
    work.has_failed || work.first.iter().any(inner)
}

/// Effects that need the call as it was, or the time when the process began.
fn hash_work(work: &Work, hasher: &mut DefaultHasher) {
    let reads_call = |effect: &Do| {
        matches!(
            effect,
            Do::Bridge | Do::SendBusy | Do::RefuseCaller | Do::HangUpCaller | Do::ArmTimer(_)
        )
    };
    let mut reads = work.last.iter().any(reads_call);
    for task in &work.first {
        match task {
            Task::Do(effect) => {
                reads |= reads_call(effect);
                (0, effect).hash(hasher);
            }
            Task::Handle(event) => (1, event).hash(hasher),
            Task::Inner(inner) => hash_work(inner, hasher),
        }
    }
    if reads {
        (work.call, work.now).hash(hasher);
    }
    (&work.last, work.has_failed, work.first.len()).hash(hasher);
}
