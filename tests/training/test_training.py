"""Training: what each step does, and that a run which is cut off anywhere ends as if it had never been."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ddtb_lite import Recipe, build, datasets, evaluate, images, initialize, load, quantize, save, train
from ddtb_lite.cli import main
from ddtb_lite.conversion import activation_quantizers, gated_paths, quantized_convolutions
from ddtb_lite.diagnostics import bounds
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS, DualBound
from ddtb_lite.support import files
from ddtb_lite.training import validation
from ddtb_lite.training.loop import brought_back
from ddtb_lite.training.patches import PatchSampler
from ddtb_lite.training.run import History, Run
from ddtb_lite.training.run_folder import RunFolder, RunState
from ddtb_lite.training.step import activation_bounds

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


# -------------------------------------------------------------------------------------- what a step does


def test_full_precision_training_is_this_loop() -> None:
    """Four steps written out by hand: Adam on L1, with the cosine, on patches of the images that are not held out."""
    recipe = PLAIN.override(steps=4, validate_every=2)
    network, reference = full_precision(), full_precision()
    history = train(network, DATA, recipe, seed=7, progress=False, device="cpu")

    kept = [image for index, (_, image) in enumerate(DATA) if index not in (1, 4)]
    sampler = PatchSampler(kept, 2, 32, seed=7)
    optimizer = torch.optim.Adam(reference.parameters())
    losses, scores, states = [], [], []
    reference.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / 4)) / 2
        low, high = sampler.sample(2)
        loss = F.l1_loss(reference(low), high)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 2:
            states.append(state_of(reference))
            scores.append(evaluate(reference, [DATA[1], DATA[4]], progress=False).psnr)
    assert [row["loss"] for row in history.rows] == pytest.approx([np.mean(losses[:2]), np.mean(losses[2:])], rel=1e-5)
    assert [row["psnr"] for row in history.rows] == pytest.approx(scores, abs=1e-4)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, states[int(np.argmax(scores))][name])
    assert not network.training


def test_training_learns() -> None:
    recipe = PLAIN.override(steps=40, validate_every=10, learning_rate=3e-3)
    history = train(full_precision(), DATA, recipe, progress=False, device="cpu")
    assert history.rows[-1]["loss"] < 0.7 * history.rows[0]["loss"]
    assert history.best_psnr == history.rows[-1]["psnr"] > history.rows[0]["psnr"]


def test_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Falling bit-widths with bypassed gates, warm-up, live gates; weights and activations change width together."""
    seen: list[tuple[int, str, str]] = []

    def see(run: Run) -> None:
        network = run.network
        assert network.quantization is not None
        bits = network.quantization.bits
        assert {quantizer.bits for quantizer in activation_quantizers(network).values()} == {bits}
        assert {each.weight_quantizer.bits for each in quantized_convolutions(network).values()} == {bits}
        (gated,) = gated_paths(network)
        seen.append((bits, network.phase, activation_quantizers(network)[gated].gate_phase))  # type: ignore[attr-defined]

    after_each_step(monkeypatch, see)
    network = student()
    train(network, DATA, RECIPE, teacher=full_precision(), progress=False, device="cpu")
    assert seen == [
        *[(4, "initialized", "bypassed")] * 3,
        *[(3, "initialized", "bypassed")] * 2,
        *[(2, "warm-up", "warm-up")] * 2,
        *[(2, "live", "live")] * 3,
    ]
    assert (network.phase, network.quantization.bits) == ("live", 2)  # type: ignore[union-attr]


def test_bounds_start_anew_at_each_bit_width() -> None:
    """The first quantizer's input does not depend on other quantizers: its percentiles can be computed by hand."""
    run = run_of(student(), full_precision())
    for _ in range(3):
        run.advance()
    assert run.network.quantization.bits == 4  # type: ignore[union-attr]
    copy = PatchSampler([DATA[index][1] for index in (0, 2, 3, 5)], 2, 32)
    copy.set_state(run.sampler.state())
    batch = copy.sample(2)[0]
    with torch.no_grad():
        values = run.network.head(batch - run.network.mean).numpy()  # type: ignore[operator]
    run._prepare()
    first = activation_quantizers(run.network)["body.0.input"]
    assert isinstance(first, DualBound) and first.bits == 3
    assert first.upper.item() == pytest.approx(np.percentile(values, 99), rel=1e-4)
    assert first.lower.item() == pytest.approx(np.percentile(values, 1), rel=1e-4)


def test_gates_warm_up_without_effect_and_then_work() -> None:
    """In warm-up the gates' own parameters learn, and the output is the one of closed gates."""
    recipe = RECIPE.override(falling_bits=())
    run = run_of(student(), full_precision(), recipe)
    (gated,) = gated_paths(run.network)
    quantizer = activation_quantizers(run.network)[gated]
    assert isinstance(quantizer, DualBound) and quantizer.gate is not None
    before = quantizer.gate.expand.weight.clone()
    picture = run.validation.patches
    for _ in range(2):
        run.advance()
    assert run.network.phase == "warm-up" and not torch.equal(quantizer.gate.expand.weight, before)
    assert quantizer.gate.expand.weight.grad is not None and quantizer.gate.reduce.weight.grad is not None
    run.network.eval()
    with torch.no_grad():
        output = run.network(picture)
        quantizer.gate_phase = "bypassed"
        assert torch.equal(run.network(picture), output)
        quantizer.gate_phase = "live"
        assert not torch.equal(run.network(picture), output)


