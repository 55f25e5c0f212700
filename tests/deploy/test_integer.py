"""Networks on integers: every layer's codes and sums against fake quantization, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SMALL, small
from torch import Tensor, nn
from torch.nn import functional as F

import ddtb_lite as ddtb
from ddtb_lite import checkpoints, datasets
from ddtb_lite.conversion import QuantizedConv2d, activation_quantizers, attach_gates, set_phase
from ddtb_lite.deploy import IntegerActivation, IntegerConv2d, convolution, grids
from ddtb_lite.deploy.codes import Codes, encode
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS, DualBound
from ddtb_lite.support.hooks import outputs_watched

torch.set_num_threads(1)

UNIFORM = [name for name in METHODS if name not in ("reactnet", "daq")]
NETWORKS = list(SMALL)
# How many codes may be another one, because a value lies between two levels and rounding errors decide.
TIES = 1e-4

needs_fast_path = pytest.mark.skipif(
    not convolution.fast_path_fits(torch.zeros(1, dtype=torch.int8), torch.device("cpu")),
    reason="oneDNN's convolution of bytes is not here",
)


def images(count: int = 2, size: int = 20, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 255


def student(name: str, method: str, bits: int, **options: object) -> SuperResolutionNetwork:
    """A small student with bounds, and where the method has gates with some that are live and not at rest."""
    quantized = ddtb.quantize(small(name), method=method, bits=bits, **options)  # type: ignore[arg-type]
    ddtb.initialize(quantized, [images(seed=seed) for seed in range(2)])
    paths = [path for path, each in activation_quantizers(quantized).items() if isinstance(each, DualBound)]
    if paths:
        attach_gates(quantized, paths[::3])
        set_phase(quantized, "live")
    return quantized.eval()


def offset(code: Codes) -> float:
    return 0.0 if code.offset is None else float(code.offset)


def watch(network: nn.Module, x: Tensor, *kinds: type[nn.Module]) -> dict[str, tuple[Tensor, Tensor]]:
    """(input, output) of every module of some kinds, by path, in one forward pass."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = {path: module for path, module in network.named_modules() if isinstance(module, kinds)}
    with torch.no_grad(), outputs_watched(modules, lambda path, before, after: seen.update({path: (before, after)})):
        network(x)
    return seen


# -------------------------------------------------------------------------------------- layer by layer


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("method", UNIFORM)
def test_codes_and_sums_are_those_of_fake_quantization(name: str, method: str, bits: int) -> None:
    slow = student(name, method, bits)
    check_layers(slow, ddtb.to_integer(slow))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", UNIFORM)
def test_fully_quantized_layers(name: str, method: str) -> None:
    """Shortcuts at 8 bits among them."""
    slow = student(name, method, 4, fully=True)
    check_layers(slow, ddtb.to_integer(slow))


@pytest.mark.parametrize("method", ["lsq", "pams"])
def test_eight_bits_that_a_signed_byte_holds(method: str) -> None:
    slow = student("srresnet", method, 8)
    check_layers(slow, ddtb.to_integer(slow))


@pytest.mark.parametrize("name", ["srresnet", "srgan"])
def test_the_released_codes_variant_keeps_its_extra_level(name: str) -> None:
    slow = student(name, "ddtb", 3, variant="official")
    fast = ddtb.to_integer(slow)
    check_layers(slow, fast)
    # Bounds of ±10 are exactly symmetric: 2^3 + 1 levels.
    quantizer = fast.get_submodule("residual.1.branch")
    assert quantizer(torch.linspace(-20, 20, 999).view(1, 1, 1, -1)).values.unique().tolist() == list(range(9))


