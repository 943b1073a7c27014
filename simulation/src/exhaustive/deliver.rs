//! Messages arrive at functions, and processes save what they decide and carry out what follows.

use std::rc::Rc;

use ringback_core::call::CallStatus;

use super::effects::{arm, create_schedule};
use super::rules::{Decided, Streamed};
use super::scope::Scope;
use super::state::{
    CallRef, CallerLeg, Content, Do, Happens, Message, Process, Replica, Source, State, Task, Time,
    Version, Work,
};
use super::world::World;

/// The pauses after which a request or a message comes again.
const PBX_PATIENCE: Time = 5_000;
const APP_PATIENCE: Time = 3_000;
const VISIBILITY: Time = 15_000;
const SCHEDULE_AGAIN: Time = 60_000;

/// When a client or a queue repeats what was not handled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It gets an error at once.
    Failed,
    /// It gets no answer.
    NoAnswer,
}

impl World {
    pub fn replicate(&mut self, state: &mut State, index: usize) {
        let Replica { to, version, .. } = state.replicas.remove(index);
        self.replace(state, to, version);
    }

    pub fn deliver(&mut self, state: &mut State, index: usize) {
        let message = state.messages.remove(index);
        let now = message.began.unwrap_or(state.clock);
        let stored = state.stored[usize::from(message.region)];
        let (work, is_rejected) = match (message.content, stored) {
            (Content::Push(device), _) => return self.push_arrives(state, device),
            (Content::Start, None) => {
                arm(state, message.region, now + super::state::RING, now);
                self.create(state, message.region, now)
            }
            (Content::Event(Happens::CallerReported), None) if !self.scope.from_app => {
                self.create(state, message.region, now)
            }
            (Content::Event(_), None) => return self.is_unknown(state, &message),
            (Content::Start, Some(_)) => {
                self.handle(state, message.region, Happens::RequestedAgain, now)
            }
            (Content::Event(Happens::CallerReported), _)
                if message.from == (Source::Arrival { again: true })
                    && state.caller != CallerLeg::Waits =>
            {
                return;
            }
            (Content::Event(event), Some(_)) => self.handle(state, message.region, event, now),
        };
        let process = Process {
            region: message.region,
            content: message.content,
            from: message.from,
            work,
            held_since: None,
        };
        self.go_on(state, process, is_rejected);
    }

    /// A process stores the call.
    fn create(&mut self, state: &mut State, region: u8, now: Time) -> (Work, bool) {
        let (call, effects) = self.rules.begin(self.scope.from_app, now);
        write(self, state, region, call, region);
        let work = Work {
            call,
            now,
            first: effects.into_iter().map(Task::Do).collect(),
            last: Vec::new(),
            has_failed: false,
        };
        (work, false)
    }

    /// Reads, decides and writes. Returns what is left to do, and whether the event was rejected.
    fn handle(&mut self, state: &mut State, region: u8, event: Happens, now: Time) -> (Work, bool) {
        let (call, decided) = self.save(state, region, event, now);
        let work = Work {
            call,
            now,
            first: decided.first.iter().copied().map(Task::Do).collect(),
            last: decided.last.clone(),
            has_failed: false,
        };
        (work, decided.is_rejected)
    }

    fn save(
        &mut self,
        state: &mut State,
        region: u8,
        event: Happens,
        now: Time,
    ) -> (CallRef, Rc<Decided>) {
        let version = state.stored[usize::from(region)].unwrap_or(Version {
            stamp: 0,
            call: 0,
            stored_in: region,
        });
        let now = self.next_new_moment(state, now);
        let decided = self.rules.decide(version.call, event, now);
        if let Some(next) = decided.next {
            let is_late = now >= self.rules.rings_until(next);
            let status = |call| self.rules.call(call).status;
            if is_late
                && matches!(event, Happens::Accepted(_))
                && status(version.call) == CallStatus::WaitingForMobile
            {
                state.truth.violated("a ring ends at its deadline");
            }
            write(self, state, region, next, version.stored_in);
        }
        (decided.next.unwrap_or(version.call), decided)
    }

