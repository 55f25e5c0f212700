#!/usr/bin/env bash
# Evidence from a quarter of an hour of a GPU: the tests that need one, its speed, then as much of the reproduction as
# the time buys, in pieces that may be cut off. What comes back is in $OUT: gpu_tests.txt, benchmark.json, bundle.zip.
#
#     workflow/evidence.sh                                                              on a CUDA device
#     DEVICE=cpu PRESET=smoke BUDGET=3m PIECE=60 TESTS=tests/reproduction/test_throughput.py workflow/evidence.sh
#                                                                                       a rehearsal without one
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python}
DEVICE=${DEVICE:-cuda}
PRESET=${PRESET:-paper}
BUDGET=${BUDGET:-10m}
PIECE=${PIECE:-480}   # seconds after which a piece is ended, and the next one goes on
PIECES=${PIECES:-8}
OUT=${OUT:-runs/evidence}
TESTS=${TESTS:-tests/training tests/test_evaluation.py tests/test_metrics.py tests/reproduction/test_throughput.py}
if [ -z "${DATA:-}" ]; then
    case $PRESET in
        smoke) DATA=photos_train ;;
        *) if [ -d "${DDTB_DATA:-/nowhere}/DIV2K" ]; then DATA=DIV2K; else DATA="BSD200_train BSD200_test T91"; fi ;;
    esac
fi
mkdir -p "$OUT"

echo "Tests that a CPU skips"
# A failing test is evidence too: what it says is kept, and the rest goes on.
# shellcheck disable=SC2086
"$PYTHON" -m pytest -q -k "cuda or gpu" $TESTS > "$OUT/gpu_tests.txt" 2>&1 || true
tail -n 3 "$OUT/gpu_tests.txt"

echo "Speed and memory"
"$PYTHON" -m ddtb_lite benchmark --device "$DEVICE" --out "$OUT/benchmark.json" || true

for piece in $(seq "$PIECES"); do
    echo "Piece $piece"
    status=0
    # shellcheck disable=SC2086
    timeout --signal TERM --kill-after 60 "$PIECE" "$PYTHON" -m ddtb_lite reproduce \
        --budget "$BUDGET" --preset "$PRESET" --device "$DEVICE" --data $DATA --out "$OUT" || status=$?
    # 124 and 137: its time was over.
    if [ "$status" != 124 ] && [ "$status" != 137 ]; then exit "$status"; fi
done
echo "The budget is not used up yet: the same command goes on." >&2
exit 1
