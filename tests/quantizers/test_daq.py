"""DAQ beyond the equations that all methods are checked against: its constants, its levels, its odd channels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import small
from torch import Tensor

import ddtb_lite as ddtb
from ddtb_lite import checkpoints
from ddtb_lite.cost import convolutions
from ddtb_lite.networks import ActivationPoint
from ddtb_lite.quantizers.daq import (
    DAQActivation,
    DAQWeight,
    gaussian_step,
    on_grid,
    released_step,
    take_gaussian_steps,
)

AFTER_RELU = ActivationPoint("x", 1, nonnegative=True)


def error_of_step(step: float, bits: int) -> float:
    """The mean squared error of 2^bits levels around zero for a standard Gaussian, by a fine sum."""
    x = np.linspace(-12, 12, 200_001)
    highest = (2**bits - 1) / 2
    levels = np.clip(np.floor(x / step) + 0.5, -highest, highest) * step
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float(((levels - x) ** 2 * density).sum() * (x[1] - x[0]))


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_table_is_that_of_a_gaussian(bits: int) -> None:
    best, printed = error_of_step(gaussian_step(bits), bits), 5e-4 / gaussian_step(bits)
    # The table's last digit decides nothing: a step that is off by more than that is worse.
    for factor in (1 - 2 * printed - 0.01, 1 + 2 * printed + 0.01):
        assert error_of_step(gaussian_step(bits) * factor, bits) > best


def test_the_code_looks_up_one_bit_less() -> None:
    assert [released_step(bits) for bits in range(2, 9)] == [gaussian_step(bits - 1) for bits in range(2, 9)]
    assert released_step(2) == 1.596
    np.testing.assert_allclose(DAQActivation(2).steps, [1.596, 0.586])
    assert DAQWeight(3).step.item() == pytest.approx(0.996)


def test_a_grid_by_hand() -> None:
    """2 bits, steps of 2 around 10: levels 7, 9, 11, 13."""
    x = torch.tensor([-50.0, 7.9, 8.1, 9.9, 10.1, 11.9, 12.1, 99.0])
    expected = torch.tensor([7.0, 7, 9, 9, 11, 11, 13, 13])
    assert torch.equal(on_grid(x, torch.tensor(10.0), torch.tensor(2.0), 2), expected)
    free = on_grid(x, torch.tensor(10.0), torch.tensor(2.0), 2, clamp_above=False)
    assert free[-1] == 99 and torch.equal(free[:-1], expected[:-1])
    assert torch.equal(on_grid(x, torch.tensor(10.0), torch.tensor(0.0), 2), torch.full_like(x, 10))


def test_channels_of_an_image_have_their_own_levels() -> None:
    x = torch.randn(2, 5, 40, 40, generator=torch.Generator().manual_seed(0))
    spread, center = torch.tensor([[1.0, 1.5, 0.8, 2, 1.2], [0, 9, -2, 100, 1]]).view(2, 1, -1, 1, 1)
    x = x * spread + center
    quantized = DAQActivation(2)(x)
    levels = [channel.unique() for image in quantized for channel in image]
    assert {len(each) for each in levels} == {4}
    assert len(torch.cat(levels).unique()) == 40
    for own, channel in zip(levels, x.flatten(0, 1), strict=True):
        torch.testing.assert_close(own.mean(), channel.mean(), rtol=1e-4, atol=1e-4)


def test_after_a_relu_the_lowest_level_is_zero_and_the_highest_is_open() -> None:
    x = torch.randn(1, 3, 60, 60, generator=torch.Generator().manual_seed(1)).clamp(min=0)
    x[0, 0, 0, 0] = 50
    levels = DAQActivation(2, AFTER_RELU)(x)[0, 0].unique()
    assert levels[0].abs() < 1e-6 and len(levels) >= 4 and (levels[-1] - 50).abs() <= (levels[2] - levels[1]) / 2 + 1e-4


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 4, 1, 1), (1, 1, 5, 5), (2, 3, 4, 4)])
def test_flat_and_tiny_channels_stay_finite(shape: tuple[int, ...], nonnegative: bool) -> None:
    quantizer = DAQActivation(2, ActivationPoint("x", shape[1], nonnegative))
    for value in (0.0, 7.0):
        x = torch.full(shape, value, requires_grad=True)
        output = quantizer(x)
        assert torch.isfinite(output).all() and (nonnegative or torch.equal(output, x))
        output.sum().backward()
        assert torch.equal(x.grad, torch.ones(shape))
    assert torch.isfinite(DAQWeight(2)(torch.zeros(2, 2, 3, 3))).all()


def test_no_gradient_is_clipped() -> None:
    x = (100 * torch.randn(1, 2, 9, 9)).requires_grad_()
    upstream = torch.randn(1, 2, 9, 9)
    (DAQActivation(2)(x) * upstream).sum().backward()
    assert torch.equal(x.grad, upstream)


def student() -> ddtb.networks.SuperResolutionNetwork:
    quantized = ddtb.quantize(small(), "daq", 2).eval()
    ddtb.initialize(quantized, pictures())
    return quantized


def pictures() -> Tensor:
    return 255 * torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(2))


def test_other_steps_stay_with_the_student(tmp_path: Path) -> None:
    quantized, released = student(), student()
    take_gaussian_steps(quantized)
    with torch.no_grad():
        expected = quantized(pictures())
        assert not torch.allclose(expected, released(pictures()))
        for packed in (True, False):
            checkpoints.save(quantized, tmp_path / "x.safetensors", packed=packed)
            assert torch.equal(checkpoints.load(tmp_path / "x.safetensors")(pictures()), expected)
        released.load_state_dict(quantized.state_dict())
        assert torch.equal(released(pictures()), expected)


def test_it_quantizes_what_convolutions_multiply() -> None:
    quantized = student()
    assert quantized.quantization is not None and quantized.quantization.variant == "convolutions"
    layers = convolutions(quantized, (32, 16))
    inside = {path for path in layers if path.startswith("body.0.") or path.startswith("body.1.")}
    assert len(inside) == 4
    for path, layer in layers.items():
        assert layer.weight_bits == layer.activation_bits == (2 if path in inside else 32)
