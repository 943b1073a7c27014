//! Whole ways on a real PBX with real SIP, from a caller's INVITE to the push and from the woken app to the INVITE at its phone,
//! beside Kamailio, which does the same without a cloud.

pub mod kamailio;
mod ringback;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ringback_sip::{IncomingCall, OutgoingCall};

use crate::cold::verdict;
use crate::figures::{Rounded, Samples, millis};
use crate::fixture::Fixture;
use crate::functions::Paths;
use crate::page::MarkdownTable;
use crate::stand_ins::{AnsweredRequest, StandIns, System};
use kamailio::Kamailio;
use ringback::Ringback;

/// How many calls count.
const CALLS: usize = 100;
/// How many calls come before them, to warm everything up.
const WARM_UP: usize = 10;

/// Goal: the median of each way, relative to Kamailio.
const MAX_TIMES_KAMAILIO: f64 = 2.0;
/// Goal: the median of each way, in milliseconds.
const MAX_MILLIS: f64 = 15.0;

/// Longer than any step takes.
const SOON: Duration = Duration::from_secs(5);
/// Between two calls, so that neither PBX still works on the one before.
const PAUSE: Duration = Duration::from_millis(50);

/// The called extension. It is the user name of its phone, too.
const EXTENSION: &str = "1001";
/// The address of the caller, by which the PBX knows the trunk.
const TRUNK: &str = "127.0.0.2:0";

/// The two ways of one call.
#[derive(Clone, Copy, Debug)]
struct WakeUp {
    /// From the caller's INVITE to the push request.
    push: Duration,
    /// From the message of the woken app or phone to the INVITE at the phone.
    ring: Duration,
}

/// The two ways of all calls, in milliseconds.
#[derive(Debug, Default)]
struct WakeUps {
    push: Samples,
    ring: Samples,
}

impl WakeUps {
    fn add(&mut self, call: WakeUp) {
        self.push.add(millis(call.push));
        self.ring.add(millis(call.ring));
    }
}

/// Measures both.
///
/// # Errors
/// When a PBX does not start, or a call does not reach its phone.
pub async fn measure(paths: &Paths) -> Result<String> {
    let mut fixture = Fixture::start(paths).await?;
    let mut ringback = Ringback::start(&fixture).await.context("Ringback")?;
    let mut kamailio = Kamailio::start(&fixture).await.context("Kamailio")?;
    let mut times = [WakeUps::default(), WakeUps::default()];
    let mut until_hook = Samples::default();
    for index in 0..WARM_UP + CALLS {
        // In turn, so that other load on the machine slows both.
        let (ours, hook) = ringback.call(&mut fixture).await.context("Ringback")?;
        tokio::time::sleep(PAUSE).await;
        let theirs = kamailio.call(&fixture).await.context("Kamailio")?;
        tokio::time::sleep(PAUSE).await;
        if index >= WARM_UP {
            for (times, call) in times.iter_mut().zip([ours, theirs]) {
                times.add(call);
            }
            until_hook.add(millis(hook));
        }
    }
    let versions = format!("{} and {}", ringback.version(), kamailio.version());
    kamailio.stop().await;
    ringback.stop().await;
    results(&times, &until_hook, &versions)
}

fn results(
    [ringback, kamailio]: &[WakeUps; 2],
    until_hook: &Samples,
    versions: &str,
) -> Result<String> {
    let mut table = MarkdownTable::new(&[
        "way",
        "Ringback, ms",
        "90 % within",
        "Kamailio, ms",
        "90 % within",
        "Ringback ÷ Kamailio",
    ]);
    let mut missed = Vec::new();
    for (way, ours, theirs) in [
        (
            "INVITE at the PBX → push request",
            &ringback.push,
            &kamailio.push,
        ),
        (
            "`accept_ready`, or REGISTER → INVITE at the phone",
            &ringback.ring,
            &kamailio.ring,
        ),
    ] {
        let times = ours.median() / theirs.median();
        if times > MAX_TIMES_KAMAILIO {
            missed.push(format!("{way}: {} × Kamailio", Rounded(times)));
        }
        if ours.median() >= MAX_MILLIS {
            missed.push(format!("{way}: {} ms", Rounded(ours.median())));
        }
        table.row(&[
            &way,
            &Rounded(ours.median()),
            &Rounded(ours.percentile(90)),
            &Rounded(theirs.median()),
            &Rounded(theirs.percentile(90)),
            &Rounded(times),
        ])?;
    }
    Ok(format!(
        "{table}\nMedians of {CALLS} calls after {WARM_UP} others, with {versions}. Of Ringback's first way, {} ms are over when the PBX's \
         report has arrived at the API. Goals: at most {} × Kamailio, and less than {} ms. {}\n",
        Rounded(until_hook.median()),
        MAX_TIMES_KAMAILIO,
        MAX_MILLIS,
        verdict(&missed)
    ))
}

/// The first push of those requests.
fn push_of(requests: &[AnsweredRequest]) -> Option<Instant> {
    let mut pushes = requests.iter().filter(|it| it.system == System::Fcm);
    Some(pushes.next()?.began)
}

/// Waits for a push, and returns when its request had arrived.
async fn next_push(stand_ins: &StandIns) -> Result<Instant> {
    let push = async {
        loop {
            stand_ins.start_recording();
            tokio::time::sleep(Duration::from_millis(1)).await;
            if let Some(push) = push_of(&stand_ins.recorded()) {
                return push;
            }
        }
    };
    let push = tokio::time::timeout(SOON, push).await;
    push.context("no push")
}

/// The caller gives up while the phone rings.
async fn give_up(caller: &OutgoingCall, phone: &IncomingCall) -> Result<()> {
    caller.cancel().await?;
    caller.rejected(SOON).await?;
    phone.ended(SOON).await?;
    Ok(())
}
