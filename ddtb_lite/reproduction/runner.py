"""A run from its first step to its result file: train, score the checkpoint as it is stored, write it all down.

The command `train`, the book's pages and `reproduce` all run this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import checkpoints, datasets, images
from ..conversion import quantize
from ..evaluation import evaluate
from ..networks import EDSR, SRResNet, SuperResolutionNetwork, build, imitate
from ..support import devices, distributed, resources
from ..support.files import atomic_write, check_folder
from ..training import Diverged, Recipe, train
from . import results
from .experiment import TEST_DATA, TRAINING_DATA, Experiment

# The side in low-resolution pixels of the pictures that an SRResNet takes its first means and deviations from.
MEASURED = 96
BENCHMARKS = ("Set5", "Set14", "BSD100", "Urban100")


def run(
    network: SuperResolutionNetwork,
    data: Sequence[str],
    recipe: Recipe,
    out: str | Path,
    *,
    command: str,
    teacher: SuperResolutionNetwork | None = None,
    teacher_file: str | None = None,
    start_file: str | None = None,
    tests: Sequence[str] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    publish: bool = False,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Train a network, score it on `tests`, and return the content of the result file that is written.

    The folder `out` gives the run its name. `data` and `tests` are names of data sets or folders, the latter by
    default all benchmarks at hand. `teacher` was read from `teacher_file`, first weights from `start_file`, each a
    file or a shipped network's name; `command` is how to repeat it all. What is scored is the checkpoint:
    full-precision layers at 16 bits, quantized weights packed. With `publish`, result and, for seed 0, checkpoint are
    copied into the repository's data.

    Of several processes that train together the first alone scores and writes; the others return None. Raises as
    `train`, for `Diverged` once the result file is written, which then has no scores; `ValueError` or
    `FileNotFoundError` before anything is trained if a test set is missing, or if publishing would replace a longer
    run.
    """
    out = Path(out).resolve()  # its name is the run's, however it was spelled
    tests = benchmarks() if tests is None else tests
    for name in tests:
        datasets.paths(name)  # a test set that is missing is better noticed now than after hours
    source = teacher_file or start_file
    source_sha256 = hashlib.sha256(checkpoints.find(source).read_bytes()).hexdigest() if source else None
    if publish:
        check_folder(resources.published("results") / out.name)
        _refuse_to_replace_longer(out.name, recipe.steps)
    diverged = None
    try:
        history = train(
            network, list(data), recipe, teacher=teacher, out=out, seed=seed, device=device, progress=progress
        )
    except Diverged as error:
        diverged, history = error, error.history
    if distributed.rank() > 0:
        return None
    config = {
        "model": network.name,
        "scale": network.scale,
        "architecture": network.architecture,
        "quantization": None if network.quantization is None else vars(network.quantization),
        "recipe": vars(recipe),
        "training_data": list(data),
        "teacher": teacher_file,
        "start": start_file,
        # Of the file that one of these names: runs from different weights are no fair comparison.
        "source_sha256": source_sha256,
        "best_step": history.best_step,
        "diverged_at": diverged.step if diverged else None,
        "processes": distributed.launched(),
    }
    checkpoint, scores = checkpoint_of(out), {}
    if not diverged:
        checkpoints.save(network, checkpoint, half=True, metadata={"run": out.name, "command": command, **config})
        stored = checkpoints.load(checkpoint)
        scores = {name: evaluate(stored, name, device=device, progress=progress) for name in tests}
    # Another seed repeats a run for the spread of its scores; nobody needs its weights as well.
    carried = not diverged and seed == 0
    result = results.write(
        result_of(out),
        run=out.name,
        config=config,
        seed=seed,
        data={"training": history.data} | {name: datasets.fingerprint(name) for name in tests},
        curve=history.rows,
        seconds=history.seconds,
        checkpoint=f"data/checkpoints/{checkpoint.name}" if carried else None,
        scores=scores,
        command=command,
        device=device,
        precision=devices.training_precision(recipe.precision, devices.resolve(device)),
    )
    if publish:
        if carried:
            atomic_write(resources.published("checkpoints") / checkpoint.name, checkpoint.read_bytes())
        atomic_write(resources.published("results") / f"{out.name}.json", result_of(out).read_bytes())
    if diverged:
        raise diverged  # an outcome worth keeping, but no success
    return result