def test_the_loss_is_the_weighted_sum() -> None:
    recipe = RECIPE.override(validate_every=1, skt_weight=500.0, feature_weight=7.0)
    history = train(student(), DATA, recipe, teacher=full_precision(), progress=False, device="cpu")
    for row in history.rows:
        total = row["l1"] + 500 * row["skt"] + 7 * row["features"] + row.get("gates", 0)
        assert row["loss"] == pytest.approx(total, rel=1e-5)
        assert ("gates" in row) == (row["phase"] == "warm-up")
        assert row["skt"] > 0 and row["features"] > 0
    history = train(student("fqsr"), DATA, PLAIN.override(calibration_batches=2), progress=False, device="cpu")
    for row in history.rows:
        assert row["loss"] == pytest.approx(row["l1"] + 0.3 * row["quantization"], rel=1e-5)
        assert row["quantization"] > 0 and "skt" not in row


def test_l1_compares_with_the_high_resolution_patch() -> None:
    """A network that has not moved yet: its first loss is that of the batch, computed apart."""
    network = student()
    teacher = full_precision()
    run = run_of(network, teacher)
    copy = PatchSampler([DATA[index][1] for index in (0, 2, 3, 5)], 2, 32)
    copy.set_state(run.sampler.state())
    low, high = copy.sample(2)
    with torch.no_grad():
        expected = (network.train()(low) - high).abs().mean().item()
    run.advance()
    assert run.sums["l1"].item() == pytest.approx(expected, rel=1e-5)


# ----------------------------------------------------------------------------------- teacher and methods


@pytest.mark.parametrize("name", list(SMALL))
def test_the_teacher_stays_as_it_is(name: str) -> None:
    """Bit for bit, statistics of batch norm included, and it can still be trained afterwards."""
    teacher = full_precision(name)
    before = state_of(teacher)
    network = quantize(teacher, "ddtb", 2)
    history = train(network, DATA, RECIPE.override(steps=8), teacher=teacher, progress=False, device="cpu")
    assert equal(state_of(teacher), before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    changed = [key for key, value in network.state_dict().items() if key in before and not value.equal(before[key])]
    assert changed  # the student did learn


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_trains(method: str) -> None:
    recipe = RECIPE if METHODS[method].highest_bits > 1 else RECIPE.override(falling_bits=())
    network, teacher = student(method), full_precision()
    history = train(network, DATA, recipe, teacher=teacher, progress=False, device="cpu")
    assert [row["step"] for row in history.rows] == [4, 8, 10]
    assert all(math.isfinite(value) for row in history.rows for value in row.values() if not isinstance(value, str))
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    gated = METHODS[method].gated
    assert history.rows[-1]["phase"] == ("live" if gated else "initialized")
    assert bool(history.bounds) and bool(history.bounds[0]["bounds"]) == (method == "ddtb")


@pytest.mark.parametrize("flat", [0, 128, 255])
def test_constant_images(flat: int) -> None:
    """Maximum and minimum coincide in the whole image; bounds collapse and open again."""
    data = [np.full((40, 40, 3), flat, np.uint8)] * 3
    network = student()
    history = train(network, data, RECIPE, teacher=full_precision(), progress=False, device="cpu")
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    assert all(parameter.isfinite().all() for parameter in network.parameters())


# -------------------------------------------------------------------------------------- parameter groups


def names_of(network: SuperResolutionNetwork, parameters: list[Any]) -> set[str]:
    known = {id(parameter): name for name, parameter in network.named_parameters()}
    assert len({id(parameter) for parameter in parameters}) == len(parameters)
    return {known[id(parameter)] for parameter in parameters}


BOUND_NAMES = {
    "ddtb": ["upper", "lower"],
    "minmax": [],
    "dorefa": [],
    "pact": ["alpha"],
    "pams": ["alpha"],
    "lsq": ["step"],
    "fqsr": ["clip"],
    "reactnet": ["threshold", "input_shift", "output_shift"],  # the slope is a mere number
}


@pytest.mark.parametrize("method", list(METHODS))
def test_parameter_groups(method: str) -> None:
    """The bounds' group: what lives on the scale of activations, without gates and without weight quantizers."""
    recipe = RECIPE if METHODS[method].highest_bits > 1 else RECIPE.override(falling_bits=())
    run = run_of(student(method), full_precision(), recipe)
    weights, bounds = (names_of(run.network, group["params"]) for group in run.train_step.optimizer.param_groups)
    places = ["body.0.input", "body.0.hidden", "body.0.output"]
    assert bounds == {f"{place}.{name}" for place in places for name in BOUND_NAMES[method]}
    assert weights | bounds == {name for name, _ in run.network.named_parameters()} and not weights & bounds
    assert any(".gate." in name for name in weights) == (method == "ddtb")
    assert names_of(run.network, activation_bounds(run.network)) == bounds
    for group in run.train_step.optimizer.param_groups:
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0)


def test_learning_rates_reach_the_parameters() -> None:
    """Adam's first step moves each parameter by its learning rate, in the direction of its gradient."""
    run = run_of(student(), full_precision(), RECIPE.override(learning_rate=1e-4, bound_learning_rate=1e-2))
    before = {name: parameter.detach().clone() for name, parameter in run.network.named_parameters()}
    run.advance()
    moved = 0
    for name, parameter in run.network.named_parameters():
        if parameter.grad is None:
            continue
        rate = 1e-2 if name.endswith((".upper", ".lower")) else 1e-4
        clear = parameter.grad.abs() > 1e-4
        change = (parameter - before[name])[clear]
        torch.testing.assert_close(change, -rate * parameter.grad.sign()[clear], rtol=2e-2, atol=1e-5 * (rate > 1e-3))
        moved += int(clear.sum())
    assert moved > 1000


