//! The devices of an extension: when their phones register, and whether they move.

use crate::random::{generator, pick};

/// One device.
#[derive(Clone, Debug)]
pub struct DevicePlan {
    /// When the phone registers with each PBX, after its user has accepted. `None`: never, against the documentation.
    pub registers_after: Vec<Option<u64>>,
    pub moves: Option<Move>,
    /// Whether the app reads the call before it rings.
    pub looks_before_it_rings: bool,
    /// Whether the app uses the `answer_url` of its push: it reports that it rings, and declines there, which names its device.
    pub uses_answer_url: bool,
    /// Whether the device has a push address.
    pub has_address: bool,
    /// The region of the WebSocket API that the app is connected to.
    pub connected_to: Option<usize>,
    /// Whether the device has a SIP account of its own.
    pub has_sip_account: bool,
}

/// A phone moves to another address.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// How long after it has accepted.
    pub after: u64,
    /// How long it takes until it registers again.
    pub registers_after: u64,
    /// The PBX notices at once that the old address is gone: its connection breaks. If not, it calls that address until the phone
    /// registers again.
    pub breaks: bool,
}

pub fn draw(seed: u64, extension: usize, pbxs: usize, regions: usize) -> Vec<DevicePlan> {
    let count = *pick(
        &mut generator(seed, &format!("devices of extension {extension}")),
        &[1, 1, 1, 2, 2, 3],
    );
    let uses_answer_url = generator(seed, "answer url").u32(0..3) == 0;
    let accounts = &mut generator(seed, &format!("SIP accounts of extension {extension}"));
    let share_one = accounts.u32(0..3) == 0;
    let mut has_sip_account = || !share_one && accounts.u32(0..8) > 0;
    (0..count)
        .map(|number| {
            let name = format!("device {number} of extension {extension}");
            let rng = &mut generator(seed, &name);
            let usual = *pick(rng, &[0, 0, 800, 3_000, 6_000]);
            let moves = (rng.u32(0..8) == 0).then(|| Move {
                after: rng.u64(0..8_000),
                registers_after: *pick(rng, &[200, 1_500, 5_000]),
                breaks: rng.bool(),
            });
            let looks_before_it_rings = rng.bool();
            let registers_after = (0..pbxs)
                .map(|_| match rng.u32(0..16) {
                    0 if pbxs > 1 => None,
                    1 => Some(rng.u64(0..20_000)),
                    _ => Some(usual + rng.u64(0..200)),
                })
                .collect();
            let rng = &mut generator(seed, &format!("{name} without push"));
            let has_address = rng.u32(0..16) > 0;
            let connected_to = (rng.u32(0..8) == 0).then(|| rng.usize(0..regions));
            DevicePlan {
                registers_after,
                moves,
                looks_before_it_rings,
                uses_answer_url,
                has_address,
                connected_to,
                has_sip_account: has_sip_account(),
            }
        })
        .collect()
}
