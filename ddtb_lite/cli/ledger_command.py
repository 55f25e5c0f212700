"""Each score that the paper prints, ours, and a verdict."""

from __future__ import annotations

import argparse
from collections import Counter

from ..reproduction import estimates, progress, results
from ..reproduction.claims import ledger, summary


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument("--folder", default="runs", help="where the run folders lie")
    each.add_argument("--own", action="store_true", help="count this folder's results only, not data/results")


def run(options: argparse.Namespace) -> None:
    """Print the ledger as text."""
    published = {} if options.own else progress.with_accepted(results.all_results())
    measured = progress.together(published, progress.results_in(options.folder))
    claims, basis = ledger(measured), estimates.basis("paper", measured.values())
    for claim in claims:
        ours = "" if claim.ours is None else f"{claim.ours:6.2f}"
        what = f"{claim.model} ×{claim.scale} {claim.bits:2d} bits {claim.method}"
        cost = claim.run or (f"about {claim.hours:.2f} hours {basis}" if claim.command else "")
        print(f"{what:38s} {claim.dataset:9s} {claim.paper:6.2f} {ours:6s}  {claim.status:18s} {cost}")
        if claim.gap:
            print(f"{'':38s} gap to full precision: {claim.gap}")
    gaps = Counter(claim.gap.status for claim in claims if claim.gap)
    for counted in (gaps, summary(claims)):
        print(", ".join(f"{count} {status}" for status, count in counted.items()))
