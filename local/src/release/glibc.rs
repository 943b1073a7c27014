//! Checks that a program runs on Lambda. The C library there may be older than that of the machine that builds it.

use std::path::Path;

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::process::output;

/// The version of glibc in the runtime `provided.al2023`, 2.34.
const OF_LAMBDA: u32 = 34;

/// Fails if the program needs a newer glibc than Lambda has.
pub(super) async fn check(program: &Path) -> Result<()> {
    let mut readelf = Command::new("readelf");
    let versions = output(readelf.arg("--version-info").arg(program)).await?;
    let needed = newest(&versions);
    ensure!(
        needed <= OF_LAMBDA,
        "it needs glibc 2.{needed}, and Lambda has 2.{OF_LAMBDA}: build the release on Amazon Linux 2023 or Debian 12"
    );
    Ok(())
}

/// The newest version that the program's symbols need, such as 34 for `GLIBC_2.34`.
fn newest(versions: &str) -> u32 {
    let names = versions.split("GLIBC_2.").skip(1);
    let minors = names.filter_map(|name| {
        let minor = name.split(|letter: char| !letter.is_ascii_digit()).next()?;
        minor.parse().ok()
    });
    minors.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts() {
        let versions =
            "Name: GLIBC_2.2.5  Flags: none\nName: GLIBC_2.34\nName: GLIBC_2.9\nGLIBC_PRIVATE";
        assert_eq!(newest(versions), 34);
        assert_eq!(newest("No version information found in this file."), 0);
    }
}
