//! What each function does with a request, a message or a record, and how requests reach it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ringback::api::status_update::StatusUpdate;
use ringback::store::calls::CallStore;
use ringback::switchboard::{Effects, EventOutcome, Switchboard, SwitchboardError};
use ringback_core::call::{CallStatus, Event, StreamAction, stream_action};
use ringback_core::ids::CallId;

use crate::effects::{EffectError, RunEffects};
use crate::faults::Fault;
use crate::process::{Function, Process, run};
use crate::random::Part;
use crate::requests::{Answer, Named, Request};
use crate::sim::Sim;
use crate::state::table::{REGIONS, Record};
use crate::state::timers::Message;
use crate::store::Store;
use crate::{phones, timers};

const ASTERISK_INCOMING: Function = Function("asterisk-incoming", 10_000);
const CALL_RESPONSE: Function = Function("call-response", 29_000);
const CALL_TIMEOUT: Function = Function("call-timeout", 14_000);
const EXOTEL_WEBHOOK: Function = Function("exotel-webhook", 14_000);
const WS_MESSAGE: Function = Function("ws-message", 25_000);
const BROADCAST: Function = Function("broadcast", 60_000);

/// The dialplan waits 5 s for an answer, so the function answers earlier.
const PBX_PATIENCE: Duration = Duration::from_secs(4);

/// The function that handles a request, and how long its client waits for the answer.
const fn function_of(request: &Request) -> (Function, u64) {
    match request {
        Request::CallerArrives(_) | Request::PbxReports(..) => (ASTERISK_INCOMING, 5_000),
        Request::AppResponds(..) => (CALL_RESPONSE, 3_000),
        Request::ExotelReportsCaller(_)
        | Request::ExotelReports(..)
        | Request::ExotelReportsSid(..) => (EXOTEL_WEBHOOK, 10_000),
        Request::AppCalls(_) => (WS_MESSAGE, 10_000),
    }
}

/// Sends a request to its function, and waits for the answer. The process runs on if the client gives up.
pub async fn send(sim: &Sim, region: usize, request: Request) -> Answer {
    let (function, patience) = function_of(&request);
    if sim.is_lost(region) {
        let is_silent = sim.plan().region_loss.is_some_and(|loss| loss.silent);
        sim.sleep(if is_silent { patience } else { 5 }).await;
        return Answer::Nothing;
    }
    if sim.fault(Fault::RequestLost) {
        sim.sleep(patience).await;
        return Answer::Nothing;
    }
    let began = sim.elapsed();
    let way = sim.between(Part::Requests, 5, 40);
    sim.sleep(way).await;
    if sim.fault(Fault::RequestTwice) {
        let (again, request) = (sim.clone(), request.clone());
        let later = sim.between(Part::Requests, 0, 2_000);
        sim.spawn(async move {
            again.sleep(later).await;
            run(&again, region, function, |process| serve(process, request)).await;
        });
    }
    let (answer, answered) = tokio::sync::oneshot::channel();
    let running = sim.clone();
    sim.spawn(async move {
        let done = run(&running, region, function, |process| {
            serve(process, request)
        })
        .await;
        let _client_gave_up = answer.send(done.unwrap_or(Answer::Failed));
    });
    let left = Duration::from_millis(patience.saturating_sub(sim.elapsed() - began));
    let answer = match tokio::time::timeout(left, answered).await {
        Ok(answer) => answer.unwrap_or(Answer::Failed),
        Err(_) => Answer::Nothing,
    };
    if answer != Answer::Nothing && sim.fault(Fault::AnswerLost) {
        sim.sleep_until(began + patience).await;
        return Answer::Nothing;
    }
    answer
}

/// The switchboard of one process.
fn switchboard(process: &Arc<Process>) -> Switchboard<Store, RunEffects> {
    let (store, effects) = (Store(process.clone()), RunEffects(process.clone()));
    Switchboard::new(store, effects, process.sim.plan().settings)
}

type Handled = Result<EventOutcome, SwitchboardError<EffectError>>;

