"""What every activation quantizer, weight quantizer and method has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from ..uniform import check_bits, fake_quantize_steps

# A point by itself, outside any network: one channel of both signs.
ANYWHERE = ActivationPoint("", 1)

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
    """A module whose forward pass quantizes, or passes its input on while `enabled` is False.

    Raises `ValueError` for `bits` that are not from `lowest_bits` to `highest_bits`.
    """

    lowest_bits: ClassVar[int] = 2
    highest_bits: ClassVar[int] = 8
    enabled: bool = True
    # What a method with a quantization loss adds up: set by a forward pass in training mode, None otherwise.
    quantization_error: Tensor | None = None

    def __init__(self, bits: int) -> None:
        super().__init__()
        check_bits(bits, self.lowest_bits, self.highest_bits)
        self.bits = bits

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
    """Quantizes activations N×C×H×W with bounds that `initialize` takes from data.

    `point` says what arrives there, how many channels and whether of both signs, and `variant` how closely to follow
    the released code, for methods that look at them.
    """

    # How many batches `initialize` is called with, one after the other.
    calibration_batches: ClassVar[int] = 1

    def __init__(self, bits: int, point: ActivationPoint = ANYWHERE, variant: str = "paper") -> None:
        super().__init__(bits)
        self.nonnegative = point.nonnegative
        self.variant = variant
        self.create(point)

    def create(self, point: ActivationPoint) -> None:
        """Make the quantizer's parameters and buffers, when all else is set."""

    def begin_calibration(self) -> None:
        """Forget earlier batches, before the first call of `initialize`; for methods that look at several."""

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Set the bounds from one batch of activations; `percentile` is for methods that cut off tails."""
        raise NotImplementedError

    def bound_parameters(self) -> list[nn.Parameter]:
        """What lives on the scale of activations, and so trains with the bounds' learning rate."""
        return list(self.parameters())


class WeightQuantizer(Quantizer):
    """Quantizes one convolution's weight (out×in×h×w), from the weight alone unless it has parameters.

    `percentile` is the network's own, for methods that cut off tails.
    """

    def __init__(self, bits: int, percentile: float = 99.0) -> None:
        super().__init__(bits)
        self.percentile = percentile
        self.create()

    def create(self) -> None:
        """Make the quantizer's parameters, when all else is set."""

    def initialize(self, weight: Tensor) -> None:
        """Set trainable parameters from the full-precision weight; most methods have none."""


@dataclass(frozen=True)
class Method:
    """One published way to quantize: how it treats activations and weights, and what its paper trains with.

    `activation` and `weight` are the classes of its quantizers, `default_variant` says at which points of a network
    they sit unless told otherwise. `learning_rate` and
    `bound_learning_rate` are the paper's own, `None` where it uses DDTB's (rates for classification are not carried
    over). With `cuts_tails` bounds start at a percentile of the activations. With `calibrates_in_full_precision`
    bounds start from what the network computes before anything is quantized, otherwise from what the layers before,
    already quantized, produce. Training adds `quantization_loss_weight` times the sum of all values of
    `quantization_error` to its loss. With `cooperative_loss_weights` it adds the gradient of that sum instead, for each
    parameter tensor times the weight and ½(1 + cos) of the angle between it and the reconstruction loss's. Without
    `quantizes_shortcuts` there are no fully quantized networks.
    """

    name: str
    title: str
    activation: type[ActivationQuantizer]
    weight: type[WeightQuantizer]
    default_variant: str = "paper"
    gated: bool = False
    cuts_tails: bool = False
    learning_rate: float | None = None
    bound_learning_rate: float | None = None
    calibrates_in_full_precision: bool = False
    quantization_loss_weight: float = 0.0
    cooperative_loss_weights: Mapping[str, float] = field(default_factory=dict)
    quantizes_shortcuts: bool = True

    @property
    def lowest_bits(self) -> int:
        return self.activation.lowest_bits

    @property
    def highest_bits(self) -> int:
        return self.activation.highest_bits

    def cooperative_loss_weight(self, network: str) -> float:
        """The weight for a network of that name: its own, or the one for all others, whose name is empty."""
        weights = self.cooperative_loss_weights
        return weights.get(network, weights.get("", 0.0))
