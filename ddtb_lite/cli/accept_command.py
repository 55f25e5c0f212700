"""Score the networks of a bundle again, check what it says, and file what holds in data/accepted."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reproduction import acceptance, bundle


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument("bundle", type=Path, metavar="BUNDLE", help="the zip that `reproduce` wrote")
    each.add_argument("--check", action="store_true", help="examine only, file nothing")


def run(options: argparse.Namespace) -> None:
    """Print a verdict on each run; `ValueError` at the end if any was refused."""
    sent = bundle.read(options.bundle)
    verdicts = acceptance.examine(sent)
    if not verdicts:
        raise ValueError(f"{options.bundle} holds no result.")
    for verdict in verdicts:
        print(f"{verdict.run:40s} {f'refused: {verdict.refused}' if verdict.refused else 'accepted'}")
    if not options.check and (place := acceptance.file(sent, verdicts)):
        print(place)
    if refused := sum(verdict.refused is not None for verdict in verdicts):
        raise ValueError(f"{refused} of {len(verdicts)} runs were refused, for the reasons above.")
