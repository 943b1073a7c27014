//! How many bytes of a binary come from each crate, by its symbols.
//!
//! A generic function counts for the first crate in its name that is not the standard library: mostly the crate of the type it
//! was compiled for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The standard library's crates.
const STANDARD: [&str; 5] = ["core", "alloc", "std", "hashbrown", "compiler_builtins"];

/// The crates in a binary and their sizes in bytes, largest first.
///
/// # Errors
/// When `nm` (binutils) is missing, or the binary has no symbols.
pub fn sizes(binary: &Path) -> Result<Vec<(String, u64)>> {
    let mut nm = Command::new("nm");
    nm.args(["--print-size", "--demangle", "--defined-only"]);
    let listed = nm.arg(binary).output().context("nm does not start")?;
    let sizes = by_crate(&String::from_utf8_lossy(&listed.stdout));
    ensure!(!sizes.is_empty(), "{} has no symbols", binary.display());
    Ok(sizes)
}

fn by_crate(listed: &str) -> Vec<(String, u64)> {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    // Identical functions share one address under several names.
    let mut seen = BTreeSet::new();
    for (address, size, name) in listed.lines().filter_map(symbol) {
        if seen.insert(address) {
            *sizes.entry(crate_of(name)).or_default() += size;
        }
    }
    let mut sizes: Vec<_> = sizes
        .into_iter()
        .map(|(name, size)| (name.to_owned(), size))
        .collect();
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    sizes
}

/// Address, size and name of a symbol. `None` if it has no size or takes no room in the file (`b`).
fn symbol(line: &str) -> Option<(&str, u64, &str)> {
    let mut words = line.splitn(4, ' ');
    let (address, size) = (words.next()?, words.next()?);
    let (kind, name) = (words.next()?, words.next()?);
    let size = u64::from_str_radix(size, 16).ok()?;
    (!kind.eq_ignore_ascii_case("b")).then_some((address, size, name))
}

/// The first crate in a name that is not the standard library.
fn crate_of(name: &str) -> &str {
    let mut crates = name
        .split(|it: char| !(it.is_alphanumeric() || it == '_' || it == ':'))
        .filter_map(|path| path.split_once("::"))
        .map(|(first, _)| first)
        .filter(|first| first.starts_with(|it: char| it.is_ascii_lowercase()))
        .peekable();
    if crates.peek().is_none() {
        return if name.starts_with("aws_lc") {
            "aws_lc (C)"
        } else {
            "C or unnamed"
        };
    }
    crates.find(|it| !STANDARD.contains(it)).unwrap_or("std")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_counts_for_the_first_crate_outside_the_standard_library() {
        for (name, expected) in [
            ("serde_json::de::from_slice", "serde_json"),
            (
                "core::ptr::drop_in_place<alloc::vec::Vec<hyper::Body>>",
                "hyper",
            ),
            ("<&mut T as core::ops::deref::DerefMut>::deref_mut", "std"),
            ("<http::uri::Uri as core::fmt::Display>::fmt", "http"),
            ("aws_lc_0_47_0_EC_KEY_OpenSSL", "aws_lc (C)"),
            ("GCC_except_table476", "C or unnamed"),
        ] {
            assert_eq!(crate_of(name), expected, "{name}");
        }
    }

    #[test]
    fn code_under_several_names_is_counted_once() {
        let listed = "\
00000000013dc86a 00000000000000f7 t aws_lc_0_47_0_EC_GFp_nistz256_method_do_init
0000000000aa6050 0000000000000010 T http::uri::one
0000000000aa6050 0000000000000010 T http::uri::the_same
0000000000aa6060 0000000000000001 T http::uri::two
0000000000bb0000 0000000000001000 b http::zeroes
0000000000cc0000 T _start
";
        let sizes = by_crate(listed);
        let expected = [("aws_lc (C)", 0xf7), ("http", 0x11)];
        assert_eq!(sizes, expected.map(|(name, size)| (name.to_owned(), size)));
    }
}
