"""Whether a bundle's results can be believed: every network is scored again, and every statement is checked.

Nothing of a bundle counts because it says so. What fits is filed below `data/accepted`, where the ledger reads it.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from .. import checkpoints, datasets
from ..conversion import quantize
from ..evaluation import evaluate
from ..networks import Quantization, SuperResolutionNetwork, build
from ..support import resources
from ..support.provenance import VERSION
from ..training import Recipe, training_images
from ..training.recipe import PRESETS, TECHNICAL
from . import progress, results
from .bundle import Bundle
from .experiment import Experiment
from .grid import experiments

# How far another order of float sums moves single images of a 2-bit network, as a standard deviation: measured in
# `data/benchmarks/rescoring.json`. Where a value lies on a tie between two levels, its last bit decides.
IMAGE_MOVES = {"psnr": 0.06, "ssim": 0.002}


def score_within(images: int) -> dict[str, float]:
    """How far PSNR (dB) and SSIM of so many images may lie from those claimed: four deviations of their mean."""
    return {key: 4 * one / math.sqrt(images) for key, one in IMAGE_MOVES.items()}


@dataclass(frozen=True)
class Verdict:
    """What became of one run: accepted, or `refused` with the reason, one sentence."""

    run: str
    refused: str | None = None


def examine(bundle: Bundle) -> list[Verdict]:
    """A verdict on each run of a bundle; students of a network that is refused are refused with it."""
    verdicts: dict[str, Verdict] = {}
    order = list(experiments())
    with tempfile.TemporaryDirectory() as folder:
        for name, data in bundle.files.items():  # names have been checked
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        for run in sorted(bundle.runs, key=lambda name: order.index(name) if name in order else len(order)):
            try:
                _examine(run, Path(folder), verdicts)
                verdicts[run] = Verdict(run)
            except (ValueError, OSError, RuntimeError) as error:
                verdicts[run] = Verdict(run, " ".join(str(error).split()))
            except (KeyError, TypeError, AttributeError) as error:  # of another form than any that we write
                verdicts[run] = Verdict(run, f"{run} cannot be read: {type(error).__name__} {error}.")
    return list(verdicts.values())


def file(bundle: Bundle, verdicts: list[Verdict]) -> Path | None:
    """Put what was accepted into `data/accepted`, all of it or nothing; returns the folder, None if nothing was.

    Raises `ValueError` if the bundle is there already, or if the package is installed and not a checkout.
    """
    accepted = [verdict.run for verdict in verdicts if not verdict.refused]
    place = resources.published("accepted") / bundle.name
    if place.exists():
        raise ValueError(f"This bundle is filed already, in {place}.")
    if not accepted:
        return None
    place.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as folder:
        whole = Path(folder) / bundle.name
        for name, data in bundle.files.items():
            if PurePosixPath(name).stem in accepted:
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                (whole / name).write_bytes(data)
        shutil.move(whole, place)
    return place


def _examine(run: str, folder: Path, verdicts: dict[str, Verdict]) -> None:
    """Raise `ValueError`, or what reading and scoring raise, unless everything about a run is as it should be."""
    result = results.read(folder / "results" / f"{run}.json")
    if result["run"] != run or run not in experiments():
        raise ValueError(f"{run} is not a run of this reproduction: `python -m ddtb_lite experiments` lists them.")
    if _numbers(result["versions"].get("ddtb_lite", "")) > _numbers(VERSION):
        raise ValueError(f"{run} was made by a newer version of the package than {VERSION}: update ddtb_lite.")
    if not result["scores"]:
        raise ValueError(f"{run} has no scores.")
    file = folder / "checkpoints" / f"{run}.safetensors"
    _check_experiment(run, result, checkpoints.describe(file))
    _check_source(run, result["config"], folder, verdicts)
    _check_training_data(run, result)
    network = checkpoints.load(file)  # not before, since a file may describe a network that no memory holds
    for name, claimed in result["scores"].items():
        _check_score(run, name, claimed, result["data"].get(name), network)


def _check_experiment(run: str, result: dict[str, Any], stored: dict[str, Any]) -> None:
    """Network, quantization, recipe and seed are the experiment's, in the result and as `stored` in the checkpoint."""
    each, config = experiments()[run], result["config"]
    described = stored["metadata"] | {"quantization": stored["quantization"]}
    if {key: described.get(key) for key in config} != config:
        raise ValueError(f"{run} says other things in its result than in its checkpoint.")
    facts = {
        "model": (stored["network"], each.model),
        "scale": (stored["scale"], each.scale),
        "architecture": (stored["architecture"], each.network.architecture),
        "quantization": (stored["quantization"] and Quantization(**stored["quantization"]), _quantization(each)),
        "seed": (result["seed"], each.seed),
    }
    for what, (got, expected) in facts.items():
        if got != expected:
            raise ValueError(f"{run} has {got!r} as its {what}, expected {expected!r}.")
    preset = config["recipe"]["preset_name"]
    if preset not in PRESETS:
        raise ValueError(f"{run} has the preset {preset!r}, expected one of {', '.join(PRESETS)}.")
    if lacking := sorted({field.name for field in fields(Recipe)} - TECHNICAL - set(config["recipe"])):
        raise ValueError(f"{run} does not say {', '.join(lacking)} of its recipe.")
    if not each.recipe(preset).agrees_with(config["recipe"]):
        raise ValueError(f"{run} was not trained by the recipe of the preset {preset}.")


