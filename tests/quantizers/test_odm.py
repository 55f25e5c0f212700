"""ODM beyond the equations that all methods are checked against: its start, its mismatch, its weights in a loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import small
from torch import Tensor

import ddtb_lite as ddtb
from ddtb_lite.conversion import activation_quantizers, quantized_convolutions
from ddtb_lite.diagnostics import quantizer_inputs
from ddtb_lite.quantizers import METHODS
from ddtb_lite.quantizers.odm import ODMActivation, ODMWeight, mismatch


def pictures(seed: int) -> Tensor:
    return 255 * torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(seed))


def test_bounds_start_at_the_mean_of_percentiles_in_full_precision() -> None:
    network, batches = small(), [pictures(seed) for seed in range(3)]
    student = ddtb.quantize(network, "odm", 2, percentile=90)
    ddtb.initialize(student, batches)
    inputs = [quantizer_inputs(network, each) for each in batches]
    for path, quantizer in activation_quantizers(student).items():
        assert isinstance(quantizer, ODMActivation) and quantizer.calibration_batches == 20
        lower, upper = np.mean([np.percentile(each[path].numpy(), (1, 99)) for each in inputs], axis=0)
        assert quantizer.lower.item() == pytest.approx(lower, rel=1e-4, abs=1e-4)
        assert quantizer.upper.item() == pytest.approx(upper, rel=1e-4, abs=1e-4)


def test_gamma_starts_at_one_and_again_at_another_width() -> None:
    student = ddtb.quantize(small(), "odm", 4)
    for convolution in quantized_convolutions(student).values():
        quantizer = convolution.weight_quantizer
        assert isinstance(quantizer, ODMWeight) and quantizer.gamma.item() == 1
        largest = quantizer(convolution.weight).abs().max().item()
        assert largest == pytest.approx(np.percentile(convolution.weight.detach().abs().numpy(), 99), rel=1e-5)
        quantizer.gamma.data.fill_(2)
        assert quantizer(convolution.weight).abs().max().item() <= 2 * largest * (1 + 1e-6)
    ddtb.conversion.set_bits(student, 2)
    assert all(each.weight_quantizer.gamma.item() == 1 for each in quantized_convolutions(student).values())


def test_mismatch_is_a_norm() -> None:
    x = torch.tensor([[3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    quantized = torch.tensor([[0.0, 0.0], [4.0, 1.0]])
    error = mismatch(x, quantized)
    assert error.item() == 5
    error.backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.6, 0.0], [-0.8, 0.0]]))
    same = torch.ones(3, requires_grad=True)
    mismatch(same, same.detach()).backward()
    assert torch.equal(same.grad, torch.zeros(3))


def test_mismatch_is_there_in_training_only() -> None:
    quantizer = ODMActivation(2)
    x = torch.randn(2, 1, 8, 8)
    quantizer.train()(x)
    expected = (x - quantizer.eval()(x)).square().sum().sqrt()
    quantizer.train()(x)
    torch.testing.assert_close(quantizer.quantization_error, expected)
    quantizer.eval()(x)
    assert quantizer.quantization_error is None


def test_zero_need_not_be_a_level() -> None:
    quantizer = ODMActivation(2)
    with torch.no_grad():
        quantizer.lower.fill_(-1)
        quantizer.upper.fill_(5)
    x = torch.tensor([-9.0, -0.1, 0.1, 1.9, 2.1, 4.1, 9.0]).view(1, 1, 1, -1)
    assert quantizer(x).flatten().tolist() == [-1, -1, 1, 1, 3, 5, 5]


def test_what_training_asks_for() -> None:
    odm = METHODS["odm"]
    assert odm.bound_learning_rate == 10 * odm.learning_rate == 1e-3
    assert odm.cooperative_loss_weight("rdn") == 1e-6
    assert odm.cooperative_loss_weight("edsr") == odm.cooperative_loss_weight("srresnet") == 1e-5
    assert METHODS["ddtb"].cooperative_loss_weight("edsr") == 0
    assert odm.quantization_loss_weight == 0
