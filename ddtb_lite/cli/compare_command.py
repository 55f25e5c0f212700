"""Train and score several methods with one recipe, and print one table."""

from __future__ import annotations

import argparse

from .. import checkpoints
from ..quantizers import METHODS
from ..reproduction import comparison
from . import arguments


def add(each: argparse.ArgumentParser) -> None:
    arguments.which_network(each)
    each.add_argument("--bits", type=int, default=2, help="bit-width of weights and activations; by default 2")
    each.add_argument(
        "--methods",
        nargs="+",
        action=arguments.Collect,
        default=["all"],
        choices=["all", *METHODS],
        metavar="METHOD",
        help=f"all (the default), or some of {', '.join(METHODS)}",
    )
    each.add_argument("--teacher", metavar="NETWORK", help="in full precision; by default the shipped one")
    arguments.training_options(each)
    each.add_argument(
        "--test",
        nargs="+",
        action=arguments.Collect,
        default=["photos"],
        metavar="SET",
        help="score on these; by default photos that come with scikit-image",
    )
    each.add_argument("--out", metavar="FOLDER", help="keep the runs here, so that they can be continued")


def run(options: argparse.Namespace) -> None:
    """Train, score and print."""
    model, scale = getattr(options, "model", "edsr"), getattr(options, "scale", 4)
    file = checkpoints.find(options.teacher or f"{model}_x{scale}")
    teacher = checkpoints.load(file)
    arguments.check_kind(file, teacher, options)
    rows = comparison.compare(
        teacher,
        options.data,
        options.test,
        bits=options.bits,
        methods=list(METHODS) if "all" in options.methods else options.methods,
        preset=options.preset,
        changes=arguments.pairs(options.set),
        own_rates=options.own_rates,
        out=options.out,
        seed=options.seed,
        device=options.device,
    )
    print(comparison.table(rows))
