"""DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients.

Zhou et al., 2016, https://arxiv.org/abs/1606.06160
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..networks import ActivationPoint
from ..uniform import fake_quantize_steps, percentile
from .base import ActivationQuantizer, Method, WeightQuantizer, fake_quantize_symmetric, positive


class DoReFaActivation(ActivationQuantizer):
    """Activations clipped to [0, 1] and rounded to multiples of 1/(2^k − 1) (section 2.4), nothing trained.

    In super-resolution activations have the scale of pixels and both signs, which forces two choices. They
    are divided by a fixed `scale`, a percentile of the calibration batch's |x|, and multiplied by it again.
    Where they can be negative, [−1, 1] is divided as the paper divides its weights: 2^k levels 2·q − 1,
    without zero.
    """

    def create(self, point: ActivationPoint) -> None:
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(1.0))

    def initialize(self, x: Tensor, percentile: float) -> None:
        """The scale from the percentile of |x|."""
        self.scale.copy_(magnitude(x, percentile))

    def quantize(self, x: Tensor) -> Tensor:
        scale, steps = positive(self.scale), 2**self.bits - 1
        if self.nonnegative:
            return fake_quantize_steps(x, torch.zeros_like(scale), scale, steps)
        return fake_quantize_symmetric(x, scale, steps)


class DoReFaWeight(WeightQuantizer):
    """Weights w → 2·q(tanh(w) / (2·max|tanh(w)|) + 1/2) − 1, 2^k levels without zero (section 2.3).

    The paper's weights end up between −1 and 1, whatever they were. Here they are multiplied by max|w|, so
    that a pretrained network, which may have no batch norm to absorb a factor, keeps its function. The
    gradient passes through tanh and both maxima.
    """

    def quantize(self, weight: Tensor) -> Tensor:
        bounded = torch.tanh(weight)
        normalized = bounded / positive(bounded.abs().max())
        quantized = fake_quantize_symmetric(normalized, weight.new_ones(()), 2**self.bits - 1)
        return quantized * weight.abs().max()


def magnitude(x: Tensor, percent: float) -> Tensor:
    """The percentile of |x|, a 0-d tensor."""
    return percentile(x.abs(), percent)


METHOD = Method("dorefa", "DoReFa-Net", DoReFaActivation, DoReFaWeight, cuts_tails=True)
