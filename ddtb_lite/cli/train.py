"""The command that trains: from options to a run folder with a checkpoint and a result file."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from .. import checkpoints, datasets
from ..evaluation import evaluate
from ..networks import SuperResolutionNetwork
from ..reproduction import results
from ..support import devices, distributed, resources
from ..support.files import atomic_write, check_folder
from ..training import Diverged, Recipe, train
from . import arguments


def add(choices: arguments.Choices) -> None:
    """Its options."""
    about = "Train a full-precision network, or with --bits a quantized student."
    each = arguments.command(choices, "train", about, run)
    arguments.network_options(each)
    each.add_argument("--teacher", metavar="FILE", help="the full-precision checkpoint that a student starts from")
    each.add_argument("--start-from", metavar="FILE", help="full-precision weights to start from, where shapes fit")
    arguments.training_options(each)
    tests = "score on these; by default all benchmarks there are"
    each.add_argument("--test", nargs="*", action=arguments.Collect, metavar="SET", help=tests)
    each.add_argument("--out", required=True, metavar="FOLDER", help="the run's folder; an interrupted run continues")
    publish = "copy the result into the repository's data, and with seed 0 the checkpoint"
    each.add_argument("--publish", action="store_true", help=publish)


BENCHMARKS = ("Set5", "Set14", "BSD100", "Urban100")


def run(options: argparse.Namespace) -> None:
    """Train, score the checkpoint as it is stored, and write both and the result file.

    Raises `ValueError` for options that contradict one another, before anything is trained, and `Diverged` once the
    result file of a run that diverged is written, which has no scores.
    """
    torch.manual_seed(options.seed)
    tests = [name for name in BENCHMARKS if _available(name)] if options.test is None else options.test
    for name in tests:
        datasets.paths(name)  # a test set that is missing is better noticed now than after hours
    if options.bits is None and options.teacher is not None:
        raise ValueError("A teacher is for a quantized student: say with --bits how many bits it gets.")
    if options.bits is not None and (options.architecture or options.start_from):
        raise ValueError(
            "A student has its teacher's architecture and weights: leave out --architecture and --start-from."
        )
    out = Path(options.out).resolve()  # its name is the run's, however it was spelled
    teacher = None
    if options.bits is not None:
        if options.teacher is None:
            raise ValueError("A student starts from a full-precision network: give its checkpoint as --teacher FILE.")
        teacher = checkpoints.load(options.teacher)
        arguments.check_kind(options.teacher, teacher, options)
        network = arguments.quantized(teacher, options)
    else:
        network = arguments.built(options)
        if options.start_from:
            _copy_matching(checkpoints.load(options.start_from), network)
    source = options.teacher or options.start_from
    source_sha256 = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None
    recipe = Recipe.preset(options.preset, network, options.own_rates).override(**arguments.pairs(options.set))
    if options.publish:
        check_folder(resources.published("results") / out.name)
        _refuse_to_replace_longer(out.name, recipe.steps)
    diverged = None
    try:
        history = train(
            network, options.data, recipe, teacher=teacher, out=out, seed=options.seed, device=options.device
        )
    except Diverged as error:
        diverged, history = error, error.history
    if distributed.rank() > 0:
        return  # process 0 scores, writes, and says what went wrong
    command = arguments.command_line(options)
    config = {
        "model": network.name,
        "scale": network.scale,
        "architecture": network.architecture,
        "quantization": None if network.quantization is None else vars(network.quantization),
        "recipe": vars(recipe),
        "training_data": options.data,
        "teacher": options.teacher,
        "start": options.start_from,
        # Of the file that one of these names: runs from different weights are no fair comparison.
        "source_sha256": source_sha256,
        "best_step": history.best_step,
        "diverged_at": diverged.step if diverged else None,
        "processes": distributed.launched(),
    }
    checkpoint, scores = out / f"{out.name}.safetensors", {}
    if not diverged:
        # What is scored is the file: full-precision layers at 16 bits, quantized weights packed.
        checkpoints.save(network, checkpoint, half=True, metadata={"run": out.name, "command": command, **config})
        network = checkpoints.load(checkpoint)
        scores = {name: evaluate(network, name, device=options.device) for name in tests}
    # Another seed repeats a run for the spread of its scores; nobody needs its weights as well.
    carried = not diverged and options.seed == 0
    result = out / f"{out.name}.json"
    results.write(
        result,
        run=out.name,
        config=config,
        seed=options.seed,
        data={"training": history.data} | {name: datasets.fingerprint(name) for name in tests},
        curve=history.rows,
        seconds=history.seconds,
        checkpoint=f"data/checkpoints/{checkpoint.name}" if carried else None,
        scores=scores,
        command=command,
        device=options.device,
        precision=devices.training_precision(recipe.precision, devices.resolve(options.device)),
    )
    if options.publish:
        if carried:
            atomic_write(resources.published("checkpoints") / checkpoint.name, checkpoint.read_bytes())
        atomic_write(resources.published("results") / result.name, result.read_bytes())
    if diverged:
        print(result)
        raise diverged  # an outcome worth keeping, but no success
    for name, score in scores.items():
        print(f"{name:10s} {score.psnr:6.2f} dB  SSIM {score.ssim:.4f}")
    print(f"{checkpoint}\n{result}")


def _refuse_to_replace_longer(name: str, steps: int) -> None:
    """Raise `ValueError` if `data/results` holds this run with more steps; a longer one replaces a shorter."""
    published = results.all_results().get(name)
    theirs = published["config"]["recipe"]["steps"] if published else 0
    if theirs > steps:
        raise ValueError(
            f"{name} in data/results was trained for {theirs:,d} steps, which --publish would replace by {steps:,d}: "
            "name another folder as --out, or leave out --publish."
        )


def _copy_matching(source: SuperResolutionNetwork, target: SuperResolutionNetwork) -> None:
    """Copy every weight whose name and shape fit: a ×4 network starts from a ×2 one's body."""
    if source.quantization is not None:
        raise ValueError(f"A full-precision network starts from another one, not from {source.quantization.bits} bits.")
    state = target.state_dict()
    fitting = {name: value for name, value in source.state_dict().items() if name in state}
    fitting = {name: value for name, value in fitting.items() if value.shape == state[name].shape}
    if not fitting:
        raise ValueError(f"No weight of this {source.name} ×{source.scale} fits {target.name} ×{target.scale}.")
    target.load_state_dict(state | fitting)


def _available(name: str) -> bool:
    try:
        return bool(datasets.paths(name))
    except (FileNotFoundError, ValueError):
        return False
