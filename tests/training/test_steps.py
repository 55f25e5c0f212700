"""Steps and phases: what each step does to a network, against a loop and percentiles worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    DATA,
    PLAIN,
    RECIPE,
    SMALL,
    after_each_step,
    equal,
    full_precision,
    run_of,
    state_of,
    student,
)
from torch.nn import functional as F

from ddtb_lite import evaluate, initialize, quantize, train
from ddtb_lite.conversion import activation_quantizers, gated_paths, quantized_convolutions
from ddtb_lite.diagnostics import bounds
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS, DualBound
from ddtb_lite.training.patches import PatchSampler
from ddtb_lite.training.run import Run
from ddtb_lite.training.step import activation_bounds


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


@pytest.mark.parametrize("name", list(SMALL))
def test_the_teacher_stays_as_it_is(name: str) -> None:
    """Bit for bit, statistics of batch norm included, and it can still be trained afterwards."""
    teacher = full_precision(name)
    before = state_of(teacher)
    network = quantize(teacher, "ddtb", 2)
    train(network, DATA, RECIPE.override(steps=8), teacher=teacher, progress=False, device="cpu")
    assert equal(state_of(teacher), before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    changed = [key for key, value in network.state_dict().items() if key in before and not value.equal(before[key])]
    assert changed  # the student did learn


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_trains(method: str) -> None:
    recipe = RECIPE if METHODS[method].highest_bits > 1 else RECIPE.override(falling_bits=())
    network, teacher = student(method), full_precision()
    history = train(network, DATA, recipe, teacher=teacher, progress=False, device="cpu")
    assert [row["step"] for row in history.rows] == [4, 8, 10]
    assert history.rows[-1]["l1"] < 0.97 * history.rows[0]["l1"]
    gated = METHODS[method].gated
    assert history.rows[-1]["phase"] == ("live" if gated else "initialized")
    assert bool(history.bounds) and bool(history.bounds[0]["bounds"]) == (method == "ddtb")


@pytest.mark.parametrize("flat", [0, 128, 255])
def test_constant_images(flat: int) -> None:
    """Maximum and minimum coincide in the whole image; bounds start apart all the same, and the network learns."""
    data = [np.full((40, 40, 3), flat, np.uint8)] * 3
    network = student()
    history = train(network, data, RECIPE, teacher=full_precision(), progress=False, device="cpu")
    errors = [row["l1"] for row in history.rows]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]
    assert all(lower < upper for entry in history.bounds for lower, upper in entry["bounds"].values())


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
    "daq": [],
    "odm": ["upper", "lower"],
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