def check_layers(slow: SuperResolutionNetwork, fast: SuperResolutionNetwork) -> None:
    """Each layer of `fast` is given what the layer of `slow` was given."""
    x = images(seed=7)
    seen = watch(slow, x, ddtb.quantizers.ActivationQuantizer, QuantizedConv2d)
    convolved = {path: seen.pop(path) for path in slow.points.weights}
    assert set(seen) == {point.path for point in slow.points.activations}
    codes: dict[int, Codes] = {}
    for path, (before, after) in seen.items():
        module = fast.get_submodule(path)
        assert isinstance(module, IntegerActivation)
        code = codes[id(after)] = module(before)
        assert code.values.max() <= module.largest
        # The level of the fake-quantized value, from the value alone.
        exact_level = (after.double() - offset(code)) / code.step.double()
        level = exact_level.round()
        assert (exact_level - level).abs().max() < 1e-3
        assert (code.integers() != level).double().mean() <= TIES
        torch.testing.assert_close(code.real(), after, rtol=1e-5, atol=1e-4)
    fed = 0
    for path, (before, after) in convolved.items():
        module, original = fast.get_submodule(path), slow.get_submodule(path)
        assert isinstance(module, IntegerConv2d) and isinstance(original, QuantizedConv2d)
        assert module.codes.dtype == torch.int8 and len(module.codes.unique()) <= 2**module.bits
        weight = original.weight_quantizer(original.weight).detach()
        torch.testing.assert_close(module.codes * module.step, weight, rtol=1e-5, atol=1e-6 * float(weight.abs().max()))
        if id(before) not in codes:
            continue  # the picture itself
        fed += 1
        code = codes[id(before)]
        whole = before.double() - offset(code)
        if not torch.equal(code.integers(), (whole / code.step.double()).round()):
            continue  # a tie: the sums are others, too
        # Fake quantization in float64, divided by both steps: whole numbers up to 1e-7 of relative error.
        real = F.conv2d(whole, weight.double(), None, original.stride, original.padding)
        expected = real / (code.step.double() * module.step.double())
        sums = module.sums(code)
        assert sums.dtype == torch.int32
        assert torch.equal(sums.double(), expected.round())
        torch.testing.assert_close(module(code), after, rtol=1e-5, atol=1e-5 * float(after.abs().max()))
    assert fed >= len(convolved) - 1


@needs_fast_path
@pytest.mark.parametrize("method", UNIFORM)
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_the_fast_path_adds_up_the_same_integers(method: str, bits: int) -> None:
    slow = ddtb.quantize(small("srresnet"), method=method, bits=bits)
    ddtb.initialize(slow, [images()])
    fast = ddtb.to_integer(slow)
    for path, (code, out) in watch(fast, images(seed=3), IntegerConv2d).items():
        module = fast.get_submodule(path)
        assert isinstance(module, IntegerConv2d)
        assert torch.equal(module.sums(code, "fast"), module.sums(code))
        module.exact = True
        torch.testing.assert_close(module(code), out, rtol=1e-6, atol=1e-5 * float(out.abs().max()))


@needs_fast_path
def test_where_the_fast_path_is_missing_the_exact_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = student("edsr", "ddtb", 2)
    with torch.no_grad():
        fast = ddtb.to_integer(slow)(images())
        monkeypatch.delattr(convolution, "fast_convolution")
        monkeypatch.setattr(convolution, "_onednn_works", lambda: False)
        exact = ddtb.to_integer(slow)(images())
    torch.testing.assert_close(fast, exact, rtol=1e-5, atol=1e-3)


def test_a_trial_that_fails_is_no_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: object) -> Tensor:
        raise RuntimeError("no such operator")

    def wrong(codes: Tensor, zero: int, weight: Tensor, shape: convolution.Shape) -> Tensor:
        return convolution.exact_sums(codes.double() - zero, weight, shape).float() + 1

    monkeypatch.setattr(convolution, "prepared", lambda weight, shape: weight)
    for broken in (missing, wrong):
        monkeypatch.setattr(convolution, "fast_convolution", broken)
        assert not convolution._onednn_works.__wrapped__()


# -------------------------------------------------------------------------------- grids and odd bounds


BOUNDS = [
    (-3.0, 5.0),
    (0.0, 7.0),
    (-7.0, 0.0),
    (2.0, 9.0),  # zero is no level
    (-9.0, -4.0),
    (100.0, 101.0),  # codes far from zero
    (-10.0, 10.0),  # a tie: one level too many, if nobody clamps
    (4.0, 4.0),  # no width
    (5.0, -5.0),  # crossed
    (1e-9, 2e-9),
    (-1e5, 3e4),
]


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("lower,upper", BOUNDS)
def test_multiples_of_a_step(lower: float, upper: float, bits: int, clamp: bool) -> None:
    check_grid(torch.tensor(lower), torch.tensor(upper), bits, clamp)


