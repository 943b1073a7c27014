//! How long a function that is started takes until it asks for its first event, and until it has answered that.

use anyhow::{Context, Result};
use ringback_local::runtime_api::RunningFunction;
use serde_json::{Value, json};

use crate::figures::{Figures, Rounded, millis};
use crate::functions::{FUNCTIONS, Places};
use crate::page::Table;
use crate::process::{cpu_time, peak_memory};
use crate::stage::{Stage, call_id, good};
use crate::world;

/// How often each is started.
const STARTS: usize = 20;

/// The goals.
const MOST_TIMES_HELLO: f64 = 2.0;
const LEAST_TIMES_FASTER_THAN_NODE: f64 = 10.0;

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Hello,
    Function(&'static str),
    /// In Node.js, what the function of this name does.
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

    async fn start(self, stage: &Stage) -> Result<RunningFunction> {
        match self {
            Self::Hello => stage.start("hello").await,
            Self::Function(name) => stage.start(name).await,
            Self::Node(like) => stage.places.start_node(like, stage.variables()).await,
        }
    }
}

/// An event, and the table that it meets.
struct First {
    event: Value,
    table: world::Table,
}

/// All starts of one program.
#[derive(Debug, Default)]
struct Starts {
    poll: Figures,
    answer: Figures,
    cpu: Figures,
    memory: Figures,
}

/// One start of one program, in milliseconds and MiB.
struct OneStart {
    poll: f64,
    answer: f64,
    /// CPU time until the first answer.
    cpu: f64,
    memory: f64,
}

/// Measures, and writes the table.
///
/// # Errors
/// When a function does not do what it is there for.
pub async fn measure(places: &Places) -> Result<String> {
    let mut stage = Stage::set(places).await?;
    let programs = Program::all();
    let firsts = firsts(&mut stage, &programs).await?;
    let mut all: Vec<Starts> = programs.iter().map(|_| Starts::default()).collect();
    // One after the other, again and again: whatever else this machine does, it does to all of them.
    for round in 0..=STARTS {
        for ((program, first), starts) in programs.iter().zip(&firsts).zip(&mut all) {
            stage.restore(&first.table);
            let started = once(&stage, *program, &first.event).await;
            let started = started.with_context(|| program.name())?;
            // The first round reads the files from the disk.
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

async fn once(stage: &Stage, program: Program, event: &Value) -> Result<OneStart> {
    let mut function = program.start(stage).await?;
    let started = function.started();
    let poll = function.wait_until_idle().await? - started;
    let answered = function.invoke_timed(event).await?;
    let pid = function.pid().context("it has ended")?;
    let cpu = cpu_time(pid)?;
    good(&answered.answer)?;
    Ok(OneStart {
        poll: millis(poll),
        answer: millis(answered.at - started),
        cpu: millis(cpu),
        memory: peak_memory(pid)? as f64 / (1024.0 * 1024.0),
    })
}

/// Each function with an event that it can be given again and again, if the table is made what it was.
///
/// # Errors
/// When a function that is needed for it does not do its part.
pub async fn first_events(stage: &mut Stage) -> Result<Vec<(&'static str, Value, world::Table)>> {
    let programs = FUNCTIONS.map(Program::Function);
    let firsts = firsts(stage, &programs).await?;
    let all = FUNCTIONS.into_iter().zip(firsts);
    Ok(all
        .map(|(name, first)| (name, first.event, first.table))
        .collect())
}

/// What each program is to deal with first.
async fn firsts(stage: &mut Stage, programs: &[Program]) -> Result<Vec<First>> {
    let sid = stage.call_sid();
    let nobody = stage.world.table().clone();
    let mut pbx = stage.start("asterisk-incoming").await?;
    let call = call_id(&pbx.invoke_timed(&stage.arrival(&sid)?).await?)?;
    let ringing = stage.world.table().clone();
    stage.ring_out(&call)?;
    let rung_out = stage.world.table().clone();
    let event = |name: &str| stage.places.event(name);
    let mut firsts = Vec::new();
    for program in programs {
        let (event, table) = match program {
            Program::Hello => (json!({}), &nobody),
            Program::Function(name) | Program::Node(name) => match *name {
                "exotel-webhook" => (stage.passthru_of(&sid)?, &nobody),
                "asterisk-incoming" => (stage.arrival(&sid)?, &nobody),
                "call-response" => (stage.accept_ready(&call)?, &ringing),
                "call-timeout" => (stage.timer(&call)?, &rung_out),
                "ws-message" => (stage.accept_ready_by_websocket(&call)?, &ringing),
                "broadcast" => (event("broadcast-status")?, &ringing),
                "call-status" => (stage.status(&call)?, &ringing),
                "devices" => (event("devices-put")?, &nobody),
                "ws-authorizer" => (event("ws-authorizer-header")?, &nobody),
                "console" => (event("console-page")?, &nobody),
                other => (event(other)?, &nobody),
            },
        };
        let table = table.clone();
        firsts.push(First { event, table });
    }
    Ok(firsts)
}

fn table(programs: &[Program], all: &[Starts]) -> Result<String> {
    let of = |wanted: Program| {
        let mut both = programs.iter().zip(all);
        both.find_map(|(program, starts)| (*program == wanted).then_some(starts))
    };
    let hello = of(Program::Hello).context("hello-world")?.poll.median();
    let mut table = Table::of(&[
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
        if matches!(program, Program::Function(_)) && times_hello > MOST_TIMES_HELLO {
            missed.push(format!(
                "{} takes {} × as long as hello-world to its first poll",
                program.name(),
                Rounded(times_hello)
            ));
        }
        if let Some(faster) = faster.filter(|faster| *faster < LEAST_TIMES_FASTER_THAN_NODE) {
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
            &Rounded(starts.answer.at(90)),
            &faster,
            &Rounded(starts.cpu.median()),
            &Rounded(starts.memory.median()),
        ])?;
    }
    let goals = format!(
        "Goals: at most {MOST_TIMES_HELLO} × hello-world to the first poll, at least {LEAST_TIMES_FASTER_THAN_NODE} × faster than Node.js to the first answer."
    );
    Ok(format!(
        "{table}\nMedians of {STARTS} starts. {goals} {}",
        verdict(&missed)
    ))
}

/// Whether all goals were met; if not, which were not.
#[must_use]
pub fn verdict(missed: &[String]) -> String {
    if missed.is_empty() {
        return "All met.".to_owned();
    }
    format!("**Missed:** {}.", missed.join("; "))
}
