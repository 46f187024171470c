#!/bin/bash
# The API description as a contract: linted, clients generated from it compiled and driven, the server tried with generated requests.
# usage: WRENN_BASE_URL=... WRENN_API_KEY=... scripts/api-clients/run.sh install DIR | lint DIR | typescript DIR | python DIR | requests DIR
# DIR holds the tools and what is generated; `install` fills it from npm and PyPI, once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
act=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)

fetch_description() {
    export WRENN_DESCRIPTION="$dir/openapi.json"
    curl --fail --silent --show-error --max-time 20 "$WRENN_BASE_URL/openapi.json" -o "$WRENN_DESCRIPTION"
    curl --fail --silent --show-error --max-time 20 "$WRENN_BASE_URL/openapi-3.0.json" -o "$dir/openapi-3.0.json"
}

case $act in
install)
    cp "$here/package.json" "$dir/"
    (cd "$dir" && npm install --no-audit --no-fund --silent)
    [ -x "$dir/python/bin/pip" ] || python3 -m venv "$dir/python"
    "$dir/python/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    ;;
lint)
    fetch_description
    cd "$dir"
    for form in openapi.json openapi-3.0.json; do
        node_modules/.bin/redocly lint --config "$here/redocly-rules.yaml" --max-problems 20 "$form" 2>&1 | tee redocly.log
        ! grep -E "[1-9][0-9]* (warning|error)" redocly.log
        node_modules/.bin/spectral lint --ruleset "$here/spectral-rules.yaml" --fail-severity hint "$form"
    done
    ;;
typescript)
    fetch_description
    cd "$dir"
    mkdir -p generated
    cp "$here/drive.ts" "$here/orval.config.cjs" .
    node_modules/.bin/openapi-typescript "$WRENN_DESCRIPTION" -o generated/types.ts
    node_modules/.bin/orval --config orval.config.cjs
    node_modules/.bin/tsc --strict --target es2022 --module nodenext --moduleResolution nodenext --lib es2022,dom,dom.iterable \
        --skipLibCheck --outDir built drive.ts
    node built/drive.js
    ;;
python)
    fetch_description
    cd "$dir"
    cp "$here/drive.py" .
    python/bin/openapi-python-client generate --path "$WRENN_DESCRIPTION" --output-path generated_client --overwrite --meta none \
        2>&1 | tee python-client.log
    ! grep -E "^(Warning|Error|Unable)" python-client.log
    python/bin/python -m compileall -q generated_client
    python/bin/python drive.py
    ;;
requests)
    fetch_description
    cd "$dir"
    # Streams stay open by design; a round trip to another site cannot be followed.
    python/bin/schemathesis --config-file "$here/schemathesis.toml" run "$WRENN_DESCRIPTION" --url "$WRENN_BASE_URL" --header "X-API-Key: $WRENN_API_KEY" \
        --checks not_a_server_error,status_code_conformance --max-examples 8 --seed 1 --phases examples,fuzzing --request-timeout 20 \
        --exclude-path-regex '/(stream|pty|tunnel)$|/events/stream$|^/auth/oauth/' --no-color
    ;;
*)
    echo "unknown act $act" >&2
    exit 2
    ;;
esac
