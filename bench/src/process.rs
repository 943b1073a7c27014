//! The CPU time and peak memory of a process, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// User and system CPU time of all threads of a process so far, from the scheduler (`schedstat`, in nanoseconds). A thread that ends takes its
/// time with it, so a later value can be smaller.
///
/// # Errors
/// When the process has ended, or the kernel has no `schedstat`.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread can end between the two reads.
        let Ok(figures) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        total += first_figure(&figures)?;
    }
    Ok(Duration::from_nanos(total))
}

fn first_figure(schedstat: &str) -> Result<u64> {
    let first = schedstat.split_whitespace().next();
    Ok(first.context("an empty schedstat")?.parse()?)
}

/// Peak resident memory of a process so far (`VmHWM`), in bytes.
///
/// # Errors
/// When the process has ended.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    peak_in(&status).context("no VmHWM")
}

fn peak_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_peak_memory_are_read() -> Result<()> {
        assert_eq!(first_figure("78677 78406 2\n")?, 78_677);
        assert_eq!(
            peak_in("VmPeak:\t 99 kB\nVmHWM:\t    2088 kB\n"),
            Some(2_138_112)
        );
        assert!(cpu_time(std::process::id())? > Duration::ZERO);
        assert!(peak_memory(std::process::id())? > 0);
        Ok(())
    }
}
