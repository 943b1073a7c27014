//! What people do in one run, and which large faults happen: all drawn from the seed.

use std::time::Duration;

use fastrand::Rng;
use ringback_core::call::CallLimits;

use crate::faults::{CUT, Faults, REGION_LOSS, RESTART};

/// Times are in milliseconds after the start of the run.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub kind: Kind,
    pub regions: usize,
    pub pbxs: usize,
    pub limits: CallLimits,
    pub devices: Vec<DevicePlan>,
    /// When the caller gives up, if not bridged before.
    pub patience: Option<u64>,
    /// How long the two talk, and who hangs up then.
    pub talk: u64,
    pub hangs_up: HangsUp,
    pub region_loss: Option<RegionLoss>,
    pub cut: Option<(u64, u64)>,
    pub restart: Option<(usize, u64)>,
    /// How long replication takes.
    pub lag: (u64, u64),
}

/// The kind of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    FromTrunk {
        /// When Exotel's webhook reports the caller: before or after the leg arrives, or not at all.
        webhook: Option<u64>,
        leg: u64,
        /// Whether the INVITE carries Exotel's CallSid.
        has_sid: bool,
        withheld: bool,
        /// Whether Exotel reports the end of the call.
        reports_end: bool,
    },
    BetweenApps,
    ToNumber(Outcome),
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

#[derive(Clone, Copy, Debug)]
pub struct RegionLoss {
    pub region: usize,
    pub from: u64,
    pub until: u64,
    /// The region accepts connections and does not answer.
    pub silent: bool,
}

/// What the user of one device does when it rings.
#[derive(Clone, Copy, Debug)]
pub struct DevicePlan {
    pub reaction: Reaction,
    pub after: u64,
    /// When the phone registers, after the reaction.
    pub registers_after: u64,
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
    /// The first SIP call fails, because the phone has moved to another address.
    AtTheSecondAttempt,
    Never,
}

impl Scenario {
    pub fn draw(rng: &mut Rng, faults: &Faults) -> Self {
        let kind = kind(rng);
        let regions = if rng.u32(0..4) == 0 { 1 } else { 2 };
        let seconds = |seconds| Duration::from_secs(seconds);
        let limits = CallLimits {
            ring: seconds(*pick(rng, &[10, 20, 30])),
            connect: seconds(15),
            talk: seconds(*pick(rng, &[60, 120, 600])),
            check: seconds(30),
        };
        let ring = u64::try_from(limits.ring.as_millis()).unwrap_or(0);
        let devices = (0..*pick(rng, &[1, 1, 1, 2, 2, 3]))
            .map(|_| device(rng, ring))
            .collect();
        let is_two = regions == 2;
        let region_loss = (is_two && rng.u32(0..3) == 0).then(|| {
            let from = rng.u64(0..ring);
            RegionLoss {
                region: rng.usize(0..2),
                from,
                until: from + rng.u64(2_000..60_000),
                silent: rng.bool(),
            }
        });
        let cut = (is_two && rng.u32(0..6) == 0).then(|| {
            let from = rng.u64(0..ring);
            (from, from + rng.u64(2_000..60_000))
        });
        let pbxs = *pick(rng, &[1, 1, 2]);
        let restart = (rng.u32(0..12) == 0).then(|| (rng.usize(0..pbxs), rng.u64(0..60_000)));
        Self {
            kind,
            regions,
            pbxs,
            devices,
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
            region_loss: region_loss.filter(|_| !faults.is_without(REGION_LOSS)),
            cut: cut.filter(|_| !faults.is_without(CUT)),
            restart: restart.filter(|_| !faults.is_without(RESTART)),
            lag: *pick(rng, &[(200, 1_000), (500, 1_500), (20, 100)]),
            limits,
        }
    }
}

fn kind(rng: &mut Rng) -> Kind {
    match rng.u32(0..10) {
        0..=5 => {
            let reports = rng.u32(0..4);
            Kind::FromTrunk {
                webhook: match reports {
                    0 => None,
                    1 => Some(rng.u64(0..3_000)),
                    _ => Some(0),
                },
                leg: rng.u64(0..1_500),
                has_sid: reports != 0 && rng.bool(),
                withheld: rng.u32(0..5) == 0,
                reports_end: reports != 0 && rng.bool(),
            }
        }
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

fn device(rng: &mut Rng, ring: u64) -> DevicePlan {
    let latest = ring + 1_000;
    DevicePlan {
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
        registers_after: *pick(rng, &[0, 0, 800, 3_000, 6_000]),
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

pub fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(0..of.len())]
}
