"""Each peer quantizer against a slow reference: explicit levels, gradients by hand, calibration by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import ddtb_lite as ddtb
from ddtb_lite.conversion import activation_quantizers, quantized_convolutions, set_bits
from ddtb_lite.initializer import initialize_bounds
from ddtb_lite.networks import ActivationPoint, SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS, ActivationQuantizer, Quantizer, WeightQuantizer
from ddtb_lite.quantizers.base import MINIMUM_SCALE, positive, straight_through
from ddtb_lite.quantizers.lsq import LSQActivation, LSQWeight
from ddtb_lite.quantizers.minmax import DECAY, MinMaxActivation
from ddtb_lite.quantizers.pact import PACTActivation
from ddtb_lite.quantizers.reactnet import ReActActivation

torch.set_num_threads(1)

UNIFORM = ["minmax", "dorefa", "pact", "pams", "lsq", "fqsr"]
NETWORKS = {
    "edsr": {"n_blocks": 2, "n_feats": 4},
    "rdn": {"D": 2, "C": 2, "G": 4},
    "srresnet": {"n_blocks": 1, "n_feats": 4},
    "srgan": {"n_blocks": 1, "n_feats": 4},
}
# What each paper trains, activation and weight.
TRAINED = {
    "minmax": (set(), set()),
    "dorefa": (set(), set()),
    "pact": ({"alpha"}, set()),
    "pams": ({"alpha"}, set()),
    "lsq": ({"step"}, {"step"}),
    "fqsr": ({"clip"}, {"clip"}),
    "reactnet": ({"threshold", "input_shift", "slope", "output_shift"}, set()),
}


def lowest_bits(method: str) -> int:
    return METHODS[method].lowest_bits


def activation(method: str, bits: int, nonnegative: bool = False, channels: int = 3) -> ActivationQuantizer:
    return METHODS[method].activation(bits, ActivationPoint("x", channels, nonnegative), "paper").eval()


def weight_quantizer(method: str, bits: int) -> WeightQuantizer:
    return METHODS[method].weight(bits, 99.0).eval()


def draw(seed: int, nonnegative: bool = False) -> torch.Tensor:
    """Activations on the scale of pixels, off-center, N×C×H×W in float64."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(15, 60, (3, 3, 8, 8)))
    return x.clamp(min=0) if nonnegative else x


def draw_weight(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.01, 0.05, (5, 3, 3, 3)))


