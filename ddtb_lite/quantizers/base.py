"""What every activation quantizer, weight quantizer and method has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from ..uniform import fake_quantize_steps

# Smallest scale that a positive parameter can stand for: far below any activation or weight.
MINIMUM_SCALE = 1e-6


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, bit for bit, with the gradient of `surrogate`, which has the same shape."""
    return _StraightThrough.apply(value.detach(), surrogate)


def positive(scale: Tensor) -> Tensor:
    """A trainable scale, held at `MINIMUM_SCALE` where an update has taken it lower.

    The gradient passes as if the scale were valid, so that training can bring it back.
    """
    return straight_through(scale.clamp(min=MINIMUM_SCALE), scale)


def in_float(x: Tensor) -> Tensor:
    """`x` in at least float32, for arithmetic that must not round to bf16 under autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fake_quantize_symmetric(x: Tensor, limit: Tensor, steps: int) -> Tensor:
    """Quantize `x` to `steps` + 1 levels that divide [−limit, limit] evenly, both ends included.

    An odd number of steps leaves zero out: the levels are ±limit/steps, ±3·limit/steps, … . `limit` is a
    positive 0-d tensor; its gradient is ±1 where `x` is clipped and (x̂ − x)/limit elsewhere.
    """
    shifted = fake_quantize_steps(in_float(x) + limit, torch.zeros_like(limit), 2 * limit, steps)
    return (shifted - limit).to(x.dtype)


class Quantizer(nn.Module):
    """A module whose forward pass quantizes, or passes its input on while `enabled` is False."""

    bits: int
    enabled: bool = True
    # What a method with a quantization loss adds up: set by a forward pass in training mode, None otherwise.
    quantization_error: Tensor | None = None

    def quantize(self, x: Tensor) -> Tensor:
        """The quantized tensor, of the shape and dtype of `x`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.quantize(x) if self.enabled else x

    def __getstate__(self) -> dict[str, Any]:
        # Copying a network must not try to copy the graph behind what its last forward pass left here.
        return {**self.__dict__, "quantization_error": None}

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class ActivationQuantizer(Quantizer):
    """Quantizes activations N×C×H×W with bounds that `initialize` takes from data."""

    # How many batches `initialize` is called with, one after the other.
    calibration_batches = 1

    def begin_calibration(self) -> None:
        """Forget earlier batches, before the first call of `initialize`; for methods that look at several."""

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Set the bounds from one batch of activations; `percentile` is for methods that cut off tails."""
        raise NotImplementedError

    def bound_parameters(self) -> list[nn.Parameter]:
        """What lives on the scale of activations, and so trains with the bounds' learning rate."""
        return list(self.parameters())


class WeightQuantizer(Quantizer):
    """Quantizes one convolution's weight (out×in×h×w), from the weight alone unless it has parameters."""

    def initialize(self, weight: Tensor) -> None:
        """Set trainable parameters from the full-precision weight; most methods have none."""


class ActivationFactory(Protocol):
    def __call__(self, bits: int, point: ActivationPoint, variant: str) -> ActivationQuantizer: ...


@dataclass(frozen=True)
class Method:
    """One published way to quantize: how it treats activations and weights, and what its paper trains with.

    `activation(bits, point, variant)` and `weight(bits, percentile)` build the quantizers; `percentile` is
    the network's default for weights, for the methods that use one. `learning_rate` and
    `bound_learning_rate` are the paper's own, `None` where it uses DDTB's (rates for classification are not carried
    over). With `cuts_tails` bounds start at a percentile of the activations. With `calibrates_in_full_precision`
    bounds start from what the network computes before anything is quantized, otherwise from what the layers before,
    already quantized, produce. Training adds `quantization_loss_weight` times the sum of all values of
    `quantization_error` to its loss.
    """

    name: str
    title: str
    activation: ActivationFactory
    weight: Callable[[int, float], WeightQuantizer]
    lowest_bits: int = 2
    highest_bits: int = 8
    gated: bool = False
    cuts_tails: bool = False
    learning_rate: float | None = None
    bound_learning_rate: float | None = None
    calibrates_in_full_precision: bool = False
    quantization_loss_weight: float = 0.0
