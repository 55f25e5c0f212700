"""The command that measures speed and memory, each as a ratio to a peer in the same process."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..reproduction import results
from ..reproduction.ratios import benchmark
from ..reproduction.throughput import paper_steps
from ..support.files import atomic_write, check_folder
from . import arguments


def add(choices: arguments.Choices) -> None:
    """Its options."""
    about = "Speed and memory, each as a ratio to a peer in the same process."
    each = arguments.command(choices, "benchmark", about, run)
    each.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    each.add_argument("--json", action="store_true", help="print one JSON object")
    each.add_argument("--out", type=Path, metavar="FILE", help="also write what was measured, and where (.json)")


def run(options: argparse.Namespace) -> None:
    """Measure, and print one ratio a line or JSON."""
    if options.out:
        check_folder(options.out)
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
