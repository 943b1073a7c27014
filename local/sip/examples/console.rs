//! A trunk and phones for use by hand. Reads one command per line from standard input, and prints one event per line.
//!
//! ```sh
//! cargo run -p ringback-sip --example console -- 127.0.0.1:5060 127.0.0.2:0
//! ```
//!
//! | command | does |
//! | --- | --- |
//! | `phone 1001 PASSWORD [video]` | registers a phone, with a camera or without; its calls are named `1001` |
//! | `forget 1001` | switches that phone off without unregistering it |
//! | `call NAME DID NUMBER [CALLSID]` | the trunk calls; NUMBER may be `withheld` or `withheld:NUMBER` |
//! | `name TEXT` | display name of the following calls |
//! | `answer 1001`, `reject 1001 486` | the phone answers or rejects the ringing call |
//! | `cancel NAME`, `hangup NAME` | ends a call from this side |
//! | `media NAME` | how many packets of audio and video this leg has received |
//! | `media NAME OTHER` | how many of them came from the other leg |
//! | `header 1001 NAME`, `offer 1001` | a header, or the session description, of the INVITE |

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use ringback_sip::{
    CallEvents, CallStage, Caller, EventTime, IncomingCall, Media, OutgoingCall, Phone, Trunk,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::Mutex,
    task::JoinHandle,
};

const FOREVER: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let pbx = arguments.next().context("the PBX's address is missing")?;
    let trunk = arguments.next().unwrap_or("127.0.0.2:0".into());
    let mut console = Console {
        pbx: pbx.parse()?,
        trunk: Trunk::bind(&trunk).await?,
        caller_name: None,
        placed: HashMap::new(),
        phones: HashMap::new(),
        ringing: Arc::default(),
    };
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = commands.next_line().await? {
        if let Err(error) = console.run(&line).await {
            println!("{line}: {error:#}");
        }
    }
    Ok(())
}

struct Console {
    pbx: SocketAddr,
    trunk: Trunk,
    caller_name: Option<String>,
    placed: HashMap<String, OutgoingCall>,
    phones: HashMap<String, JoinHandle<()>>,
    ringing: Arc<Mutex<HashMap<String, IncomingCall>>>,
}

impl Console {
    async fn run(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => Ok(()),
            ["phone", extension, password] => {
                let phone = Phone::new(self.pbx, extension, password).await?;
                self.register(phone).await
            }
            ["phone", extension, password, "video"] => {
                let phone = Phone::new(self.pbx, extension, password).await?;
                self.register(phone.with_video()).await
            }
            ["forget", extension] => self.switch_off(extension),
            ["call", name, did, number] => self.call(name, did, number, None).await,
            ["call", name, did, number, sid] => self.call(name, did, number, Some(sid)).await,
            ["name", ..] => {
                self.caller_name = line.split_once(' ').map(|(_, name)| name.into());
                Ok(())
            }
            ["answer", phone] => Ok(self.at(phone).await?.answer().await.map(|_| ())?),
            ["reject", phone, code] => Ok(self.at(phone).await?.reject(code.parse()?).await?),
            ["cancel", name] => Ok(self.placed(name)?.cancel().await?),
            ["hangup", name] => match self.placed.get(name) {
                Some(call) => Ok(call.hang_up().await?),
                None => Ok(self.at(name).await?.hang_up().await?),
            },
            ["media", name] => self.count(name).await,
            ["media", name, other] => self.count_from(name, other).await,
            ["header", phone, name] => {
                say(
                    phone,
                    &format!("{name}: {:?}", self.at(phone).await?.header(name)),
                );
                Ok(())
            }
            ["offer", phone] => {
                say(phone, &self.at(phone).await?.offer());
                Ok(())
            }
            _ => bail!("unknown command"),
        }
    }

    async fn register(&mut self, mut phone: Phone) -> Result<()> {
        phone.register().await?;
        let extension = phone.extension().to_owned();
        say(&extension, &format!("registered from {}", phone.address()));
        let (name, ringing) = (extension.clone(), self.ringing.clone());
        let task = tokio::spawn(async move {
            while let Ok(call) = phone.next_call(FOREVER).await {
                say(&name, &format!("called by {:?}", call.caller()));
                print_events(name.clone(), call.events());
                ringing.lock().await.insert(name.clone(), call);
            }
        });
        self.phones.insert(extension, task);
        Ok(())
    }

    fn switch_off(&mut self, extension: &str) -> Result<()> {
        let phone = self.phones.remove(extension).context("unknown phone")?;
        phone.abort();
        Ok(())
    }

    async fn call(&mut self, name: &str, did: &str, number: &str, sid: Option<&str>) -> Result<()> {
        let mut caller = match number.strip_prefix("withheld") {
            Some(known) => Caller {
                number: known.trim_start_matches(':').to_owned(),
                ..Caller::withheld()
            },
            None => Caller::number(number),
        };
        caller.display_name = self.caller_name.clone();
        let call = self.trunk.call(self.pbx, did, caller, sid).await?;
        print_events(name.to_owned(), call.events());
        self.placed.insert(name.to_owned(), call);
        Ok(())
    }

    async fn count(&self, name: &str) -> Result<()> {
        let media = self.media(name).await?;
        let (packets, frames) = (media.received(), media.frames());
        say(
            name,
            &format!("has received {packets} packets, {frames} frames"),
        );
        Ok(())
    }

    async fn count_from(&self, name: &str, other: &str) -> Result<()> {
        let (media, theirs) = (self.media(name).await?, self.media(other).await?);
        let (packets, frames) = (media.received_from(&theirs), media.frames_from(&theirs));
        say(
            name,
            &format!("has received {packets} packets, {frames} frames of {other}"),
        );
        Ok(())
    }

    async fn media(&self, name: &str) -> Result<Media> {
        Ok(match self.placed.get(name) {
            Some(call) => call.media().clone(),
            None => self.at(name).await?.media().clone(),
        })
    }

    fn placed(&self, name: &str) -> Result<&OutgoingCall> {
        self.placed.get(name).context("unknown call")
    }

    async fn at(&self, phone: &str) -> Result<IncomingCall> {
        let ringing = self.ringing.lock().await;
        ringing.get(phone).cloned().context("no call at this phone")
    }
}

/// Prints the events of a call as they happen.
fn print_events(name: String, events: CallEvents) {
    tokio::spawn(async move {
        let mut printed = 0;
        while let Some(event) = events.after(printed).await {
            printed += 1;
            print_at(event.at, &name, &describe(&event.stage));
        }
    });
}

fn describe(stage: &CallStage) -> String {
    match stage {
        CallStage::Ringing { code } => format!("ringing ({code})"),
        CallStage::Answered => "answered".into(),
        CallStage::Rejected { code, reason } => format!("rejected: {code} {reason}"),
        CallStage::Ended { by_remote: true } => "ended by the other side".into(),
        CallStage::Ended { by_remote: false } => "ended by us".into(),
    }
}

#[allow(clippy::disallowed_methods, reason = "the time is only printed")]
fn say(name: &str, what: &str) {
    let now = std::time::SystemTime::now();
    print_line(now, name, what);
}

fn print_at(at: EventTime, name: &str, what: &str) {
    print_line(at.wall, name, what);
}

fn print_line(at: std::time::SystemTime, name: &str, what: &str) {
    let epoch = at.duration_since(std::time::UNIX_EPOCH);
    println!(
        "{:.3} {name} {what}",
        epoch.unwrap_or_default().as_secs_f64()
    );
}
