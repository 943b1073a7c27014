#!/usr/bin/env bash
# Runs checkov on template.yaml, in its pinned version, which it installs into target/tools on first use.
# cfn-lint runs in a test: `sam validate --lint`, in e2e/tests/stack/template_lint.rs.
set -euo pipefail
cd "$(dirname "$0")/../.."

pins=local/tools/requirements-checkov.txt
version=$(sed -n 's/^checkov==//p' "$pins")
venv=target/tools/checkov

if [[ ! -x $venv/bin/checkov ]] || [[ $("$venv/bin/checkov" --version) != "$version" ]]; then
    echo "installing checkov $version into $venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps -r "$pins"
fi
"$venv/bin/checkov" --config-file .checkov.yaml --file template.yaml
