//! Checks that a program runs on Lambda, whose C library may be older than that of the machine that builds it.

use std::path::Path;

use anyhow::{Result, ensure};

/// The version of glibc in the runtime `provided.al2023`, 2.34.
const OF_LAMBDA: u32 = 34;

/// Fails if the program needs a newer glibc than Lambda has.
pub(super) fn check(program: &Path) -> Result<()> {
    let needed = newest(&std::fs::read(program)?);
    ensure!(
        needed <= OF_LAMBDA,
        "it needs glibc 2.{needed}, and Lambda has 2.{OF_LAMBDA}: build the release on Amazon Linux 2023 or Debian 12"
    );
    Ok(())
}

/// The newest version that the program's symbols name, such as 34 for `GLIBC_2.34`.
fn newest(program: &[u8]) -> u32 {
    const NAME: &[u8] = b"GLIBC_2.";
    let versions = program.windows(NAME.len() + 2).filter_map(|window| {
        let digits = window.strip_prefix(NAME)?;
        let digits = digits.split(|byte| !byte.is_ascii_digit()).next()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    });
    versions.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts() {
        let symbols = b"\0memcpy\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0";
        assert_eq!(newest(symbols), 34);
        assert_eq!(newest(b"static"), 0);
    }
}
