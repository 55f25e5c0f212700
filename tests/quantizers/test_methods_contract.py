"""What holds for every method: the paper's equations, its levels, what it trains, and each image on its own.

The references are the equations as the papers print them, one operation after the other in float64 with a
straight-through round, and left to autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import small
from torch import Tensor, nn

import ddtb_lite as ddtb
from ddtb_lite import checkpoints, datasets, images
from ddtb_lite.conversion import activation_quantizers, attach_gates, set_phase
from ddtb_lite.diagnostics import quantizer_inputs
from ddtb_lite.networks import ActivationPoint, SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS, ActivationQuantizer, Quantizer, WeightQuantizer
from ddtb_lite.quantizers.fqsr import FQSRActivation

torch.set_num_threads(1)

UNIFORM = [name for name, method in METHODS.items() if method.highest_bits > 1]
# DAQ's levels are each channel's own, see test_daq.
EVENLY = [name for name in UNIFORM if name != "daq"]
WIDTHS = [(name, bits) for name in UNIFORM for bits in range(2, 9)] + [("reactnet", 1)]
SIGNS = pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "nonnegative"])

# What each paper trains besides the network's own weights: in an activation quantizer, in a weight quantizer.
TRAINED: dict[str, tuple[set[str], set[str]]] = {
    "ddtb": ({"lower", "upper"}, set()),
    "minmax": (set(), set()),
    "dorefa": (set(), set()),
    "pact": ({"alpha"}, set()),
    "pams": ({"alpha"}, set()),
    "lsq": ({"step"}, {"step"}),
    "fqsr": ({"clip"}, {"clip"}),
    "daq": (set(), set()),
    "odm": ({"lower", "upper"}, {"gamma"}),
    "reactnet": ({"threshold", "input_shift", "slope", "output_shift"}, set()),
}


# ------------------------------------------------------------------------------- the papers' equations


def round_(x: Tensor) -> Tensor:
    """Rounds forward, passes the gradient backward."""
    return x + (x.round() - x).detach()


def dual_bound(x: Tensor, lower: Tensor, upper: Tensor, n: int) -> Tensor:
    s = n / (upper - lower)
    zero = round_(s * lower) + (n + 1) // 2
    return (round_(s * torch.clamp(x, lower, upper) - zero) + zero) / s


def from_zero(x: Tensor, limit: Tensor, n: int) -> Tensor:
    return round_(torch.clamp(x / limit, 0, 1) * n) / n * limit


def without_zero(x: Tensor, limit: Tensor, n: int) -> Tensor:
    return (2 * round_((torch.clamp(x / limit, -1, 1) / 2 + 1 / 2) * n) / n - 1) * limit


def max_scale(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    s = (2 ** (bits - 1) - 1) / alpha
    return round_(torch.clamp(x, -alpha, alpha) * s) / s


def clipped_activation(x: Tensor, alpha: Tensor, n: int) -> Tensor:
    """PACT: the gradient is the clip's alone, as if nothing had been rounded."""
    clipped = torch.clamp(x, torch.zeros_like(alpha), alpha)
    return clipped + ((clipped * n / alpha).round() * alpha / n - clipped).detach()


def learned_step(x: Tensor, step: Tensor, lowest: int, highest: int, count: int) -> Tensor:
    factor = 1 / math.sqrt(count * highest)
    s = step * factor + (step - step * factor).detach()
    return round_(torch.clamp(x / s, lowest, highest)) * s


def standard_deviation(values: Tensor, correction: int = 1) -> Tensor:
    return ((values - values.mean()).square().sum() / (len(values) - correction)).sqrt()


def half_steps(x: Tensor, delta: Tensor, lvls: float) -> Tensor:
    """DAQ's grid around zero."""
    t = (lvls - 0.5) * delta
    return torch.clamp((torch.round(x / delta + 0.5) - 0.5) * delta, -t, t)


