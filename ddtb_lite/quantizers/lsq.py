"""Learned Step Size Quantization (Esser et al., ICLR 2020).

https://arxiv.org/abs/1902.08153
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from ..uniform import fake_quantize_steps
from .base import ActivationQuantizer, Method, WeightQuantizer, positive, straight_through


class LSQActivation(ActivationQuantizer):
    """Activations at `step` × integers, with a trainable step (equations 1 to 3).

    Where activations can be negative the integers run from −2^(k−1) to 2^(k−1) − 1, after a ReLU from 0 to
    2^k − 1. The N of the gradient scale counts the elements of one image, the paper's "features in a
    layer". Most activations in super-resolution are signed, where at 2 bits a single level is left above
    zero.
    """

    def create(self, point: ActivationPoint) -> None:
        self.step = nn.Parameter(torch.tensor(1.0))

    def initialize(self, x: Tensor, percentile: float) -> None:
        """The step from the mean of |x| (section 2.1)."""
        with torch.no_grad():
            self.step.copy_(initial_step(x, integer_limits(self.bits, self.nonnegative)[1]))

    def quantize(self, x: Tensor) -> Tensor:
        return learned_step(x, self.step, *integer_limits(self.bits, self.nonnegative), x[0].numel())


class LSQWeight(WeightQuantizer):
    """Weights at `step` × integers from −2^(k−1) to 2^(k−1) − 1, with a trainable step for each layer."""

    def create(self) -> None:
        self.step = nn.Parameter(torch.tensor(1.0))

    def initialize(self, weight: Tensor) -> None:
        """The step from the mean of |w|; due again when the bit-width changes."""
        with torch.no_grad():
            self.step.copy_(initial_step(weight, integer_limits(self.bits, False)[1]))

    def quantize(self, weight: Tensor) -> Tensor:
        return learned_step(weight, self.step, *integer_limits(self.bits, False), weight.numel())


def integer_limits(bits: int, nonnegative: bool) -> tuple[int, int]:
    """(−Q_N, Q_P), the lowest and the highest integer."""
    return (0, 2**bits - 1) if nonnegative else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def initial_step(x: Tensor, highest: int) -> Tensor:
    """2·mean|x|/√Q_P (section 2.1)."""
    return 2 * x.abs().mean() / math.sqrt(highest)


def learned_step(x: Tensor, step: Tensor, lowest: int, highest: int, count: int) -> Tensor:
    """Quantize with bounds that are `step` × the integer limits, and scale the step's gradient by 1/√(N·Q_P).

    With these bounds (upper − lower)/steps is the step itself, and the gradient of the shared quantizer
    sums up to equation 3: −Q_N or Q_P where x is clipped, round(x/s) − x/s elsewhere. `positive` keeps the
    step above zero.
    """
    scaled = straight_through(step, step / math.sqrt(count * highest))
    step = positive(scaled)
    return fake_quantize_steps(x, lowest * step, highest * step, highest - lowest)


METHOD = Method("lsq", "LSQ", LSQActivation, LSQWeight)
