//! What people do in one run, and which large faults happen: all drawn from the seed.

mod calls;
mod devices;

use std::time::Duration;

use fastrand::Rng;
use ringback_core::call::{CallSettings, CallWaiting, DeclineEnds, Rejection};

pub use calls::{Answers, Attempts, CallPlan, HangsUp, Kind, Outcome, Reaction, Response};
pub use devices::DevicePlan;

use crate::faults::{CUT, Faults, REGION_LOSS, RESTART};
use crate::random::{generator, pick};

/// Times are in milliseconds after the start of the run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// One call or more. Each is a caller with a telephone or an app.
    pub calls: Vec<CallPlan>,
    /// The devices of each extension that is called.
    pub extensions: Vec<Vec<DevicePlan>>,
    /// Until when each extension that is called takes no calls.
    pub do_not_disturb: Vec<Option<u64>>,
    pub regions: usize,
    pub pbxs: usize,
    /// Whether the trunk's INVITEs carry Exotel's CallSid.
    pub trunk_names_sid: bool,
    pub settings: CallSettings,
    pub region_loss: Option<RegionLoss>,
    pub cut: Option<(u64, u64)>,
    pub restart: Option<(usize, u64)>,
    /// How long replication takes.
    pub lag: (u64, u64),
    /// The clocks of processes differ.
    pub clocks_differ: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct RegionLoss {
    pub region: usize,
    pub from: u64,
    pub until: u64,
    /// The region accepts connections and does not answer.
    pub silent: bool,
}

/// How many extensions are called at most.
const EXTENSIONS: usize = 2;

impl Scenario {
    pub fn draw(seed: u64, faults: &Faults) -> Self {
        let rng = &mut generator(seed, "scenario");
        let regions = if rng.u32(0..4) == 0 { 1 } else { 2 };
        let pbxs = *pick(rng, &[1, 1, 2]);
        let seconds = |seconds| Duration::from_secs(seconds);
        let settings = CallSettings {
            ring: seconds(*pick(rng, &[10, 20, 30])),
            connect: seconds(15),
            talk: seconds(*pick(rng, &[60, 120, 600])),
            check: seconds(30),
            decline_ends: *pick(
                &mut generator(seed, "decline"),
                &[DeclineEnds::Call, DeclineEnds::Device],
            ),
            kept_seconds: 7 * 24 * 60 * 60,
            // No rule depends on it.
            unanswered: Rejection::default(),
            call_waiting: *pick(
                &mut generator(seed, "call waiting"),
                &[CallWaiting::Ring, CallWaiting::Busy, CallWaiting::Busy],
            ),
        };
        let ring = u64::try_from(settings.ring.as_millis()).unwrap_or(0);
        let lag = *pick(rng, &[(200, 1_000), (500, 1_500), (20, 100)]);
        let clocks_differ = rng.bool();
        let extensions: Vec<_> = (0..EXTENSIONS)
            .map(|number| devices::draw(seed, number, pbxs, regions))
            .collect();
        let do_not_disturb = (0..EXTENSIONS)
            .map(|number| do_not_disturb(seed, number, ring))
            .collect();
        let devices = |extension: usize| extensions[extension].len();
        let trunk_names_sid = generator(seed, "trunk").bool();
        let mut calls = calls::draw(seed, ring, EXTENSIONS, devices);
        if regions == 2 && !trunk_names_sid {
            calls::give_each_its_number(&mut calls);
        }
        Self {
            calls,
            regions,
            pbxs,
            trunk_names_sid,
            region_loss: region_loss(seed, ring)
                .filter(|_| regions == 2 && !faults.is_without(REGION_LOSS)),
            cut: cut(seed, ring).filter(|_| regions == 2 && !faults.is_without(CUT)),
            restart: restart(seed, pbxs).filter(|_| !faults.is_without(RESTART)),
            extensions,
            do_not_disturb,
            lag,
            clocks_differ,
            settings,
        }
    }

    /// Whether both calls come from one caller who rings at several extensions at once.
    pub fn ring_together(&self, one: usize, other: usize) -> bool {
        let first = |call: usize| self.calls[call].parallel_to.unwrap_or(call);
        first(one) == first(other)
    }

    /// Whether none of the large faults happens.
    pub const fn has_no_planned_fault(&self) -> bool {
        self.region_loss.is_none() && self.cut.is_none() && self.restart.is_none()
    }
}

fn do_not_disturb(seed: u64, extension: usize, ring: u64) -> Option<u64> {
    let rng = &mut generator(seed, &format!("do not disturb of extension {extension}"));
    (rng.u32(0..16) == 0).then(|| rng.u64(0..ring))
}

fn region_loss(seed: u64, ring: u64) -> Option<RegionLoss> {
    let rng = &mut generator(seed, "region loss");
    (rng.u32(0..3) == 0).then(|| {
        let from = rng.u64(0..ring);
        RegionLoss {
            region: rng.usize(0..2),
            from,
            until: from + rng.u64(2_000..60_000),
            silent: rng.bool(),
        }
    })
}

fn cut(seed: u64, ring: u64) -> Option<(u64, u64)> {
    let rng = &mut generator(seed, "cut");
    (rng.u32(0..6) == 0).then(|| {
        let from = rng.u64(0..ring);
        (from, from + rng.u64(2_000..60_000))
    })
}

fn restart(seed: u64, pbxs: usize) -> Option<(usize, u64)> {
    let rng: &mut Rng = &mut generator(seed, "restart");
    (rng.u32(0..12) == 0).then(|| (rng.usize(0..pbxs), rng.u64(0..60_000)))
}
