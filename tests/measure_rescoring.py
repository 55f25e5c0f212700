"""How far the score of one and the same 2-bit network moves with the order of floating-point sums.

    python tests/measure_rescoring.py [--out data/benchmarks/rescoring.json]

Scores shipped students with another number of threads, another instruction set, another layout in memory and PyTorch's
deterministic operations, each in a process of its own, and writes by how much PSNR and SSIM differ from the default's.
Needs the benchmarks in $DDTB_DATA. Not collected by pytest; `acceptance.score_within` rests on its numbers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from typing import Any
from unittest import mock

import torch

from ddtb_lite import checkpoints, evaluate, load
from ddtb_lite.support.provenance import environment

# Enough to say how much an image moves; a mean over more of them moves less.
SETS = ("Set5", "photos")
NETWORKS = ("edsr_x4_ddtb_2bit", "edsr_x4_lsq_2bit", "edsr_x4_pams_2bit")
# What differs from one thread, the processor's best instructions and channels last, by the environment of a process.
WAYS: dict[str, dict[str, str]] = {
    "as it is": {},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "contiguous": {"WAY": "contiguous"},
    "deterministic": {"WAY": "deterministic"},
}


Rows = dict[str, dict[str, list[dict[str, float]]]]


def scores() -> Rows:
    """What `evaluate` says of each image, by network and data set, as this process computes it."""
    way = os.environ.get("WAY")
    torch.use_deterministic_algorithms(way == "deterministic")
    layout = torch.contiguous_format if way == "contiguous" else torch.channels_last
    found: Rows = {}
    with mock.patch("torch.channels_last", layout):
        for name in NETWORKS:
            network = load(checkpoints.shipped(name))
            for dataset in SETS:
                found.setdefault(name, {})[dataset] = evaluate(network, dataset, device="cpu", progress=False).images
                print(name, dataset, flush=True, file=sys.stderr)
    return found


def summary(measured: dict[str, Rows]) -> list[dict[str, Any]]:
    """A row for each network, data set and way.

    By how much the PSNR of single images moved at most, how these moves scatter, and by how much the mean moved, in dB;
    and the mean of the SSIM.
    """
    rows = []
    for name, sets in measured["as it is"].items():
        for way, dataset in itertools.product(list(WAYS)[1:], sets):
            pairs = list(zip(measured[way][name][dataset], sets[dataset], strict=True))
            moves = [ours["psnr"] - theirs["psnr"] for ours, theirs in pairs]
            ssim = statistics.fmean(ours["ssim"] - theirs["ssim"] for ours, theirs in pairs)
            rows.append(
                {
                    "network": name,
                    "dataset": dataset,
                    "way": way,
                    "images": len(moves),
                    "largest": round(max(map(abs, moves)), 4),
                    "spread": round(statistics.pstdev(moves), 4),
                    "mean": round(statistics.fmean(moves), 4),
                    "mean_ssim": round(ssim, 6),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="data/benchmarks/rescoring.json")
    parser.add_argument("--one", action="store_true", help="score in this process and print that as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(scores()))
        return
    measured = {}
    for way, settings in WAYS.items():
        process = subprocess.run(
            [sys.executable, __file__, "--one"],
            env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        measured[way] = json.loads(process.stdout)
        print(way, file=sys.stderr)
    facts = {**environment("cpu"), "rows": summary(measured)}
    with open(options.out, "w", encoding="utf-8") as file:
        file.write(f"{json.dumps(facts, indent=1)}\n")


if __name__ == "__main__":
    main()