    /// This moment, or the next one from which no process completes effects or has completed them: two events of one call are hardly
    /// ever handled in the same millisecond.
    fn next_new_moment(&self, state: &State, now: Time) -> Time {
        let was_pending = |moment: Time| {
            let mark = Do::MarkEffectsCompleted(moment);
            let mut processes = state.processes.iter();
            let mut versions = state.stored.iter().flatten();
            processes.any(|process| will_do(&process.work, mark))
                || versions.any(|version| self.rules.has_completed(version.call, moment))
        };
        (now..).find(|moment| !was_pending(*moment)).unwrap_or(now)
    }

    /// Stores a version, and does what the region's stream demands.
    fn replace(&mut self, state: &mut State, region: u8, version: Version) {
        let before = state.stored[usize::from(region)].replace(version);
        let before = before.map(|before| before.call);
        let after = version.call;
        let status = self.rules.call(after).status;
        if status.is_final() && status != CallStatus::Completed {
            state.truth.unanswered_end.get_or_insert(state.clock);
        }
        // The stream repeats a change until its function has handled it.
        match self
            .rules
            .streamed(before, after, version.stored_in, region)
        {
            Streamed::Nothing => {}
            Streamed::CreateBackstop(at) => create_schedule(state, region, false, at),
            Streamed::ArmTimer { at, backstop } => {
                arm(state, region, at, state.clock);
                create_schedule(state, region, false, backstop);
            }
            Streamed::Merge => {
                let lost = Happens::Overwritten(before.unwrap_or(after));
                state.send(region, Content::Event(lost), Source::Queue);
            }
        }
    }

    /// The call is not in this region, and no replication brings it soon.
    fn is_unknown(&self, state: &mut State, message: &Message) {
        let other = self.scope.other(message.region);
        let is_known_there = state.stored[usize::from(other)].is_some();
        match message.from {
            Source::App(_) | Source::Hook | Source::Arrival { .. } if is_known_there => {
                state.send(other, message.content, message.from);
            }
            _ => {}
        }
    }

    /// How many steps this process could make next.
    pub fn count_tasks(work: &Work) -> usize {
        if work.first.is_empty() {
            return usize::from(!work.is_done());
        }
        let count = |task: &Task| match task {
            Task::Do(_) | Task::Handle(_) => 1,
            Task::Inner(work) => Self::count_tasks(work),
        };
        work.ready().map(|place| count(&work.first[place])).sum()
    }

    /// A process makes one of its steps.
    pub fn perform(&mut self, state: &mut State, process: usize, task: usize, ari: Ari) {
        let mut process = state.processes.remove(process);
        let (region, mut left) = (process.region, task);
        self.perform_in(state, region, &mut process.work, &mut left, ari);
        self.go_on(state, process, false);
    }

    fn perform_in(
        &mut self,
        state: &mut State,
        region: u8,
        work: &mut Work,
        left: &mut usize,
        ari: Ari,
    ) -> bool {
        if work.first.is_empty() {
            if work.is_done() || *left > 0 {
                *left = left.saturating_sub(usize::from(!work.is_done()));
                return false;
            }
            let next = work.last.remove(0);
            self.perform_last(state, region, work, next);
            return true;
        }
        let ready: Vec<usize> = work.ready().collect();
        for index in ready {
            if let Task::Inner(inner) = &mut work.first[index] {
                if self.perform_in(state, region, inner, left, ari) {
                    return true;
                }
            } else if *left == 0 {
                let task = work.first.remove(index);
                self.perform_first(state, region, work, task, ari);
                return true;
            } else {
                *left -= 1;
            }
        }
        false
    }

    fn perform_first(
        &mut self,
        state: &mut State,
        region: u8,
        work: &mut Work,
        task: Task,
        ari: Ari,
    ) {
        match task {
            Task::Do(effect) => {
                let caused = match ari {
                    Ari::Fails => None,
                    Ari::Answers | Ari::AnswerLost => self.carry_out(state, region, work, effect),
                };
                if ari == Ari::Answers {
                    work.first.extend(caused);
                } else {
                    work.has_failed = true;
                }
            }
            Task::Handle(event) => {
                let now = state.clock.max(work.now);
                let (inner, _) = self.handle(state, region, event, now);
                work.first.push(Task::Inner(inner));
            }
            Task::Inner(_) => {}
        }
    }