def nearest(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The slow quantizer: each number goes to the closest of the levels."""
    return levels[np.abs(x[..., None] - levels).argmin(-1)]


def minmax_levels(lower: float, upper: float, bits: int) -> np.ndarray:
    """Jacob et al.: an integer zero point, so that the levels include zero."""
    lower, upper = min(lower, 0), max(upper, 0)
    step = (upper - lower) / (2**bits - 1)
    zero_point = np.round(-lower / step)
    return (np.arange(2**bits) - zero_point) * step


def odd_levels(limit: float, bits: int) -> np.ndarray:
    """±1, ±3, … times limit/(2^bits − 1)."""
    return limit * np.arange(-(2**bits - 1), 2**bits, 2) / (2**bits - 1)


def activation_levels(method: str, quantizer: ActivationQuantizer, bits: int, nonnegative: bool) -> np.ndarray:
    steps = 2**bits - 1
    if method == "minmax":
        return minmax_levels(quantizer.lower.item(), quantizer.upper.item(), bits)
    if method == "pams":
        limit = 2 ** (bits - 1) - 1
        return quantizer.alpha.item() * np.arange(-limit, limit + 1) / limit
    if method == "pact":
        limit = steps if nonnegative else 2 ** (bits - 1) - 1
        return quantizer.alpha.item() * np.arange(0 if nonnegative else -limit, limit + 1) / limit
    if method == "lsq":
        lowest = 0 if nonnegative else -(2 ** (bits - 1))
        return quantizer.step.item() * np.arange(lowest, lowest + 2**bits)
    limit = (quantizer.scale if method == "dorefa" else quantizer.clip).item()
    return limit * np.arange(2**bits) / steps if nonnegative else odd_levels(limit, bits)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", UNIFORM)
def test_activation_goes_to_the_nearest_level(method: str, bits: int, nonnegative: bool) -> None:
    quantizer = activation(method, bits, nonnegative).double()
    quantizer.initialize(draw(0, nonnegative), 99)
    levels = activation_levels(method, quantizer, bits, nonnegative)
    symmetric = method == "pams" or (method in ("pact", "dorefa", "fqsr") and not nonnegative)
    assert len(levels) == (2**bits - 1 if method == "pams" or (method == "pact" and symmetric) else 2**bits)
    assert np.allclose(levels, -levels[::-1]) == symmetric

    # Wide enough to be clipped on both sides.
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1.3, 1.3, (2, 3, 40, 40))) * np.abs(levels).max()
    quantized = quantizer(x)
    np.testing.assert_allclose(quantized.numpy(force=True), nearest(x.numpy(), levels), atol=1e-9)
    assert len(quantized.unique()) == len(levels)


def weight_levels(method: str, quantizer: WeightQuantizer, weight: np.ndarray, bits: int) -> np.ndarray:
    if method == "minmax":
        return minmax_levels(weight.min(), weight.max(), bits)
    if method == "pams":
        limit = 2 ** (bits - 1) - 1
        return np.abs(weight).max() * np.arange(-limit, limit + 1) / limit
    if method == "lsq":
        return quantizer.step.item() * np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    return odd_levels(np.abs(weight).max(), bits)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", UNIFORM)
def test_weight_goes_to_the_nearest_level(method: str, bits: int) -> None:
    weight = draw_weight(2)
    quantizer = weight_quantizer(method, bits).double()
    quantizer.initialize(weight)
    levels = weight_levels(method, quantizer, weight.numpy(), bits)
    values = weight.numpy()
    if method in ("dorefa", "pact"):
        values = np.tanh(values) / np.abs(np.tanh(values)).max() * np.abs(values).max()
    quantized = quantizer(weight).numpy(force=True)
    np.testing.assert_allclose(quantized, nearest(values, levels), atol=1e-12)
    # Checkpoints store a table of the distinct values: never more than 2^bits.
    assert len(np.unique(quantizer.float()(weight.float()).numpy(force=True))) <= 2**bits


def test_dorefa_keeps_the_weights_scale() -> None:
    weight = draw_weight(3)
    assert (weight_quantizer("dorefa", 8)(weight) - weight).abs().max() < weight.abs().max() / 100


def gradients(quantizer: Quantizer, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(upstream gradient, gradient of x, gradients of the parameters) of a random linear loss."""
    x = x.clone().requires_grad_()
    # Eighths: every floating-point type holds them exactly.
    upstream = torch.from_numpy(np.random.default_rng(9).integers(-16, 17, x.shape) / 8).to(x.dtype)
    quantizer.zero_grad()
    (quantizer(x) * upstream).sum().backward()
    assert x.grad is not None
    named = {name: p.grad for name, p in quantizer.named_parameters() if p.grad is not None}
    parameters = {name: gradient.double().numpy() for name, gradient in named.items()}
    return upstream.double().numpy(), x.grad.double().numpy(), parameters


@pytest.mark.parametrize("method", sorted(TRAINED))
def test_exactly_the_papers_parameters_are_trained(method: str) -> None:
    for quantizer, x, names in (
        (activation(method, lowest_bits(method)), draw(4).float(), TRAINED[method][0]),
        (weight_quantizer(method, lowest_bits(method)), draw_weight(4).float(), TRAINED[method][1]),
    ):
        quantizer.initialize(*((x, 90) if isinstance(quantizer, ActivationQuantizer) else (x,)))
        assert {name for name, _ in quantizer.named_parameters()} == names
        # One image's range exceeds the batch's start, so that something is clipped.
        _, to_x, to_parameters = gradients(quantizer, 1.5 * x)
        assert {name for name, gradient in to_parameters.items() if np.any(gradient)} == names
        assert np.any(to_x)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_lsq_gradient_is_equation_3(bits: int, nonnegative: bool) -> None:
    x = draw(5)
    highest = 2**bits - 1 if nonnegative else 2 ** (bits - 1) - 1
    lowest = 0 if nonnegative else -(2 ** (bits - 1))
    quantizer = LSQActivation(bits, ActivationPoint("x", 3, nonnegative)).double()
    quantizer.initialize(x, 99)
    step = 2 * np.abs(x.numpy()).mean() / np.sqrt(highest)
    assert quantizer.step.item() == pytest.approx(step)
    step = np.abs(x.numpy()).max() / (4 * highest)  # clips on both sides, at every bit-width
    with torch.no_grad():
        quantizer.step.fill_(step)
    ratio = x.numpy() / step
    assert (ratio > highest).any() and (ratio < lowest).any()
    rule = np.where(ratio <= lowest, lowest, np.where(ratio >= highest, highest, np.round(ratio) - ratio))
    upstream, to_x, to_parameters = gradients(quantizer, x)
    scale = 1 / np.sqrt(x[0].numel() * highest)
    np.testing.assert_allclose(to_parameters["step"], (upstream * rule).sum() * scale, rtol=1e-9)
    np.testing.assert_allclose(to_x, np.where((ratio > lowest) & (ratio < highest), upstream, 0))


def test_lsq_weight_gradient_counts_all_weights() -> None:
    weight = draw_weight(6)
    quantizer = LSQWeight(3).double()
    quantizer.initialize(weight)
    ratio = weight.numpy() / quantizer.step.item()
    rule = np.where(ratio <= -4, -4, np.where(ratio >= 3, 3, np.round(ratio) - ratio))
    upstream, _, to_parameters = gradients(quantizer, weight)
    expected = (upstream * rule).sum() / np.sqrt(weight.numel() * 3)
    np.testing.assert_allclose(to_parameters["step"], expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_pact_gradient_is_the_indicator(nonnegative: bool, dtype: torch.dtype) -> None:
    x = draw(7).to(dtype)
    quantizer = PACTActivation(3, ActivationPoint("x", 3, nonnegative))
    with torch.no_grad():
        quantizer.alpha.fill_(100.4)  # bf16 would round it up, to 100.5
    alpha, values = quantizer.alpha.item(), x.double().numpy()
    above, below = values > alpha, values < (0 if nonnegative else -alpha)
    upstream, to_x, to_parameters = gradients(quantizer, x)
    expected = (upstream * above).sum() - (0 if nonnegative else (upstream * below).sum())
    assert above.any() and below.any()
    np.testing.assert_allclose(to_parameters["alpha"], expected, rtol=1e-5)
    np.testing.assert_allclose(to_x, np.where(above | below, 0, upstream))


@pytest.mark.parametrize("method", ["pams", "fqsr"])
def test_clip_gradient_is_sign_outside_and_relative_error_inside(method: str) -> None:
    quantizer = activation(method, 3).double()
    quantizer.initialize(draw(8), 99)
    x = 1.8 * draw(8)
    (parameter,) = quantizer.parameters()
    limit, values = parameter.item(), x.numpy()
    quantized = quantizer(x).numpy(force=True)
    rule = np.where(np.abs(values) > limit, np.sign(values), (quantized - values) / limit)
    upstream, to_x, to_parameters = gradients(quantizer, x)
    np.testing.assert_allclose(next(iter(to_parameters.values())), (upstream * rule).sum(), rtol=1e-9)
    np.testing.assert_allclose(to_x, np.where(np.abs(values) > limit, 0, upstream))


def test_calibration_by_hand() -> None:
    x = torch.zeros(2, 1, 2, 2)
    x[0, 0, 0, 0], x[1, 0, 1, 1] = -6, 4
    names = ("pams", "minmax", "fqsr", "dorefa")
    pams, minmax, fqsr, dorefa = (activation(name, 4, channels=1) for name in names)
    for quantizer in (pams, minmax, fqsr, dorefa):
        quantizer.initialize(x, 100)
    assert pams.alpha.item() == 5
    assert (minmax.lower.item(), minmax.upper.item()) == (-6, 4)
    assert (fqsr.clip.item(), dorefa.scale.item()) == (6, 6)
    fqsr.initialize(2 * x, 100)
    fqsr.initialize(3 * x, 100)
    assert fqsr.clip.item() == pytest.approx(12)
    fqsr.train()(x)
    fqsr.eval().initialize(4 * x, 100)
    assert fqsr.clip.item() == pytest.approx(15), "a change of mode in between is no new beginning"
    fqsr.begin_calibration()
    fqsr.initialize(x, 100)
    assert fqsr.clip.item() == pytest.approx(6)
    assert fqsr.calibration_batches == 20


def test_moving_average_by_hand() -> None:
    quantizer = MinMaxActivation(4)
    quantizer.initialize(torch.tensor([[[[-10.0, 20.0]]]]), 99)
    x = torch.tensor([[[[-30.0, 100.0]]]])
    quantizer.eval()(x)
    assert (quantizer.lower.item(), quantizer.upper.item()) == (-10, 20)
    quantizer.train()
    lower, upper = -10.0, 20.0
    for _ in range(3):
        quantizer(x)
        lower, upper = DECAY * lower + (1 - DECAY) * -30, DECAY * upper + (1 - DECAY) * 100
    assert quantizer.lower.item() == pytest.approx(lower)
    assert quantizer.upper.item() == pytest.approx(upper)


def test_moving_average_leaves_earlier_forward_passes_alone() -> None:
    quantizer = MinMaxActivation(4).train()
    x = draw(10).float().requires_grad_()
    (quantizer(x) + quantizer(2 * x)).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("start", [0.0, -3.0])
@pytest.mark.parametrize("method", ["dorefa", "pact", "pams", "lsq", "fqsr", "reactnet"])
def test_scales_that_fall_to_zero_or_below_stay_harmless(method: str, start: float) -> None:
    x = draw(11).float()
    for nonnegative in (False, True):
        quantizer = activation(method, lowest_bits(method), nonnegative)
        with torch.no_grad():
            for scale in quantizer.buffers() if method in ("dorefa", "reactnet") else quantizer.parameters():
                scale.fill_(start)
        _, to_x, to_parameters = gradients(quantizer, x)
        for values in (quantizer(x).numpy(force=True), to_x, *to_parameters.values()):
            assert np.isfinite(values).all()
        if method != "reactnet":
            assert np.abs(quantizer(x).numpy(force=True)).max() < 1e-4
            assert all(np.any(gradient) for gradient in to_parameters.values())


def test_positive_passes_its_gradient() -> None:
    for value in (-1e6, -2.0, 0.0, 5.0):
        scale = torch.tensor(value, requires_grad=True)
        positive(scale).backward()
        assert positive(scale).item() == pytest.approx(max(MINIMUM_SCALE, value))
        assert scale.grad is not None and scale.grad.item() == 1


def test_straight_through_keeps_the_value_and_swaps_the_gradient() -> None:
    x = torch.tensor([0.1, 0.7], requires_grad=True)
    value = torch.tensor([3.3, -1.1])
    y = straight_through(value, 5 * x)
    y.sum().backward()
    assert torch.equal(y, value)
    assert x.grad is not None and x.grad.tolist() == [5, 5]


@pytest.mark.parametrize("method", sorted(TRAINED))
def test_constant_inputs_and_weights_stay_finite(method: str) -> None:
    for constant in (0.0, -7.0, 7.0):
        quantizer = activation(method, lowest_bits(method))
        x = torch.full((2, 3, 4, 4), constant)
        quantizer.initialize(x, 99)
        assert torch.isfinite(quantizer(x)).all()
        quantizer = weight_quantizer(method, lowest_bits(method))
        weight = torch.full((2, 3, 3, 3), constant)
        quantizer.initialize(weight)
        assert torch.isfinite(quantizer(weight)).all()


def reactnet_quantizer(x: torch.Tensor) -> ReActActivation:
    quantizer = ReActActivation(1, ActivationPoint("x", 3)).double()
    quantizer.initialize(x, 99)
    return quantizer


def test_reactnet_starts_at_the_mean_plus_and_minus_the_deviation() -> None:
    x = draw(12)
    quantized = reactnet_quantizer(x)(x).numpy(force=True)
    for channel in range(3):
        values = x[:, channel].numpy()
        mean = values.mean()
        deviation = np.abs(values - mean).mean()
        expected = np.where(values > mean, mean + deviation, mean - deviation)
        np.testing.assert_allclose(quantized[:, channel], expected)


def test_reactnet_activation_against_a_loop() -> None:
    x = draw(13)
    quantizer = reactnet_quantizer(x)
    random = np.random.default_rng(14)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.add_(torch.from_numpy(random.normal(0, 8, parameter.shape)))
    threshold, gamma, slope, zeta, scale = (
        tensor.flatten().tolist()
        for tensor in (
            quantizer.threshold,
            quantizer.input_shift,
            quantizer.slope,
            quantizer.output_shift,
            quantizer.scale,
        )
    )
    upstream, to_x, to_parameters = gradients(quantizer, x)
    expected, expected_to_x = np.zeros(x.shape), np.zeros(x.shape)
    totals = {name: np.zeros(3) for name in ("threshold", "input_shift", "slope", "output_shift")}
    for index in np.ndindex(*x.shape):
        c = index[1]
        u = (x[index].item() - threshold[c]) / scale[c]
        z = scale[c] * (1 if u > 0 else -1) - gamma[c]
        outer = 1 if z > 0 else slope[c]
        expected[index] = outer * z + zeta[c]
        polynomial = max(0.0, 2 - 2 * abs(u))
        expected_to_x[index] = upstream[index] * outer * polynomial
        totals["threshold"][c] -= expected_to_x[index]
        totals["input_shift"][c] -= upstream[index] * outer
        totals["slope"][c] += upstream[index] * min(z, 0)
        totals["output_shift"][c] += upstream[index]
    quantized = quantizer(x).numpy(force=True)
    np.testing.assert_allclose(quantized, expected)
    np.testing.assert_allclose(to_x, expected_to_x, atol=1e-12)
    for name, total in totals.items():
        np.testing.assert_allclose(to_parameters[name].flatten(), total, atol=1e-9)
    assert all(len(np.unique(quantized[:, channel])) == 2 for channel in range(3))


def test_reactnet_weight() -> None:
    weight = 10 * draw_weight(15)
    quantizer = weight_quantizer("reactnet", 1)
    quantized = quantizer(weight).numpy()
    for channel in range(len(weight)):
        values = weight[channel].numpy()
        expected = np.where(values > 0, 1, -1) * np.abs(values).mean()
        np.testing.assert_allclose(quantized[channel], expected)
        assert len(np.unique(quantized[channel])) == 2
    upstream, to_weight, _ = gradients(quantizer, weight)
    inside = np.abs(weight.numpy()) < 1
    assert not inside.all()
    np.testing.assert_allclose(to_weight, np.where(inside, upstream, 0))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_bits_out_of_range(method: str) -> None:
    for bits in (0, 33, METHODS[method].highest_bits + 1, METHODS[method].lowest_bits - 1):
        with pytest.raises(ValueError, match="bits is"):
            activation(method, bits)
        with pytest.raises(ValueError, match="bits is"):
            weight_quantizer(method, bits)


def test_quantization_error_is_there_in_training_only() -> None:
    x = draw(16).float()
    quantizer = activation("fqsr", 2)
    quantizer.initialize(x, 99)
    quantized = quantizer.train()(x)
    assert quantizer.quantization_error is not None
    expected = np.abs(quantized.numpy(force=True) - x.numpy()).mean()
    assert quantizer.quantization_error.item() == pytest.approx(expected, rel=1e-5)
    quantizer.quantization_error.backward()
    assert quantizer.clip.grad is not None and quantizer.clip.grad != 0
    quantizer.eval()(x)
    assert quantizer.quantization_error is None
    assert METHODS["fqsr"].quantization_loss_weight == 0.3
    assert all(METHODS[name].quantization_loss_weight == 0 for name in METHODS if name != "fqsr")


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Small images of very different ranges, so that a statistic that crosses images would show."""
    random = np.random.default_rng(seed)
    contrast = np.linspace(0.2, 1, count).reshape(-1, 1, 1, 1)
    return torch.from_numpy(random.uniform(0, 255, (count, 3, 7, 6)) * contrast)


def student(network: str, method: str, bits: int, fully: bool = False) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    teacher = ddtb.build(network, 2, **NETWORKS[network])
    quantized = ddtb.quantize(teacher, method, bits, fully=fully).double()
    ddtb.initialize(quantized, [images(2, seed) for seed in range(2)])
    return quantized


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_networks_train_and_treat_each_image_alone(method: str, network: str) -> None:
    quantized = student(network, method, lowest_bits(method)).train()
    before = copy.deepcopy(quantized.state_dict())
    batch = images(3, seed=5)
    output = quantized(batch)
    output.square().mean().backward()
    assert output.shape == (3, 3, 14, 12)
    assert all(torch.isfinite(p.grad).all() for p in quantized.parameters() if p.grad is not None)
    for quantizer in quantized.modules():
        if isinstance(quantizer, Quantizer):
            assert all(parameter.grad is not None for parameter in quantizer.parameters(recurse=False))

    quantized.load_state_dict(before)
    quantized.eval()
    with torch.no_grad():
        together = quantized(batch)
        alone = torch.cat([quantized(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    assert (together.amax(0) - together.amin(0)).max() > 0
    assert all(torch.equal(quantized.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_weights_fit_their_bits(method: str) -> None:
    for convolution in quantized_convolutions(student("edsr", method, lowest_bits(method))).values():
        weight = convolution.weight_quantizer(convolution.weight).detach()
        groups = list(weight) if method == "reactnet" else [weight]
        assert all(len(group.unique()) <= 2 ** lowest_bits(method) for group in groups)


@pytest.mark.parametrize("method", ["ddtb", *UNIFORM])
def test_fully_quantized_and_other_bits(method: str) -> None:
    quantized = student("edsr", method, 4, fully=True)
    widths = {quantizer.bits for quantizer in activation_quantizers(quantized).values()}
    assert widths == {4, 8}
    set_bits(quantized, 2)
    for convolution in quantized_convolutions(quantized).values():
        convolution.weight_quantizer.initialize(convolution.weight)
    quantized.eval()
    initialize_bounds(quantized, [images(2)])
    hidden = []
    quantized.body[0].hidden.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    with torch.no_grad():
        assert torch.isfinite(quantized(images(2))).all()
    assert 2 <= len(hidden[0].unique()) <= 4


def test_reactnet_has_no_fully_quantized_form() -> None:
    with pytest.raises(ValueError, match="fully=False"):
        ddtb.quantize(ddtb.build("edsr", 2, **NETWORKS["edsr"]), "reactnet", 1, fully=True)
