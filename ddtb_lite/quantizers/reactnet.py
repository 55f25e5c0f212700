"""ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions.

Liu et al., ECCV 2020, https://arxiv.org/abs/2003.03488
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from .base import ActivationQuantizer, Method, WeightQuantizer, in_float, positive, straight_through


class ReActActivation(ActivationQuantizer):
    """RPReLU(scale · RSign(x)): two levels for each channel (section 4.2).

    RSign is +1 above a trainable `threshold` and −1 elsewhere. RPReLU is z → z − γ + ζ where z > γ and
    slope·(z − γ) + ζ elsewhere, with trainable γ (`input_shift`), ζ (`output_shift`) and `slope`. All four
    are one number a channel. The backward pass takes the sign for Bi-Real Net's piecewise polynomial, whose
    slope is 2 − 2|u| for |u| < 1, u = (x − threshold)/scale.

    Use in super-resolution forces three choices. Without batch norm, on the scale of pixels, ±1 needs a
    `scale`: the calibration batch's mean |x − threshold| of each channel, fixed afterwards; it is also the
    width of the polynomial. The thresholds start at the channels' means, because after a ReLU nothing lies
    below 0. The paper ends its blocks with RPReLU, and the next block begins with RSign; our quantization
    points keep the network's own activations and shortcuts, and directly before a sign an increasing
    function only moves the threshold. So RPReLU follows the sign, where its shifts and slope place the two
    levels. It starts with γ = 0, slope 1 and ζ = threshold, which puts them at the mean ± the scale.
    """

    lowest_bits = highest_bits = 1

    def create(self, point: ActivationPoint) -> None:
        shape = (1, point.channels, 1, 1)
        self.threshold = nn.Parameter(torch.zeros(shape))
        self.input_shift = nn.Parameter(torch.zeros(shape))
        self.slope = nn.Parameter(torch.ones(shape))
        self.output_shift = nn.Parameter(torch.zeros(shape))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(shape))

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Thresholds, scales and levels from the channels' means and mean deviations."""
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        with torch.no_grad():
            self.threshold.copy_(mean)
            self.scale.copy_((x - mean).abs().mean(dim=(0, 2, 3), keepdim=True))
            self.input_shift.zero_()
            self.slope.fill_(1)
            self.output_shift.copy_(mean)

    def bound_parameters(self) -> list[nn.Parameter]:
        return [self.threshold, self.input_shift, self.output_shift]

    def quantize(self, x: Tensor) -> Tensor:
        scale = positive(self.scale)
        z = scale * sign((in_float(x) - self.threshold) / scale) - self.input_shift
        return (z.clamp(min=0) + self.slope * z.clamp(max=0) + self.output_shift).to(x.dtype)


class BinaryWeight(WeightQuantizer):
    """sign(w) · mean|w|, the mean over each output channel and without a gradient.

    The gradient to the weights passes straight through where |w| < 1.
    """

    lowest_bits = highest_bits = 1

    def quantize(self, weight: Tensor) -> Tensor:
        scale = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
        return straight_through(torch.where(weight > 0, scale, -scale), weight.clamp(-1, 1))


def sign(u: Tensor) -> Tensor:
    """+1 where u > 0, −1 elsewhere, with the gradient of the piecewise polynomial u·(2 − |u|) on [−1, 1]."""
    near = u.clamp(-1, 1)
    return straight_through(torch.where(u > 0, 1.0, -1.0).to(u.dtype), near * (2 - near.abs()))


METHOD = Method("reactnet", "ReActNet", ReActActivation, BinaryWeight, quantizes_shortcuts=False)