fn answer(process: &Process, handled: Handled) -> Answer {
    match handled {
        Ok(outcome) => match outcome.rejected {
            None => Answer::Done(outcome.call.call_id),
            Some(reason) => {
                process.note(|| format!("rejects: {reason:?}"));
                Answer::Rejected
            }
        },
        Err(SwitchboardError::NoSuchCall) => Answer::NoSuchCall,
        Err(error) => {
            process.note(|| format!("fails: {error}"));
            Answer::Failed
        }
    }
}

/// A phone that does not register in time is no failure for the PBX: the timer continues.
fn answer_for_pbx(process: &Process, handled: Handled) -> Answer {
    match handled {
        Err(SwitchboardError::Effect {
            call,
            source: EffectError::PhoneOffline,
        }) => Answer::Done(call.call_id),
        other => answer(process, other),
    }
}

/// What the function does with a request.
async fn serve(process: Arc<Process>, request: Request) -> Answer {
    let (switchboard, now) = (switchboard(&process), process.now());
    let until = process.until;
    let until_pbx_leaves = until.min(now + PBX_PATIENCE);
    match request {
        Request::CallerArrives(report) => {
            let handled = switchboard
                .report_inbound_call(&report, |id| id, now, until_pbx_leaves)
                .await;
            answer_for_pbx(&process, handled)
        }
        Request::PbxReports(named, event) => {
            let id = match named {
                Named::Id(id) => id,
                Named::Leg(sid, extension, leg) => {
                    let rings = (&sid, &extension);
                    let handled =
                        switchboard.handle_leg(rings, &leg, &event, now, until_pbx_leaves);
                    return answer_for_pbx(&process, handled.await);
                }
                Named::Caller(key) => match switchboard.find_by_correlation_key(&key).await {
                    Ok(Some(id)) => id,
                    Ok(None) => return Answer::NoSuchCall,
                    Err(_) => return Answer::Failed,
                },
            };
            answer_for_pbx(
                &process,
                switchboard.handle(id, &event, now, until_pbx_leaves).await,
            )
        }
        Request::AppResponds(call, event) => {
            answer(&process, switchboard.handle(call, &event, now, until).await)
        }
        Request::ExotelReportsCaller(report) => {
            let handled = switchboard.report_inbound_call(&report, |id| id, now, until);
            answer(&process, handled.await)
        }
        Request::ExotelReports(call, event) => {
            answer(&process, switchboard.handle(call, &event, now, until).await)
        }
        Request::ExotelReportsSid(sid, extension, event) => {
            let handled = switchboard.handle_by_sid(&sid, extension.as_ref(), &event, now, until);
            match handled.await {
                Ok(calls) => calls.last().map_or(Answer::NoSuchCall, |outcome| {
                    Answer::Done(outcome.call.call_id)
                }),
                Err(error) => answer(&process, Err(error)),
            }
        }
        Request::AppCalls(call) => {
            answer(&process, switchboard.start_call(&call, now, until).await)
        }
    }
}

/// `call-timeout` gets messages. Returns those that it has handled. `None`: the process has crashed.
pub async fn call_timeout(sim: &Sim, region: usize, batch: Vec<Message>) -> Option<Vec<u32>> {
    run(sim, region, CALL_TIMEOUT, |process| async move {
        let fires = batch.into_iter().map(|message| {
            let process = process.clone();
            async move {
                let overwritten = message.timer.overwritten;
                let event = overwritten.map_or(Event::TimerFired, Event::ReplicaOverwritten);
                let call = message.timer.call_id;
                let mut is_handled = fire(&process, call, event).await;
                if is_handled && message.receives > 1 {
                    is_handled = fire(&process, call, Event::TimerRepeated).await;
                }
                is_handled.then_some(message.serial)
            }
        });
        join_all(fires).await.into_iter().flatten().collect()
    })
    .await
}

async fn fire(process: &Arc<Process>, call: CallId, event: Event) -> bool {
    let now = process.now();
    process.note(|| format!("handles {}", event.as_str()));
    let handled = switchboard(process)
        .handle(call, &event, now, process.until)
        .await;
    matches!(
        answer(process, handled),
        Answer::Done(_) | Answer::Rejected | Answer::NoSuchCall
    )
}