def channel_by_channel(x: Tensor, bits: int, nonnegative: bool, steps: Tensor) -> Tensor:
    """DAQ, one image and one channel after the other; the code's formulas after a ReLU."""
    result = torch.empty_like(x)
    for n, image in enumerate(x):
        sigmas = []
        for channel in image:
            if nonnegative:
                count = (channel > 0).sum() + 1
                mean = channel.clamp(min=0).sum() / count
                sigmas.append((channel.clamp(min=0).square().sum() / count - mean**2).sqrt())
            else:
                sigmas.append(standard_deviation(channel.flatten()))
        sigma = torch.stack(sigmas)
        sigma = half_steps(sigma - sigma.mean(), steps[1] * standard_deviation(sigma), 2**4 / 2) + sigma.mean()
        for c, channel in enumerate(image):
            delta = steps[0] * sigma[c]
            if nonnegative:
                t = (2**bits / 2 - 0.5) * delta
                centered = (torch.round((channel - t) / delta + 0.5) - 0.5) * delta
                result[n, c] = torch.maximum(centered, -t) + t
            else:
                result[n, c] = half_steps(channel - channel.mean(), delta, 2**bits / 2) + channel.mean()
    return x + (result - x).detach()


def from_lower(x: Tensor, lower: Tensor, upper: Tensor, n: int) -> Tensor:
    s = (upper - lower) / n
    clipped = torch.minimum(torch.maximum(x, lower), upper)
    return round_((clipped - lower) / s) * s + lower


Own = dict[str, Tensor]  # a quantizer's parameters and buffers


