#!/usr/bin/env bash
# Runs each harness for SECONDS_EACH seconds, as many at a time as there are processors: run.sh BUILD SECONDS_EACH NAME...
# New inputs are kept in BUILD/corpus for the next time. On a finding prints the end of its log, and fails.
set -uo pipefail
build=$1 seconds=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$build/seeds"
TMPDIR=$(mktemp -d -p "$(test -w /dev/shm && echo /dev/shm || echo /tmp)")  # in memory where possible
trap 'rm -rf "$TMPDIR"' EXIT
export TMPDIR
"$build/write_seeds" "$build/seeds" || exit 1
run_one() {
    name=$1
    mkdir -p "$build/corpus/$name" "$build/findings"
    if "$build/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -malloc_limit_mb=1000 -max_len=100000 \
        -dict="$here/tokens.dict" -artifact_prefix="$build/findings/$name-" -print_final_stats=1 \
        "$build/corpus/$name" "$build/seeds/$name" >"$build/$name.log" 2>&1; then
        echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log") inputs, no finding"
    else
        echo "$name: a finding:"
        tail -n 40 "$build/$name.log"
        return 1
    fi
}
export -f run_one
export build seconds here ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=0 UBSAN_OPTIONS=print_stacktrace=1
printf '%s\n' "$@" | xargs -P "$(nproc)" -I NAME bash -c 'run_one NAME'