def run_experiment(
    each: Experiment,
    preset: str,
    folder: str | Path = "runs",
    *,
    shipped: Collection[str] = (),
    data: Sequence[str] | None = None,
    tests: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Run one of the reproduction's experiments as its command would, in a folder below `folder`; otherwise as `run`.

    The networks that it needs are in `folder` too, those among `shipped` come with the package. `data` and `tests`
    are the preset's unless they are given.
    """
    torch.manual_seed(each.seed)
    files = dict(zip(each.needs, each.inputs(str(folder), shipped), strict=True))
    # A shipped network's place in the repository is not where an installed package has it.
    places = {name: checkpoints.shipped(name) if name in shipped else Path(file) for name, file in files.items()}
    named = {name: name if name in shipped else file for name, file in files.items()}
    teacher = None
    if each.quantization is None:
        network = build(each.model, each.scale, **dict(each.architecture))  # type: ignore[arg-type]
        if each.start:
            start_from(checkpoints.load(places[each.start]), network)
    else:
        assert each.teacher is not None and each.method is not None and each.bits is not None
        teacher = checkpoints.load(places[each.teacher])
        network = quantize(teacher, each.method, each.bits, fully=each.fully, **dict(each.change.quantization))
    return run(
        network,
        TRAINING_DATA[preset] if data is None else data,
        each.recipe(preset),
        Path(folder) / each.name,
        command=each.command(preset, str(folder), shipped, data, tests),
        teacher=teacher,
        teacher_file=named.get(each.teacher or ""),
        start_file=named.get(each.start or ""),
        tests=TEST_DATA.get(preset) if tests is None else tests,
        seed=each.seed,
        device=device,
        progress=progress,
    )


def result_of(out: str | Path) -> Path:
    """The result file of a run's folder."""
    return Path(out) / f"{Path(out).name}.json"


def checkpoint_of(out: str | Path) -> Path:
    """The checkpoint of a run's folder."""
    return Path(out) / f"{Path(out).name}.safetensors"


def benchmarks() -> list[str]:
    """Those of the paper's test sets that are at hand."""

    def available(name: str) -> bool:
        try:
            return bool(datasets.paths(name))
        except (FileNotFoundError, ValueError):
            return False

    return [name for name in BENCHMARKS if available(name)]


def start_from(source: SuperResolutionNetwork, target: SuperResolutionNetwork) -> None:
    """Start a network from another one's weights: an SRResNet computes what an EDSR does, see `networks.imitate`.

    Otherwise every weight is copied whose name and shape fit: a ×4 network starts from a ×2 one's body. Raises
    `ValueError` if the source is quantized, or if nothing fits.
    """
    if source.quantization is not None:
        raise ValueError(f"A full-precision network starts from another one, not from {source.quantization.bits} bits.")
    if isinstance(source, EDSR) and isinstance(target, SRResNet):
        side = MEASURED * target.scale
        photos = [image[:side, :side] for _, image in datasets.load("photos_train") if min(image.shape[:2]) >= side]
        small = [images.to_tensor(images.lower_resolution(photo, target.scale)) for photo in photos]
        imitate(target, source, torch.cat(small))
        return
    state = target.state_dict()
    fitting = {name: value for name, value in source.state_dict().items() if name in state}
    fitting = {name: value for name, value in fitting.items() if value.shape == state[name].shape}
    if not fitting:
        raise ValueError(f"No weight of this {source.name} ×{source.scale} fits {target.name} ×{target.scale}.")
    target.load_state_dict(state | fitting)


def _refuse_to_replace_longer(name: str, steps: int) -> None:
    """Raise `ValueError` if `data/results` holds this run with more steps; a longer one replaces a shorter."""
    published = results.all_results().get(name)
    theirs = published["config"]["recipe"]["steps"] if published else 0
    if theirs > steps:
        raise ValueError(
            f"{name} in data/results was trained for {theirs:,d} steps, which --publish would replace by {steps:,d}: "
            "name another folder as --out, or leave out --publish."
        )
