//! The tables. Writes are local. Replication replaces whole items, and the last writer wins. The stream of a region
//! shows each change of a call.

use crate::faults::Fault;
use crate::random::Part;
use crate::sim::Sim;
use crate::state::State;
use crate::state::table::{Item, Key, Record, Value, short};

/// Writes an item in this region, and sends it to the other one.
pub fn write(sim: &Sim, state: &mut State, region: usize, key: Key, value: Value) {
    let table = &mut state.tables[region];
    let before = table.get(&key).map_or(0, |item| item.written.0);
    let written = (sim.now().as_millis() + table.ahead).max(before + 1);
    let item = Item {
        value,
        written: (written, region),
    };
    replace(sim, state, region, key.clone(), item.clone());
    if sim.plan().regions == 2 {
        let (least, most) = sim.plan().lag;
        let lag = state.random.of_part(Part::Replication).u64(least..=most);
        let sim = sim.clone();
        sim.clone()
            .spawn(async move { replicate(&sim, region, lag, key, item).await });
    }
}

async fn replicate(sim: &Sim, from: usize, lag: u64, key: Key, item: Item) {
    let late = if sim.fault(Fault::ReplicationLate) {
        sim.between(Part::Replication, 1_000, 15_000)
    } else {
        0
    };
    sim.sleep(lag + late).await;
    if let Some((cut, mended)) = sim.plan().cut
        && (cut..mended).contains(&sim.elapsed())
    {
        sim.sleep_until(mended + lag).await;
    }
    for region in [from, 1 - from] {
        if sim.is_lost(region) {
            sim.until_there(region).await;
            sim.sleep(lag).await;
        }
    }
    let mut state = sim.state();
    let to = 1 - from;
    let known = state.tables[to].get(&key).map(|item| item.written);
    if known.is_none_or(|known| known < item.written) {
        replace(sim, &mut state, to, key, item);
    }
}

fn replace(sim: &Sim, state: &mut State, region: usize, key: Key, item: Item) {
    let call = match &item.value {
        Value::Call(call, stored_in) => Some((call.clone(), *stored_in)),
        Value::AliasOf(_) | Value::Claim(..) | Value::OfSid | Value::Talks(_) => None,
    };
    let writer = item.written.1;
    let before = state.tables[region].put(key, item);
    let Some((after, stored_in)) = call else {
        return;
    };
    let before = before.and_then(|item| match item.value {
        Value::Call(call, _) => Some(call),
        Value::AliasOf(_) | Value::Claim(..) | Value::OfSid | Value::Talks(_) => None,
    });
    state
        .truth
        .saw_write(sim.elapsed(), region, &after, stored_in);
    state.note(sim.elapsed(), || {
        let event = after
            .history
            .last()
            .map_or("", |entry| entry.event.as_str());
        let by = after
            .history
            .last()
            .and_then(|entry| entry.by.clone())
            .unwrap_or_default();
        let how = if writer == region {
            "writes"
        } else {
            "gets by replication"
        };
        let reason = after.end_reason().map_or("", |reason| reason.as_str());
        let status = after.status.as_str();
        let (version, id) = (after.version, short(after.call_id));
        let words = [status, reason, "after", event, &by];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let what = words.join(" ");
        format!("region {region} {how} version {version} of {id}: {what}")
    });
    let table = &mut state.tables[region];
    table.stream.push_back(Record {
        before,
        after,
        stored_in,
    });
    if !std::mem::replace(&mut table.stream_is_read, true) {
        let sim = sim.clone();
        sim.clone()
            .spawn(async move { read_stream(&sim, region).await });
    }
}

/// How often a batch of the stream is repeated, and how many records it has at most.
const ATTEMPTS: usize = 30;
const BATCH: usize = 10;

/// Gives the records of the stream to `broadcast`, in order and in batches. A batch that fails comes again.
async fn read_stream(sim: &Sim, region: usize) {
    let mut failures = 0;
    loop {
        let pause = sim.between(Part::Streams, 30, 400);
        let late = if sim.fault(Fault::StreamLate) {
            sim.between(Part::Streams, 1_000, 10_000)
        } else {
            0
        };
        sim.sleep(pause + late).await;
        sim.until_there(region).await;
        let batch: Vec<Record> = {
            let mut state = sim.state();
            let table = &mut state.tables[region];
            if table.stream.is_empty() {
                table.stream_is_read = false;
                return;
            }
            table.stream.iter().take(BATCH).cloned().collect()
        };
        let size = batch.len();
        let handled = (sim.handlers().records)(sim, region, batch).await;
        let handled = handled.unwrap_or(0);
        let again = sim.fault(Fault::StreamTwice);
        let mut state = sim.state();
        let State {
            tables, counted, ..
        } = &mut *state;
        let (stream, counted) = (&mut tables[region].stream, &mut counted[region]);
        // A process that fails has written no metrics.
        for record in stream.iter().take(handled) {
            counted.count(sim.plan().regions, region, record);
        }
        if let Some(last) = handled.checked_sub(1).filter(|_| again) {
            counted.is_repeated(stream[last].after.call_id);
        }
        let handled = handled.saturating_sub(usize::from(again));
        failures = if handled == 0 { failures + 1 } else { 0 };
        let gone = if failures > ATTEMPTS { size } else { handled };
        stream.drain(..gone);
    }
}
