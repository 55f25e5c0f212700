"""Bounds, dynamic intensity and gate selection, recomputed independently with hooks and numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_networks import small
from torch import Tensor, nn

from ddtb_lite.conversion import (
    activation_quantizers,
    gated_paths,
    number_of_gates,
    quantize,
    quantized_convolutions,
    set_phase,
)
from ddtb_lite.evaluation import evaluate
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import NETWORKS, SuperResolutionNetwork, build
from ddtb_lite.quantizers import DualBound


def batches(count: int, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [
        255 * torch.rand(1, generator=generator) * torch.rand(images, 3, 9, 11, generator=generator)
        for _ in range(count)
    ]


def inputs_of(network: nn.Module, paths: list[str], x: Tensor) -> dict[str, np.ndarray]:
    """What enters each of the modules while the network runs on `x` in evaluation mode."""
    seen: dict[str, np.ndarray] = {}

    def remember(path: str) -> None:
        network.get_submodule(path).register_forward_pre_hook(
            lambda _, inputs: seen.__setitem__(path, inputs[0].detach().double().numpy().copy())
        )

    for path in paths:
        remember(path)
    training = network.training
    with torch.no_grad():
        network.eval()(x)
    network.train(training)
    for path in paths:
        network.get_submodule(path)._forward_pre_hooks.clear()
    return seen


def bounds(student: SuperResolutionNetwork) -> dict[str, tuple[float, float]]:
    return {
        path: (quantizer.lower.item(), quantizer.upper.item())
        for path, quantizer in activation_quantizers(student).items()
        if isinstance(quantizer, DualBound)
    }


# ----------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("name", "percentile"), [("edsr", 99), ("rdn", 95), ("srresnet", 99), ("srgan", 99)])
def test_bounds_are_percentiles_of_the_input_as_quantized_layers_make_it(
    name: str, percentile: int, bits: int, fully: bool
) -> None:
    network = small(name)
    student = quantize(network, bits=bits, fully=fully)
    data = batches(3)
    initialize(student, data)
    # All bounds are set now: a second pass shows each quantizer the input that it was initialized with.
    paths = list(activation_quantizers(student))
    seen = inputs_of(student, paths, data[0])
    for path, (lower, upper) in bounds(student).items():
        expected = np.percentile(seen[path], (100 - percentile, percentile))
        assert (lower, upper) == pytest.approx(tuple(expected), rel=1e-5, abs=1e-6), path
    unquantized = inputs_of(network, paths, data[0])
    assert not np.allclose(seen[paths[-1]], unquantized[paths[-1]], rtol=1e-2)


def test_another_percentile() -> None:
    student = quantize(small(), percentile=90)
    data = batches(1)
    initialize(student, data)
    seen = inputs_of(student, list(bounds(student)), data[0])
    for path, (lower, upper) in bounds(student).items():
        assert (lower, upper) == pytest.approx(tuple(np.percentile(seen[path], (10, 90))), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_official_variant_sets_bounds_at_2_bits_only(bits: int) -> None:
    student = quantize(small(), bits=bits, variant="official")
    data = batches(1)
    initialize(student, data)
    if bits > 2:
        assert set(bounds(student).values()) == {(-10.0, 10.0)}
        return
    seen = inputs_of(student, list(bounds(student)), data[0])
    for path, (lower, upper) in bounds(student).items():
        assert (lower, upper) == pytest.approx(tuple(np.percentile(seen[path], (1, 99))), rel=1e-5, abs=1e-6)


def test_constant_images_leave_everything_finite() -> None:
    student = quantize(small(), gate_ratio=1.0)
    constant = torch.full((2, 3, 8, 8), 114.0)
    initialize(student, constant)
    set_phase(student, "live")
    assert torch.isfinite(student(constant)).all()


# ------------------------------------------------------------------------------------ dynamic intensity


def expected_intensity(network: nn.Module, paths: list[str], data: list[Tensor]) -> dict[str, float]:
    extremes: dict[str, list[tuple[float, float]]] = {path: [] for path in paths}
    for batch in data:
        for path, x in inputs_of(network, paths, batch).items():
            extremes[path].append((x.max(), x.min()))
    return {path: float(np.var(values, axis=0).sum()) for path, values in extremes.items()}


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("name", ["edsr", "srresnet", "srgan"])
def test_dynamic_intensity_over_batches(name: str, variant: str) -> None:
    """In full precision, hence on the network that the student comes from."""
    network = small(name)
    student = quantize(network, variant=variant)
    data = batches(5)
    initialize(student, data)
    assert student.dynamic_intensity == pytest.approx(
        expected_intensity(network, list(activation_quantizers(student)), data), rel=1e-4
    )


def test_dynamic_intensity_of_a_single_batch_runs_over_its_images() -> None:
    network = small()
    student = quantize(network)
    batch = torch.cat(batches(6, images=1))
    initialize(student, batch)
    expected = expected_intensity(network, list(activation_quantizers(student)), list(batch.split(1)))
    assert student.dynamic_intensity == pytest.approx(expected, rel=1e-4)
    again = quantize(network)
    initialize(again, [batch])
    assert again.dynamic_intensity == student.dynamic_intensity


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_official_variant_keeps_rdns_weights_quantized(variant: str) -> None:
    network = small("rdn")
    student = quantize(network, variant=variant)
    data = batches(4)
    initialize(student, data)
    if variant == "official":
        for path, convolution in quantized_convolutions(student).items():
            weight = convolution.weight_quantizer(convolution.weight).detach()
            network.get_submodule(path).weight = nn.Parameter(weight)
    expected = expected_intensity(network, list(activation_quantizers(student)), data)
    assert student.dynamic_intensity == pytest.approx(expected, rel=1e-4)


class Once:
    """Batches that can be iterated a single time, and a count of how many were taken."""

    def __init__(self, data: list[Tensor]) -> None:
        self.data, self.iterations, self.taken = data, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.iterations += 1
        for batch in self.data:
            self.taken += 1
            yield batch


def test_batches_are_iterated_once() -> None:
    data = batches(4)
    from_list, from_once, from_generator = (quantize(small()) for _ in range(3))
    once = Once(data)
    initialize(from_list, data)
    initialize(from_once, once)
    initialize(from_generator, (batch for batch in data))
    assert (once.iterations, once.taken) == (1, 4)
    for other in (from_once, from_generator):
        assert other.dynamic_intensity == from_list.dynamic_intensity
        assert bounds(other) == bounds(from_list)


# ------------------------------------------------------------------------------------------------ gates


@pytest.mark.parametrize(
    ("name", "variant", "count"),
    [
        ("edsr", "paper", 14),
        ("edsr", "official", 14),
        ("rdn", "paper", 73),
        ("rdn", "official", 72),
        ("srresnet", "paper", 3),
        ("srgan", "official", 3),
    ],
)
def test_the_layers_of_highest_intensity_get_a_gate(name: str, variant: str, count: int) -> None:
    torch.manual_seed(0)
    network = build(name, 2, **({"G": 4} if name == "rdn" else {"n_feats": 4}))
    student = quantize(network, variant=variant)
    initialize(student, batches(3))
    gated = set(gated_paths(student))
    assert len(gated) == count
    intensity = student.dynamic_intensity
    assert intensity is not None
    assert min(intensity[path] for path in gated) >= max(
        value for path, value in intensity.items() if path not in gated
    )


@pytest.mark.parametrize(("ratio", "count"), [(0, 0), (0.16, 0), (0.17, 1), (0.5, 3), (1, 6)])
def test_gate_ratio_rounds_down(ratio: float, count: int) -> None:
    student = quantize(small(), gate_ratio=ratio)
    initialize(student, batches(2))
    assert len(gated_paths(student)) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_are_bypassed_until_live(name: str) -> None:
    student, static = quantize(small(name), gate_ratio=1.0), quantize(small(name), gate_ratio=0.0)
    data = batches(2)
    for network in (student, static):
        initialize(network, data)
        network.eval()
    assert student.phase == "initialized"
    gates = [activation_quantizers(student)[path].gate for path in gated_paths(student)]
    with torch.no_grad():
        plain = static(data[0])
        assert torch.equal(student(data[0]), plain)
        assert all(gate.logits is None for gate in gates)
        set_phase(student, "warm-up")
        assert torch.equal(student(data[0]), plain)
        assert all(gate.logits.shape == (2, 2) for gate in gates)
        set_phase(student, "live")
        assert not torch.equal(student(data[0]), plain)
        for gate in gates:
            nn.init.zeros_(gate.expand.weight)
        assert torch.equal(student(data[0]), plain)


def test_a_second_initialization_replaces_the_first() -> None:
    student, fresh = quantize(small()), quantize(small())
    initialize(student, batches(2))
    set_phase(student, "live")
    with torch.no_grad():
        student(batches(1)[0])
    initialize(student, batches(3))
    initialize(fresh, batches(3))
    assert bounds(student) == bounds(fresh) and gated_paths(student) == gated_paths(fresh)
    assert student.phase == "initialized"


# ------------------------------------------------------------------------------------- what stays as it is


@pytest.mark.parametrize("training", [True, False])
def test_mode_weights_and_batch_norm_stay(training: bool) -> None:
    network = small("srresnet").train(training)
    student = quantize(network)
    initialize(student, batches(3))
    assert student.training == training
    state = student.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in student.parameters())


# ---------------------------------------------------------------------------------------------- errors


def broken(value: float) -> Tensor:
    batch = torch.rand(2, 3, 8, 8)
    batch[1, 2, 3, 4] = value
    return batch


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "got no batches, expected at least one"),
        (iter(()), "got no batches"),
        (broken(float("nan")), "NaN or infinite pixels"),
        ([torch.rand(2, 3, 8, 8), broken(float("inf"))], "NaN or infinite pixels"),
        (torch.rand(3, 8, 8), "expected a float tensor N×3×H×W"),
        ([torch.rand(2, 1, 8, 8)], "expected a float tensor N×3×H×W"),
        ([torch.zeros(2, 3, 8, 8, dtype=torch.uint8)], "torch.uint8 .*expected a float tensor"),
        ([np.zeros((2, 3, 8, 8))], "A batch is ndarray, expected a float tensor"),
        ([torch.rand(0, 3, 8, 8)], "A batch is .*expected"),
        ([torch.rand(2, 3, 0, 8)], "A batch is .*expected"),
        (torch.rand(1, 3, 8, 8), "a single image, but gates go where the range changes from image to image"),
    ],
)
def test_bad_batches(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initialize(quantize(small()), data)  # type: ignore[arg-type]


def test_a_single_image_will_do_without_gates_to_place() -> None:
    for student in (quantize(small(), gate_ratio=0), quantize(small(), "lsq")):
        initialize(student, torch.rand(1, 3, 8, 8) * 255)
        assert student.phase == "initialized"


def test_a_bad_batch_leaves_the_mode_as_it_was() -> None:
    student = quantize(small()).train()
    with pytest.raises(ValueError, match="NaN"):
        initialize(student, [torch.rand(2, 3, 8, 8), broken(float("nan"))])
    assert student.training and student.phase == "new"


def test_full_precision_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="is in full precision; call ddtb_lite.quantize"):
        initialize(small(), batches(1))


@pytest.mark.parametrize("method", ["ddtb", "lsq"])
def test_an_initialization_that_is_cut_off_leaves_a_new_student(method: str) -> None:
    student = quantize(small(), method, 2)
    last = list(activation_quantizers(student))[-1]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    hook = student.get_submodule(last).register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        initialize(student, batches(2))
    hook.remove()
    assert student.phase == "new"
    with pytest.raises(ValueError, match="no bounds yet"):
        evaluate(student, [np.zeros((40, 40, 3), np.uint8)])


def test_batches_of_another_precision_are_converted() -> None:
    first, second = quantize(small(), "lsq", 2), quantize(small(), "lsq", 2)
    initialize(first, batches(2))
    initialize(second, [batch.double() for batch in batches(2)])
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_mode_of_each_module_stays() -> None:
    student = quantize(small(), "ddtb", 2).train()
    student.get_submodule("body.0").eval()
    modes = [module.training for module in student.modules() if not isinstance(module, nn.Identity)]
    initialize(student, batches(2))
    kept, gates = [], []
    for name, module in student.named_modules():
        if not isinstance(module, nn.Identity):
            (gates if ".gate" in name else kept).append(module.training)
    assert kept == modes
    assert gates and all(gates), "a gate that is new learns with the student"


def test_a_fraction_of_layers_is_not_rounded_down_by_floating_point() -> None:
    network = build("edsr", 2, n_blocks=100 // 3 + 1, n_feats=4)  # 102 quantizers
    for count in range(103):
        assert number_of_gates(quantize(network, "ddtb", 2, gate_ratio=count / 102)) == count
