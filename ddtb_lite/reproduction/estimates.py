"""How long a training run takes: on an H100 by arithmetic, elsewhere at the speed of the runs that are done."""

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

# An H100's dense bf16 rate (989 TFLOP/s) at 40 % use; what a run would take, not what was measured.
H100_OPERATIONS_PER_SECOND = 0.4 * 989e12


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

    The paper's preset is for one H100, by arithmetic; a shorter one goes at the median speed of the `measured`
    results of shorter presets, of the same model's where it has any, and is None without any.
    """
    speed = H100_OPERATIONS_PER_SECOND if preset == "paper" else _speed(network.name, measured)
    return operations(network, Recipe.preset(preset, network)) / speed / 3600 if speed else None


def operations(network: SuperResolutionNetwork, recipe: Recipe) -> float:
    """Multiplications and additions of a run.

    A step takes three forward passes' worth for the network and one for the features of its teacher.
    """
    return _operations(network, vars(recipe))


def _operations(network: SuperResolutionNetwork, recipe: Mapping[str, Any]) -> float:
    passes = 3 if network.quantization is None else 4
    macs = _macs(network.name, network.scale, tuple(network.architecture.items()), recipe["patch_size"])
    return passes * 2 * macs * recipe["batch_size"] * recipe["steps"]


def _speed(model: str, measured: Iterable[dict[str, Any]]) -> float | None:
    """Operations a second."""
    speeds: dict[str, list[float]] = defaultdict(list)
    for run in measured:
        config = run["config"]
        if "recipe" in config and config["recipe"]["preset_name"] != "paper":
            quantization = config["quantization"] and Quantization(**config["quantization"])
            network = outline(config["model"], config["scale"], config["architecture"], quantization)
            speeds[network.name].append(_operations(network, config["recipe"]) / run["seconds"])
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
