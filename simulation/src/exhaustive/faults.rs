//! The faults: messages are lost, sent twice or held back. Processes crash or stall, or their answers are lost.

use super::deliver::{Again, Ari, repeat};
use super::state::{Content, Do, Happens, Message, Process, Source, State, Task, Work};
use super::step::{Fault, Held};
use super::world::World;

/// The faults that can happen now.
pub fn faults(state: &State) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (place, message) in state.messages.iter().enumerate() {
        if !message.is_due(state.clock) {
            continue;
        }
        let is_hook = message.from == Source::Hook;
        let is_push = message.from == Source::PushService;
        let is_timer = message.from == Source::Queue;
        let is_request = matches!(
            message.from,
            Source::App(_) | Source::CallingApp | Source::Arrival { .. }
        );
        let is_merge = matches!(message.content, Content::Event(Happens::Overwritten(_)));
        // Nothing else would bring an overwritten version, so the queue must.
        if is_hook || is_push || is_request || (is_timer && !is_merge) {
            faults.push(Fault::Lost(place));
        }
        if is_hook || is_request || is_timer {
            faults.push(Fault::Twice(place));
        }
        if is_hook || is_push || is_timer {
            faults.push(Fault::Held(Held::Message(place)));
        }
        if !is_push && message.from != Source::Copy {
            faults.push(Fault::CrashBefore(place));
        }
    }
    for (place, process) in state.processes.iter().enumerate() {
        faults.extend([Fault::Crash(place), Fault::Held(Held::Process(place))]);
        if !matches!(process.from, Source::Schedule { .. } | Source::Copy) {
            faults.push(Fault::AnswerLost(place));
        }
        let mut tasks = Vec::new();
        collect(&process.work, &mut tasks);
        for (task, effect) in tasks.into_iter().enumerate() {
            // The other requests are tried three times.
            let ways: &[bool] = match effect {
                Some(Do::Bridge) => &[true, false],
                Some(Do::LookForCaller | Do::CheckBridge) => &[false],
                _ => &[],
            };
            faults.extend(ways.iter().map(|is_done| Fault::Ari {
                process: place,
                task,
                is_done: *is_done,
            }));
        }
    }
    if state.stored.iter().all(Option::is_some) && state.cut_since.is_none() {
        faults.push(Fault::Held(Held::Cut));
    }
    for place in 0..state.replicas.len() {
        faults.push(Fault::Held(Held::Replica(place)));
    }
    faults
}

/// The effects that a process can carry out next, in the order of its tasks.
pub fn collect(work: &Work, tasks: &mut Vec<Option<Do>>) {
    if work.first.is_empty() && !work.is_done() {
        tasks.push(work.last.first().copied());
    }
    for place in work.ready() {
        match &work.first[place] {
            Task::Do(effect) => tasks.push(Some(*effect)),
            Task::Handle(_) => tasks.push(None),
            Task::Inner(inner) => collect(inner, tasks),
        }
    }
}

impl World {
    pub fn fail(&mut self, state: &mut State, fault: Fault) {
        state.faults_left -= 1;
        let clock = state.clock;
        match fault {
            Fault::Lost(place) => {
                let lost = state.messages.remove(place);
                let is_repeated = !matches!(lost.from, Source::Hook | Source::Queue);
                if is_repeated {
                    repeat(&self.scope, state, &process_of(lost), Again::NoAnswer);
                }
            }
            Fault::Twice(place) => {
                let mut again = state.messages[place].clone();
                again.from = Source::Copy;
                again.held_since = Some(clock);
                state.messages.push(again);
            }
            Fault::CrashBefore(place) => {
                let message = state.messages.remove(place);
                repeat(&self.scope, state, &process_of(message), Again::Failed);
            }
            Fault::Crash(place) => {
                let process = state.processes.remove(place);
                repeat(&self.scope, state, &process, Again::Failed);
            }
            Fault::AnswerLost(place) => self.lose_answer(state, place),
            Fault::Ari {
                process,
                task,
                is_done,
            } => {
                let ari = if is_done { Ari::AnswerLost } else { Ari::Fails };
                self.perform(state, process, task, ari);
            }
            Fault::Held(Held::Replica(place)) => {
                state.truth.was_replicated_late = true;
                state.replicas[place].held_since = Some(clock);
            }
            Fault::Held(Held::Cut) => {
                state.truth.was_replicated_late = true;
                state.cut_since = Some(clock);
            }
            Fault::Held(Held::Message(place)) => state.messages[place].held_since = Some(clock),
            Fault::Held(Held::Process(place)) => {
                self.lose_answer(state, place);
                state.processes[place].held_since = Some(clock);
            }
        }
    }

    fn lose_answer(&self, state: &mut State, place: usize) {
        let process = state.processes[place].clone();
        if !matches!(process.from, Source::Schedule { .. }) {
            repeat(&self.scope, state, &process, Again::NoAnswer);
        }
        state.processes[place].from = Source::Copy;
    }
}

/// A process that has not saved anything.
fn process_of(message: Message) -> Process {
    Process {
        region: message.region,
        content: message.content,
        from: message.from,
        work: Work {
            call: 0,
            now: 0,
            first: Vec::new(),
            last: Vec::new(),
            has_failed: true,
        },
        held_since: None,
    }
}
