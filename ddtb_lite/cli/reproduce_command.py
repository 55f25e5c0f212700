"""The command that reproduces what a budget of time buys on this machine, and writes a bundle to send."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reproduction import plan, progress, results
from ..reproduction.claims import Claim, ledger
from . import arguments


def add(choices: arguments.Choices) -> None:
    """Its options."""
    about = "Reproduce what a budget of time buys on this machine, and write a bundle of the results to send."
    each = arguments.command(choices, "reproduce", about, run)
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
    before = ledger()
    for result in plan.carry_out(chosen, out):
        scores = ", ".join(f"{name} {score['psnr']:.2f} dB" for name, score in result["scores"].items())
        print(f"{result['run']:36s} {scores or 'diverged'}", flush=True)
        plan.write_bundle(chosen, out)  # whatever happens next, this much can be sent
    published = progress.with_accepted(results.all_results())
    after = ledger(progress.together(published, progress.results_in(out)))
    changed = [new for old, new in zip(before, after, strict=True) if new != old]
    for claim in changed:
        print(row(claim))
    if not changed:
        print("No row of the ledger changed: " + ("smoke runs count for nothing." if options.preset == "smoke" else ""))
    print(plan.write_bundle(chosen, out))


def row(claim: Claim) -> str:
    """A claim in one line."""
    ours = "" if claim.ours is None else f"{claim.ours:.2f}"
    what = f"{claim.model} ×{claim.scale} {claim.bits} bits {claim.method} on {claim.dataset}"
    gap = f"; {claim.gap}" if claim.gap else ""
    return f"{what}: printed {claim.paper:.2f} dB, ours {ours}: {claim.status}{gap}"