/// Lambda invokes a function again after one and after two minutes if it fails. Then it moves the event to the dead-letter queue, which
/// has an alarm. A person sends it to the queue within the hour, which delivers it until it is handled.
const AGAIN_AFTER: [u64; 5] = [60_000, 120_000, 3_600_000, 15_000, 15_000];

/// A schedule invokes `call-timeout`.
pub async fn schedule_fired(sim: &Sim, region: usize, call: CallId) {
    for pause in AGAIN_AFTER.into_iter().map(Some).chain([None]) {
        let fired = run(sim, region, CALL_TIMEOUT, |process| async move {
            fire(&process, call, Event::TimerFired).await
        });
        if fired.await == Some(true) {
            return;
        }
        let Some(pause) = pause else { return };
        sim.sleep(pause).await;
        sim.until_there(region).await;
    }
}

/// `broadcast` gets records of the stream. Returns how many it has handled. `None`: the process has crashed.
pub async fn broadcast(sim: &Sim, region: usize, batch: Vec<Record>) -> Option<usize> {
    run(sim, region, BROADCAST, |process| async move {
        let looks = batch.iter().map(|record| {
            let process = process.clone();
            async move { look_at(&process, record).await }
        });
        let looked_at = join_all(looks).await;
        let mut handled = 0;
        for (record, is_done) in batch.into_iter().zip(looked_at) {
            process.step("before clients get an update").await;
            let store = Store(process.clone());
            let noted = store.note_conversation(record.before.as_deref(), &record.after);
            if noted.await.is_err() {
                break;
            }
            let Ok(is_refused) = is_refused(&process, &record).await else {
                break;
            };
            let (before, after) = (record.before.as_deref(), *record.after);
            let (id, status) = (after.call_id, after.status);
            let update = StatusUpdate::of(before, after.clone());
            if let Some(update) = update.filter(|_| !is_refused) {
                phones::update_clients(&process.sim, region, &after);
                let changed_at = update.changed_at();
                process.sim.state().truth.updates[region].push((id, status, changed_at));
            }
            if !is_done {
                break;
            }
            handled += 1;
        }
        process.step("after clients got their updates").await;
        handled
    })
    .await
}

/// Whether a new call is refused by now.
async fn is_refused(process: &Arc<Process>, record: &Record) -> Result<bool, EffectError> {
    let call = &record.after;
    if record.before.is_some() || call.status != CallStatus::WaitingForMobile {
        return Ok(false);
    }
    let looking = RunEffects(process.clone());
    let callee = looking.callee(&call.extension).await?;
    if !callee.may_refuse(call) {
        return Ok(false);
    }
    let mut pauses = [200, 400, 600].into_iter();
    loop {
        let current = Store(process.clone()).find(call.call_id).await;
        let Some(current) = current.map_err(|_| EffectError::Callee)? else {
            return Ok(false);
        };
        match pauses.next() {
            Some(pause) if !current.has_callees_answer() => process.sim.sleep(pause).await,
            _ => return Ok(current.refusal().is_some()),
        }
    }
}

/// What this region must do about a change.
async fn look_at(process: &Process, record: &Record) -> bool {
    process.step("before it looks at a change").await;
    let (stored_in, here) = (REGIONS[record.stored_in], REGIONS[process.region]);
    let before = record.before.as_deref();
    let done = match stream_action(before, &record.after, Some(stored_in), here) {
        None => Ok(()),
        Some(StreamAction::CreateBackstop { call, backstop }) => {
            timers::create_backstop(process, call, backstop)
        }
        Some(StreamAction::ArmTimer { call, at, backstop }) => {
            timers::arm(process, call, at, process.now(), Some(backstop)).await
        }
        Some(StreamAction::Merge(version)) => timers::send_overwritten(process, version),
    };
    process.step("after it looked at a change").await;
    done.is_ok()
}
