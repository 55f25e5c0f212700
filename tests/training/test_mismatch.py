"""A method's mismatch: its gradient counts as far as it agrees with the loss's, parameter by parameter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import DATA, RECIPE, full_precision, student
from torch import Tensor

from ddtb_lite import train, uniform
from ddtb_lite.quantizers import METHODS, Quantizer
from ddtb_lite.training.losses import Objective, agreeing
from ddtb_lite.training.patches import PatchSampler
from ddtb_lite.training.run import Run
from ddtb_lite.training.step import TrainingStep

WEIGHT = 0.02
RECIPE_AT_ONCE = RECIPE.override(falling_bits=())


@pytest.fixture(autouse=True)
def _mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """FQSR's quantizers say how far they are off; here that is a mismatch, of a weight that depends on the network."""
    method = replace(METHODS["fqsr"], quantization_loss_weight=0.0, cooperative_loss_weights={"edsr": WEIGHT})
    monkeypatch.setitem(METHODS, "fqsr", method)


def test_agreeing_by_hand() -> None:
    """Along, across, against, and at 60 degrees, whose cosine is a half."""
    gradient = torch.tensor([[2.0, 0.0]])
    root = 3**0.5
    for other, share in (([5.0, 0.0], 1), ([0.0, 5.0], 0.5), ([-5.0, 0.0], 0), ([1.0, root], 0.75)):
        torch.testing.assert_close(agreeing(gradient, torch.tensor([other])), share * torch.tensor([other]))
    assert agreeing(torch.zeros(2), torch.ones(2)).tolist() == [0.5, 0.5], "nothing to agree with, or to contradict"


def training_step(precision: str = "fp32") -> tuple[TrainingStep, tuple[Tensor, Tensor]]:
    """A step of a student that is initialized, with the batch that it is about to see."""
    run = Run(student("fqsr"), full_precision(), RECIPE_AT_ONCE, DATA, 0, torch.device("cpu"))
    run.begin()
    run.network.train()
    objective = Objective(run.network, run.teacher, RECIPE_AT_ONCE, precision)
    step = TrainingStep(objective, run.sampler, 2, run.device)
    step.reset_optimizer()
    copy = PatchSampler([DATA[index][1] for index in (0, 2, 3, 5)], 2, 32)
    copy.set_state(run.sampler.state())
    return step, copy.sample(2)


def slow(step: TrainingStep, batch: tuple[Tensor, Tensor]) -> dict[str, np.ndarray]:
    """What the gradients must be, from two passes and arithmetic in float64."""
    network = step.objective.network
    found: list[dict[str, np.ndarray]] = []
    for wanted in ("loss", "mismatch"):
        network.zero_grad()
        losses = step.objective(*batch)
        if wanted == "mismatch":
            each = [module.quantization_error for module in network.modules() if isinstance(module, Quantizer)]
            total = sum(error for error in each if error is not None)
            torch.testing.assert_close(losses["mismatch"], total)
        losses[wanted].backward()
        pairs = network.named_parameters()
        found.append({name: each.grad.double().numpy().copy() for name, each in pairs if each.grad is not None})
    expected = {}
    for name, gradient in found[0].items():
        mismatch = found[1].get(name, np.zeros_like(gradient))
        lengths = np.sqrt((gradient**2).sum() * (mismatch**2).sum())
        cosine = (gradient * mismatch).sum() / lengths if lengths else 0.0
        expected[name] = gradient + WEIGHT * 0.5 * (1 + cosine) * mismatch
    network.zero_grad()
    return expected


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-5), ("fp16", 5e-2)])
def test_gradients_are_those_of_two_passes(precision: str, tolerance: float) -> None:
    """Under autocast too; in float16 the slow way has no loss scale, so that small gradients are lost to it."""
    step, batch = training_step(precision)
    expected = slow(step, batch)
    if step.loss_scale is not None:
        step.loss_scale.factor.fill_(2.0**8)  # what a run comes down to by itself
    step._backward(step.objective(*batch))
    moved = 0
    for name, parameter in step.objective.network.named_parameters():
        if parameter.grad is None:
            assert name not in expected
            continue
        error = np.abs(parameter.grad.double().numpy() - expected[name]).max()
        assert error <= tolerance * np.abs(expected[name]).max(), name
        moved += 1
    assert moved == len(expected) > 10


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"compile": True}])
def test_a_run_with_a_mismatch(changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, it is no part of the sum, and it sinks; recomputed and compiled steps train the same."""
    monkeypatch.setattr(uniform, "SMALLEST_COMPILED", 1)
    rows = []
    for recipe in (RECIPE_AT_ONCE, RECIPE_AT_ONCE.override(**changes)):
        history = train(student("fqsr"), DATA, recipe, teacher=full_precision(), progress=False, device="cpu")
        rows.append([(row["loss"], row["mismatch"]) for row in history.rows])
        for row in history.rows:
            assert row["loss"] == pytest.approx(row["l1"] + 1000 * row["skt"] + 10 * row["features"], rel=1e-5)
        assert history.rows[-1]["mismatch"] < history.rows[0]["mismatch"]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-3)


def test_another_network_has_another_weight() -> None:
    assert Objective(student("fqsr", "srresnet"), None, RECIPE_AT_ONCE).mismatch_weight == 0
    assert Objective(student("fqsr"), None, RECIPE_AT_ONCE).mismatch_weight == WEIGHT
    assert Objective(student("pams"), None, RECIPE_AT_ONCE).mismatch_weight == 0
