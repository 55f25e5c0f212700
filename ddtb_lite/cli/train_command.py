"""Train a full-precision network, or with --bits a quantized student."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .. import checkpoints
from ..reproduction import runner
from ..support import distributed
from ..training import Diverged, Recipe
from . import arguments


def add(each: argparse.ArgumentParser) -> None:
    arguments.network_options(each)
    each.add_argument(
        "--teacher", metavar="NETWORK", help="what a student starts from, in full precision: a file or a shipped name"
    )
    start = "full-precision weights to start from, where shapes fit; an SRResNet computes what an EDSR does"
    each.add_argument("--start-from", metavar="NETWORK", help=start)
    arguments.training_options(each)
    tests = "score on these; by default all benchmarks there are"
    each.add_argument("--test", nargs="*", action=arguments.Collect, metavar="SET", help=tests)
    each.add_argument("--out", required=True, metavar="FOLDER", help="the run's folder; an interrupted run continues")
    publish = "copy the result into the repository's data, and with seed 0 the checkpoint"
    each.add_argument("--publish", action="store_true", help=publish)


def run(options: argparse.Namespace) -> None:
    """Train, score, write, and print the scores and where everything is.

    Raises `ValueError` for options that contradict one another, before anything is trained; otherwise as `runner.run`.
    """
    torch.manual_seed(options.seed)
    if options.bits is None and options.teacher is not None:
        raise ValueError("A teacher is for a quantized student: say with --bits how many bits it gets.")
    if options.bits is not None and (options.architecture or options.start_from):
        raise ValueError(
            "A student has its teacher's architecture and weights: leave out --architecture and --start-from."
        )
    teacher = None
    if options.bits is not None:
        if options.teacher is None:
            raise ValueError("A student starts from a full-precision network: give it as --teacher NETWORK.")
        teacher = checkpoints.load(checkpoints.find(options.teacher))
        arguments.check_kind(options.teacher, teacher, options)
        network = arguments.quantized(teacher, options)
    else:
        network = arguments.built(options)
        if options.start_from:
            runner.start_from(checkpoints.load(checkpoints.find(options.start_from)), network)
    recipe = Recipe.preset(options.preset, network, options.own_rates).override(**arguments.pairs(options.set))
    out = Path(options.out).resolve()
    try:
        result = runner.run(
            network,
            options.data,
            recipe,
            out,
            command=arguments.command_line(options),
            teacher=teacher,
            teacher_file=options.teacher,
            start_file=options.start_from,
            tests=options.test,
            seed=options.seed,
            device=options.device,
            publish=options.publish,
        )
    except Diverged:
        if distributed.rank() == 0:
            print(runner.result_of(out))
        raise
    if result is None:
        return  # process 0 says it all
    for name, score in result["scores"].items():
        print(f"{name:10s} {score['psnr']:6.2f} dB  SSIM {score['ssim']:.4f}")
    print(f"{runner.checkpoint_of(out)}\n{runner.result_of(out)}")
