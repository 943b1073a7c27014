//! How long a new process takes to poll for its first event, and to answer it.

use anyhow::{Context, Result};
use ringback_local::runtime_api::RunningFunction;
use serde_json::{Value, json};

use crate::figures::{Rounded, Samples, millis};
use crate::fixture::{Fixture, call_id, ensure_success};
use crate::functions::{FUNCTIONS, Paths};
use crate::page::MarkdownTable;
use crate::process::{cpu_time, peak_memory};
use crate::stand_ins::StoredItems;

/// How often each program starts.
const STARTS: usize = 20;

/// Goals.
const MAX_TIMES_HELLO: f64 = 2.0;
const MIN_TIMES_FASTER_THAN_NODE: f64 = 10.0;

/// A measured program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Hello,
    Function(&'static str),
    /// The Node.js version of this function.
    Node(&'static str),
}

impl Program {
    fn all() -> Vec<Self> {
        let functions = FUNCTIONS.into_iter().map(Self::Function);
        let node = ["exotel-webhook", "call-response"].map(Self::Node);
        std::iter::once(Self::Hello)
            .chain(functions)
            .chain(node)
            .collect()
    }

    fn name(self) -> String {
        match self {
            Self::Hello => "hello-world".to_owned(),
            Self::Function(name) => format!("`{name}`"),
            Self::Node(name) => format!("`{name}` in Node.js"),
        }
    }

    async fn start(self, fixture: &Fixture) -> Result<RunningFunction> {
        match self {
            Self::Hello => fixture.start_function("hello").await,
            Self::Function(name) => fixture.start_function(name).await,
            Self::Node(name) => {
                let variables = fixture.variables();
                fixture.paths.start_node(name, variables).await
            }
        }
    }
}

/// A program's first event, and the items that are stored when it arrives.
struct FirstEvent {
    event: Value,
    items: StoredItems,
}

/// The measurements of all starts of one program.
#[derive(Debug, Default)]
struct StartSamples {
    poll: Samples,
    answer: Samples,
    cpu: Samples,
    memory: Samples,
}

/// One start of one program. Times in milliseconds, memory in MiB.
struct OneStart {
    poll: f64,
    answer: f64,
    /// CPU time until the first answer.
    cpu: f64,
    memory: f64,
}

/// Measures all programs.
///
/// # Errors
/// When a program fails.
pub async fn measure(paths: &Paths) -> Result<String> {
    let mut fixture = Fixture::start(paths).await?;
    let programs = Program::all();
    let firsts = firsts(&mut fixture, &programs).await?;
    let mut all: Vec<StartSamples> = programs.iter().map(|_| StartSamples::default()).collect();
    // In turn, so that other load on this machine slows all programs equally.
    for round in 0..=STARTS {
        for ((program, first), starts) in programs.iter().zip(&firsts).zip(&mut all) {
            fixture.restore(&first.items);
            let started = once(&fixture, *program, &first.event).await;
            let started = started.with_context(|| program.name())?;
            // The first round reads the files from the disk and does not count.
            if round > 0 {
                starts.poll.add(started.poll);
                starts.answer.add(started.answer);
                starts.cpu.add(started.cpu);
                starts.memory.add(started.memory);
            }
        }
    }
    table(&programs, &all)
}

async fn once(fixture: &Fixture, program: Program, event: &Value) -> Result<OneStart> {
    let mut function = program.start(fixture).await?;
    let started = function.started();
    let poll = function.wait_until_idle().await? - started;
    let answered = function.invoke_timed(event).await?;
    let pid = function.pid().context("the function has ended")?;
    let cpu = cpu_time(pid)?;
    ensure_success(&answered.answer)?;
    Ok(OneStart {
        poll: millis(poll),
        answer: millis(answered.at - started),
        cpu: millis(cpu),
        memory: peak_memory(pid)? as f64 / (1024.0 * 1024.0),
    })
}

/// Each function with an event that it can handle repeatedly, if the items are restored each time.
///
/// # Errors
/// When a function fails that stores the items.
pub async fn first_events(
    fixture: &mut Fixture,
) -> Result<Vec<(&'static str, Value, StoredItems)>> {
    let programs = FUNCTIONS.map(Program::Function);
    let firsts = firsts(fixture, &programs).await?;
    let all = FUNCTIONS.into_iter().zip(firsts);
    Ok(all
        .map(|(name, first)| (name, first.event, first.items))
        .collect())
}

/// The first event of each program.
async fn firsts(fixture: &mut Fixture, programs: &[Program]) -> Result<Vec<FirstEvent>> {
    let sid = fixture.call_sid();
    let no_call = fixture.stand_ins.items().clone();
    let mut pbx = fixture.start_function("asterisk-incoming").await?;
    let call = call_id(&pbx.invoke_timed(&fixture.arrival(&sid)?).await?)?;
    let ringing = fixture.stand_ins.items().clone();
    let event = |name: &str| fixture.paths.event(name);
    let mut firsts = Vec::new();
    for program in programs {
        let (event, items) = match program {
            Program::Hello => (json!({}), &no_call),
            Program::Function(name) | Program::Node(name) => match *name {
                "exotel-webhook" => (fixture.passthru(&sid)?, &no_call),
                "asterisk-incoming" => (fixture.arrival(&sid)?, &no_call),
                "call-response" => (fixture.accept_ready(&call)?, &ringing),
                "call-timeout" => (fixture.timer(&call)?, &ringing),
                "ws-message" => (fixture.accept_ready_by_websocket(&call)?, &ringing),
                "broadcast" => (fixture.change()?, &ringing),
                "call-status" => (fixture.status(&call)?, &ringing),
                "devices" => (event("devices-put")?, &no_call),
                "admin" => (event("admin-list")?, &no_call),
                "sip-accounts" => (event("sip-accounts-schedule")?, &no_call),
                "ws-authorizer" => (event("ws-authorizer-header")?, &no_call),
                "console" => (event("console-page")?, &no_call),
                other => (event(other)?, &no_call),
            },
        };
        let items = items.clone();
        firsts.push(FirstEvent { event, items });
    }
    Ok(firsts)
}

fn table(programs: &[Program], all: &[StartSamples]) -> Result<String> {
    let of = |wanted: Program| {
        let mut both = programs.iter().zip(all);
        both.find_map(|(program, starts)| (*program == wanted).then_some(starts))
    };
    let hello = of(Program::Hello).context("hello-world")?.poll.median();
    let mut table = MarkdownTable::new(&[
        "started",
        "to the first poll, ms",
        "× hello-world",
        "to the first answer, ms",
        "90 % within",
        "Node.js ÷ it",
        "CPU until then, ms",
        "peak MiB",
    ]);
    let mut missed = Vec::new();
    for (program, starts) in programs.iter().zip(all) {
        let times_hello = starts.poll.median() / hello;
        let node = match program {
            Program::Function(name) => of(Program::Node(name)),
            Program::Hello | Program::Node(_) => None,
        };
        let faster = node.map(|node| node.answer.median() / starts.answer.median());
        if matches!(program, Program::Function(_)) && times_hello > MAX_TIMES_HELLO {
            missed.push(format!(
                "{} takes {} × as long as hello-world to its first poll",
                program.name(),
                Rounded(times_hello)
            ));
        }
        if let Some(faster) = faster.filter(|faster| *faster < MIN_TIMES_FASTER_THAN_NODE) {
            missed.push(format!(
                "{} answers {} × as fast as Node.js",
                program.name(),
                Rounded(faster)
            ));
        }
        let faster = faster.map_or_else(String::new, |faster| Rounded(faster).to_string());
        table.row(&[
            &program.name(),
            &Rounded(starts.poll.median()),
            &Rounded(times_hello),
            &Rounded(starts.answer.median()),
            &Rounded(starts.answer.percentile(90)),
            &faster,
            &Rounded(starts.cpu.median()),
            &Rounded(starts.memory.median()),
        ])?;
    }
    let goals = format!(
        "Goals: at most {MAX_TIMES_HELLO} × hello-world to the first poll, at least {MIN_TIMES_FASTER_THAN_NODE} × faster than Node.js to the first answer."
    );
    Ok(format!(
        "{table}\nMedians of {STARTS} starts. {goals} {}",
        verdict(&missed)
    ))
}

/// Whether all goals are met, and which are missed.
#[must_use]
pub fn verdict(missed: &[String]) -> String {
    if missed.is_empty() {
        return "All met.".to_owned();
    }
    format!("**Missed:** {}.", missed.join("; "))
}
