"""The way in: words are parsed, one command runs, errors become one line and an exit status."""

from __future__ import annotations

import argparse
import sys

from .. import datasets
from ..support import distributed
from . import (
    accept_command,
    arguments,
    benchmark_command,
    compare_command,
    complexity_command,
    evaluate_command,
    experiments_command,
    export_command,
    ledger_command,
    reproduce_command,
    train_command,
    upscale_command,
)

COMMANDS = (
    train_command,
    evaluate_command,
    upscale_command,
    export_command,
    complexity_command,
    compare_command,
    benchmark_command,
    experiments_command,
    ledger_command,
    reproduce_command,
    accept_command,
)


def main(words: list[str] | None = None) -> int:
    """Run one command; the result is the exit status: 0, 1 for an error told in one line, 130 if stopped."""
    options = parser().parse_args(words)
    options.words = sys.argv[1:] if words is None else words
    try:
        options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        if distributed.rank() == 0:
            print(str(stopped) or "Stopped.", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options, named like the arguments of the Python functions."""
    top = argparse.ArgumentParser(
        prog="python -m ddtb_lite",
        description="Super-resolution networks at 2, 3 and 4 bits: train, score and use them.",
    )
    choices = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    each = arguments.command(choices, "download", "Fetch data sets into $DDTB_DATA, checked and unpacked.", download)
    each.add_argument("names", nargs="*", metavar="NAME", help="data sets; none lists the known ones")
    for module in COMMANDS:
        module.add(choices)
    return top


def download(options: argparse.Namespace) -> None:
    """Fetch data sets by name, or list them."""
    if not options.names:
        for entry in datasets.registry().values():
            print(f"{entry.name:14s} {entry.images:5d} images  {entry.about}")
    for name in options.names:
        print(f"{name}: {datasets.download(name)}")