def test_learning_rates_follow_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, ...]] = []

    def see(run: Run) -> None:
        seen.append(tuple(group["lr"] for group in run.train_step.optimizer.param_groups))

    after_each_step(monkeypatch, see)
    # The paper's halving counts the calibration batches: the first comes at step 3, the second at step 7.
    recipe = RECIPE.override(halve_every=4, calibration_batches=1, learning_rate=1e-4)
    train(student(), DATA, recipe, progress=False, device="cpu")
    factors = [1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 4]
    assert seen == [(1e-4 * factor, 1e-2 * factor) for factor in factors]


# ----------------------------------------------------------------------------------- validation and best


def test_history_rows() -> None:
    always = {"step", "bits", "phase", "loss", "l1"}
    history = train(full_precision(), DATA, PLAIN, progress=False, device="cpu")
    assert [set(row) for row in history.rows] == [always | {"psnr"}] * 3
    assert [(row["step"], row["bits"], row["phase"]) for row in history.rows] == [
        (4, 32, "full precision"),
        (8, 32, "full precision"),
        (10, 32, "full precision"),
    ]
    assert history.bounds == [] and history.seconds > 0

    history = train(student(), DATA, RECIPE, teacher=full_precision(), progress=False, device="cpu")
    keys = always | {"skt", "features", "psnr", "feature_error"}
    assert [set(row) for row in history.rows] == [keys, keys | {"gates"}, keys]
    assert [(row["bits"], row["phase"]) for row in history.rows] == [(3, "initialized"), (2, "live"), (2, "live")]
    assert [entry["step"] for entry in history.bounds] == [4, 8, 10]
    assert set(history.bounds[0]["bounds"]) == {"body.0.input", "body.0.hidden", "body.0.output"}
    assert all(lower < upper for entry in history.bounds for lower, upper in entry["bounds"].values())


def test_a_row_of_losses_between_validations() -> None:
    recipe = PLAIN.override(steps=60, validate_every=1000, batch_size=1)
    history = train(full_precision(), DATA, recipe, progress=False, device="cpu")
    assert [(row["step"], "psnr" in row) for row in history.rows] == [(50, False), (60, True)]


