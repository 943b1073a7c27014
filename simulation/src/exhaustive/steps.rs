//! What can happen next, and what a state becomes by it.

use super::deliver::Ari;
use super::faults;
use super::people;
use super::state::{
    CallerLeg, Content, Device, Do, HELD_FOR, Happens, Message, PhoneLeg, Source, State, Task,
    Time, Truth, Work,
};
use super::step::{Fault, Held, Step};
use super::world::World;

impl World {
    /// A caller waits and is reported, or an app asks for a call.
    pub fn start(&self) -> State {
        let mut state = State {
            clock: 0,
            stored: [None, None],
            replicas: Vec::new(),
            cut_since: None,
            reports_to: self.scope.reports_to,
            messages: Vec::new(),
            processes: Vec::new(),
            caller: CallerLeg::None,
            phone: PhoneLeg::None,
            phone_attempt: 0,
            devices: vec![Device::default(); self.scope.devices.len()],
            faults_left: self.scope.faults,
            truth: Truth::default(),
        };
        if self.scope.from_app {
            state.send(0, Content::Start, Source::CallingApp);
        } else {
            people::caller_phone_answers(&mut state);
        }
        state
    }

    /// All that can happen next. If there is nothing, the world has come to its end.
    pub fn steps(&self, state: &State) -> Vec<Step> {
        if let Some((process, task)) = step_that_changes_nothing_else(state) {
            return alone(state, process, task);
        }
        let mut steps = self.urgent(state);
        let is_urgent = !steps.is_empty();
        steps.extend(self.choices(state));
        steps.extend(releases(state));
        if state.faults_left > 0 {
            steps.extend(faults::faults(state).into_iter().map(Step::Fault));
        }
        let may_wait = !is_urgent || state.clock + 1 == self.deadline(state);
        if may_wait && let Some(next) = self.next_moment(state) {
            steps.push(Step::Wait(next));
        }
        steps
    }

    /// What happens before the clock moves.
    fn urgent(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for (place, replica) in state.replicas.iter().enumerate() {
            if replica.held_since.is_none() && state.cut_since.is_none() {
                steps.push(Step::Replicate(place));
            }
        }
        for (place, message) in state.messages.iter().enumerate() {
            let is_same = |before: usize| state.messages[before] == *message;
            let is_repeated = place.checked_sub(1).is_some_and(is_same);
            if !is_repeated && message.is_due(state.clock) && can_arrive(state, message) {
                steps.push(Step::Deliver(place));
            }
        }
        for (process, running) in state.processes.iter().enumerate() {
            if running.held_since.is_none() {
                let tasks = 0..Self::count_tasks(&running.work);
                steps.extend(tasks.map(|task| Step::Perform { process, task }));
            }
        }
        steps.extend(self.reactions(state));
        let held = held(state).filter(|(_, since)| since + HELD_FOR <= state.clock);
        steps.extend(held.map(|(held, _)| Step::Release(held)));
        steps
    }

    fn next_moment(&self, state: &State) -> Option<Time> {
        let mut moments: Vec<Time> = state.messages.iter().map(|message| message.due).collect();
        moments.extend(held(state).map(|(_, since)| since + HELD_FOR));
        self.moments(state, &mut moments);
        moments
            .into_iter()
            .filter(|moment| *moment > state.clock)
            .min()
    }

    /// The state after a step.
    pub fn after(&mut self, state: &State, step: Step) -> State {
        let mut next = state.clone();
        match step {
            Step::Replicate(place) => self.replicate(&mut next, place),
            Step::Deliver(place) => self.deliver(&mut next, place),
            Step::Perform { process, task } => {
                self.perform(&mut next, process, task, Ari::Answers);
            }
            Step::CallerPhoneAnswers => people::caller_phone_answers(&mut next),
            Step::PhoneAnswers => people::phone_answers(&mut next),
            Step::PhoneGivesUp => people::phone_gives_up(&mut next),
            Step::PbxGivesUp => people::pbx_gives_up(&mut next),
            Step::React(device) => self.react(&mut next, device),
            Step::CallerLeaves => people::caller_leaves(&mut next),
            Step::HangUp => self.hang_up(&mut next),
            Step::Release(Held::Replica(place)) => next.replicas[place].held_since = None,
            Step::Release(Held::Message(place)) => next.messages[place].held_since = None,
            Step::Release(Held::Cut) => next.cut_since = None,
            Step::Release(Held::Process(place)) => next.processes[place].held_since = None,
            Step::Fault(fault) => self.fail(&mut next, fault),
            Step::Wait(until) => {
                self.phone_must_not_ring(&mut next, until);
                wait(&mut next, until);
            }
        }
        next.normalize();
        next
    }
}

