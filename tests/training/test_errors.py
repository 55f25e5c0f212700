"""Public errors: what does not fit is told before the first step, what goes wrong with the layer's name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import DATA, PLAIN, RECIPE, SMALL, after_each_step, full_precision, picture, student

from ddtb_lite import build, initialize, load, quantize, save, train
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.training.run import Run


@pytest.mark.parametrize("layer", ["head.0.weight", "body.0.hidden.upper", "body.0.input.lower", "tail.1.bias"])
def test_a_loss_that_is_not_finite_names_the_layer(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(run: Run) -> None:
        if run.step == 2:
            dict(run.network.named_parameters())[layer].data.fill_(math.nan)

    after_each_step(monkeypatch, spoil)
    with pytest.raises(RuntimeError, match=f"step 3: {re.escape(layer)} .* Start"):
        train(student(), DATA, RECIPE, teacher=full_precision(), progress=False, device="cpu")


def test_a_first_bad_step_is_kept_out_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """One NaN would reach every weight by the next step; so the message could only name them all."""

    def spoil(run: Run) -> None:
        if run.step == 1:
            run.network.head[0].register_forward_hook(lambda *_: torch.tensor(math.nan) * _[2])  # type: ignore[index, operator, union-attr]

    after_each_step(monkeypatch, spoil)
    network = full_precision()
    with pytest.raises(RuntimeError, match=r"step \d: the output of head\.0 .* Start"):
        train(network, DATA, PLAIN, progress=False, device="cpu")
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_a_gradient_that_is_not_finite_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loss stays finite, nothing else would tell that the network has stopped learning."""

    def spoil(run: Run) -> None:
        if run.step == 1:
            run.network.tail[1].bias.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[index, union-attr]

    after_each_step(monkeypatch, spoil)
    with pytest.raises(RuntimeError, match=r"step \d: the gradient of tail\.1\.bias .* Start"):
        train(full_precision(), DATA, PLAIN, progress=False, device="cpu")


def test_a_packed_student_cannot_be_trained(tmp_path: Path) -> None:
    network = student()
    initialize(network, torch.rand(2, 3, 16, 16) * 255)
    save(network, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="bit-packed.* run folder, or quantize"):
        train(load(tmp_path / "x.safetensors"), DATA, RECIPE, teacher=full_precision(), progress=False)


def test_teachers_that_do_not_fit() -> None:
    wrong = {"edsr ×4": build("edsr", 4, **SMALL["edsr"]), "srresnet ×2": full_precision("srresnet")}
    for given, teacher in wrong.items():
        with pytest.raises(ValueError, match=f"teacher is {given} .*edsr ×2 .* that the student came from"):
            train(student(), DATA, RECIPE, teacher=teacher, progress=False, device="cpu")


@pytest.mark.parametrize(
    "make",
    [student, lambda: build("edsr", 2, n_blocks=2, n_feats=8), lambda: build("edsr", 2, n_blocks=1, n_feats=16)],
    ids=["quantized", "deeper", "wider"],
)
def test_teachers_that_the_student_did_not_come_from(make: Callable[[], SuperResolutionNetwork]) -> None:
    with pytest.raises(ValueError, match="teacher is edsr ×2 .* that the student came from"):
        train(student(), DATA, RECIPE, teacher=make(), progress=False, device="cpu")


def test_a_network_cannot_teach_itself() -> None:
    network = full_precision()
    with pytest.raises(ValueError, match="network itself.* a copy"):
        train(network, DATA, PLAIN, teacher=network, progress=False, device="cpu")


def test_data_that_do_not_fit(tmp_path: Path) -> None:
    small = [picture(index, 20, 20) for index in range(3)]
    with pytest.raises(ValueError, match="32×32 .* smaller patch_size"):
        train(full_precision(), small, PLAIN, progress=False)
    with pytest.raises(ValueError, match="empty list of images"):
        train(full_precision(), [], PLAIN, progress=False)
    with pytest.raises(ValueError, match="holds no image"):
        train(full_precision(), tmp_path, PLAIN, progress=False)
    with pytest.raises(FileNotFoundError, match="'Set6'.* Set5"):
        train(full_precision(), "Set6", PLAIN, progress=False)
    with pytest.raises(ValueError, match="float64.* uint8"):
        train(full_precision(), [np.full((40, 40, 3), np.nan)], PLAIN, progress=False)
    with pytest.raises(ValueError, match="'longest'.* smoke, short, long, paper"):
        train(full_precision(), DATA, "longest", progress=False)
    with pytest.raises(ValueError, match="patch_size is 33.* multiple of the scale, 2"):
        train(full_precision(), DATA, PLAIN.override(patch_size=33), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1.* at least two"),
        ({"warmup_steps": 5}, "warmup_steps is 5.* 5 steps only"),
    ],
)
def test_what_would_stop_the_warm_up_is_told_at_the_start(change: dict[str, Any], message: str) -> None:
    recipe = RECIPE.override(**change)
    with pytest.raises(ValueError, match=message):
        train(student(), DATA, recipe, teacher=full_precision(), progress=False, device="cpu")
    ungated = quantize(full_precision(), "ddtb", 2, gate_ratio=0)
    Run(ungated, full_precision(), recipe, [(str(i), each) for i, (_, each) in enumerate(DATA)], 0, torch.device("cpu"))


@pytest.mark.parametrize("stages", [((2, 3), (8, 2)), ((3, 2), (4, 3)), ((4, 2), (4, 3))])
def test_bit_widths_that_do_not_fall(stages: tuple[tuple[int, int], ...]) -> None:
    recipe = RECIPE.override(falling_bits=stages)
    with pytest.raises(ValueError, match=rf"falling_bits is {re.escape(str(stages))}.* 2 bits .* the largest first"):
        train(student(), DATA, recipe, teacher=full_precision(), progress=False, device="cpu")


def test_full_precision_has_no_bit_widths_to_fall() -> None:
    with pytest.raises(ValueError, match=r"falling_bits is \(\(4, 3\), \(3, 2\)\).* 32 bits"):
        train(full_precision(), DATA, RECIPE, progress=False, device="cpu")