def activation_reference(method: str, bits: int, nonnegative: bool, x: Tensor, own: Own) -> Tensor:
    n = 2**bits - 1
    if method in ("ddtb", "minmax"):
        return dual_bound(x, own["lower"], own["upper"], n)
    if method in ("dorefa", "fqsr"):
        limit = own["scale" if method == "dorefa" else "clip"]
        return from_zero(x, limit, n) if nonnegative else without_zero(x, limit, n)
    if method == "pact":
        alpha = own["alpha"]
        if nonnegative:
            return clipped_activation(x, alpha, n)
        # Both signs alike, and zero a level: the paper's rule for |x|, in as many steps as are left for it.
        return clipped_activation(x, alpha, n // 2) - clipped_activation(-x, alpha, n // 2)
    if method == "pams":
        return max_scale(x, own["alpha"], bits)
    if method == "daq":
        return channel_by_channel(x, bits, nonnegative, own["steps"])
    if method == "odm":
        return from_lower(x, own["lower"], own["upper"], n)
    lowest, highest = (0, n) if nonnegative else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return learned_step(x, own["step"], lowest, highest, x[0].numel())


def weight_reference(method: str, bits: int, weight: Tensor, own: Own) -> Tensor:
    n, data = 2**bits - 1, weight.detach()
    if method == "ddtb":
        lower, upper = (torch.tensor(np.percentile(data.numpy(), percent)) for percent in (1, 99))
        return dual_bound(weight, lower, upper, n)
    if method == "minmax":
        return dual_bound(weight, data.min(), data.max(), n)
    if method in ("dorefa", "pact"):
        bounded = torch.tanh(weight)
        doubled = 2 * round_((bounded / (2 * bounded.abs().max()) + 1 / 2) * n) / n
        return (doubled - 1) * weight.abs().max()
    if method == "pams":
        return max_scale(weight, data.abs().max(), bits)
    if method == "fqsr":
        return without_zero(weight, own["clip"], n)
    if method == "daq":
        delta = own["step"] * standard_deviation(data.flatten())
        return weight + (half_steps(data, delta, 2**bits / 2) - data)
    if method == "odm":
        return without_zero(weight, own["gamma"] * float(np.percentile(data.abs().numpy(), 99)), n)
    return learned_step(weight, own["step"], -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, weight.numel())


def activation(method: str, bits: int, nonnegative: bool = False) -> ActivationQuantizer:
    return METHODS[method].activation(bits, ActivationPoint("x", 4, nonnegative), "paper").double().eval()


def weight_quantizer(method: str, bits: int) -> WeightQuantizer:
    return METHODS[method].weight(bits, 99.0).double().eval()


def draw(seed: int, nonnegative: bool = False) -> Tensor:
    """Activations on the scale of pixels, off-center."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(15, 60, (3, 4, 12, 12)))
    return x.clamp(min=0) if nonnegative else x


def draw_weight(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.01, 0.05, (16, 12, 3, 3)))


def agree(quantizer: Quantizer, x: Tensor, reference: Callable[[Tensor, Own], Tensor]) -> None:
    """Output, gradient of the input and of every parameter, for a random linear loss."""
    upstream = torch.from_numpy(np.random.default_rng(9).normal(size=x.shape))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    own = {name: tensor.detach().clone() for name, tensor in quantizer.state_dict().items()}
    trained = [name for name, _ in quantizer.named_parameters()]
    for name in trained:
        own[name].requires_grad_()
    output, expected = quantizer(ours), reference(theirs, own)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    (output * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    for name, parameter in quantizer.named_parameters():
        assert own[name].grad is not None and own[name].grad.any(), name
        torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-7, atol=1e-9)


@SIGNS
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", UNIFORM)
def test_activations_follow_the_papers_equations(method: str, bits: int, nonnegative: bool) -> None:
    quantizer = activation(method, bits, nonnegative)
    quantizer.initialize(draw(0, nonnegative), 97)
    # Signed data even where the point is marked nonnegative: what lies below zero must be clipped there.
    x = 2 * draw(1)
    agree(quantizer, x, lambda x, own: activation_reference(method, bits, nonnegative, x, own))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", UNIFORM)
def test_weights_follow_the_papers_equations(method: str, bits: int) -> None:
    quantizer, weight = weight_quantizer(method, bits), draw_weight(2)
    # Trained a while, the weights have left the range that they had at the start.
    quantizer.initialize(0.7 * weight)
    agree(quantizer, weight, lambda weight, own: weight_reference(method, bits, weight, own))


# -------------------------------------------------------------------------------- levels and symmetry


def levels_of(quantizer: Quantizer, x: Tensor) -> np.ndarray:
    """The distinct outputs; equal but for the last digits is equal."""
    levels = np.unique(quantizer(x).numpy(force=True))
    keep = np.diff(levels, prepend=-np.inf) > 1e-9 * np.abs(levels).max()
    return levels[keep]


def check_levels(symmetric: bool, count: int, levels: np.ndarray) -> None:
    """Evenly spaced, and zero among them, unless an even number of them lies symmetrically around it."""
    assert len(levels) == count
    np.testing.assert_allclose(np.diff(levels), levels[1] - levels[0], rtol=1e-6)
    assert np.allclose(levels, -levels[::-1], atol=1e-9) == symmetric
    assert (np.abs(levels).min() < 1e-9) == (not symmetric or count % 2 == 1)


@SIGNS
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", EVENLY)
def test_levels_of_activations(method: str, bits: int, nonnegative: bool) -> None:
    quantizer = activation(method, bits, nonnegative)
    quantizer.initialize(draw(3, nonnegative) / 10, 99)  # so small that a learned step's levels all occur
    sweep = torch.linspace(-400, 400, 20_001, dtype=torch.float64).view(1, 1, 1, -1)
    symmetric = method == "pams" or (method in ("dorefa", "pact", "fqsr") and not nonnegative)
    one_less = symmetric and method in ("pams", "pact")  # zero in the middle
    if method == "odm":  # from one bound to the other, wherever zero is
        expected = np.linspace(quantizer.lower.item(), quantizer.upper.item(), 2**bits)
        np.testing.assert_allclose(levels_of(quantizer, sweep), expected, rtol=1e-6, atol=1e-6)
        return
    check_levels(symmetric, 2**bits - one_less, levels_of(quantizer, sweep))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", EVENLY)
def test_levels_of_weights(method: str, bits: int) -> None:
    quantizer = weight_quantizer(method, bits)
    symmetric = method in ("dorefa", "pact", "pams", "fqsr", "odm")
    highest = 0.3 if symmetric else 0.31
    weight = torch.linspace(-0.3, highest, 20_736, dtype=torch.float64).view(48, 48, 3, 3)
    quantizer.initialize(weight / 20)
    check_levels(symmetric, 2**bits - (method == "pams"), levels_of(quantizer, weight))


def test_reactnet_has_two_levels_a_channel() -> None:
    quantizer = activation("reactnet", 1)
    x = draw(4)
    quantizer.initialize(x, 99)
    assert all(len(quantizer(x)[:, channel].unique()) == 2 for channel in range(4))
    binary = weight_quantizer("reactnet", 1)(draw_weight(4))
    for channel in binary:
        low, high = channel.unique().tolist()
        assert low == -high


# ------------------------------------------------------------------------------------ what is trained


@pytest.mark.parametrize(("method", "bits"), WIDTHS)
def test_exactly_the_papers_parameters_get_a_gradient(method: str, bits: int) -> None:
    for quantizer, x, names in (
        (activation(method, bits), draw(5), TRAINED[method][0]),
        (weight_quantizer(method, bits), draw_weight(5), TRAINED[method][1]),
    ):
        quantizer.initialize(*((x, 99) if isinstance(quantizer, ActivationQuantizer) else (x,)))
        x = (1.5 * x).requires_grad_()
        upstream = torch.from_numpy(np.random.default_rng(6).normal(size=x.shape))
        (quantizer.train()(x) * upstream).sum().backward()
        assert {name for name, parameter in quantizer.named_parameters() if parameter.grad.any()} == names
        assert {name for name, _ in quantizer.named_parameters()} == names
        assert x.grad is not None and x.grad.any()


# -------------------------------------------------------------------------------------- whole networks

EVERY_METHOD_AND_NETWORK = [(method, name) for method in METHODS for name in ("edsr", "rdn", "srresnet")]


def batch(count: int, seed: int) -> Tensor:
    """Images of very different brightness, so that a statistic that crosses images would show."""
    pixels = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (count, 3, 13, 12))).float()
    return pixels * torch.linspace(0.1, 1, count).view(-1, 1, 1, 1)


def made_up_training(network: SuperResolutionNetwork) -> SuperResolutionNetwork:
    """Batch norms with statistics of real data, and scales and shifts of their own, as training leaves them.

    At its start a batch norm scales all channels alike and shifts none. Convolutions without a bias then pass
    on sums of a few levels only, and the sums, times a common factor, can lie exactly between two levels.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(batch(4, seed=6))
    for norm in norms:
        norm.momentum = 0.1
    return network


def student(method: str, network: str, bits: int | None = None) -> SuperResolutionNetwork:
    """Initialized; DDTB's has a live gate at every other point, which answers each image differently."""
    teacher = made_up_training(small(network))
    quantized = ddtb.quantize(teacher, method, bits or METHODS[method].lowest_bits)
    ddtb.initialize(quantized, [batch(4, seed) for seed in range(2)])
    if method == "ddtb":
        attach_gates(quantized, list(activation_quantizers(quantized))[::2])
        set_phase(quantized, "live")
        made_up_training(quantized)
    return quantized


@pytest.mark.parametrize(("method", "network"), EVERY_METHOD_AND_NETWORK)
def test_training_moves_what_the_paper_trains_and_nothing_else(method: str, network: str) -> None:
    quantized = student(method, network).train()
    before = {name: value.clone() for name, value in quantized.state_dict().items()}
    output = quantized(batch(8, seed=1))  # PACT learns from what it clips, and here each layer clips something
    upstream = torch.from_numpy(np.random.default_rng(8).normal(size=output.shape))
    (output * upstream).mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in quantized.parameters())

    def of_quantizers(kind: type, names: set[str]) -> set[str]:
        paths = [path for path, module in quantized.named_modules() if isinstance(module, kind)]
        return {f"{path}.{name}" for path in paths for name in names}

    plain = small(network)
    trained = {name for name, _ in plain.named_parameters()}
    trained |= of_quantizers(ActivationQuantizer, TRAINED[method][0])
    trained |= of_quantizers(WeightQuantizer, TRAINED[method][1])
    trained_here = {name for name, _ in quantized.named_parameters() if ".gate." not in name}
    assert trained_here == trained

    # A forward pass in training mode moves running statistics: the networks' own, and those of one method.
    moved = {name for name, value in quantized.state_dict().items() if not torch.equal(value, before[name])}
    ranges = of_quantizers(ActivationQuantizer, {"lower", "upper"}) if method == "minmax" else set()
    points = plain.quantization_points().activations
    after_relu = {f"{point.path}.lower" for point in points if point.nonnegative}  # 0, and it stays 0
    own = {name for name, _ in plain.named_buffers() if "running" in name or "num_batches" in name}
    assert {name for name in moved if ".gate." not in name} == ranges - after_relu | own


