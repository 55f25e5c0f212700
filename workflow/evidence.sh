#!/usr/bin/env bash
# Evidence from a quarter of an hour of a GPU: the tests that need one, its speed, then as much of the reproduction as
# BUDGET buys. One call is a piece of at most PIECE seconds; exit status 124 says that the same call goes on:
#
#     until workflow/evidence.sh; do [ $? = 124 ] || break; done
#
# What comes back lies in OUT: gpu_tests.txt, benchmark.json (and .txt), bundle.zip. A rehearsal without a GPU:
#
#     DEVICE=cpu PRESET=smoke BUDGET=3m PIECE=120 TESTS=tests/test_metrics.py workflow/evidence.sh
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python}
DEVICE=${DEVICE:-cuda}
PRESET=${PRESET:-paper}
BUDGET=${BUDGET:-10m}
PIECE=${PIECE:-480}
OUT=${OUT:-runs/evidence}
TESTS=${TESTS:-tests/reproduction/test_throughput.py tests/training/test_patches.py tests/training/test_cuda_graph.py
    tests/training/test_optimizer.py tests/test_metrics.py tests/test_evaluation.py}
DATA=(photos_train)
if [ "$PRESET" != smoke ]; then
    DATA=(BSD200_train BSD200_test T91)
    if [ -d "${DDTB_DATA:-/nowhere}/DIV2K" ]; then DATA=(DIV2K); fi
fi

# Runs a command for so many seconds, at most until the piece is over. SIGTERM lets a training save its state.
in_time() {
    local left=$((PIECE - SECONDS))
    if ((left <= 0)); then return 124; fi
    timeout --kill-after 30 $((left < $1 ? left : $1)) "${@:2}"
}

# Runs a command in a third of a piece, one time only, and keeps what it says: a failure is evidence too.
once() {
    local said=$OUT/$1.txt
    if [ -e "$said" ]; then return; fi
    echo "$1"
    in_time $((PIECE / 3)) "${@:2}" > "$said.partial" 2>&1 || echo "exit status $?" >> "$said.partial"
    mv "$said.partial" "$said"
    tail -n 3 "$said"
}

mkdir -p "$OUT"
# shellcheck disable=SC2086
once gpu_tests "$PYTHON" -m pytest -q -rs $TESTS
once benchmark "$PYTHON" -m ddtb_lite benchmark --device "$DEVICE" --out "$OUT/benchmark.json"
in_time "$PIECE" "$PYTHON" -m ddtb_lite reproduce --budget "$BUDGET" --preset "$PRESET" --device "$DEVICE" \
    --data "${DATA[@]}" --out "$OUT" || {
    status=$?
    # 137 is a command that did not end when it was told to.
    if [ "$status" != 124 ] && [ "$status" != 137 ]; then exit "$status"; fi
    echo "This piece is over: the same call goes on." >&2
    exit 124
}
