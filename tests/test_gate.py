"""The dynamic gate against an independent numpy reference of section 4."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ddtb_lite.gate import DynamicGate


def quantized(x: np.ndarray, lower: float, upper: float, steps: int, clamp: bool) -> np.ndarray:
    step = (upper - lower) / steps
    lowest = np.round(lower / step)
    codes = np.round(np.clip(x, lower, upper) / step)
    return step * (np.clip(codes, lowest, lowest + steps) if clamp else codes)


def reference(gate: DynamicGate, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole gate in evaluation mode, matrix products in place of 1×1 convolutions."""
    levels = 2**gate.bits

    def activation(x: np.ndarray) -> np.ndarray:
        if gate.variant == "official":
            return quantized(x, x.min(), x.max(), levels - 1, clamp=False)
        return np.stack([quantized(row, row.min(), row.max(), levels - 1, clamp=True) for row in x])

    def weights(convolution: nn.Conv2d) -> np.ndarray:
        weight = convolution.weight.detach().numpy()[:, :, 0, 0]
        limit = np.abs(weight).max()
        return quantized(weight, -limit, limit, levels - 2, clamp=True)

    hidden = activation(x.mean(axis=(2, 3))) @ weights(gate.reduce).T
    mean, variance, gamma, beta = (
        tensor.detach().numpy()
        for tensor in (gate.norm.running_mean, gate.norm.running_var, gate.norm.weight, gate.norm.bias)
    )
    hidden = np.maximum((hidden - mean) / np.sqrt(variance + gate.norm.eps) * gamma + beta, 0)
    logits = activation(hidden) @ weights(gate.expand).T
    upper, lower = (2 / (1 + np.exp(-logits))).T
    return upper, lower


def random_gate(channels: int, variant: str = "paper", bits: int = 2) -> DynamicGate:
    torch.manual_seed(channels)
    gate = DynamicGate(channels, bits, variant).double()
    with torch.no_grad():
        for tensor in (gate.norm.running_mean, gate.norm.bias, gate.norm.weight):
            tensor.normal_()
        gate.norm.running_var.uniform_(0.1, 2)
    return gate


def activations(images: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = 10 ** torch.linspace(-1, 2, images, dtype=torch.float64).view(-1, 1, 1, 1)
    return size * torch.randn(images, channels, 5, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("channels", [8, 64, 320])
def test_evaluation_equals_the_reference(channels: int, variant: str, bits: int) -> None:
    gate = random_gate(channels, variant, bits).eval()
    x = activations(6, channels)
    beta_upper, beta_lower = gate(x)
    expected_upper, expected_lower = reference(gate, x.numpy())
    assert beta_upper.shape == beta_lower.shape == (6,)
    np.testing.assert_allclose(beta_upper.detach().numpy(), expected_upper, rtol=1e-9)
    np.testing.assert_allclose(beta_lower.detach().numpy(), expected_lower, rtol=1e-9)
    logits = np.log(expected_upper / (2 - expected_upper))
    np.testing.assert_allclose(gate.logits[:, 0].detach().numpy(), logits, rtol=1e-7, atol=1e-9)


def test_weights_are_ternary_at_2_bits() -> None:
    gate = DynamicGate(64)
    weight = gate.quantized_weight(gate.reduce)
    limit = gate.reduce.weight.abs().max()
    torch.testing.assert_close(weight.unique(), torch.stack([-limit, 0 * limit, limit]))


def test_factors_lie_between_0_and_2_and_differ_by_image() -> None:
    gate = random_gate(16).eval()
    factors = torch.stack(gate(activations(50, 16)))
    assert (factors > 0).all() and (factors < 2).all()
    assert (factors.std(dim=1) > 1e-3).all()


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_logits_of_zero_mean_the_static_quantizer(variant: str) -> None:
    gate = random_gate(16, variant)
    nn.init.zeros_(gate.expand.weight)
    for factor in gate(activations(4, 16)):
        assert torch.equal(factor, torch.ones(4, dtype=torch.float64))


def test_parameter_counts() -> None:
    gate = DynamicGate(64)
    assert gate.reduce.weight.numel() + gate.expand.weight.numel() == 2112
    assert sum(parameter.numel() for parameter in gate.norm.parameters()) == 64
    assert sum(parameter.numel() for parameter in gate.parameters()) == 2112 + 64
    assert sum(parameter.numel() for parameter in DynamicGate(576).parameters()) == 32 * 576 + 64 + 64


def gradients(variant: str) -> dict[str, torch.Tensor | None]:
    gate = random_gate(16, variant).train()
    x = activations(6, 16).requires_grad_()
    beta_upper, beta_lower = gate(x)
    (beta_upper * torch.arange(6) + beta_lower * torch.arange(6).square()).sum().backward()
    assert x.grad is None  # the gate's input is detached
    return {name: parameter.grad for name, parameter in gate.named_parameters()}


def test_the_whole_gate_trains() -> None:
    for name, gradient in gradients("paper").items():
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.any(), name


def test_only_the_last_convolution_trains_in_the_official_variant() -> None:
    trained = {name for name, gradient in gradients("official").items() if gradient is not None and gradient.any()}
    assert trained == {"expand.weight"}


def test_an_images_factors_depend_on_its_batch_in_the_official_variant_only() -> None:
    x = activations(5, 16)
    together = {}
    for variant in ("paper", "official"):
        gate = random_gate(16, variant).eval()
        alone = torch.stack([torch.stack(gate(image[None])).flatten() for image in x], dim=1)
        together[variant] = torch.allclose(torch.stack(gate(x)), alone, rtol=1e-9)
    assert together == {"paper": True, "official": False}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
def test_constant_images_give_finite_factors_and_gradients(value: float, variant: str, training: bool) -> None:
    gate = DynamicGate(8, variant=variant).train(training)
    beta_upper, beta_lower = gate(torch.full((3, 8, 4, 4), value))
    (beta_upper + beta_lower).sum().backward()
    assert torch.isfinite(beta_upper).all() and torch.isfinite(beta_lower).all()
    for parameter in gate.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_autocast_changes_nothing() -> None:
    gate = DynamicGate(16).eval()
    x = activations(4, 16).float()
    plain = gate(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = gate(x)
    assert cast[0].dtype == torch.float32
    assert torch.equal(cast[0], plain[0]) and torch.equal(cast[1], plain[1])


def test_errors() -> None:
    with pytest.raises(ValueError, match="got a tensor 2×7×4×4, expected N×8×H×W"):
        DynamicGate(8)(torch.zeros(2, 7, 4, 4))
    with pytest.raises(ValueError, match="expected N×8×H×W"):
        DynamicGate(8)(torch.zeros(8, 4, 4))
    for channels in (0, -1, 1.5):
        with pytest.raises(ValueError, match="expected a positive whole number"):
            DynamicGate(channels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits"):
        DynamicGate(8, bits=1)


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match="variant is 'papers'"):
        DynamicGate(8, variant="papers")
