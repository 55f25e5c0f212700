"""Reproduce what a budget of time buys on this machine, and write a bundle of the results to send."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reproduction import claims, plan, progress
from . import arguments


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument("--budget", required=True, metavar="TIME", help="such as 90s, 45m or 2h")
    each.add_argument(
        "--claims", nargs="+", action=arguments.Collect, default=[], metavar="RUN", help="runs, or beginnings: edsr_x4"
    )
    each.add_argument("--preset", default="paper", choices=progress.PRESETS, help="length of training; default paper")
    each.add_argument("--data", nargs="+", metavar="SET", help="training sets, by default the preset's")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    each.add_argument("--out", type=Path, default=Path("runs/reproduce"), metavar="FOLDER", help="where the runs lie")


def run(options: argparse.Namespace) -> None:
    """Say the plan, run it, print what changed in the ledger, and write the bundle; the same call goes on."""
    out = options.out
    chosen = plan.make(out, options.budget, options.preset, options.claims, options.data, options.device)
    print(chosen, flush=True)
    for result in plan.carry_out(chosen, out):
        scores = ", ".join(f"{name} {score['psnr']:.2f} dB" for name, score in result["scores"].items())
        print(f"{result['run']:36s} {scores or 'diverged'}", flush=True)
        sent = plan.write_bundle(chosen, out)  # whatever happens next, this much can be sent
    for claim in (rows := claims.changed(progress.results_in(out))):
        print(claim)
    if not rows:
        print("No row of the ledger changed: smoke runs count for nothing, and a longer run stays before a shorter.")
    print(sent)