def test_random_bounds() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        middle, width = torch.randn(2, generator=generator) * torch.tensor([20.0, 5.0])
        bits = int(torch.randint(2, 9, (), generator=generator))
        check_grid(middle - width.abs(), middle + width.abs(), bits, True)


def test_bounds_for_each_image() -> None:
    lower = torch.tensor([-3.0, 2.0, -8.0]).view(3, 1, 1, 1)
    upper = torch.tensor([5.0, 6.0, -1.0]).view(3, 1, 1, 1)
    check_grid(lower, upper, 3, True)


def check_grid(lower: Tensor, upper: Tensor, bits: int, clamp: bool) -> None:
    span = float((upper.max() - lower.min()).abs()) + 0.01 * float(upper.abs().max()) + 1e-8
    values = torch.linspace(float(lower.min()) - span, float(upper.max()) + span, 8 * 5 * 7).view(1, 8, 5, 7)
    x = values.expand(max(lower.numel(), 1), -1, -1, -1).contiguous()
    expected = ddtb.uniform.fake_quantize(x, lower, upper, bits, clamp=clamp)
    code = encode(x, grids.multiples(lower, upper, 2**bits - 1, clamp), 2**bits - clamp)
    assert torch.equal(code.real(), expected)  # bit for bit
    assert int(code.values.min()) == 0 and int(code.values.max()) <= 2**bits - clamp
    # Padding with zero is what the convolution of real values does, wherever zero is.
    weight = torch.randint(-2, 2, (4, 8, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    shape = convolution.Shape((1, 1), (1, 1))
    sums = convolution.exact_sums(code.integers(), weight, shape)
    real = F.conv2d((expected.double() / code.step.double()).round(), weight.double(), padding=1)
    assert torch.equal(sums, real)
    if code.values.dtype == torch.uint8 and convolution.fast_path_fits(weight, x.device) and code.zero.numel() == 1:
        fast = convolution.fast_convolution(code.values, int(code.zero), convolution.prepared(weight, shape), shape)
        assert torch.equal(fast.double(), sums) or sums.abs().max() >= convolution.EXACT_IN_FLOAT32


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("lower,upper", BOUNDS)
def test_levels_that_start_at_the_lower_bound(lower: float, upper: float, bits: int) -> None:
    check_levels_from_lower(lower, upper, bits)


def test_random_bounds_that_levels_start_at() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(100):
        lower, upper = (torch.randn(2, generator=generator) * 20).tolist()
        check_levels_from_lower(lower, upper, int(torch.randint(2, 9, (), generator=generator)))


def check_levels_from_lower(lower: float, upper: float, bits: int) -> None:
    """ODM's grid. A convolution pads with real zeros, which are no level: its border counts fewer offsets."""
    point = ddtb.networks.base.ActivationPoint("x", 8)
    quantizer = METHODS["odm"].activation(bits, point, "paper").eval().requires_grad_(False)
    quantizer.lower.fill_(lower)
    quantizer.upper.fill_(upper)
    span = abs(upper - lower) + 0.01 * max(abs(lower), abs(upper)) + 1e-8
    x = torch.linspace(min(lower, upper) - span, max(lower, upper) + span, 8 * 5 * 7).view(1, 8, 5, 7)
    expected = quantizer(x)
    code = IntegerActivation(quantizer)(x)
    assert torch.equal(code.real(), expected)  # bit for bit
    assert int(code.values.min()) == 0 and int(code.values.max()) <= 2**bits - 1
    torch.testing.assert_close(code + code, 2 * expected)
    layer = nn.Conv2d(8, 4, 3, padding=1)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    weight_quantizer = METHODS["lsq"].weight(2, 99)
    weight_quantizer.initialize(layer.weight.detach())
    convolution = IntegerConv2d(QuantizedConv2d.from_float(layer, weight_quantizer)).requires_grad_(False)
    weight = (convolution.codes * convolution.step).double()
    real = F.conv2d(expected.double(), weight, layer.bias.detach().double(), padding=1)
    # Bounds that cross make values near zero of two large parts.
    sizes = (expected.abs() + abs(lower)).double()
    tolerance = 1e-6 * float(F.conv2d(sizes, weight.abs(), padding=1).max()) + 1e-6
    for exact in (True, False):
        convolution.exact = exact
        torch.testing.assert_close(convolution(code).double(), real, rtol=0, atol=tolerance)
    # The sums themselves: of codes, with zeros around them.
    whole = F.conv2d(code.values.double(), convolution.codes.double(), padding=1)
    assert torch.equal(convolution.sums(code).double(), whole + float(-code.zero) * convolution._weights_on(code))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_odd_multiples_of_half_a_step(bits: int) -> None:
    x = torch.linspace(-9, 9, 999).view(1, 1, 1, -1)
    code = encode(x, grids.odd_multiples(torch.tensor(6.0), 2**bits - 1), 2 * (2**bits - 1))
    levels = code.integers().unique()
    assert levels.tolist() == list(range(-(2**bits) + 1, 2**bits, 2))
    assert float(code.step) == pytest.approx(6 / (2**bits - 1))
    expected = ddtb.quantizers.base.fake_quantize_symmetric(x, torch.tensor(6.0), 2**bits - 1)
    torch.testing.assert_close(code.real(), expected, rtol=0, atol=1e-5)


def test_a_grid_by_hand() -> None:
    """−3 … 4.5 in three steps of 2.5: −1.2 rounds to −1, so the levels are −2.5, 0, 2.5 and 5."""
    grid = grids.multiples(torch.tensor(-3.0), torch.tensor(4.5), 3)
    code = encode(torch.tensor([-9.0, -1.0, 1.2, 1.3, 4.0, 9.0]).view(1, 1, 1, -1), grid, 3)
    assert code.values.flatten().tolist() == [0, 1, 1, 2, 3, 3]
    assert code.real().flatten().tolist() == [-2.5, 0.0, 0.0, 2.5, 5.0, 5.0]


@pytest.mark.parametrize(
    "values,codes,step",
    [
        ([-0.5, -0.25, 0.0, 0.25], [-2, -1, 0, 1], 0.25),
        ([-0.3, -0.1, 0.1, 0.3], [-3, -1, 1, 3], 0.1),  # no zero: odd multiples of half a step
        ([-0.3, 0.2, 0.2, 0.2], [-3, 2, 2, 2], 0.1),  # levels that nothing takes
        ([0.7, 0.7, 0.7, 0.7], [1, 1, 1, 1], 0.7),
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0], 1.0),
    ],
)
def test_a_weights_codes_by_hand(values: list[float], codes: list[int], step: float) -> None:
    found, own = grids.weight_codes(torch.tensor(values).view(2, 2, 1, 1), 2)
    assert found.dtype == torch.int8 and found.flatten().tolist() == codes
    assert own == pytest.approx(step, rel=1e-6)


