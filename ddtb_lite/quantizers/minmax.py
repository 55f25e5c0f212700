"""Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference.

Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877. The quantizer of TensorFlow Lite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..networks import ActivationPoint
from ..support import distributed
from ..uniform import fake_quantize
from .base import ActivationQuantizer, Method, WeightQuantizer

# Weight of the past in the moving averages, as TensorFlow's quantization-aware training sets it.
DECAY = 0.999


class MinMaxActivation(ActivationQuantizer):
    """Activations between moving averages of the batches' minimum and maximum, asymmetric (section 3.1).

    The averages move in training mode only and nothing trains them. The paper nudges the bounds so that
    zero is a level; the multiples of the step include zero anyway, as long as the bounds enclose it. For
    super-resolution the averages start from the calibration batch and not from nothing, because a
    pretrained network has no steps to wait for them.
    """

    def create(self, point: ActivationPoint) -> None:
        self.lower: Tensor
        self.upper: Tensor
        self.register_buffer("lower", torch.tensor(-1.0))
        self.register_buffer("upper", torch.tensor(1.0))

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Minimum and maximum of `x`; the paper cuts off no tails."""
        lowest, highest = torch.aminmax(x.detach())
        self.lower.copy_(lowest)
        self.upper.copy_(highest)

    def quantize(self, x: Tensor) -> Tensor:
        if self.training:
            own = (extreme.to(self.lower.dtype) for extreme in torch.aminmax(x.detach()))
            lowest, highest = distributed.extremes(*own)
            self.lower.lerp_(lowest, 1 - DECAY)
            self.upper.lerp_(highest, 1 - DECAY)
        # clamp makes copies, so that the next update does not change what backward has kept.
        return fake_quantize(x, self.lower.clamp(max=0), self.upper.clamp(min=0), self.bits)


class MinMaxWeight(WeightQuantizer):
    """Weights between the layer's current minimum and maximum (section 3.1)."""

    def quantize(self, weight: Tensor) -> Tensor:
        lowest, highest = torch.aminmax(weight.detach())
        return fake_quantize(weight, lowest.clamp(max=0), highest.clamp(min=0), self.bits)


METHOD = Method("minmax", "TensorFlow Lite", MinMaxActivation, MinMaxWeight)
