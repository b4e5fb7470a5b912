#!/bin/sh
# Install with pip, and show one line of progress per package instead of pip's pages.
# usage: pip-install.sh PYTHON PIP-ARGUMENTS...
set -u
python=$1
shift
log=$(mktemp)
CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)} \
    "$python" -m pip install --progress-bar off "$@" >"$log" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null' INT TERM
shown=""
started=$(date +%s)
while kill -0 $pid 2>/dev/null; do
    line=$(grep -E '^(Collecting|  Downloading|Building wheel|  Building wheel|Installing collected)' "$log" | tail -n 1 |
        sed -e 's/^ *//' -e 's/ (.*//' | cut -c 1-60)
    if [ -n "$line" ] && [ "$line" != "$shown" ]; then
        printf '    %4ds  %s\n' "$(($(date +%s) - started))" "$line"
        shown=$line
    fi
    sleep 2
done
if wait $pid; then
    printf '    %4ds  installed\n' "$(($(date +%s) - started))"
    rm -f "$log"
else
    status=$?
    printf '\ninstallation failed; the last lines of pip were:\n\n' >&2
    tail -n 30 "$log" >&2
    printf '\nthe whole log: %s\n' "$log" >&2
    printf 'hint: a C and C++ compiler (gcc, g++) and Python headers are needed to build llama.cpp\n' >&2
    exit $status
fi
