"""What every activation quantizer, weight quantizer and method has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ..networks import ActivationPoint


class Quantizer(nn.Module):
    """A module whose forward pass quantizes, or passes its input on while `enabled` is False."""

    bits: int
    enabled: bool = True

    def quantize(self, x: Tensor) -> Tensor:
        """The quantized tensor, of the shape and dtype of `x`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.quantize(x) if self.enabled else x

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class ActivationQuantizer(Quantizer):
    """Quantizes activations N×C×H×W with bounds that `initialize` takes from data."""

    # How many batches `initialize` is called with, one after the other.
    calibration_batches = 1

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Set the bounds from one batch of activations; `percentile` is for methods that cut off tails."""
        raise NotImplementedError


class WeightQuantizer(Quantizer):
    """Quantizes one convolution's weight (out×in×h×w), from nothing but the weight unless it has parameters."""

    def initialize(self, weight: Tensor) -> None:
        """Set trainable parameters from the full-precision weight; most methods have none."""


class ActivationFactory(Protocol):
    def __call__(self, bits: int, point: ActivationPoint, variant: str) -> ActivationQuantizer: ...


@dataclass(frozen=True)
class Method:
    """One published way to quantize: how it treats activations and weights, and what its paper trains with.

    `activation(bits, point, variant)` and `weight(bits, percentile)` build the quantizers; `percentile` is the
    network's default for weights, for the methods that use one. `learning_rate` and `bound_learning_rate`
    are the paper's own, `None` where it uses DDTB's.
    """

    name: str
    title: str
    activation: ActivationFactory
    weight: Callable[[int, float], WeightQuantizer]
    lowest_bits: int = 2
    highest_bits: int = 8
    gated: bool = False
    learning_rate: float | None = None
    bound_learning_rate: float | None = None
