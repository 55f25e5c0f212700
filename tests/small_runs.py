"""Networks, pictures and recipes small enough to train within a test, ways to watch such a run and to cut it off."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddtb_lite import Recipe, build, images, quantize, train
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS
from ddtb_lite.training.run import History, Run

torch.set_num_threads(1)  # tiny networks: threads cost more than they bring

SMALL = {
    "edsr": {"n_blocks": 1, "n_feats": 8},
    "rdn": {"D": 1, "C": 2, "G": 8},
    "srresnet": {"n_blocks": 1, "n_feats": 8},
}
# 3 steps at 4 bits, 2 at 3 bits, then 2 bits: 2 steps of warm-up and 3 with live gates.
RECIPE = Recipe(
    "test",
    steps=10,
    batch_size=2,
    patch_size=32,
    learning_rate=1e-3,
    bound_learning_rate=1e-2,
    halve_every=None,
    calibration_batches=2,
    warmup_steps=2,
    falling_bits=((4, 3), (3, 2)),
    feature_weight=10.0,
    validation_images=2,
    validate_every=4,
    save_every=3,
    precision="fp32",
    compile=False,
)
PLAIN = RECIPE.override(falling_bits=(), calibration_batches=0, warmup_steps=0, feature_weight=0.0)

# The weights and the history (as JSON) that a run ends with, by its kind.
Outcomes = dict[str, tuple[dict[str, Tensor], str]]


def picture(seed: int, height: int = 44, width: int = 38) -> np.ndarray:
    """Smooth color with some texture."""
    random = np.random.default_rng(seed)
    smooth = images.resize(random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8), 4)
    return smooth[:height, :width].copy()


DATA = [(f"picture_{seed}", picture(seed)) for seed in range(6)]


def full_precision(name: str = "edsr") -> SuperResolutionNetwork:
    torch.manual_seed(1)
    return build(name, 2, **SMALL[name])


def student(method: str = "ddtb", name: str = "edsr") -> SuperResolutionNetwork:
    return quantize(full_precision(name), method, METHODS[method].lowest_bits, gate_ratio=0.5)


def run_of(network: SuperResolutionNetwork, teacher: SuperResolutionNetwork | None, recipe: Recipe = RECIPE) -> Run:
    run = Run(network, teacher, recipe, DATA, 0, torch.device("cpu"))
    run.begin()
    return run


def state_of(network: SuperResolutionNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def facts(history: History) -> str:
    """Everything but the time, as JSON, which knows no tuples and here no order of columns."""
    return json.dumps({name: value for name, value in vars(history).items() if name != "seconds"}, sort_keys=True)


def after_each_step(monkeypatch: pytest.MonkeyPatch, see: Callable[[Run], None]) -> None:
    advance = Run.advance

    def watched(run: Run) -> None:
        advance(run)
        see(run)

    monkeypatch.setattr(Run, "advance", watched)


class Scripted:
    """Stands in for `evaluate`, gives the scores of a list, and remembers the weights it was asked about."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.states = scores, list[dict[str, Tensor]]()
        self.psnr = math.nan

    def __call__(self, network: SuperResolutionNetwork, *_: object, **__: object) -> Scripted:
        self.psnr = self.scores[len(self.states)]
        self.states.append(state_of(network))
        return self


class PowerCut(Exception):
    pass


def cut_off(out: Path, steps: int, kind: str = "student", recipe: Recipe = RECIPE) -> None:
    """A run in `out` that an exception ends after some steps."""

    def stop(run: Run) -> None:
        if run.step == steps:
            raise PowerCut

    with pytest.MonkeyPatch.context() as patched:
        after_each_step(patched, stop)
        with pytest.raises(PowerCut):
            start(out, kind, recipe)


def start(out: Path, kind: str = "student", recipe: Recipe = RECIPE) -> tuple[SuperResolutionNetwork, History]:
    network = student() if kind == "student" else full_precision()
    teacher = full_precision() if kind == "student" else None
    recipe = recipe if kind == "student" else PLAIN
    torch.manual_seed(int(time.time()))  # whatever the process did before must not matter
    return network, train(network, DATA, recipe, teacher=teacher, out=out, progress=False, device="cpu")
