//! An app calls another app or a number.

use std::time::Duration;

use ringback::store::allowance::Allowance;
use ringback::switchboard::{Destination, NewCallRequest, StartLimits};
use ringback_core::call::{CallParty, CallType, Event};
use ringback_core::ids::{CallId, Reference};
use ringback_core::phone_number::PhoneNumber;

use crate::requests::{Answer, Request};
use crate::scenario::Kind;
use crate::sim::Sim;
use crate::state::phones::{called_extension, calling_extension};
use crate::{pbx, phones};

const ATTEMPTS: usize = 4;
const PAUSE: u64 = 700;

/// The app repeats the request until it is answered. It stays in one region unless that is lost: two regions that are asked at once
/// may both ask Exotel.
pub async fn call(sim: &Sim, caller: usize) {
    let plan = &sim.plan().calls[caller];
    let reference = Reference::try_from(format!("reference{caller}").as_str()).ok();
    let parties = calling_extension(caller).zip(called_extension(plan.extension));
    let (Some((by, callee)), Some(reference)) = (parties, reference) else {
        return;
    };
    let number = |text| PhoneNumber::parse(text, "IN");
    let destination = match (plan.kind, number("9800001001"), number("9876543210")) {
        (Kind::ToNumber(_), Some(from), Some(to)) => Destination::Number { from, to },
        _ => Destination::App(callee, CallType::Voice),
    };
    let call_id = CallId::of_reference(&by, &reference);
    sim.state().truth.names(call_id, caller);
    let is_to_number = matches!(plan.kind, Kind::ToNumber(_));
    if !is_to_number {
        loses_patience(sim, caller, call_id);
    }
    let request = NewCallRequest {
        call_id,
        by: CallParty {
            extension: by,
            device: None,
        },
        destination,
        limits: limits(),
    };
    for attempt in 0..ATTEMPTS {
        let region = if sim.plan().regions == 2 && !is_to_number {
            attempt % 2
        } else {
            0
        };
        let answer = sim
            .request(region, Request::AppCalls(request.clone()))
            .await;
        sim.note(|| format!("the calling app gets {answer} from region {region}"));
        if matches!(answer, Answer::Done(_) | Answer::Rejected) {
            break;
        }
        sim.sleep(PAUSE).await;
    }
}

/// The user of the calling app hangs up: the app says so, or its phone ends its leg.
fn loses_patience(sim: &Sim, caller: usize, call: CallId) {
    let Some(patience) = sim.plan().calls[caller].patience else {
        return;
    };
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(patience).await;
        let is_talking = sim.state().is_talking(caller);
        if is_talking {
            return;
        }
        sim.note(|| format!("caller {caller} gives up"));
        sim.state().truth.caller_waits_no_more(caller);
        if patience % 2 == 0 {
            pbx::cancel_other_legs(&sim, &mut sim.state(), caller, 0);
            return;
        }
        let by = calling_extension(caller).map(|extension| CallParty {
            extension,
            device: None,
        });
        if let Some(by) = by {
            sim.state().truth.app_hangs_up(call);
            phones::respond(&sim, call, Event::HungUp { by }).await;
        }
    });
}

fn limits() -> StartLimits {
    StartLimits {
        calls: Allowance::per_minute(60, 10),
        phone_calls: Allowance::per_minute(60, 10),
        concurrent: 10,
        longest_phone_call: Duration::from_secs(3_600),
    }
}
