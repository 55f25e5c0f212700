"""The way in: words are parsed, one command runs, errors become one line and an exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import checkpoints, datasets, deploy
from ..reproduction import acceptance, bundle
from ..support import distributed
from . import (
    arguments,
    benchmark_command,
    compare_command,
    complexity_command,
    evaluate_command,
    experiments_command,
    ledger_command,
    reproduce_command,
    train_command,
    upscale_command,
)

COMMANDS = (
    train_command,
    evaluate_command,
    upscale_command,
    complexity_command,
    compare_command,
    benchmark_command,
    experiments_command,
    ledger_command,
    reproduce_command,
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
    each = _command(choices, "download", "Fetch data sets into $DDTB_DATA, checked and unpacked.", download)
    each.add_argument("names", nargs="*", metavar="NAME", help="data sets; none lists the known ones")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2].removesuffix("_command")
        module.add(_command(choices, name, module.__doc__, module.run))
    each = _command(choices, "export", "Write a network as an ONNX file, for programs other than this.", export)
    each.add_argument("network", metavar="NETWORK", help=arguments.CHECKPOINT)
    each.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file (.onnx)")
    each.add_argument("--opset", type=int, help="version of the operators; by default the first that suits the weights")
    about = "Score the networks of a bundle again, check what it says, and file what holds in data/accepted."
    each = _command(choices, "accept", about, accept)
    each.add_argument("bundle", type=Path, metavar="BUNDLE", help="the zip that `reproduce` wrote")
    each.add_argument("--check", action="store_true", help="examine only, file nothing")
    return top


def _command(choices: Any, name: str, about: str | None, run: Callable[..., None]) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = choices.add_parser(name, help=about, description=about)
    each.set_defaults(run=run)
    return each


def export(options: argparse.Namespace) -> None:
    """Export a network, and say how large the file is."""
    deploy.export(checkpoints.load(checkpoints.find(options.network)), options.out, opset=options.opset)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


def download(options: argparse.Namespace) -> None:
    """Fetch data sets by name, or list them."""
    if not options.names:
        for entry in datasets.registry().values():
            print(f"{entry.name:14s} {entry.images:5d} images  {entry.about}")
    for name in options.names:
        print(f"{name}: {datasets.download(name)}")


def accept(options: argparse.Namespace) -> None:
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
