//! The memory of a deployed function's process, as Linux counts it.

use std::path::Path;

use ringback_local::process::PidFile;
use ringback_local::settings::{STACK_NAME, Settings};

/// The resident memory of a process, in kilobytes.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    /// The current value.
    pub now: u64,
    /// The maximum so far.
    pub peak: u64,
}

impl ProcessMemory {
    /// The memory of a function's process; of the largest one if there are several. `None` if there is no process or
    /// no `/proc`.
    pub fn of_function(name: &str) -> Option<Self> {
        let settings = Settings::from_environment();
        let cloud = PidFile::new(
            &settings.state_dir(),
            ringback_local::cloud::region::PRIMARY.part,
        );
        let cloud = cloud.running()?;
        let variable = format!("AWS_LAMBDA_FUNCTION_NAME={STACK_NAME}-{name}");
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let of_function = processes.filter(|process| {
            is_child_of(&process.path(), cloud.as_raw()) && has_variable(&process.path(), &variable)
        });
        of_function
            .filter_map(|process| Self::in_status(&process.path()))
            .max_by_key(|memory| memory.peak)
    }

    fn in_status(process: &Path) -> Option<Self> {
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let kilobytes = |name: &str| {
            field(&status, name)?
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        };
        Some(Self {
            now: kilobytes("VmRSS")?,
            peak: kilobytes("VmHWM")?,
        })
    }
}

fn is_child_of(process: &Path, parent: i32) -> bool {
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    field(&status, "PPid") == Some(&parent.to_string())
}

fn has_variable(process: &Path, variable: &str) -> bool {
    let environment = std::fs::read(process.join("environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|one| one == variable.as_bytes())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(this, _)| *this == name)
        .map(|(_, value)| value.trim())
}