def test_validation_images_are_not_trained_on() -> None:
    """Each image has one color of its own, so that a patch tells where it comes from."""
    data = [(str(index), np.full((40, 40, 3), 20 * index, np.uint8)) for index in range(10)]
    run = Run(full_precision(), None, PLAIN.override(validation_images=3), data, 0, torch.device("cpu"))
    held_out = {name for name, _ in run.validation.held_out}
    assert held_out == {"1", "5", "8"}  # at equal distances
    drawn = {str(int(value) // 20) for value in run.sampler.sample(400)[1].amax((1, 2, 3)).tolist()}
    assert drawn == {str(index) for index in range(10)} - held_out
    validated = {str(int(value) // 20) for value in run.validation.patches.amax((1, 2, 3)).round().tolist()}
    assert validated <= held_out


@pytest.mark.parametrize(("wanted", "got"), [(0, 0), (1, 1), (4, 4), (5, 5), (8, 5)])
def test_at_most_half_of_the_images_is_held_out(wanted: int, got: int) -> None:
    data = [(str(index), picture(index)) for index in range(10)]
    run = Run(full_precision(), None, PLAIN.override(validation_images=wanted), data, 0, torch.device("cpu"))
    assert len(run.validation.held_out) == got and len(run.sampler) == 10 - got


def test_a_single_image_trains_without_scores() -> None:
    network = full_precision()
    history = train(network, DATA[:1], PLAIN, progress=False, device="cpu")
    assert all("psnr" not in row for row in history.rows)
    assert history.best_step == 10


class Scripted:
    """Stands in for `evaluate`, gives the scores of a list, and remembers the weights it was asked about."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.states = scores, list[dict[str, Tensor]]()
        self.psnr = math.nan

    def __call__(self, network: SuperResolutionNetwork, *_: object, **__: object) -> Scripted:
        self.psnr = self.scores[len(self.states)]
        self.states.append(state_of(network))
        return self


def test_the_best_weights_are_those_of_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted([20, 30, 25, 30, 10])
    monkeypatch.setattr(validation, "evaluate", script)
    network = full_precision()
    history = train(network, DATA, PLAIN.override(validate_every=2), out=tmp_path, progress=False, device="cpu")
    assert (history.best_step, history.best_psnr) == (4, 30)
    assert [row["psnr"] for row in history.rows] == [20, 30, 25, 30, 10]
    assert equal(state_of(network), script.states[1])
    assert equal(safetensors.torch.load_file(tmp_path / "best.safetensors"), script.states[1])


def test_only_a_finished_student_can_be_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 2 and 4 are at 4 and 3 bits, 6 is in warm-up; 8 and 10 are what was asked for."""
    script = Scripted([50, 40, 35, 21, 20])
    monkeypatch.setattr(validation, "evaluate", script)
    network = student()
    recipe = RECIPE.override(validate_every=2)
    history = train(network, DATA, recipe, teacher=full_precision(), progress=False, device="cpu")
    assert (history.best_step, history.best_psnr) == (8, 21)
    assert equal(state_of(network), script.states[3])


def test_the_network_that_comes_out_scores_what_the_history_says() -> None:
    network = student()
    history = train(network, DATA, RECIPE, teacher=full_precision(), progress=False, device="cpu")
    held_out = [DATA[1], DATA[4]]
    assert evaluate(network, held_out, progress=False).psnr == history.best_psnr
    assert history.best_psnr == max(row["psnr"] for row in history.rows if row["phase"] == "live")


# ---------------------------------------------------------------------------------------- no host sync

SYNCHRONIZING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
}


class NothingWaits(TorchDispatchMode):
    """Fails on operations for whose result, or the size of it, the host has to wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._schema.name not in SYNCHRONIZING, f"{func} waits for the device"
        if func._schema.name == "aten::index":
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "indexing by a mask waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["ddtb", *(name for name in METHODS if name != "ddtb"), None])
def test_a_step_does_not_wait_for_the_device(method: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In warm-up and with live gates; Adam is the fused one, which training takes on a GPU."""
    recipe = (PLAIN if method is None else RECIPE).override(falling_bits=())
    run = run_of(full_precision() if method is None else student(method), full_precision(), recipe)
    groups = [{"params": group["params"]} for group in run.train_step.optimizer.param_groups]
    run.train_step.optimizer = torch.optim.Adam(groups, fused=True)

    def waits(*_: object) -> None:
        raise AssertionError("a value was read back from the device")

    phases = []
    with monkeypatch.context() as patched:
        for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"):
            patched.setattr(torch.Tensor, name, waits)
        with NothingWaits():
            for _ in range(4):
                run.advance()
                phases.append(run.network.phase)
    if method == "ddtb":
        assert phases == ["warm-up", "warm-up", "live", "live"]
    assert run.sums["loss"].isfinite()


def test_that_test_notices_a_wait() -> None:
    x = torch.ones(3)
    waiting: list[Callable[[], object]] = [lambda: x.sum().item(), lambda: bool(x.any()), lambda: x[x > 0]]
    for wait in waiting:
        with pytest.raises(AssertionError, match="waits"), NothingWaits():
            wait()


# ---------------------------------------------------------------------------------------- interruption


class PowerCut(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted() -> Outcomes:
    """How runs end that nothing disturbed."""
    results: Outcomes = {}
    for kind, network in (("student", student()), ("full precision", full_precision())):
        teacher = full_precision() if kind == "student" else None
        recipe = RECIPE if kind == "student" else PLAIN
        history = train(network, DATA, recipe, teacher=teacher, progress=False, device="cpu")
        results[kind] = (state_of(network), facts(history))
    return results


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


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 6, 8, 9, 10])
def test_an_interrupted_run_ends_bit_identical(steps: int, tmp_path: Path, uninterrupted: Outcomes) -> None:
    """Cut off before the first save, in each phase, between saves and at the very end."""
    cut_off(tmp_path, steps)
    network, history = start(tmp_path)
    weights, expected = uninterrupted["student"]
    assert equal(state_of(network), weights)
    assert facts(history) == expected


def test_a_run_that_is_cut_off_again_and_again(tmp_path: Path, uninterrupted: Outcomes) -> None:
    for kind in ("student", "full precision"):
        out = tmp_path / kind
        for steps in (2, 4, 7, 8, 10):
            cut_off(out, steps, kind)
        network, history = start(out, kind)
        assert equal(state_of(network), uninterrupted[kind][0])
        assert facts(history) == uninterrupted[kind][1]
        # Once more: the run is finished, and stays so.
        network, again = start(out, kind)
        assert equal(state_of(network), uninterrupted[kind][0]) and facts(again) == uninterrupted[kind][1]
        rows = list(csv.DictReader((out / "log.csv").open()))
        assert [int(row["step"]) for row in rows] == [row["step"] for row in history.rows]


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("ddtb", "reactnet")])
def test_every_methods_state_is_complete(method: str, tmp_path: Path) -> None:
    """Moving averages, steps and clips are part of the state; the cut is just before the bit-width changes."""

    def stop(*_: object, **__: object) -> None:
        raise PowerCut

    results = []
    for cut in (False, True):
        out = tmp_path / str(cut)
        if cut:  # at step 4; the last state is of step 3
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Run, "log", stop)
                with pytest.raises(PowerCut):
                    train(student(method), DATA, RECIPE, out=out, progress=False, device="cpu")
        network = student(method)
        history = train(network, DATA, RECIPE, out=out, progress=False, device="cpu")
        results.append((state_of(network), facts(history)))
    assert equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    cut_off(tmp_path, 4)
    before = (tmp_path / "state.safetensors").read_bytes()
    network, teacher = student(), full_precision()
    others: list[tuple[str, Callable[[], object]]] = [
        ("seed", lambda: train(network, DATA, RECIPE, teacher=teacher, out=tmp_path, seed=1, progress=False)),
        ("recipe", lambda: train(network, DATA, RECIPE.override(steps=11), teacher=teacher, out=tmp_path)),
        ("data", lambda: train(network, DATA[1:], RECIPE, teacher=teacher, out=tmp_path)),
        ("teacher", lambda: train(network, DATA, RECIPE, out=tmp_path)),
        ("quantization", lambda: train(quantize(teacher, "pams", 2), DATA, RECIPE, teacher=teacher, out=tmp_path)),
        ("quantization, recipe, teacher", lambda: train(full_precision(), DATA, PLAIN, out=tmp_path)),
    ]
    for what, other in others:
        with pytest.raises(ValueError, match=rf"holds another run \(different {what}\); choose another folder"):
            other()
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_what_leaves_the_result_alone_may_change_on_the_way(tmp_path: Path, uninterrupted: Outcomes) -> None:
    for number, changes in enumerate([{"checkpointing": True}, {"placement": "host"}, {"save_every": 2}]):
        cut_off(tmp_path / str(number), 4)
        network, history = start(tmp_path / str(number), recipe=RECIPE.override(**changes))
        assert equal(state_of(network), uninterrupted["student"][0])
        assert facts(history) == uninterrupted["student"][1]


def rewrite_facts(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a run's folder says of its run."""
    path = folder / "state.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        run = json.loads(file.metadata()["run"])
    change(run)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"run": json.dumps(run)})


