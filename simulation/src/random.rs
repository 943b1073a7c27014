//! Random numbers. Each part of a run draws its own from the seed: a part that draws more later does not change the others.

use fastrand::Rng;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Processes,
    Requests,
    Stores,
    Replication,
    Streams,
    Timers,
    Asterisk,
    Trunk,
    Phones,
    Pushes,
    Exotel,
}

const ALL: [Part; 11] = [
    Part::Processes,
    Part::Requests,
    Part::Stores,
    Part::Replication,
    Part::Streams,
    Part::Timers,
    Part::Asterisk,
    Part::Trunk,
    Part::Phones,
    Part::Pushes,
    Part::Exotel,
];

/// The generators of all parts.
pub struct Random([Rng; ALL.len()]);

impl Random {
    pub fn of(seed: u64) -> Self {
        Self(ALL.map(|part| generator(seed, &format!("{part:?}"))))
    }

    pub fn of_part(&mut self, part: Part) -> &mut Rng {
        &mut self.0[part as usize]
    }
}

/// The generator of the part with this name.
pub fn generator(seed: u64, name: &str) -> Rng {
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Rng::with_seed(seed ^ hash)
}

pub fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(0..of.len())]
}
