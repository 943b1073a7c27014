//! Leaves out the faults that a violation does not need.

use std::io;

use crate::run::simulate;

/// The numbers of the faults without which the seed still breaks the same promise.
///
/// # Errors
/// When tokio cannot start.
pub fn shrink(seed: u64, promise: &str) -> io::Result<Vec<u32>> {
    let mut without = Vec::new();
    loop {
        let outcome = simulate(seed, &without, false)?;
        let numbers = outcome.faults.iter().map(|(number, _)| *number);
        let candidates = outcome.planned.iter().copied().chain(numbers);
        let mut smaller = None;
        for number in candidates {
            let mut fewer = without.clone();
            fewer.push(number);
            let still = simulate(seed, &fewer, false)?;
            if still
                .violations
                .iter()
                .any(|found| found.promise == promise)
            {
                smaller = Some(fewer);
                break;
            }
        }
        match smaller {
            Some(fewer) => without = fewer,
            None => return Ok(without),
        }
    }
}