@pytest.mark.parametrize("method", METHODS)
def test_a_second_initialization_replaces_the_first(method: str) -> None:
    network, bits = small(), METHODS[method].lowest_bits
    once, twice = (ddtb.quantize(network, method, bits, gate_ratio=0) for _ in range(2))
    ddtb.initialize(twice, [batch(4, seed=11)])
    for each in (once, twice):
        ddtb.initialize(each, [batch(4, seed=12), batch(4, seed=13)])
    state = twice.state_dict()
    assert all(torch.equal(state[name], value) for name, value in once.state_dict().items())


def test_fqsr_sees_the_network_before_anything_is_quantized() -> None:
    network, pictures = small(), [batch(4, seed=seed) for seed in range(3)]
    quantized = ddtb.quantize(network, "fqsr", 2)
    ddtb.initialize(quantized, pictures)
    ranges: dict[str, list[Tensor]] = {}
    for each in pictures:
        for path, x in quantizer_inputs(network, each).items():
            ranges.setdefault(path, []).append(x.abs().max())
    for path, quantizer in activation_quantizers(quantized).items():
        assert isinstance(quantizer, FQSRActivation)
        torch.testing.assert_close(quantizer.clip.data, torch.stack(ranges[path]).mean())


def agreement(first: Tensor, second: Tensor) -> float:
    """The fraction of values that agree within a grey level, if the whole range were that of an image."""
    grey_level = (first.max() - first.min()) / 255
    return ((first - second).abs() <= grey_level).double().mean().item()


