//! The machine on which the figures were measured, without its name.

use std::fs;
use std::process::Command;

use time::OffsetDateTime;

/// One line with the machine, the versions of Rust and Node.js, and the date.
#[must_use]
pub fn description() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = cpu.lines().filter(|line| line.starts_with("processor"));
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = kernel.trim().split(['.', '-']).take(2).collect();
    let kib: u64 = value(&memory, "MemTotal")
        .and_then(|total| total.trim_end_matches("kB").trim().parse().ok())
        .unwrap_or_default();
    format!(
        "{} cores of {}, {} GiB of memory, Linux {}; {}; Node.js {}; {}.",
        cores.count(),
        value(&cpu, "model name").unwrap_or("an unknown CPU"),
        (kib + 512 * 1024) / (1024 * 1024),
        kernel.join("."),
        version("rustc"),
        version("node").trim_start_matches('v'),
        OffsetDateTime::now_utc().date(),
    )
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_else(|_| format!("no {program}"));
    text.split(" (")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}