def test_the_folder_of_an_older_version_goes_on(tmp_path: Path, uninterrupted: Outcomes) -> None:
    """It may know fields of the recipe that do not count, and lack later ones; the others must agree."""

    def older(run: dict[str, Any]) -> None:
        recipe = run["identity"]["recipe"]
        recipe |= {"checkpointing": True, "placement": "device", "save_every": 7, "momentum": 0.9}
        del recipe["fixed_bounds"], run["history"]["data"]

    cut_off(tmp_path, 4)
    rewrite_facts(tmp_path, older)
    network, history = start(tmp_path)
    assert equal(state_of(network), uninterrupted["student"][0])
    assert facts(history) == uninterrupted["student"][1]
    rewrite_facts(tmp_path, lambda run: run["identity"]["recipe"].update(batch_size=3))
    with pytest.raises(ValueError, match=r"different recipe\)"):
        start(tmp_path)


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_other_weights_are_another_run(which: str, tmp_path: Path) -> None:
    """The same folder with another teacher, or another start, must not go on as if nothing had happened."""
    cut_off(tmp_path, 4)
    network, teacher = student(), full_precision()
    with torch.no_grad():
        changed = teacher if which == "teacher" else network
        changed.head[0].weight.add_(0.1)  # type: ignore[index, operator, union-attr]
    with pytest.raises(ValueError, match="holds another run"):
        train(network, DATA, RECIPE, teacher=teacher, out=tmp_path, progress=False, device="cpu")


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "foreign"])
def test_a_damaged_state(damage: str, tmp_path: Path) -> None:
    cut_off(tmp_path, 4)
    path = tmp_path / "state.safetensors"
    content = path.read_bytes()
    foreign = safetensors.torch.save({"x": torch.zeros(1)})
    path.write_bytes({"cut": content[:-100], "empty": b"", "noise": b"noise" * 99, "foreign": foreign}[damage])
    with pytest.raises(RuntimeError, match=r"state\.safetensors cannot be read .*delete it to start the run again"):
        start(tmp_path)
    path.unlink()
    start(tmp_path)  # as the message says


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 6])
def test_a_full_disk_keeps_the_last_state(
    call: str,
    nth: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Outcomes,
) -> None:
    """Whichever file it meets; with space again, the run goes on."""
    real, count = getattr(os, call), 0

    def full(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, call, full)
        with pytest.raises(RuntimeError, match="cannot write .*: No space left.*free space"):
            start(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    network, history = start(tmp_path)
    assert equal(state_of(network), uninterrupted["student"][0])
    assert facts(history) == uninterrupted["student"][1]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + len(history.rows)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_finishes_the_step_and_saves(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Outcomes
) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        after_each_step(patched, lambda run: os.kill(os.getpid(), number) if run.step == 5 else None)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step 5. The same call continues from {tmp_path}"):
            start(tmp_path)
    assert signal.getsignal(number) == before
    with safetensors.safe_open(tmp_path / "state.safetensors", "pt") as file:
        assert json.loads(file.metadata()["run"])["step"] == 5  # the step that was under way, not the last multiple
    network, history = start(tmp_path)
    assert equal(state_of(network), uninterrupted["student"][0])
    assert facts(history) == uninterrupted["student"][1]


def command(out: Path, folder: Path) -> list[str]:
    recipe = {
        "steps": 60,
        "batch_size": 2,
        "patch_size": 32,
        "calibration_batches": 2,
        "warmup_steps": 10,
        "falling_bits": "[[4,10],[3,10]]",
        "validation_images": 1,
        "validate_every": 7,
        "save_every": 3,
        "precision": "fp32",
    }
    return [
        "train", "--scale", "2", "--bits", "2", "--gate-ratio", "0.5", "--teacher", f"{folder}/teacher.safetensors",
        "--preset", "smoke", "--data", f"{folder}/images", "--device", "cpu", "--test", "--out", str(out),
        "--set", *(f"{name}={value}" for name, value in recipe.items()),
    ]  # fmt: skip


def test_kill_and_terminate_real_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9, then SIGTERM, then to the end: the same weights and the same log as without."""
    (tmp_path / "images").mkdir()
    for name, image in DATA[:4]:
        images.write(tmp_path / "images" / f"{name}.png", image)
    save(full_precision(), tmp_path / "teacher.safetensors")
    out = tmp_path / "disturbed" / "run"
    state = out / "state.safetensors"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def process() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ddtb_lite", *command(out, tmp_path)],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_a_new_state(running: subprocess.Popen[str], old: int) -> None:
        while running.poll() is None and (not state.exists() or state.stat().st_mtime_ns == old):
            time.sleep(0.002)

    def saved_step() -> int:
        with safetensors.safe_open(state, "pt") as file:
            return json.loads(file.metadata()["run"])["step"]

    running = process()
    wait_for_a_new_state(running, 0)
    running.kill()
    _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors
    killed_at = saved_step()
    assert killed_at < 60

    running = process()
    wait_for_a_new_state(running, state.stat().st_mtime_ns)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate()
    assert running.returncode == 130, errors
    stopped_at = saved_step()
    assert killed_at < stopped_at < 60
    assert errors.splitlines() == [f"Training was stopped after step {stopped_at}. The same call continues from {out}."]
    assert output == ""

    running = process()
    output, errors = running.communicate()
    assert running.returncode == 0 and errors == "", errors

    reference = tmp_path / "quiet" / "run"
    assert main(command(reference, tmp_path)) == 0
    logs = [list(csv.DictReader((folder / "log.csv").open())) for folder in (out, reference)]
    assert logs[0] == logs[1] and len(logs[0]) == 10
    assert (out / "best.safetensors").read_bytes() == (reference / "best.safetensors").read_bytes()
    states = [safetensors.torch.load_file(folder / "state.safetensors") for folder in (out, reference)]
    assert equal(*states)
    checkpoints = [load(folder / "run.safetensors").state_dict() for folder in (out, reference)]
    assert equal(*checkpoints)


def test_the_training_images_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their fingerprint in the result file comes from the images at hand: a large set takes minutes to decode."""
    (tmp_path / "images").mkdir()
    for name, image in DATA:
        images.write(tmp_path / "images" / f"{name}.png", image)
    save(full_precision(), tmp_path / "teacher.safetensors")
    expected, read, real = datasets.fingerprint(tmp_path / "images"), [], images.read

    def watched(path: Path) -> np.ndarray:
        read.append(path.stem)
        return real(path)

    monkeypatch.setattr(images, "read", watched)
    out = tmp_path / "run"
    for _ in range(2):  # the second call finds the run finished
        read.clear()
        assert main(command(out, tmp_path)) == 0
        assert sorted(read) == [name for name, _ in DATA]
        assert json.loads((out / "run.json").read_text())["data"] == {"training": expected}


def test_a_resumed_log_has_the_same_columns(tmp_path: Path) -> None:
    """Also where the state was saved between two rows."""
    start(tmp_path / "quiet")
    cut_off(tmp_path / "disturbed", 4)
    start(tmp_path / "disturbed")
    quiet, disturbed = ((tmp_path / name / "log.csv").read_text() for name in ("quiet", "disturbed"))
    assert disturbed == quiet


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    """Kill -9 in the middle of a save leaves its temporary file, as large as the state; nobody else would remove it."""
    cut_off(tmp_path, 4)
    remains = tmp_path / ".state.safetensors.0123456789abcdef0123456789abcdef.tmp"
    remains.write_bytes(b"half a state")
    os.utime(remains, (0, 0))
    others = tmp_path / ".log.csv.fedcba9876543210fedcba9876543210.tmp"
    others.write_text("a second process, on the same folder by mistake, is about to rename this")
    start(tmp_path)
    assert not remains.exists() and others.exists()
    others.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "best.safetensors", "log.csv"}


