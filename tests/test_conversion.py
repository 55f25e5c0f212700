"""From a network to its quantized copy: what changes, what stays, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_networks import small
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ddtb_lite.conversion import (
    DEFAULTS,
    EXTRA_STATE,
    QuantizedConv2d,
    activation_quantizers,
    attach_gates,
    full_precision,
    gated_paths,
    quantize,
    quantized_convolutions,
    set_bits,
    set_phase,
)
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import NETWORKS, Quantization, SuperResolutionNetwork
from ddtb_lite.networks.base import VARIANTS
from ddtb_lite.quantizers import METHODS, DualBound, PercentileWeight, Quantizer


def images(count: int = 3, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    brightness = torch.linspace(20, 255, count).view(-1, 1, 1, 1)
    return brightness * torch.rand(count, 3, size, size, generator=generator)


def quantizers(student: SuperResolutionNetwork) -> list[DualBound]:
    return [each for each in activation_quantizers(student).values() if isinstance(each, DualBound)]


# --------------------------------------------------------------------------------------- the quantized copy


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_original_stays_as_it_is(name: str, variant: str) -> None:
    network = small(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    student = quantize(network, variant=variant, bits=2)
    initialize(student, images())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.fill_(7)
    assert network.quantization is None
    assert not any(isinstance(module, Quantizer | QuantizedConv2d) for module in network.modules())
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_full_precision_tensors_keep_their_names(name: str, fully: bool) -> None:
    network = small(name)
    student = quantize(network, fully=fully)
    state = student.state_dict()
    for key, tensor in network.state_dict().items():
        assert torch.equal(state[key], tensor)
    added = state.keys() - network.state_dict().keys() - {EXTRA_STATE}
    paths = activation_quantizers(student)
    assert added == {f"{path}.{bound}" for path in paths for bound in ("upper", "lower")}
    missing, unexpected = student.load_state_dict(network.state_dict(), strict=False)
    assert set(missing) == added and not unexpected


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("name", NETWORKS)
def test_quantizers_sit_at_the_networks_points(name: str, variant: str, fully: bool) -> None:
    student = quantize(small(name), bits=3, variant=variant, fully=fully)
    points = student.quantization_points(variant, fully)
    assert list(activation_quantizers(student)) == [point.path for point in points.activations]
    assert sorted(quantized_convolutions(student)) == sorted(points.weights)
    for point in points.activations:
        quantizer = student.get_submodule(point.path)
        assert isinstance(quantizer, DualBound) and quantizer.variant == variant
        assert quantizer.bits == (8 if point.skip else 3)
    for convolution in quantized_convolutions(student).values():
        assert isinstance(convolution.weight_quantizer, PercentileWeight)
        assert convolution.weight_quantizer.bits == 3
        assert convolution.weight_quantizer.percentile == DEFAULTS[name].weight_percentile
    assert student.phase == "new"


def test_what_a_student_remembers() -> None:
    assert quantize(small("edsr")).quantization == Quantization("ddtb", 2, "paper", 0.3, 99, False)
    assert quantize(small("rdn"), bits=4).quantization == Quantization("ddtb", 4, "paper", 0.5, 95, False)
    assert quantize(small("srresnet")).quantization == Quantization("ddtb", 2, "paper", 0.1, 99, False)
    chosen = quantize(small(), "ddtb", 8, variant="official", gate_ratio=0, percentile=97.5, fully=True)
    assert chosen.quantization == Quantization("ddtb", 8, "official", 0, 97.5, True)


@pytest.mark.parametrize("training", [True, False])
def test_the_copy_is_in_the_originals_mode(training: bool) -> None:
    student = quantize(small().train(training))
    assert {module.training for module in student.modules()} == {training}


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("name", NETWORKS)
def test_full_precision_context_equals_the_original(name: str, variant: str, fully: bool) -> None:
    network = small(name).eval()
    student = quantize(network, variant=variant, fully=fully).eval()
    initialize(student, images())
    set_phase(student, "live")
    with torch.no_grad():
        with full_precision(student):
            assert torch.equal(student(images()), network(images()))
        assert not torch.equal(student(images()), network(images()))
        with pytest.raises(KeyError), full_precision(student):
            raise KeyError
        assert not torch.equal(student(images()), network(images()))


def test_full_precision_of_activations_only_keeps_the_weights_quantized() -> None:
    network = small().eval()
    student = quantize(network).eval()
    expected = copy.deepcopy(network)
    for path, convolution in quantized_convolutions(student).items():
        expected.get_submodule(path).weight = nn.Parameter(convolution.weight_quantizer(convolution.weight))
    with torch.no_grad(), full_precision(student, weights=False):
        torch.testing.assert_close(student(images()), expected(images()))


def test_full_precision_contexts_nest() -> None:
    network = small().eval()
    student = quantize(network).eval()
    with torch.no_grad(), full_precision(student):
        with full_precision(student):
            pass
        assert torch.equal(student(images()), network(images()))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", ["edsr", "rdn"])
def test_a_quantized_convolution(name: str, bits: int) -> None:
    """Bounds at the 1st and 99th percentile, for RDN at the extremes, and the formulas of section 2."""
    student = quantize(small(name), bits=bits).double()
    for path, convolution in quantized_convolutions(student).items():
        weight = convolution.weight.detach().numpy()
        percent = 100 if name == "rdn" else 99
        low, high = np.percentile(weight, 100 - percent), np.percentile(weight, percent)
        step = (high - low) / (2**bits - 1)
        expected = np.round(np.clip(weight, low, high) / step) * step
        x = torch.randn(2, convolution.in_channels, 5, 4, dtype=torch.float64)
        padding = convolution.kernel_size[0] // 2
        output = F.conv2d(x, torch.from_numpy(expected), convolution.bias, padding=padding)
        torch.testing.assert_close(convolution(x), output, msg=path)


@pytest.mark.parametrize(
    "options",
    [
        {"dilation": 2},
        {"groups": 4},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"stride": 2, "padding": (1, 2), "dilation": (2, 1), "padding_mode": "circular", "bias": False},
    ],
)
def test_any_convolution_keeps_its_geometry(options: dict) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 8, 3, **options).double()
    quantized = QuantizedConv2d.from_float(convolution, PercentileWeight(2))
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    expected = functional_call(convolution, {"weight": PercentileWeight(2)(convolution.weight)}, (x,))
    torch.testing.assert_close(quantized(x), expected, rtol=0, atol=0)


def test_a_convolution_with_arithmetic_of_its_own_is_refused() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="Doubled"):
        QuantizedConv2d.from_float(Doubled(4, 4, 3), PercentileWeight(2))
    once = QuantizedConv2d.from_float(nn.Conv2d(4, 4, 3), PercentileWeight(2))
    with pytest.raises(ValueError, match="QuantizedConv2d"):
        QuantizedConv2d.from_float(once, PercentileWeight(2))


def test_weights_learn_straight_through_where_they_are_not_clipped() -> None:
    student = quantize(small())
    convolution = student.get_submodule("body.0.body.0")
    assert isinstance(convolution, QuantizedConv2d)
    upstream = torch.randn(convolution.weight.shape)
    convolution.weight_quantizer(convolution.weight).backward(upstream)
    weight = convolution.weight.detach().numpy()
    low, high = np.percentile(weight, (1, 99)).astype(np.float32)
    expected = np.where((weight < low) | (weight > high), 0, upstream)
    np.testing.assert_array_equal(convolution.weight.grad.numpy(), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter_of_a_live_student(name: str) -> None:
    student = quantize(small(name), gate_ratio=1.0)
    initialize(student, images())
    set_phase(student, "live")
    student.train()
    # Each gate sees its input detached and passes on nothing else, but its factors act on the output.
    student(images()).square().mean().backward()
    for path, parameter in student.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), path


# ------------------------------------------------------------------------------- bits, phases and gates


@pytest.mark.parametrize("fully", [False, True])
def test_set_bits_equals_quantizing_to_them(fully: bool) -> None:
    student, expected = quantize(small(), bits=2, fully=fully), quantize(small(), bits=5, fully=fully)
    set_bits(student, 5)
    assert student.quantization == expected.quantization
    expected.load_state_dict(student.state_dict())
    with torch.no_grad():
        assert torch.equal(student(images()), expected(images()))
    skips = [point.path for point in student.quantization_points(fully=fully).activations if point.skip]
    assert all(activation_quantizers(student)[path].bits == 8 for path in skips)


def test_phases() -> None:
    student = quantize(small())
    expected = {"new": "bypassed", "initialized": "bypassed", "warm-up": "warm-up", "live": "live"}
    for phase, gates in expected.items():
        set_phase(student, phase)
        assert student.phase == phase
        assert {quantizer.gate_phase for quantizer in quantizers(student)} == {gates}
    with pytest.raises(ValueError, match="phase is 'done', expected one of new, initialized, warm-up, live"):
        set_phase(student, "done")
    assert student.phase == "live"


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_gates_are_attached_and_taken_away(variant: str) -> None:
    student = quantize(small("rdn"), variant=variant).eval()
    chosen = ["RDBs.0.convs.1.input", "fusion_inputs.0"]
    attach_gates(student, chosen)
    assert gated_paths(student) == chosen
    for path, channels in zip(chosen, (16, 16), strict=True):
        gate = activation_quantizers(student)[path].gate
        assert gate.reduce.in_channels == channels
        assert gate.variant == variant and gate.bits == 2 and not gate.training
    attach_gates(student, ["RDBs.1.fusion_input"])
    assert gated_paths(student) == ["RDBs.1.fusion_input"]
    with pytest.raises(ValueError, match="No quantizer at RDBs.1.nowhere"):
        attach_gates(student, ["RDBs.1.nowhere"])
    assert gated_paths(student) == ["RDBs.1.fusion_input"]
    attach_gates(student, [])
    assert gated_paths(student) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_an_images_output_does_not_depend_on_its_batch(name: str) -> None:
    """In float64, so that noise does not flip a rounding."""
    student = quantize(small(name), gate_ratio=1.0).double().eval()
    batch = images(5).double()
    initialize(student, batch)
    set_phase(student, "live")
    with torch.no_grad():
        alone = torch.cat([student(image[None]) for image in batch])
        torch.testing.assert_close(student(batch), alone, rtol=1e-9, atol=1e-9)


def test_the_official_variant_depends_on_the_batch() -> None:
    student = quantize(small(), variant="official", gate_ratio=1.0).double().eval()
    batch = images(5).double()
    initialize(student, batch)
    set_phase(student, "live")
    with torch.no_grad():
        alone = torch.cat([student(image[None]) for image in batch])
        assert not torch.allclose(student(batch), alone, rtol=1e-6, atol=1e-6)


def test_a_student_can_be_copied_after_a_training_step() -> None:
    student = quantize(small())
    initialize(student, images())
    set_phase(student, "live")
    student.train()
    student(images()).mean().backward()
    twin = copy.deepcopy(student)
    assert all(map(torch.equal, twin.state_dict().values(), student.state_dict().values()))


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 33, 2.0, "2", True])
def test_wrong_bits(bits: object) -> None:
    with pytest.raises(ValueError, match="bits is .*expected a whole number from 2 to 8"):
        quantize(small(), bits=bits)  # type: ignore[arg-type]
    student = quantize(small())
    with pytest.raises(ValueError, match="bits is"):
        set_bits(student, bits)  # type: ignore[arg-type]
    assert student.quantization is not None and student.quantization.bits == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "DDTB"}, "Unknown method 'DDTB'; the known ones are ddtb"),
        ({"variant": "papers"}, "variant is 'papers', expected one of paper, official"),
        ({"gate_ratio": -0.1}, "gate_ratio is -0.1, expected 0 to 1"),
        ({"gate_ratio": 1.1}, "gate_ratio is 1.1, expected 0 to 1"),
        ({"gate_ratio": float("nan")}, "gate_ratio is nan, expected 0 to 1"),
        ({"percentile": 50}, "percentile is 50, expected more than 50 and at most 100"),
        ({"percentile": 101}, "percentile is 101, expected more than 50 and at most 100"),
        ({"percentile": float("nan")}, "percentile is nan"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(small(), **arguments)


@pytest.mark.parametrize("method", METHODS)
def test_a_student_knows_the_name_of_its_points(method: str) -> None:
    own = METHODS[method].default_variant
    assert own == ("convolutions" if method == "daq" else "paper")
    bits = METHODS[method].lowest_bits
    for asked, resolved in ((None, own), *((each, each) for each in VARIANTS)):
        student = quantize(small(), method, bits, variant=asked)
        assert student.quantization is not None and student.quantization.variant == resolved
        assert list(activation_quantizers(student)) == [
            point.path for point in small().quantization_points(resolved).activations
        ]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.quantizes_shortcuts])
def test_methods_that_leave_shortcuts_alone_refuse_to_be_fully_quantized(method: str) -> None:
    with pytest.raises(ValueError, match="shortcuts.*fully=False"):
        quantize(small(), method, METHODS[method].lowest_bits, fully=True)


def test_gates_belong_to_a_method() -> None:
    student = quantize(small(), "pams")
    attach_gates(student, [])
    with pytest.raises(ValueError, match="pams has no gates, but body.0.hidden"):
        attach_gates(student, ["body.0.hidden"])


def test_nothing_is_quantized_twice() -> None:
    with pytest.raises(ValueError, match="quantized already"):
        quantize(quantize(small()))


@pytest.mark.parametrize(
    "use",
    [activation_quantizers, gated_paths, lambda net: set_bits(net, 2), lambda net: attach_gates(net, [])],
)
def test_full_precision_networks_have_nothing_to_set(use) -> None:
    with pytest.raises(ValueError, match="is in full precision; call ddtb_lite.quantize"):
        use(small())