/// A step for timers changes nothing that others read before the clock moves, so its place among their steps does not matter: it comes
/// first. While a crash may come between it and the other steps of its process, it must be the only one that is left.
fn step_that_changes_nothing_else(state: &State) -> Option<(usize, usize)> {
    let free = state.processes.iter().enumerate();
    let mut free = free.filter(|(_, process)| process.held_since.is_none());
    free.find_map(|(place, process)| {
        let mut tasks = Vec::new();
        faults::collect(&process.work, &mut tasks);
        if state.faults_left > 0 && (tasks.len() > 1 || !ends_with(&process.work)) {
            return None;
        }
        let is_for_timers =
            |task: &Option<Do>| matches!(task, Some(Do::ArmTimer(_) | Do::DisarmTimer));
        let task = tasks.iter().position(is_for_timers)?;
        Some((place, task))
    })
}

/// Whether nothing follows the next step of a process.
fn ends_with(mut work: &Work) -> bool {
    while let [Task::Inner(inner)] = work.first.as_slice() {
        if !work.last.is_empty() {
            return false;
        }
        work = inner;
    }
    !work.has_failed && work.first.len() + work.last.len() == 1
}

/// The only step that is left for a process, and its faults.
fn alone(state: &State, process: usize, task: usize) -> Vec<Step> {
    let mut steps = vec![Step::Perform { process, task }];
    if state.faults_left > 0 {
        let own = faults::faults(state).into_iter().filter(|fault| {
            matches!(fault, Fault::Crash(of) | Fault::AnswerLost(of) | Fault::Held(Held::Process(of)) if *of == process)
        });
        steps.extend(own.map(Step::Fault));
    }
    steps
}

/// What runs when the clock moves has begun before.
fn wait(state: &mut State, until: Time) {
    for message in &mut state.messages {
        if message.is_due(state.clock) && matches!(message.content, Content::Event(_)) {
            message.began = Some(state.clock);
        }
    }
    state.clock = until;
}

/// A request waits up to 3 s for the call to be replicated. The dialplan reports the end of a leg when the report of its arrival was
/// answered.
fn can_arrive(state: &State, message: &Message) -> bool {
    let is_arrival = |from: Source| from == Source::Arrival { again: false };
    let is_end = matches!(
        message.content,
        Content::Event(Happens::CallerLegEnded { .. })
    );
    let arrives = state.messages.iter().any(|sent| is_arrival(sent.from));
    let is_reported = !arrives && !state.processes.iter().any(|runs| is_arrival(runs.from));
    if is_end && !is_reported {
        return false;
    }
    let region = message.region;
    let is_here = state.stored[usize::from(region)].is_some();
    let comes_soon = || {
        let mut replicas = state.replicas.iter();
        let is_cut = state.cut_since.is_some();
        replicas.any(|replica| replica.to == region && replica.held_since.is_none() && !is_cut)
    };
    is_here || !comes_soon()
}

fn held(state: &State) -> impl Iterator<Item = (Held, Time)> {
    let replicas = state.replicas.iter().enumerate();
    let replicas =
        replicas.filter_map(|(place, held)| Some((Held::Replica(place), held.held_since?)));
    let messages = state.messages.iter().enumerate();
    let messages =
        messages.filter_map(|(place, held)| Some((Held::Message(place), held.held_since?)));
    let processes = state.processes.iter().enumerate();
    let processes =
        processes.filter_map(|(place, held)| Some((Held::Process(place), held.held_since?)));
    let cut = state.cut_since.map(|since| (Held::Cut, since));
    replicas.chain(messages).chain(processes).chain(cut)
}

fn releases(state: &State) -> impl Iterator<Item = Step> {
    let later = |(_, since): &(Held, Time)| {
        (*since..*since + HELD_FOR).contains(&state.clock) && *since < state.clock
    };
    held(state)
        .filter(later)
        .map(|(held, _)| Step::Release(held))
}
