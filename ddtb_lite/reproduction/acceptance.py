"""Whether a bundle's results can be believed: every network is scored again, and every statement is checked.

Nothing of a bundle counts because it says so. What fits is filed below `data/accepted`, where the ledger reads it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .. import checkpoints, datasets
from ..evaluation import evaluate
from ..networks import SuperResolutionNetwork
from ..support import resources
from ..support.provenance import VERSION
from ..training import training_images
from . import progress, results
from .bundle import Bundle
from .experiment import Experiment
from .grid import experiments

# How far a score may lie from the one that is claimed, dB: machines sum in different orders, and at 2 bits a sum that
# lies on a tie goes to another level.
SCORE_WITHIN = 0.02


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
            except (ValueError, OSError, RuntimeError, KeyError, TypeError) as error:
                verdicts[run] = Verdict(run, " ".join(str(error).split()))
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
    network = checkpoints.load(file)
    _check_experiment(run, result, network)
    _check_source(run, result["config"], folder, verdicts)
    _check_training_data(run, result)
    for name, claimed in result["scores"].items():
        _check_score(run, name, claimed, result["data"].get(name), network)


def _check_experiment(run: str, result: dict[str, Any], network: SuperResolutionNetwork) -> None:
    """Network, quantization, recipe and seed are the experiment's, in the result and in the checkpoint."""
    each, config = experiments()[run], result["config"]
    if network.metadata is None or {key: network.metadata.get(key) for key in config} != config:
        raise ValueError(f"{run} says other things in its result than in its checkpoint.")
    stored = json.loads(json.dumps(vars(network.quantization))) if network.quantization else None
    facts = {
        "model": (network.name, each.model),
        "scale": (network.scale, each.scale),
        "architecture": (network.architecture, each.network.architecture),
        "quantization": (stored, config["quantization"]),
        "seed": (result["seed"], each.seed),
    }
    facts |= {name: (stored and stored.get(name), wanted) for name, wanted in _quantization(each).items()}
    for what, (got, expected) in facts.items():
        if got != expected:
            raise ValueError(f"{run} has {got!r} as its {what}, expected {expected!r}.")
    preset = config["recipe"].get("preset_name")
    if preset not in progress.PRESETS:
        raise ValueError(f"{run} has the preset {preset!r}, expected one of {', '.join(progress.PRESETS)}.")
    if not each.recipe(preset).agrees_with(config["recipe"]):
        raise ValueError(f"{run} was not trained by the recipe of the preset {preset}.")


def _quantization(each: Experiment) -> dict[str, Any]:
    """What an experiment says of its quantization, by the name of the field."""
    if each.quantization is None:
        return {}
    named = {"method": each.method, "bits": each.bits, "fully": each.fully}
    return named | dict(each.change.quantization)


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
    if not names or any(name not in (*datasets.registry(), "photos_train") for name in names):
        raise ValueError(f"{run} was trained on {names}, which are not all data sets that the package knows.")
    try:
        images = training_images(names)
    except FileNotFoundError:
        return
    if datasets.fingerprint(images) != result["data"].get("training"):
        raise ValueError(f"{run} was trained on other images than those of {', '.join(names)}.")


def _check_score(run: str, name: str, claimed: dict[str, Any], digest: str | None, net: SuperResolutionNetwork) -> None:
    if name not in (*datasets.registry(), "photos"):
        raise ValueError(f"{run} was scored on {name!r}, which is no data set that the package knows.")
    if digest != datasets.fingerprint(name):
        raise ValueError(f"{run} was scored on other images than those of {name} here.")
    scores = evaluate(net, name, device="cpu", progress=False)
    if [row["name"] for row in scores.images] != [row.get("name") for row in claimed["images"]]:
        raise ValueError(f"{run} has scores of other images than those of {name}.")
    if not abs(scores.psnr - claimed["psnr"]) <= SCORE_WITHIN:
        raise ValueError(
            f"{run} scores {scores.psnr:.2f} dB on {name}, and not {claimed['psnr']:.2f}: "
            f"more than {SCORE_WITHIN} dB apart is more than rounding does."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
