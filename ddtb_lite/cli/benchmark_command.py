"""Speed and memory, each as a ratio to a peer in the same process."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..reproduction import results
from ..reproduction.inference_ratios import measure
from ..reproduction.ratios import benchmark
from ..reproduction.throughput import paper_steps
from ..support.files import atomic_write, check_folder


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    each.add_argument("--inference", action="store_true", help="what integers and standard files buy, on this CPU")
    each.add_argument("--json", action="store_true", help="print one JSON object")
    each.add_argument("--out", type=Path, metavar="FILE", help="also write what was measured, and where (.json)")


def run(options: argparse.Namespace) -> None:
    """Measure, and print one ratio a line or JSON."""
    if options.out:
        check_folder(options.out)
    if options.inference:
        return _inference(options)
    ratios = benchmark(options.device)
    # The paper's networks take a CPU seconds a step, and tell nothing that the ratios do not.
    measured = [] if options.device == "cpu" else paper_steps(options.device)
    values = {name: ratio.value for name, ratio in ratios.items()}
    facts = {**values, "throughput": [vars(each) for each in measured]}
    if options.out:
        here = results.environment(options.device)
        atomic_write(options.out, f"{json.dumps({**facts, 'environment': here}, indent=1)}\n".encode())
    if options.json:
        print(json.dumps(facts))
        return
    for name, ratio in ratios.items():
        print(f"{name:28s} {ratio.value:6.2f}  {ratio.about}")
    for each in measured:
        print(each)


def _inference(options: argparse.Namespace) -> None:
    if options.device != "cpu":
        raise ValueError("--inference measures a CPU: leave out --device.")
    facts = measure()
    if options.out:
        atomic_write(options.out, f"{json.dumps(facts, indent=1)}\n".encode())
    if options.json:
        print(json.dumps(facts))
        return
    for row in facts["rows"]:
        what = f"EDSR ×{row['scale']} {row['part']}, {row['version']}, {row['threads']} thread(s)"
        print(f"{what:56s} time {row['time']:6.2f}  promised {row['promised']:7.4f}")
    for kind, share in facts["shares"].items():
        print(f"of the body on integers, {kind:31s} time {share:6.3f}")
    for version, peak in facts["memory"].items():
        print(f"peak memory, {version:43s} {peak / 1e6 if peak else float('nan'):8.1f} MB")
    for network, scores in (facts["set5"] or {}).items():
        print(f"Set5, {network:30s}", ", ".join(f"{way} {psnr:.3f} dB" for way, psnr in scores.items()))
    for what, found in {**facts["runtimes"], "Set5": facts["set5"]}.items():
        if not found:
            print(f"{what}: not measured, because it is not here")