@pytest.mark.parametrize(
    "values,given",
    [
        ([0.1, 0.2, float("nan"), 0.3], "NaN"),
        ([0.1, 0.2, 0.3, 0.4, 0.5], "5 values"),
        ([0.1, 0.2, 0.1 * 2**0.5], "one step"),
        ([10.0, 10.01, 10.02], "one step"),
    ],
)
def test_weights_without_codes(values: list[float], given: str) -> None:
    with pytest.raises(ValueError, match=given):
        grids.weight_codes(torch.tensor(values), 2)


@pytest.mark.parametrize("method", UNIFORM)
def test_packed_weights_have_the_same_codes(method: str, tmp_path: Path) -> None:
    """A loaded student has lost its weight quantizers; the values are enough."""
    slow = student("edsr", method, 2)
    checkpoints.save(slow, tmp_path / "student.safetensors")
    ours, loaded = ddtb.to_integer(slow), ddtb.to_integer(checkpoints.load(tmp_path / "student.safetensors"))
    for path in slow.points.weights:
        one, other = ours.get_submodule(path), loaded.get_submodule(path)
        assert torch.equal(one.codes, other.codes) and torch.equal(one.step, other.step)


# --------------------------------------------------------------------------------------- whole networks


def test_the_student_stays_as_it_is() -> None:
    slow = student("edsr", "ddtb", 2).train()
    before = copy.deepcopy(slow.state_dict())
    fast = ddtb.to_integer(slow)
    assert slow.training and not fast.training
    assert all(torch.equal(value, before[name]) for name, value in slow.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fast.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_an_images_output_does_not_depend_on_its_batch(name: str) -> None:
    fast = ddtb.to_integer(student(name, "ddtb", 2))
    x = images(3, seed=5)
    with torch.no_grad():
        together = fast(x)
        alone = torch.cat([fast(each) for each in x.split(1)])
    # Head and upsampler are float convolutions, which may round otherwise for another batch.
    assert (together - alone).abs().mean() < 1e-2


def test_it_can_be_copied_after_it_ran() -> None:
    fast = ddtb.to_integer(student("edsr", "ddtb", 2))
    with torch.no_grad():
        first = fast(images())
        assert torch.equal(copy.deepcopy(fast)(images()), first)


def test_upscale_in_tiles_sees_what_surrounds_them() -> None:
    """Also in a fully quantized student, whose upsampler has convolutions of integers."""
    slow = student("edsr", "lsq", 4, fully=True)
    fast = ddtb.to_integer(slow)
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    whole, tiled = ddtb.upscale(fast, image), ddtb.upscale(fast, image, tile=16)
    assert (np.abs(whole.astype(int) - tiled) > 1).mean() < 0.01


@pytest.mark.parametrize("file", ["edsr_x4_ddtb_4bit", "edsr_x4_fqsr_4bit_fully"])
def test_shipped_students_keep_their_score(file: str) -> None:
    slow = checkpoints.load(checkpoints.shipped(file))
    pictures = [image[:160, :160] for _, image in datasets.load("photos")]
    expected, found = (ddtb.evaluate(each, pictures, progress=False) for each in (slow, ddtb.to_integer(slow)))
    assert found.psnr == pytest.approx(expected.psnr, abs=0.03)
    assert found.psnr > ddtb.evaluate("bicubic", pictures, scale=4, progress=False).psnr


def test_autocast_leaves_the_integers_alone() -> None:
    slow = student("srresnet", "lsq", 2)
    fast = ddtb.to_integer(slow)
    x = images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layers = watch(fast, x, IntegerConv2d)
    for path, (code, out) in layers.items():
        module = fast.get_submodule(path)
        assert isinstance(module, IntegerConv2d)
        assert out.dtype == torch.float32 and torch.equal(module(code), out)


# ---------------------------------------------------------------------------------------------- refusals


def test_full_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="quantize"):
        ddtb.to_integer(small())