def test_the_best_weights_in_the_folder_are_those_of_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be killed between the two; where machines round otherwise, the better score does not come again."""
    recipe = PLAIN.override(validate_every=3, save_every=3)
    monkeypatch.setattr(validation, "evaluate", Scripted([20, 30]))
    with monkeypatch.context() as patched:
        write_state = RunFolder.write_state

        def killed(folder: RunFolder, state: RunState) -> None:
            if state.facts["step"] == 6:
                raise PowerCut
            write_state(folder, state)

        patched.setattr(RunFolder, "write_state", killed)
        with pytest.raises(PowerCut):
            train(full_precision(), DATA, recipe, out=tmp_path, progress=False, device="cpu")
    monkeypatch.setattr(validation, "evaluate", Scripted([10, 10, 10]))
    network = full_precision()
    history = train(network, DATA, recipe, out=tmp_path, progress=False, device="cpu")
    assert (history.best_step, history.best_psnr) == (3, 20)
    assert equal(safetensors.torch.load_file(tmp_path / "best.safetensors"), state_of(network))


def test_a_finished_run_has_its_whole_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last two files that it writes."""
    for name in ("write_state", "write_log"):
        out = tmp_path / name
        real = getattr(RunFolder, name)

        def killed(folder: Any, content: Any, real: Any = real, name: str = name) -> None:
            if (len(content) == 3) if name == "write_log" else (content.facts["step"] == 10):
                raise PowerCut
            real(folder, content)

        with monkeypatch.context() as patched:
            patched.setattr(RunFolder, name, killed)
            with pytest.raises(PowerCut):
                start(out)
        _, history = start(out)
        assert [int(row["step"]) for row in csv.DictReader((out / "log.csv").open())] == [4, 8, 10]
        assert len(history.rows) == 3


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("layer", ["head.0.weight", "body.0.hidden.upper", "body.0.input.lower", "tail.1.bias"])
def test_a_loss_that_is_not_finite_names_the_layer(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(run: Run) -> None:
        if run.step == 2:
            dict(run.network.named_parameters())[layer].data.fill_(math.nan)

    after_each_step(monkeypatch, spoil)
    with pytest.raises(RuntimeError, match=f"is not finite at step 3: {layer} is not finite. Start"):
        train(student(), DATA, RECIPE, teacher=full_precision(), progress=False, device="cpu")


def test_a_state_that_has_diverged_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says to start again from the last saved state, so that state must be sound."""

    def spoil(run: Run) -> None:
        if run.step == 2:
            run.network.head[0].weight.data.fill_(math.nan)  # type: ignore[index, operator, union-attr]

    after_each_step(monkeypatch, spoil)
    with pytest.raises(RuntimeError, match="is not finite at step"):
        train(full_precision(), DATA, PLAIN.override(save_every=1), out=tmp_path, progress=False, device="cpu")
    saved = safetensors.torch.load_file(tmp_path / "state.safetensors")
    assert all(value.isfinite().all() for value in saved.values() if value.is_floating_point())


def test_a_packed_student_cannot_be_trained(tmp_path: Path) -> None:
    network = student()
    initialize(network, torch.rand(2, 3, 16, 16) * 255)
    save(network, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="loaded bit-packed: the full-precision weights .* are gone"):
        train(load(tmp_path / "x.safetensors"), DATA, RECIPE, teacher=full_precision(), progress=False)


def test_teachers_that_do_not_fit() -> None:
    network = student()
    wrong = {
        "another scale": build("edsr", 4, **SMALL["edsr"]),
        "another architecture": full_precision("srresnet"),
    }
    for teacher in wrong.values():
        with pytest.raises(ValueError, match="The teacher is .*, the student edsr ×2.*; expected the full-precision"):
            train(network, DATA, RECIPE, teacher=teacher, progress=False, device="cpu")


@pytest.mark.parametrize(
    "make",
    [student, lambda: build("edsr", 2, n_blocks=2, n_feats=8), lambda: build("edsr", 2, n_blocks=1, n_feats=16)],
    ids=["quantized", "deeper", "wider"],
)
def test_teachers_that_the_student_did_not_come_from(make: Callable[[], SuperResolutionNetwork]) -> None:
    with pytest.raises(ValueError, match="teacher"):
        train(student(), DATA, RECIPE, teacher=make(), progress=False, device="cpu")


def test_data_that_do_not_fit(tmp_path: Path) -> None:
    small = [picture(index, 20, 20) for index in range(3)]
    with pytest.raises(ValueError, match="None of the .* training images is 32×32 pixels or larger"):
        train(full_precision(), small, PLAIN, progress=False)
    with pytest.raises(ValueError, match="empty list of images"):
        train(full_precision(), [], PLAIN, progress=False)
    with pytest.raises(ValueError, match="holds no image"):
        train(full_precision(), tmp_path, PLAIN, progress=False)
    with pytest.raises(FileNotFoundError, match="no folder and no data set 'Set6'"):
        train(full_precision(), "Set6", PLAIN, progress=False)
    with pytest.raises(ValueError, match="expected a uint8 array"):
        train(full_precision(), [np.full((40, 40, 3), np.nan)], PLAIN, progress=False)
    with pytest.raises(ValueError, match="'longest'.* smoke, short, long, paper"):
        train(full_precision(), DATA, "longest", progress=False)
    with pytest.raises(ValueError, match="patch_size is 33, expected a multiple of the scale"):
        train(full_precision(), DATA, PLAIN.override(patch_size=33), progress=False)


def test_large_images_among_small_ones() -> None:
    """Only training patches need large images; which image is held out must not decide whether a run starts."""
    data = [picture(0), picture(1, 26, 26), picture(2), picture(3)]
    history = train(full_precision(), data, PLAIN.override(validation_images=1), progress=False, device="cpu")
    held_out_last = [picture(0), picture(1), picture(2, 26, 26), picture(3)]
    again = train(full_precision(), held_out_last, PLAIN.override(validation_images=1), progress=False, device="cpu")
    assert len(history.rows) == len(again.rows) == 3


@pytest.mark.parametrize("place", range(4))
def test_the_only_image_that_a_patch_fits_into_is_trained_on(place: int) -> None:
    data = [picture(index, 26, 26) if index != place else picture(index) for index in range(4)]
    history = train(full_precision(), data, PLAIN.override(validation_images=2), progress=False, device="cpu")
    assert history.best_psnr > 0


def test_an_image_too_small_to_be_scored_is_not_held_out() -> None:
    data = [picture(0), picture(1), picture(2, 15, 40), picture(3)]  # of these the third would be held out
    pairs = [(str(index), image) for index, image in enumerate(data)]
    run = Run(full_precision(), None, PLAIN.override(validation_images=1), pairs, 0, torch.device("cpu"))
    assert [name for name, _ in run.validation.held_out] == ["1"], "the middle one of those that can be"


def test_images_that_are_left_out_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    data = [picture(0), picture(1, 26, 26), picture(2)]
    train(full_precision(), data, PLAIN.override(validation_images=0), progress=False, device="cpu")
    assert "1 of 3 training images are smaller than a patch of 32×32 pixels and are left out." in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1, but a gate's batch norm needs at least two images"),
        ({"warmup_steps": 5}, "its own bit-width for 5 steps only: its gates would never act"),
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


def test_a_network_cannot_teach_itself() -> None:
    network = full_precision()
    with pytest.raises(ValueError, match="network itself.* a copy"):
        train(network, DATA, PLAIN, teacher=network, progress=False, device="cpu")


def test_an_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="file"):
            train(full_precision(), DATA, PLAIN, out=out, progress=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_initialized_student_is_not_initialized_again() -> None:
    network = student()
    initialize(network, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 255)
    before = state_of(network)
    run = run_of(network, full_precision(), RECIPE.override(falling_bits=()))
    assert equal(state_of(run.network), before)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "reactnet"])
def test_an_initialized_student_starts_at_the_falling_bits(method: str) -> None:
    """A step that fits 2 bits does not fit 4: the run begins like one that initializes its student itself.

    Compared at the first quantizer, whose input is the same whatever the others do.
    """
    own, given = student(method), student(method)
    run_of(own, full_precision())
    copy = PatchSampler([DATA[index][1] for index in (0, 2, 3, 5)], 2, 32)
    initialize(given, [copy.sample(2)[0] for _ in range(2)])
    run_of(given, full_precision())
    for network in (own, given):
        assert network.quantization is not None and network.quantization.bits == 4
    expected, got = (dict(network.get_submodule("body.0.input").named_parameters()) for network in (own, given))
    for name in expected:
        if not name.startswith("gate."):
            torch.testing.assert_close(got[name], expected[name])


@pytest.mark.parametrize("method", ["ddtb", "lsq", "fqsr"])
def test_training_a_trained_student_further_begins_where_it_is(method: str) -> None:
    """Weights' steps and clips, bounds, and gates that are live already."""
    recipe = RECIPE.override(falling_bits=())
    network = student(method)
    train(network, DATA, recipe, teacher=full_precision(), progress=False, device="cpu")
    before = state_of(network)
    run = run_of(network, full_precision(), recipe)
    assert equal(state_of(run.network), before)
    run.advance()
    assert run.network.phase == ("live" if method == "ddtb" else "initialized")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_float32_is_float32_on_every_gpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs of different machines are compared; cuDNN would round their convolutions to TF32 where it can."""

    def setting() -> object:
        convolutions = getattr(torch.backends.cudnn, "conv", None)
        return convolutions.fp32_precision if convolutions else torch.backends.cudnn.allow_tf32

    seen, before = set(), setting()
    after_each_step(monkeypatch, lambda run: seen.add(setting()))
    train(full_precision(), DATA, PLAIN.override(precision=precision), progress=False, device="cpu")
    assert (seen <= {"ieee", False}) == (precision == "fp32") and setting() == before


def test_a_run_that_goes_on_in_another_precision_says_so(caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(full_precision(), None, PLAIN)
    run.advance()
    state = run.state()
    assert state.facts["precision"] == "fp32"
    other = Run(
        full_precision(), None, PLAIN.override(precision="fp16"), [(n, image) for n, image in DATA], 0, run.device
    )
    other.restore(state)
    assert "This run began in fp32 and goes on in fp16." in caplog.text
    other.advance()
    assert other.step == 2
    # What the loss scale discards is no sign of divergence, and later on nothing would remember why it was.
    loss_scale = other.train_step.loss_scale
    assert loss_scale is not None
    loss_scale.factor.fill_(2.0**60)
    other.advance()
    other.check()
    back = run_of(full_precision(), None, PLAIN)
    back.restore(other.state())
    back.advance()
    back.check()


def test_a_first_bad_step_is_kept_out_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """One NaN would reach every weight by the next step; so the message could only name them all."""

    def spoil(run: Run) -> None:
        if run.step == 1:
            run.network.head[0].register_forward_hook(lambda *_: torch.tensor(math.nan) * _[2])  # type: ignore[index, operator, union-attr]

    after_each_step(monkeypatch, spoil)
    network = full_precision()
    with pytest.raises(RuntimeError, match=r"not finite at step \d: the output of head.0 is not finite\. Start"):
        train(network, DATA, PLAIN, progress=False, device="cpu")
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_a_gradient_that_is_not_finite_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loss stays finite, nothing else would tell that the network has stopped learning."""

    def spoil(run: Run) -> None:
        if run.step == 1:
            run.network.tail[1].bias.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[index, union-attr]

    after_each_step(monkeypatch, spoil)
    with pytest.raises(RuntimeError, match=r"not finite at step \d: the gradient of tail.1.bias is not finite\. Start"):
        train(full_precision(), DATA, PLAIN, progress=False, device="cpu")


def test_bounds_start_at_a_fixed_value_in_a_student_that_came_initialized() -> None:
    ready = student()
    initialize(ready, torch.rand(2, 3, 16, 16) * 255)
    run = run_of(ready, full_precision(), RECIPE.override(fixed_bounds=7.0, falling_bits=()))
    run.begin()
    assert set(bounds(run.network).values()) == {(-7.0, 7.0)}


def test_bounds_can_start_at_a_fixed_value() -> None:
    run = run_of(student(), full_precision(), RECIPE.override(fixed_bounds=7.0))
    run.begin()
    for step in (0, 3):  # the first step at 4 bits, and at 3, where bounds start again
        run.step = step
        run._prepare()
        for quantizer in activation_quantizers(run.network).values():
            assert isinstance(quantizer, DualBound)
            assert (quantizer.lower.item(), quantizer.upper.item()) == (-7.0, 7.0)


def test_a_discriminator_trains_along_and_resumes(tmp_path: Path) -> None:
    """Its losses are logged, and an interruption leaves no trace."""
    recipe = PLAIN.override(adversarial_weight=1e-3, adversarial_loss="least_squares")

    def run(out: Path | None) -> tuple[dict[str, Tensor], History]:
        network = full_precision()
        history = train(network, DATA, recipe, out=out, progress=False, device="cpu", seed=3)
        return state_of(network), history

    whole, history = run(tmp_path / "whole")
    assert {"adversarial", "discriminator"} <= set(history.rows[0])
    assert history.best_step == recipe.steps, "PSNR does not choose among networks that an adversary teaches"
    with pytest.MonkeyPatch.context() as patched:
        after_each_step(patched, _cut_at(4))
        with pytest.raises(PowerCut):
            run(tmp_path / "cut")
    resumed, _ = run(tmp_path / "cut")
    assert equal(whole, resumed)
    states = [safetensors.torch.load_file(tmp_path / name / "state.safetensors") for name in ("whole", "cut")]
    assert equal(*states) and any("adversary.discriminator" in name for name in states[0])


def _cut_at(step: int) -> Callable[[Run], None]:
    def see(run: Run) -> None:
        if run.step == step:
            raise PowerCut

    return see


@pytest.mark.parametrize(
    "refusal", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("[enforce fail] can't allocate memory: 9")]
)
def test_full_memory_says_what_to_do_and_keeps_the_last_state(
    refusal: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Outcomes
) -> None:
    def refuse(run: Run) -> None:
        if run.step == 7:
            raise refusal

    with monkeypatch.context() as patched:
        after_each_step(patched, refuse)
        with pytest.raises(RuntimeError, match=r"memory of cpu is full at step 7.* checkpointing=true"):
            start(tmp_path)
    network, _ = start(tmp_path, recipe=RECIPE.override(checkpointing=True))  # as the message says
    assert equal(state_of(network), uninterrupted["student"][0])


def test_full_memory_does_not_advise_what_is_done_already(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Run) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    after_each_step(monkeypatch, refuse)
    with pytest.raises(RuntimeError, match=r"smaller batch_size \(2\) or patch_size \(32\)") as error:
        train(full_precision(), DATA, PLAIN.override(checkpointing=True), progress=False, device="cpu")
    assert "checkpointing" not in str(error.value)


def test_networks_return_to_the_device_where_they_were() -> None:
    with torch.device("meta"):  # a device that every machine has, beside the CPU
        network = full_precision()
    with pytest.raises(PowerCut), brought_back(network, None):
        network.to_empty(device="cpu")
        raise PowerCut
    assert network.device == torch.device("meta")
