//! The steps in words, as the lines of a timeline.

use super::state::{CallerLeg, Content, Do, Happens, Message, State, Task, Work};
use super::step::{Fault, Held, Step};
use super::world::World;

/// A step as a line of a timeline.
pub fn describe(world: &World, state: &State, step: Step) -> String {
    let what = match step {
        Step::Replicate(place) => {
            let replica = &state.replicas[place];
            let status = world.rules.call(replica.version.call).status;
            format!("region {} gets {status:?} by replication", replica.to)
        }
        Step::Deliver(place) => arrives(world, &state.messages[place]),
        Step::Perform { process, task } => {
            let running = &state.processes[process];
            let name = what(world, running.content);
            let mut left = task;
            let does = task_of(&running.work, &mut left).unwrap_or_default();
            format!("region {}: the process of {name} {does}", running.region)
        }
        Step::CallerPhoneAnswers => "the calling app's phone answers and waits".to_owned(),
        Step::PhoneAnswers if state.caller == CallerLeg::Waits => "BRIDGED".to_owned(),
        Step::PhoneAnswers => "the phone answers, and the caller is gone".to_owned(),
        Step::PhoneGivesUp => "the phone has rung for too long".to_owned(),
        Step::PbxGivesUp => "the PBX itself ends the caller's wait".to_owned(),
        Step::React(device) => {
            let reaction = world.scope.devices[usize::from(device)];
            format!("the user of device {device} reacts: {reaction:?}")
        }
        Step::CallerLeaves => "the caller hangs up".to_owned(),
        Step::HangUp => format!("hangs up: {:?}", world.scope.hangs_up),
        Step::Release(held) => format!("continues: {}", held_thing(world, state, held)),
        Step::Fault(fault) => format!("FAULT: {}", fails(world, state, fault)),
        Step::Wait(until) => return format!("{until:>6} ms"),
    };
    format!("          {what}")
}

fn fails(world: &World, state: &State, fault: Fault) -> String {
    let message = |place| held_thing(world, state, Held::Message(place));
    let process = |place| held_thing(world, state, Held::Process(place));
    match fault {
        Fault::Lost(place) => format!("lost: {}", message(place)),
        Fault::Twice(place) => format!("comes again later: {}", message(place)),
        Fault::CrashBefore(place) => {
            format!("the process crashes before it saves {}", message(place))
        }
        Fault::Crash(place) => format!("crashes: {}", process(place)),
        Fault::AnswerLost(place) => format!("the answer is lost: {}", process(place)),
        Fault::Ari {
            process: place,
            is_done,
            ..
        } => {
            let how = if is_done {
                "does what it is asked to do, but its answer is lost"
            } else {
                "does nothing and does not answer"
            };
            format!("Asterisk {how}: {}", process(place))
        }
        Fault::Held(held) => format!("held back: {}", held_thing(world, state, held)),
    }
}

fn held_thing(world: &World, state: &State, held: Held) -> String {
    match held {
        Held::Cut => "all replication".to_owned(),
        Held::Replica(place) => {
            let replica = &state.replicas[place];
            let status = world.rules.call(replica.version.call).status;
            format!("replication of {status:?} to region {}", replica.to)
        }
        Held::Message(place) => {
            let message = &state.messages[place];
            let what = what(world, message.content);
            format!("{what} for region {}", message.region)
        }
        Held::Process(place) => {
            let process = &state.processes[place];
            let what = what(world, process.content);
            format!("the process of {what} in region {}", process.region)
        }
    }
}

fn arrives(world: &World, message: &Message) -> String {
    let what = what(world, message.content);
    match message.content {
        Content::Push(_) => format!("{what} arrives"),
        Content::Event(_) | Content::Start => {
            let region = message.region;
            format!("region {region} gets {what} from {:?}", message.from)
        }
    }
}

fn what(world: &World, content: Content) -> String {
    match content {
        Content::Event(Happens::Overwritten(call)) => {
            let status = world.rules.call(call).status;
            format!("the overwritten version ({status:?})")
        }
        Content::Event(event) => format!("{event:?}"),
        Content::Start => "the request to call".to_owned(),
        Content::Push(device) => format!("the push for device {device}"),
    }
}

fn task_of(work: &Work, left: &mut usize) -> Option<String> {
    if work.first.is_empty() {
        let next: Option<&Do> = work.last.first().filter(|_| *left == 0);
        return next.map(|next| format!("does {next:?}"));
    }
    for place in work.ready() {
        match &work.first[place] {
            Task::Inner(inner) => {
                let found = task_of(inner, left);
                if found.is_some() {
                    return found;
                }
                *left -= World::count_tasks(inner).min(*left);
            }
            Task::Do(effect) if *left == 0 => return Some(format!("does {effect:?}")),
            Task::Handle(event) if *left == 0 => return Some(format!("saves {event:?}")),
            Task::Do(_) | Task::Handle(_) => *left -= 1,
        }
    }
    None
}
