//! Which states are equal: those that differ only in what nothing reads any more.

use std::hash::{DefaultHasher, Hash, Hasher};

use ringback_core::call::CallStatus;

use super::rules::Rules;
use super::scope::Moment;
use super::state::{Content, Do, Happens, PhoneLeg, Process, Source, State, Task, Time, Work};
use super::world::World;

/// Two states have the same fingerprint once in about 10^19 pairs.
pub fn fingerprint(world: &World, state: &State) -> u64 {
    let scope = &world.scope;
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
        phone_attempt,
        devices,
        faults_left,
        truth,
    } = state;
    (clock, stored, replicas, cut_since, messages).hash(&mut hasher);
    (caller, phone, faults_left).hash(&mut hasher);
    (*phone != PhoneLeg::None)
        .then_some(phone_attempt)
        .hash(&mut hasher);
    for process in processes {
        hash_process(&world.rules, process, *faults_left, &mut hasher);
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

/// The sender of a process that cannot fail does not matter, unless the sender waits for the answer.
fn hash_process(rules: &Rules, process: &Process, faults_left: u8, hasher: &mut DefaultHasher) {
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
    hash_work(rules, work, hasher);
}

fn has_failed(work: &Work) -> bool {
    let inner = |task: &Task| match task {
        Task::Inner(work) => has_failed(work),
        Task::Do(_) | Task::Handle(_) => false,
    };
    work.has_failed || work.first.iter().any(inner)
}

fn hash_work(rules: &Rules, work: &Work, hasher: &mut DefaultHasher) {
    for task in &work.first {
        match task {
            Task::Do(effect) => (0, effect, read_by(rules, work, *effect)).hash(hasher),
            Task::Handle(event) => (1, event).hash(hasher),
            Task::Inner(inner) => hash_work(rules, inner, hasher),
        }
    }
    for effect in &work.last {
        (effect, read_by(rules, work, *effect)).hash(hasher);
    }
    (work.has_failed, work.first.len(), work.last.len()).hash(hasher);
}

/// What an effect reads of the call as it was when the process saved it, and of the time then.
fn read_by(rules: &Rules, work: &Work, effect: Do) -> (bool, bool, Time, Option<Time>) {
    let call = rules.call(work.call);
    match effect {
        Do::Bridge => (call.caller_leg.is_some(), false, call.phone_attempt, None),
        Do::CheckBridge => (call.status == CallStatus::InProgress, false, 0, None),
        Do::SendBusy | Do::LookForTalk | Do::RefuseCaller | Do::HangUp => {
            let knows_caller = call.caller_channel().is_some();
            (
                knows_caller,
                call.ready_at.is_some(),
                call.phone_attempt,
                None,
            )
        }
        Do::LookForCaller | Do::LookAtUselessPhone | Do::EndPhone => {
            (false, false, call.phone_attempt, None)
        }
        Do::ArmTimer(at) => (false, false, work.now, rules.backstop(work.call, at)),
        Do::DisarmTimer => (call.status.is_final(), false, 0, None),
        Do::SendPush | Do::CancelPush(_) | Do::DialCallerPhone | Do::MarkEffectsCompleted(_) => {
            (false, false, 0, None)
        }
    }
}
