#!/usr/bin/env bash
# Puts each past fault back, one at a time, lets the simulation find it within MINUTES (10), and writes the result into the table of
# docs/simulation.md. `simulation/prove.sh NAME ...` tries only these.
set -euo pipefail
cd "$(dirname "$0")/.."

page=$PWD/docs/simulation.md
faults=$PWD/simulation/past_faults
# Not `target`, where a build with a fault would replace the program of `make simulate`.
export CARGO_TARGET_DIR=$PWD/target/past_faults
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp --parents -t "$copy"
cd "$copy"

build() { cargo build --locked --quiet --package ringback-simulation --bin simulate; }
simulate() { "$CARGO_TARGET_DIR/debug/simulate" --first 0 "$@" || [[ $? -eq 1 ]]; }
# Lines "SEED | PROMISE" of what was found.
broken() { sed -n 's/^seed \([0-9]*\) breaks a promise ([0-9]* in all): /\1 | /p' | sort -n; }

# Replaces the row with the same first cell, or adds it.
write_row() {
    awk -v row="$1" '
        BEGIN { split(row, new, "|") }
        { split($0, old, "|") }
        old[2] == new[2] { print row; is_written = 1; next }
        /<!-- the table: end -->/ && !is_written { print row }
        { print }
    ' "$page" >"$copy/page"
    cp "$copy/page" "$page"
}

prove() {
    local patch=$faults/$1.patch out found calls_and_seconds
    git apply "$patch" && build || exit
    out=$(simulate --minutes "${MINUTES:-10}" "${ignored[@]}")
    git apply --reverse "$patch" || exit
    found=$(broken <<<"$out" | head -n 1)
    found=${found:-- | NOT FOUND}
    calls_and_seconds=$(sed -n 's/^\([0-9.]*\) s: \([0-9]*\) calls.*/\2 | \1/p' <<<"$out" | tail -n 1)
    write_row "| [$1](../simulation/past_faults/$1.patch) | $(sed -n 's/^Fault: //p' "$patch") | $(sed -n 's/^Mended by: //p' "$patch") | ${found#* | } | ${found%% | *} | $calls_and_seconds |"
    echo "$1: $found | $calls_and_seconds s"
    [[ $found != *"NOT FOUND" ]]
}

# What the present rules break proves nothing about a past fault.
build
ignored=()
while IFS='|' read -r _ promise; do
    echo "the present rules break, so this is ignored:$promise"
    ignored+=(--ignore "${promise# }")
done < <(simulate --count --seeds 20000 | broken)

names=("$@")
[[ $# -gt 0 ]] || mapfile -t names < <(basename -s .patch "$faults"/*.patch)
missed=0
for name in "${names[@]}"; do prove "$name" || missed=$((missed + 1)); done
echo "$missed of ${#names[@]} past faults were not found"
[[ $missed -eq 0 ]]