def _quantization(each: Experiment) -> Quantization | None:
    """How an experiment quantizes, with all that `quantize` chooses by itself."""
    if each.method is None or each.bits is None:
        return None
    network = build(each.model, each.scale, **dict(each.architecture))
    return quantize(network, each.method, each.bits, fully=each.fully, **dict(each.change.quantization)).quantization


def _check_source(run: str, config: dict[str, Any], folder: Path, verdicts: dict[str, Verdict]) -> None:
    """The network that a run started from is the package's, or beside it in the bundle and accepted."""
    each = experiments()[run]
    for name in each.needs:
        verdict = verdicts.get(name)
        beside = folder / "checkpoints" / f"{name}.safetensors"
        if verdict and verdict.refused:
            raise ValueError(f"{run} started from {name}, which is refused.")
        known = [beside] if beside.is_file() else []
        known += [checkpoints.shipped(name)] if progress.shipped([name]) else []
        if config.get("source_sha256") not in [hashlib.sha256(file.read_bytes()).hexdigest() for file in known]:
            raise ValueError(f"{run} started from another {name} than the one beside it or the package's.")


def _check_training_data(run: str, result: dict[str, Any]) -> None:
    """The images that it was trained on are those of their names, as far as they are at hand."""
    names = result["config"]["training_data"]
    if not names or not set(names) <= set(datasets.names("training")):
        raise ValueError(f"{run} was trained on {names}, which are not all training sets that the package knows.")
    try:
        images = training_images(names)
    except FileNotFoundError:
        return
    if datasets.fingerprint(images) != result["data"].get("training"):
        raise ValueError(f"{run} was trained on other images than those of {', '.join(names)}.")


def _check_score(run: str, name: str, claimed: dict[str, Any], digest: str | None, net: SuperResolutionNetwork) -> None:
    if name not in datasets.names("test"):
        raise ValueError(f"{run} was scored on {name!r}, which is no test set that the package knows.")
    if digest != datasets.fingerprint(name):
        raise ValueError(f"{run} was scored on other images than those of {name} here.")
    scores = evaluate(net, name, device="cpu", progress=False)
    if [row["name"] for row in scores.images] != [row.get("name") for row in claimed["images"]]:
        raise ValueError(f"{run} has scores of other images than those of {name}.")
    for key, most in score_within(len(scores.images)).items():
        got = getattr(scores, key)
        if not abs(got - claimed[key]) <= most:
            raise ValueError(
                f"{run} has {got:.4f} as its {key.upper()} on {name}, and not {claimed[key]:.4f}: "
                f"more than {most:.4f} apart is more than rounding does."
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
