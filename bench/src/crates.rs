//! What each crate costs: the size of what a binary's symbols name.
//!
//! Code that is generic is compiled for whoever uses it; it is put down to the first crate that its name has besides the
//! standard library, which is mostly the one whose type it was made for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The standard library's crates.
const STANDARD: [&str; 5] = ["core", "alloc", "std", "hashbrown", "compiler_builtins"];

/// How many bytes of a binary are whose, the most first.
///
/// # Errors
/// When `nm` (of binutils) is not there, or the binary has no symbols.
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
    // What is the same is kept once, under several names.
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

/// Address, size and name. What takes no room in the file (`b`), or has no size, is left out.
fn symbol(line: &str) -> Option<(&str, u64, &str)> {
    let mut words = line.splitn(4, ' ');
    let (address, size) = (words.next()?, words.next()?);
    let (kind, name) = (words.next()?, words.next()?);
    let size = u64::from_str_radix(size, 16).ok()?;
    (!kind.eq_ignore_ascii_case("b")).then_some((address, size, name))
}

/// The first crate in a name that is none of the standard library's.
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
            "C, and without a name"
        };
    }
    crates.find(|it| !STANDARD.contains(it)).unwrap_or("std")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_put_down_to_the_first_crate_that_is_not_the_standard_librarys() {
        for (name, whose) in [
            ("serde_json::de::from_slice", "serde_json"),
            (
                "core::ptr::drop_in_place<alloc::vec::Vec<hyper::Body>>",
                "hyper",
            ),
            ("<&mut T as core::ops::deref::DerefMut>::deref_mut", "std"),
            ("<http::uri::Uri as core::fmt::Display>::fmt", "http"),
            ("aws_lc_0_47_0_EC_KEY_OpenSSL", "aws_lc (C)"),
            ("GCC_except_table476", "C, and without a name"),
        ] {
            assert_eq!(crate_of(name), whose, "{name}");
        }
    }

    #[test]
    fn what_is_in_the_file_is_counted_once() {
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
