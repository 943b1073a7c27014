//! The calls of one run: who calls, and what the people do.

use fastrand::Rng;

use crate::random::{generator, pick};

/// One call.
#[derive(Clone, Debug)]
pub struct CallPlan {
    pub kind: Kind,
    pub starts: u64,
    /// Which extension is called.
    pub extension: usize,
    /// When the caller gives up, if not bridged before.
    pub patience: Option<u64>,
    /// How long the two talk, and who hangs up then.
    pub talk: u64,
    pub hangs_up: HangsUp,
    /// What the user of each device of the extension does.
    pub responses: Vec<Response>,
    /// The call that Exotel's same caller makes to another extension at the same time.
    pub parallel_to: Option<usize>,
    /// Whether the popup URL of the Connect applet reports who is called.
    pub popups: bool,
}

/// The kind of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    FromTrunk {
        /// When Exotel's webhook reports the caller, after the start: before or after the leg arrives, or not at all.
        webhook: Option<u64>,
        /// When the leg arrives, after the start.
        leg: u64,
        /// Which of a few numbers the caller has. `None`: withheld.
        number: Option<usize>,
        /// Whether Exotel reports the end of the call.
        reports_end: bool,
        attempts: Attempts,
    },
    BetweenApps,
    ToNumber(Outcome),
}

/// How often the trunk tries to reach a PBX with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempts {
    One,
    /// When the first leg has ended without a bridge, another one to another PBX follows after this time.
    Sequential(u64),
    /// Another leg arrives after this time, although the first one still waits.
    Parallel(u64),
}

/// What becomes of a call to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Talks,
    Busy,
    NoAnswer,
    Fails,
}

/// Who ends a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangsUp {
    Caller,
    CalleesPhone,
    CalleesApp,
    CallersApp,
    Nobody,
}

/// What the user of one device does when a call rings there.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    pub reaction: Reaction,
    pub after: u64,
    /// What the phone does with the SIP call.
    pub answers: Answers,
    pub answers_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    Accept,
    AcceptTwice,
    AcceptAndDie,
    Decline,
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Yes,
    Declines,
    /// The first SIP call fails.
    AtTheSecondAttempt,
    Never,
}

/// Draws the calls: mostly one, at times two or three.
pub fn draw(
    seed: u64,
    ring: u64,
    extensions: usize,
    devices: impl Fn(usize) -> usize,
) -> Vec<CallPlan> {
    let count = match generator(seed, "calls").u32(0..20) {
        0..=13 => 1,
        14..=17 => 2,
        _ => 3,
    };
    let mut calls: Vec<_> = (0..count)
        .map(|number| {
            let rng = &mut generator(seed, &format!("call {number}"));
            let is_first = number == 0;
            let starts = if is_first { 0 } else { rng.u64(0..ring) };
            // Most of them call the same extension.
            let extension = if is_first || rng.u32(0..3) > 0 {
                0
            } else {
                rng.usize(0..extensions)
            };
            let responses = (0..devices(extension)).map(|device| {
                let rng = &mut generator(seed, &format!("call {number} device {device}"));
                response(rng, ring)
            });
            CallPlan {
                kind: kind(rng),
                starts,
                extension,
                patience: (rng.u32(0..3) == 0).then(|| rng.u64(100..40_000)),
                talk: *pick(rng, &[800, 3_000, 5_000, 20_000, 50_000]),
                hangs_up: *pick(
                    rng,
                    &[
                        HangsUp::Caller,
                        HangsUp::Caller,
                        HangsUp::CalleesPhone,
                        HangsUp::CalleesApp,
                        HangsUp::CallersApp,
                        HangsUp::Nobody,
                    ],
                ),
                responses: responses.collect(),
                parallel_to: None,
                popups: generator(seed, &format!("call {number} popups")).u32(0..3) == 0,
            }
        })
        .collect();
    if extensions > 1 {
        let parallel = parallel(seed, &mut calls[0], ring, devices);
        calls.extend(parallel);
    }
    calls
}

/// At times, Exotel brings the first caller to both extensions at once.
fn parallel(
    seed: u64,
    first: &mut CallPlan,
    ring: u64,
    devices: impl Fn(usize) -> usize,
) -> Option<CallPlan> {
    let rng = &mut generator(seed, "parallel");
    let Kind::FromTrunk {
        attempts, number, ..
    } = &mut first.kind
    else {
        return None;
    };
    if rng.u32(0..4) != 0 {
        return None;
    }
    *attempts = Attempts::One;
    let kind = Kind::FromTrunk {
        webhook: None,
        leg: rng.u64(0..1_500),
        number: *number,
        reports_end: false,
        attempts: Attempts::One,
    };
    let extension = 1 - first.extension;
    let responses = (0..devices(extension)).map(|_| response(rng, ring));
    Some(CallPlan {
        kind,
        extension,
        responses: responses.collect(),
        patience: None,
        parallel_to: Some(0),
        ..first.clone()
    })
}

fn kind(rng: &mut Rng) -> Kind {
    match rng.u32(0..10) {
        0..=5 => from_trunk(rng),
        6..=7 => Kind::BetweenApps,
        _ => Kind::ToNumber(*pick(
            rng,
            &[
                Outcome::Talks,
                Outcome::Talks,
                Outcome::Busy,
                Outcome::NoAnswer,
                Outcome::Fails,
            ],
        )),
    }
}

fn from_trunk(rng: &mut Rng) -> Kind {
    let reports = rng.u32(0..4);
    Kind::FromTrunk {
        webhook: match reports {
            0 => None,
            1 => Some(rng.u64(0..3_000)),
            _ => Some(0),
        },
        leg: rng.u64(0..1_500),
        number: (rng.u32(0..5) > 0).then(|| usize::from(rng.u32(0..3) == 0)),
        reports_end: reports != 0 && rng.bool(),
        attempts: match rng.u32(0..8) {
            0 => Attempts::Sequential(rng.u64(100..2_000)),
            1 => Attempts::Parallel(rng.u64(0..4_000)),
            _ => Attempts::One,
        },
    }
}

fn response(rng: &mut Rng, ring: u64) -> Response {
    let latest = ring + 1_000;
    Response {
        reaction: *pick(
            rng,
            &[
                Reaction::Accept,
                Reaction::Accept,
                Reaction::Accept,
                Reaction::AcceptTwice,
                Reaction::AcceptAndDie,
                Reaction::Decline,
                Reaction::Ignore,
            ],
        ),
        after: match rng.u32(0..4) {
            0 => rng.u64(0..latest),
            1 => rng.u64(latest.saturating_sub(2_500)..latest),
            _ => rng.u64(500..5_000),
        },
        answers: *pick(
            rng,
            &[
                Answers::Yes,
                Answers::Yes,
                Answers::Yes,
                Answers::Yes,
                Answers::AtTheSecondAttempt,
                Answers::Declines,
                Answers::Never,
            ],
        ),
        answers_after: *pick(rng, &[100, 400, 1_500]),
    }
}

/// Without CallSids, two callers with one number may be taken for each other if two regions get their reports (docs/promises.md).
pub fn give_each_its_number(calls: &mut [CallPlan]) {
    for (place, call) in calls.iter_mut().enumerate() {
        if let Kind::FromTrunk { number, .. } = &mut call.kind {
            *number = Some(call.parallel_to.unwrap_or(place));
        }
    }
}
