//! One run: what people do, until nothing more happens.

use std::time::Duration;

use ringback::store::allowance::Allowance;
use ringback::switchboard::{Destination, InboundCallReport, NewCallRequest, StartLimits};
use ringback_core::call::{CallSide, CallType, Event};
use ringback_core::ids::{CallId, Reference};
use ringback_core::phone_number::{Caller, PhoneNumber};

use crate::faults::{CUT, Fault, REGION_LOSS, RESTART};
use crate::functions::{self, Answer};
use crate::invariants::{Violation, check_end};
use crate::scenario::{Kind, Scenario};
use crate::sim::{Seconds, Sim};
use crate::{exotel, pbx, phones};

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// The promises that were broken.
    pub violations: Vec<Violation>,
    /// The faults that happened, with their numbers.
    pub faults: Vec<(u32, Fault)>,
    /// Which of the planned faults there were, by their numbers.
    pub planned: Vec<u32>,
    /// What happened, if it was recorded.
    pub timeline: Vec<String>,
    /// The scenario in words.
    pub scenario: String,
}

/// A run may last so long. Calls last ten minutes at most, and their timers fire within minutes.
const LONGEST_RUN: Duration = Duration::from_secs(4 * 60 * 60);

/// Runs one seed, without the faults of these numbers.
///
/// # Errors
/// When tokio cannot start.
pub fn simulate(seed: u64, without: &[u32], record: bool) -> std::io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    Ok(tasks.block_on(&runtime, async {
        let sim = Sim::new(seed, without, record);
        begin(&sim);
        let is_idle = sim.until_idle(LONGEST_RUN).await;
        check_end(&sim, is_idle);
        let mut state = sim.state();
        Outcome {
            violations: std::mem::take(&mut state.truth.violations),
            faults: state.faults.happened().to_vec(),
            planned: planned(sim.plan()),
            timeline: state.timeline.take().unwrap_or_default(),
            scenario: format!("{:#?}", sim.plan()),
        }
    }))
}

fn planned(plan: &Scenario) -> Vec<u32> {
    let all = [
        (plan.region_loss.is_some(), REGION_LOSS),
        (plan.cut.is_some(), CUT),
        (plan.restart.is_some(), RESTART),
    ];
    all.into_iter()
        .filter_map(|(is_planned, number)| is_planned.then_some(number))
        .collect()
}

/// The large faults stand at the beginning of the timeline.
fn note_plan(sim: &Sim) {
    let plan = sim.plan();
    if let Some(loss) = plan.region_loss {
        let (from, until) = (Seconds(loss.from), Seconds(loss.until));
        let how = if loss.silent {
            "does not answer"
        } else {
            "refuses connections"
        };
        let region = loss.region;
        sim.note(|| {
            format!("PLANNED {REGION_LOSS}: region {region} {how} from {from} s to {until} s")
        });
    }
    if let Some((from, until)) = plan.cut {
        let (from, until) = (Seconds(from), Seconds(until));
        sim.note(|| format!("PLANNED {CUT}: no replication from {from} s to {until} s"));
    }
    if let Some((pbx, at)) = plan.restart {
        let at = Seconds(at);
        sim.note(|| format!("PLANNED {RESTART}: PBX {pbx} restarts at {at} s"));
    }
}

fn begin(sim: &Sim) {
    note_plan(sim);
    let people = sim.clone();
    match sim.plan().kind {
        Kind::FromTrunk { .. } => sim.spawn(async move { from_trunk(&people).await }),
        Kind::BetweenApps | Kind::ToNumber(_) => sim.spawn(async move { app_calls(&people).await }),
    }
    if let Some((pbx, at)) = sim.plan().restart {
        let sim = sim.clone();
        sim.clone()
            .spawn(async move { pbx::restart(&sim, pbx, at).await });
    }
}

/// Exotel reports the caller, and brings the leg to a PBX.
async fn from_trunk(sim: &Sim) {
    let Kind::FromTrunk {
        webhook,
        leg,
        has_sid,
        withheld,
        reports_end,
    } = sim.plan().kind
    else {
        return;
    };
    let (Some(extension), Some(sid)) = (phones::callee(), exotel::sid()) else {
        return;
    };
    let number = PhoneNumber::parse("9876543210", "IN").filter(|_| !withheld);
    let report = InboundCallReport {
        call_id: CallId::of_call_sid(&sid),
        extension,
        caller: Caller::on_network(number, None),
        call_sid: Some(sid.clone()),
        caller_leg: None,
    };
    if let Some(webhook) = webhook {
        let (exotel, report) = (sim.clone(), report.clone());
        sim.spawn(async move {
            exotel.sleep(webhook).await;
            let again = exotel.fault(Fault::ExotelTwice);
            for _ in 0..=usize::from(again) {
                exotel.note(|| "Exotel reports the caller".to_owned());
                let answer = functions::exotel_reports_caller(&exotel, 0, report.clone()).await;
                exotel.note(|| format!("Exotel gets {answer}"));
            }
        });
    }
    sim.sleep(leg).await;
    let pbx = sim.state().rng.usize(0..sim.plan().pbxs);
    pbx::caller_arrives(sim, pbx, report, has_sid.then_some(sid.clone())).await;
    if reports_end {
        // The leg may still be bridged: Exotel reports the end of the call, not of the wait.
        while sim
            .state()
            .pbxs
            .iter()
            .any(|pbx| !pbx.channels().is_empty())
        {
            sim.sleep(500).await;
        }
        let ended = Event::CallerLegEnded {
            leg: None,
            answered: false,
            by: CallSide::Caller,
        };
        exotel::report(sim, CallId::of_call_sid(&sid), ended);
    }
}

const ATTEMPTS: usize = 4;

/// An app calls another app or a number, and repeats the request until it is answered. It stays in one region unless that is lost:
/// two regions that are asked at once may both ask Exotel.
async fn app_calls(sim: &Sim) {
    let reference = Reference::try_from("reference").ok();
    let (Some(by), Some(callee), Some(reference)) = (phones::caller(), phones::callee(), reference)
    else {
        return;
    };
    let number = |text| PhoneNumber::parse(text, "IN");
    let destination = match (sim.plan().kind, number("9800001001"), number("9876543210")) {
        (Kind::ToNumber(_), Some(from), Some(to)) => Destination::Number { from, to },
        _ => Destination::App(callee, CallType::Voice),
    };
    let call_id = CallId::of_reference(&by, &reference);
    let request = NewCallRequest {
        call_id,
        by: by.clone(),
        destination,
        limits: limits(),
    };
    let is_to_number = matches!(sim.plan().kind, Kind::ToNumber(_));
    for attempt in 0..ATTEMPTS {
        let region = if sim.plan().regions == 2 && !is_to_number {
            attempt % 2
        } else {
            0
        };
        let answer = functions::app_calls(sim, region, request.clone()).await;
        sim.note(|| format!("the calling app gets {answer} from region {region}"));
        if matches!(answer, Answer::Done(_) | Answer::Rejected) {
            break;
        }
        sim.sleep(700).await;
    }
}

fn limits() -> StartLimits {
    StartLimits {
        calls: Allowance::per_minute(60, 10),
        phone_calls: Allowance::per_minute(60, 10),
        concurrent: 10,
        longest_phone_call: Duration::from_secs(3_600),
    }
}