def test_no_bounds_yet() -> None:
    with pytest.raises(ValueError, match="initialize"):
        ddtb.to_integer(ddtb.quantize(small(), bits=2))


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_with_levels_of_their_own(name: str) -> None:
    binary = ddtb.quantize(small(name), method="reactnet", bits=1)
    ddtb.initialize(binary, [images()])
    with pytest.raises(ValueError, match="different steps"):
        ddtb.to_integer(binary)


@pytest.mark.parametrize("name,path", [("edsr", "body.0.body.0"), ("rdn", "GFF.1")])
def test_convolutions_of_activations_in_full_precision(name: str, path: str) -> None:
    with pytest.raises(ValueError, match=f"{path}.*official"):
        ddtb.to_integer(student(name, "ddtb", 2, variant="official"))


def test_bounds_that_are_not_finite() -> None:
    broken = student("edsr", "ddtb", 2)
    with torch.no_grad():
        broken.get_submodule("body.1.hidden").upper.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"body\.1\.hidden\.upper"):
        ddtb.to_integer(broken)


def test_weights_beyond_a_byte() -> None:
    wide = student("srresnet", "dorefa", 8)
    with pytest.raises(ValueError, match=r"residual\.0\.conv1.*127"):
        ddtb.to_integer(wide)


def test_it_is_neither_saved_nor_trained_nor_converted_again(tmp_path: Path) -> None:
    fast = ddtb.to_integer(student("edsr", "ddtb", 2))
    for use in (
        lambda: checkpoints.save(fast, tmp_path / "x.safetensors"),
        lambda: ddtb.to_integer(fast),
        lambda: ddtb.initialize(fast, [images()]),
        lambda: ddtb.complexity(fast),
    ):
        with pytest.raises(ValueError, match="student"):
            use()
