#!/bin/sh
# The main job, end to end: fine-tune -> evaluate -> quantize -> register, on the packaged small model and
# the bundled data. Runs in its own state directory, so it touches nothing else of yours.
# usage: demo.sh BIN-DIRECTORY
set -eu
bin=$1
MODELOPS_HOME=${MODELOPS_HOME:-$PWD/.demo}
export MODELOPS_HOME
say() { printf '\n\033[1m==> %s\033[0m\n' "$1"; }
mo() { "$bin/modelops-tui" "$@"; }

say "What this machine has"
mo doctor || true

say "The recipe (recipes/finetune/quickstart.toml), checked before anything heavy is loaded"
mo recipe explain quickstart

say "Running it; to see it live, open another terminal and type:  $bin/modelops-tui --state $MODELOPS_HOME"
mo run quickstart

say "What it made"
mo models list
name=$(mo models list --json | "$bin/python" -c 'import json, sys; print(json.load(sys.stdin)[0]["name"])')
mo models verify "$name@staging"

say "Done. Next:"
cat <<TEXT
    $bin/modelops-tui --state $MODELOPS_HOME                     the workbench (the finished job is there)
    $bin/modelops-tui --state $MODELOPS_HOME models show $name@staging
    $bin/modelops-tui --state $MODELOPS_HOME chat $name@staging
    make demo                                                    again: unchanged steps are remembered, not redone
    $bin/modelops-tui --state $MODELOPS_HOME engine stop         the engine goes on in the background until you say so
TEXT