@pytest.mark.parametrize(("method", "network"), EVERY_METHOD_AND_NETWORK)
def test_an_image_alone_and_in_a_batch(method: str, network: str) -> None:
    widths = {METHODS[method].lowest_bits, min(4, METHODS[method].highest_bits)}
    for bits in widths:
        quantized = student(method, network, bits).eval()
        for layout in (torch.contiguous_format, torch.channels_last):
            pictures = batch(4, seed=9).contiguous(memory_format=layout)
            with torch.no_grad():
                together = quantized(pictures)
                alone = torch.cat([quantized(picture[None]) for picture in pictures])
            assert agreement(together, alone) >= 0.999


@pytest.mark.parametrize(("method", "network"), EVERY_METHOD_AND_NETWORK)
def test_no_statistic_crosses_images(method: str, network: str) -> None:
    """Whatever its neighbours are, of an image not a bit changes."""
    quantized = student(method, network).eval()
    pictures = batch(4, seed=10)
    others = torch.stack([torch.zeros_like(pictures[0]), pictures[1], 255 - pictures[2], 40 * pictures[3]])
    before = {name: value.clone() for name, value in quantized.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(quantized(pictures)[1], quantized(others)[1])
        assert not torch.equal(quantized(pictures)[2], quantized(others)[2])
    assert all(torch.equal(value, before[name]) for name, value in quantized.state_dict().items())


SHIPPED = sorted(checkpoints.shipped("edsr_x4").parent.glob("edsr_x4_*_[12]bit.safetensors"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_trained_network_sees_each_picture_alone(path: Path) -> None:
    """Fewest bits and sixteen blocks, where a flipped rounding has the furthest to go."""
    photos = [images.resize(photo, 1 / 4)[:24, :24] for _, photo in datasets.load("photos")]
    pictures = torch.from_numpy(np.stack(photos[:3]).transpose(0, 3, 1, 2).copy()).float()
    quantized = checkpoints.load(path).eval()
    with torch.no_grad():
        together = quantized(pictures).clamp(0, 255)
        alone = torch.cat([quantized(picture[None]) for picture in pictures]).clamp(0, 255)
    assert ((together - alone).abs() <= 1).double().mean() >= 0.999
