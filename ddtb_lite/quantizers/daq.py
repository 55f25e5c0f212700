"""DAQ: Channel-Wise Distribution-Aware Quantization for Deep Image Super-Resolution Networks.

Hong et al., WACV 2022, https://arxiv.org/abs/2012.11230. As in the authors' code, which printed its numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from .base import ActivationQuantizer, Method, WeightQuantizer, in_float, straight_through

# The step, in standard deviations, that divides a Gaussian into 2^k levels with the least squared error, k from 1.
GAUSSIAN_STEPS = (1.596, 0.996, 0.586, 0.335, 0.188, 0.104, 0.057, 0.031)
# The deviations are quantized themselves.
DEVIATION_BITS = 4


def gaussian_step(bits: int) -> float:
    """The best step for a Gaussian, in standard deviations: what the table says of 2^bits levels."""
    return GAUSSIAN_STEPS[bits - 1]


def released_step(bits: int) -> float:
    """The step of the authors' code, which looks up one bit less: wider, it cuts off less of a longer tail."""
    return GAUSSIAN_STEPS[bits - 2]


class DAQActivation(ActivationQuantizer):
    """Each channel of each image on a grid of its own, from its mean μ and standard deviation σ; nothing trained.

    With the step Δ = c·σ and t = (2^k − 1)·Δ/2,  x̂ = clamp((round((x − μ)/Δ + ½) − ½)·Δ, −t, t) + μ: 2^k levels, none
    of them at μ. After a ReLU σ is that of the positive pixels, and one of 0 that keeps it above zero where all are
    alike; t stands for μ, which puts the lowest level at 0, and there is no clamp above: the few values beyond have
    levels that k bits could not tell apart. σ is itself quantized to 4 bits around its mean over the channels, by the
    same formula. The gradient passes as if nothing had been done, clipped or not.

    The buffer `steps` holds c for x and for σ, at first those of the code; `take_gaussian_steps` sets the table's. The
    code tells a ReLU by a minimum of 0, here the network says where there is one. No level is shared by all channels,
    so the sum over channels in the convolution that follows is no sum of integers, whatever bit operations say.
    """

    def create(self, point: ActivationPoint) -> None:
        self.steps: Tensor
        self.register_buffer("steps", torch.tensor([released_step(self.bits), released_step(DEVIATION_BITS)]))

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Nothing but the steps for the bit-width: all else is read off each image."""
        self.steps.copy_(torch.tensor([released_step(self.bits), released_step(DEVIATION_BITS)]))

    def quantize(self, x: Tensor) -> Tensor:
        step, deviation_step = self.steps
        with torch.no_grad():
            wide = in_float(x)
            spread = deviation_after_relu(wide) if self.nonnegative else deviation(wide, (2, 3))
            over_channels = deviation_step * deviation(spread, (1,))
            spread = on_grid(spread, spread.mean(1, keepdim=True), over_channels, DEVIATION_BITS).clamp(min=0)
            delta = step * spread
            if self.nonnegative:
                quantized = on_grid(wide, (2**self.bits - 1) / 2 * delta, delta, self.bits, clamp_above=False)
            else:
                quantized = on_grid(wide, wide.mean((2, 3), keepdim=True), delta, self.bits)
        return straight_through(quantized.to(x.dtype), x)


class DAQWeight(WeightQuantizer):
    """Weights on a grid around zero with Δ = c·σ, σ the standard deviation of the whole layer; nothing trained."""

    def create(self) -> None:
        self.step: Tensor
        self.register_buffer("step", torch.tensor(released_step(self.bits)))

    def initialize(self, weight: Tensor) -> None:
        """Nothing but the step for the bit-width."""
        self.step.fill_(released_step(self.bits))

    def quantize(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            delta = self.step * deviation(weight, (0, 1, 2, 3))
            quantized = on_grid(weight, torch.zeros_like(delta), delta, self.bits)
        return straight_through(quantized, weight)


def on_grid(x: Tensor, center: Tensor, delta: Tensor, bits: int, clamp_above: bool = True) -> Tensor:
    """`x` on 2^bits levels, `delta` apart, that lie symmetrically around `center`; `center` where `delta` is 0."""
    highest = (2**bits - 1) / 2
    code = torch.round((x - center) / torch.where(delta > 0, delta, 1) + 0.5) - 0.5
    code = code.clamp(-highest, highest if clamp_above else None)
    return torch.where(delta > 0, code * delta, 0) + center


def deviation(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The sample's standard deviation over `dims`, which stay with length 1; 0 for a single value."""
    several = any(x.shape[dim] > 1 for dim in dims)
    return x.std(dims, correction=int(several), keepdim=True)


def deviation_after_relu(x: Tensor) -> Tensor:
    """N×C×1×1: the standard deviation over each channel's positive pixels and one of 0."""
    positive = x > 0
    count = positive.sum((2, 3), keepdim=True) + 1
    mean = torch.where(positive, x, 0).sum((2, 3), keepdim=True) / count
    squares = torch.where(positive, (x - mean).square(), 0).sum((2, 3), keepdim=True) + mean.square()
    return (squares / count).sqrt()


def take_gaussian_steps(student: nn.Module) -> None:
    """Use the table's step for the number of levels in all quantizers; what a state dict or a file keeps."""
    for module in student.modules():
        if isinstance(module, DAQActivation):
            module.steps.copy_(torch.tensor([gaussian_step(module.bits), gaussian_step(DEVIATION_BITS)]))
        elif isinstance(module, DAQWeight):
            module.step.fill_(gaussian_step(module.bits))


# The rate is that of the authors' script for a larger model.
METHOD = Method(
    "daq",
    "DAQ",
    DAQActivation,
    DAQWeight,
    default_variant="convolutions",
    quantizes_shortcuts=False,
    learning_rate=5e-5,
)