    fn perform_last(&mut self, state: &mut State, region: u8, work: &mut Work, effect: Do) {
        if let Do::MarkEffectsCompleted(pending_since) = effect {
            let now = state.clock.max(work.now);
            let completed = Happens::EffectsCompleted { pending_since };
            let (inner, _) = self.handle(state, region, completed, now);
            work.first.push(Task::Inner(inner));
        } else if self.rules.call(work.call).status.is_final() {
            self.carry_out(state, region, work, effect);
        }
    }

    /// The process has something left to do, or its client gets an answer.
    fn go_on(&mut self, state: &mut State, mut process: Process, is_rejected: bool) {
        leave_out_done(&mut process.work);
        if !process.work.is_done() {
            state.processes.push(process);
        } else if process.work.has_failed {
            repeat(&self.scope, state, &process, Again::Failed);
        } else {
            self.answer(state, &process, is_rejected);
        }
    }

    fn answer(&self, state: &mut State, process: &Process, is_rejected: bool) {
        match process.from {
            Source::App(device) => {
                if !is_rejected && matches!(process.content, Content::Event(Happens::Accepted(_))) {
                    state.truth.is_accept_done = true;
                }
                let device = &mut state.devices[usize::from(device)];
                device.is_settled = true;
                device.rings = None;
                device.answers &= !is_rejected;
            }
            Source::Arrival { again: false } if self.scope.regions == 2 => {
                let due = state.clock + PBX_PATIENCE;
                let again = Source::Arrival { again: true };
                state.send_at(due, 0, process.content, again);
            }
            Source::Arrival { .. }
            | Source::Hook
            | Source::CallingApp
            | Source::Queue
            | Source::Schedule { .. }
            | Source::PushService
            | Source::Copy => {}
        }
    }
}

/// Whether Asterisk does what a process asks for, and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ari {
    Answers,
    /// It does nothing.
    Fails,
    /// It does what it is asked to do.
    AnswerLost,
}

/// The sender of a request or a message that was not handled sends it again.
pub fn repeat(scope: &Scope, state: &mut State, process: &Process, again: Again) {
    let is_arrival = matches!(process.from, Source::Arrival { .. });
    if is_arrival && state.caller != CallerLeg::Waits {
        return;
    }
    let (pause, region) = match (process.from, again) {
        (Source::Queue, _) => (VISIBILITY, process.region),
        (Source::Schedule { .. }, _) => (SCHEDULE_AGAIN, process.region),
        (Source::App(_) | Source::CallingApp, Again::NoAnswer) => {
            (APP_PATIENCE, scope.other(process.region))
        }
        (Source::Arrival { .. } | Source::Hook, Again::NoAnswer) => {
            (PBX_PATIENCE, scope.other(process.region))
        }
        (
            Source::App(_) | Source::CallingApp | Source::Arrival { .. } | Source::Hook,
            Again::Failed,
        ) => (0, scope.other(process.region)),
        (Source::PushService | Source::Copy, _) => return,
    };
    let due = state.clock + pause;
    state.send_at(due, region, process.content, process.from);
}

fn write(world: &mut World, state: &mut State, region: u8, call: CallRef, stored_in: u8) {
    let stamps = state.stored.iter().flatten().map(|version| version.stamp);
    let on_the_way = state.replicas.iter().map(|replica| replica.version.stamp);
    let stamp = stamps.chain(on_the_way).max().map_or(0, |last| last + 1);
    let version = Version {
        stamp,
        call,
        stored_in,
    };
    world.replace(state, region, version);
    if world.scope.regions == 2 {
        state.replicas.push(Replica {
            to: 1 - region,
            version,
            held_since: None,
        });
    }
}

fn will_do(work: &Work, effect: Do) -> bool {
    let inner = |task: &Task| match task {
        Task::Inner(work) => will_do(work, effect),
        Task::Do(_) | Task::Handle(_) => false,
    };
    work.last.contains(&effect) || work.first.iter().any(inner)
}

fn leave_out_done(work: &mut Work) {
    let mut has_failed = work.has_failed;
    let mut latest = work.call;
    work.first.retain_mut(|task| {
        let Task::Inner(inner) = task else {
            return true;
        };
        leave_out_done(inner);
        has_failed |= inner.is_done() && inner.has_failed;
        latest = inner.call;
        !inner.is_done()
    });
    work.has_failed = has_failed;
    // The last effects follow from the call as it is then.
    if work.first.is_empty() {
        work.call = latest;
    }
}
