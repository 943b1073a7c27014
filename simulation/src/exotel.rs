//! Exotel: the calls that it places, and its reports of all calls.

use ringback_core::call::{Call, CallStatus, EndReason, Event};
use ringback_core::ids::{CallId, CallSid};

use crate::faults::Fault;
use crate::process::Process;
use crate::random::Part;
use crate::requests::{Answer, Request};
use crate::scenario::{Kind, Outcome};
use crate::sim::Sim;
use crate::state::table::short;

/// A StatusCallback that is not answered with 200 comes again after 5 and after 15 minutes.
const PAUSES: [u64; 2] = [300_000, 900_000];

/// Exotel's id of this call of the plan. Calls that ring in parallel have one id.
pub fn sid(sim: &Sim, caller: usize) -> Option<CallSid> {
    let first = sim.plan().calls[caller].parallel_to.unwrap_or(caller);
    CallSid::try_from(format!("exotel-sid{first}").as_str()).ok()
}

/// Asks Exotel to connect the two numbers of a call.
pub async fn place(process: &Process, call: &Call) -> Event {
    let sim = &process.sim;
    process.step("before it asks Exotel to place a call").await;
    let way = sim.between(Part::Exotel, 50, 800);
    sim.sleep(way).await;
    if sim.fault(Fault::ExotelRejects) {
        return Event::OutboundCallRejected(EndReason::ExotelRefused);
    }
    let caller = sim.state().truth.caller_of(call.call_id);
    let Some(call_sid) = sid(sim, caller) else {
        return Event::ExotelNoAnswer;
    };
    {
        let mut state = sim.state();
        if state.exotel.placed(call.call_id).is_some() {
            let promise = "Exotel is asked once to place a call";
            state
                .truth
                .violated(sim.elapsed(), promise, short(call.call_id));
        }
        state.exotel.reach(call.call_id, CallStatus::Initiated);
    }
    sim.note(|| "Exotel places the call".to_owned());
    let (exotel, id) = (sim.clone(), call.call_id);
    let longest = u64::try_from(call.settings.talk.as_millis()).unwrap_or(u64::MAX);
    sim.spawn(async move { go_on(&exotel, id, caller, longest).await });
    if sim.fault(Fault::ExotelAnswerLost) {
        sim.sleep(3_000).await;
        process.step("after Exotel did not answer").await;
        return Event::ExotelNoAnswer;
    }
    sim.sleep(20).await;
    process.step("after Exotel placed the call").await;
    Event::ExotelProgress {
        call_sid,
        status: CallStatus::Initiated,
    }
}

async fn go_on(sim: &Sim, call: CallId, caller: usize, longest: u64) {
    let plan = &sim.plan().calls[caller];
    let Kind::ToNumber(outcome) = plan.kind else {
        return;
    };
    let rings = sim.between(Part::Exotel, 1_000, 15_000);
    sim.sleep(rings).await;
    let end = match outcome {
        Outcome::Talks => {
            reach(sim, call, caller, CallStatus::InProgress);
            sim.sleep(plan.talk.min(longest)).await;
            CallStatus::Completed
        }
        Outcome::Busy => CallStatus::Declined,
        Outcome::NoAnswer => CallStatus::TimedOut,
        Outcome::Fails => CallStatus::Failed,
    };
    reach(sim, call, caller, end);
}

/// The call reaches this status, and Exotel reports it.
fn reach(sim: &Sim, call: CallId, caller: usize, status: CallStatus) {
    sim.note(|| format!("at Exotel, the call is {}", status.as_str()));
    sim.state().exotel.reach(call, status);
    let Some(call_sid) = sid(sim, caller) else {
        return;
    };
    let progress = Event::ExotelProgress { call_sid, status };
    report(sim, &Request::ExotelReports(call, progress));
}

/// Exotel reports to the first region: perhaps late, perhaps twice, perhaps never.
pub fn report(sim: &Sim, request: &Request) {
    let again = sim.fault(Fault::ExotelTwice);
    for _ in 0..=usize::from(again) {
        if sim.fault(Fault::ExotelLost) {
            continue;
        }
        let late = if sim.fault(Fault::ExotelLate) {
            sim.between(Part::Exotel, 1_000, 40_000)
        } else {
            sim.between(Part::Exotel, 50, 500)
        };
        let (sim, request) = (sim.clone(), request.clone());
        sim.clone().spawn(async move {
            sim.sleep(late).await;
            for pause in PAUSES.into_iter().map(Some).chain([None]) {
                sim.note(|| format!("Exotel reports {}", what(&request)));
                let answer = sim.request(0, request.clone()).await;
                // The webhook answers 200 for an unknown call too: a repetition would not make it known.
                if matches!(answer, Answer::Done(_) | Answer::NoSuchCall) {
                    return;
                }
                let Some(pause) = pause else { return };
                sim.sleep(pause).await;
            }
        });
    }
}

fn what(request: &Request) -> &'static str {
    match request {
        Request::ExotelReports(_, event) | Request::ExotelReportsSid(_, _, event) => event.as_str(),
        _ => "a caller",
    }
}

/// Asks Exotel for the status of a call.
pub async fn look_up(process: &Process, call: &Call) -> Option<Event> {
    let sim = &process.sim;
    process.step("before it asks Exotel").await;
    let way = sim.between(Part::Exotel, 50, 800);
    sim.sleep(way).await;
    let call_sid = call.call_sid.clone()?;
    let status = sim.state().exotel.placed(call.call_id);
    process.step("after Exotel answered").await;
    Some(Event::ExotelProgress {
        call_sid,
        status: status?,
    })
}
