#!/usr/bin/env bash
# Evidence from a quarter of an hour of a GPU: the tests that need one, its speed, then as much of the reproduction as
# BUDGET buys. One call is a piece of at most PIECE seconds; exit status 124 says that the same call goes on:
#
#     until workflow/evidence.sh; do [ $? = 124 ] || break; done
#
# What comes back lies in OUT: gpu_tests.txt, benchmark.json, bundle.zip. A rehearsal without a GPU:
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

# Runs a command until the piece is over. SIGTERM lets a training save its state.
in_time() {
    if ((SECONDS >= PIECE)); then return 124; fi
    timeout --kill-after 30 $((PIECE - SECONDS)) "$@"
}

mkdir -p "$OUT"
if [ ! -e "$OUT/gpu_tests.txt" ]; then
    echo "Tests that a CPU skips"
    # A failing test is evidence too, and so is one that takes too long: what it says is kept, and the rest goes on.
    # shellcheck disable=SC2086
    in_time "$PYTHON" -m pytest -q -rs $TESTS > "$OUT/gpu_tests.partial" 2>&1 || echo "exit status $?"
    mv "$OUT/gpu_tests.partial" "$OUT/gpu_tests.txt"
    tail -n 3 "$OUT/gpu_tests.txt"
fi
if [ ! -e "$OUT/benchmark.json" ]; then
    echo "Speed and memory"
    in_time "$PYTHON" -m ddtb_lite benchmark --device "$DEVICE" --out "$OUT/benchmark.json" || echo "exit status $?"
fi
in_time "$PYTHON" -m ddtb_lite reproduce --budget "$BUDGET" --preset "$PRESET" --device "$DEVICE" \
    --data "${DATA[@]}" --out "$OUT" || {
    status=$?
    # 137 is a command that did not end when it was told to.
    if [ "$status" != 124 ] && [ "$status" != 137 ]; then exit "$status"; fi
    echo "This piece is over: the same call goes on." >&2
    exit 124
}
