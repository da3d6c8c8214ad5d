#!/usr/bin/env bash
# generate DIR   write the stubs of every package under proto/ into DIR
# drift          fail when the committed stubs are not what proto/ generates
# lint           buf lint, and buf breaking against the last release tag, or else the previous version of proto/
#                (PROTO_BASE=REV chooses another)
set -euo pipefail
cd "$(dirname "$0")/../.."

generate() {
    PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m grpc_tools.protoc -Iproto \
        --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" $(git ls-files -co --exclude-standard 'proto/*.proto')
}

drift() {
    mkdir -p .cache
    fresh=$(mktemp -d -p "$PWD/.cache")
    trap 'rm -rf "$fresh"' EXIT
    generate "$fresh"
    for package in $(cd "$fresh" && find . -mindepth 2 -maxdepth 2 -type d); do
        if ! diff -ru --exclude=__init__.py --exclude=__pycache__ "$package" "$fresh/$package"; then
            echo "the stubs in $package are not what proto/ generates: run \`make proto\` and commit the result" >&2
            exit 1
        fi
    done
    echo "stubs: as generated"
}

buf() {
    local program=.cache/buf/node_modules/.bin/buf
    if ! [[ -x $program && $("$program" --version 2>/dev/null) == "$BUF_VERSION" ]]; then
        if ! command -v npm >/dev/null; then
            echo "!!! SKIPPED: buf lint and buf breaking need npm, which is not installed !!!" >&2
            [[ ${CI:-} != true ]] || exit 1
            exit 0
        fi
        mkdir -p .cache/buf
        npm install --silent --no-audit --no-fund --no-save --ignore-scripts --cache "$PWD/.cache/npm" --prefix .cache/buf "@bufbuild/buf@$BUF_VERSION"
    fi
    "$program" "$@"
}

base() {
    if [[ -n ${PROTO_BASE:-} ]]; then
        echo "$PROTO_BASE"
    elif ! git describe --tags --abbrev=0 --match 'v*' 2>/dev/null; then
        if git diff --quiet HEAD -- proto; then
            git rev-list --max-count=1 --skip=1 HEAD -- proto
        else
            echo HEAD
        fi
    fi
}

lint() {
    : "${BUF_VERSION:?set by the Makefile}"
    buf lint proto
    local against
    against=$(base)
    if [[ -z $against ]]; then
        echo "proto: lint ok; no earlier version to compare with"
        return
    fi
    buf breaking proto --against ".git#ref=$against,subdir=proto"
    echo "proto: lint ok; compatible with $against"
}

case ${1:-} in
    generate) generate "${2:?directory}" ;;
    drift) drift ;;
    lint) lint ;;
    *) sed -n '2,5p' "$0" >&2; exit 2 ;;
esac
