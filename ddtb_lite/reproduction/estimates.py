"""How long a training run takes: at the speed of runs that are done, on an H100 by arithmetic until there is one."""

from __future__ import annotations

import copy
import functools
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..cost import complexity
from ..networks import Quantization, SuperResolutionNetwork, build
from ..training.recipe import Recipe

# What the paper's preset is priced on, and 40 % of its dense bf16 rate (989 TFLOP/s): a guess until a run was timed.
DEVICE = "H100"
OPERATIONS_PER_SECOND = 0.4 * 989e12


def outline(
    model: str,
    scale: int,
    architecture: Mapping[str, int] | None = None,
    quantization: Quantization | None = None,
) -> SuperResolutionNetwork:
    """A network without memory that says how it is quantized: enough to choose a recipe and to count operations."""
    network = copy.copy(_full_precision(model, scale, tuple((architecture or {}).items())))
    network.quantization = quantization
    return network


def hours(network: SuperResolutionNetwork, preset: str, measured: Iterable[dict[str, Any]]) -> float | None:
    """Hours of training by a preset, start-up and scoring not counted; `network` may be an `outline`.

    At the median speed of the `measured` results that count, of the same model's where there are any. For the paper's
    preset those of an H100 count; without any it is priced by arithmetic. For a shorter one all shorter runs count, and
    without any there is no price: None.
    """
    speed = _speed(network.name, timed(preset, measured))
    if speed is None and preset == "paper":
        speed = OPERATIONS_PER_SECOND
    return operations(network, vars(Recipe.preset(preset, network))) / speed / 3600 if speed else None


def timed(preset: str, measured: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of some results whose speed tells what a run by a preset takes."""

    def counts(run: dict[str, Any]) -> bool:
        paper = run["config"].get("recipe", {}).get("preset_name", "") == "paper"
        if preset == "paper":
            return paper and DEVICE in run["device"]
        return "recipe" in run["config"] and not paper

    return list(filter(counts, measured))


def basis(preset: str, measured: Iterable[dict[str, Any]]) -> str:
    """What `hours` rest on, in words that follow a number of hours."""
    where = f"on one {DEVICE}, " if preset == "paper" else ""
    known = preset != "paper" or timed(preset, measured)
    return where + ("at the speed of runs that are done" if known else "by arithmetic")


def operations(network: SuperResolutionNetwork, recipe: Mapping[str, Any]) -> float:
    """Multiplications and additions of a run by a recipe, its fields by name.

    A step takes three forward passes' worth for the network and one for the features of its teacher.
    """
    passes = 3 if network.quantization is None else 4
    macs = _macs(network.name, network.scale, tuple(network.architecture.items()), recipe["patch_size"])
    return passes * 2 * macs * recipe["batch_size"] * recipe["steps"]


def scoring_operations(network: SuperResolutionNetwork, pixels: int) -> float:
    """Multiplications and additions of enlarging images that have so many pixels afterwards."""
    side = 12 * network.scale  # the smallest patch that is like any other
    return 2 * _macs(network.name, network.scale, tuple(network.architecture.items()), side) * pixels / side**2


def _speed(model: str, measured: Iterable[dict[str, Any]]) -> float | None:
    """Operations a second."""
    speeds: dict[str, list[float]] = defaultdict(list)
    for run in measured:
        config = run["config"]
        quantization = config["quantization"] and Quantization(**config["quantization"])
        network = outline(config["model"], config["scale"], config["architecture"], quantization)
        speeds[network.name].append(operations(network, config["recipe"]) / run["seconds"])
    # A network's large convolutions, or its discriminator, make an operation slower than another's.
    known = speeds[model] or list(itertools.chain(*speeds.values()))
    return statistics.median(known) if known else None


@functools.cache
def _full_precision(model: str, scale: int, architecture: tuple[tuple[str, int], ...]) -> SuperResolutionNetwork:
    with torch.device("meta"):
        return build(model, scale, **dict(architecture))


@functools.cache
def _macs(model: str, scale: int, architecture: tuple[tuple[str, int], ...], patch_size: int) -> int:
    return complexity(_full_precision(model, scale, architecture), (patch_size, patch_size)).macs
