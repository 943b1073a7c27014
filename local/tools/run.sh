#!/bin/sh
# Runs a program of this workspace: run.sh PROGRAM [ARGUMENT…]. `--workspace` selects the features of the dependencies that the tests have, so
# cargo compiles each dependency once. `cargo run` has no such option.
set -eu
program=$1
shift
cargo build --locked --workspace --bin "$program"
exec "${CARGO_TARGET_DIR:-target}/debug/$program" "$@"
