"""Fully Quantized Image Super-Resolution Networks (Wang et al., ACM Multimedia 2021).

https://arxiv.org/abs/2011.14265
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from ..uniform import fake_quantize_steps
from .base import ActivationQuantizer, Method, WeightQuantizer, fake_quantize_symmetric, in_float, positive


class FQSRActivation(ActivationQuantizer):
    """Activations with a trainable clip c: [0, c] after a ReLU, otherwise [−c, c], 2^k levels either way.

    The full range is divided evenly from −c to c, which leaves zero out. c starts at the running mean of
    max|x| over 20 batches, in full precision, and its gradient is the one of a learned step: ±1 where x is
    clipped, (x̂ − x)/c elsewhere. `quantization_error` is mean|x̂ − x|, on the scale of pixels like the
    reconstruction loss beside it. `positive` keeps c above zero.
    """

    calibration_batches = 20

    def create(self, point: ActivationPoint) -> None:
        self.clip = nn.Parameter(torch.tensor(1.0))
        self.batches_seen = 0

    def begin_calibration(self) -> None:
        """The mean begins anew."""
        self.batches_seen = 0

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Take one more batch's max|x| into the mean."""
        self.batches_seen += 1
        with torch.no_grad():
            self.clip.add_((x.abs().max() - self.clip) / self.batches_seen)

    def quantize(self, x: Tensor) -> Tensor:
        clip, steps = positive(self.clip), 2**self.bits - 1
        if self.nonnegative:
            quantized = fake_quantize_steps(x, torch.zeros_like(clip), clip, steps)
        else:
            quantized = fake_quantize_symmetric(x, clip, steps)
        self.quantization_error = mean_error(x, quantized) if self.training else None
        return quantized


class FQSRWeight(WeightQuantizer):
    """Weights in the full range [−c, c] with a trainable clip c for each layer that starts at max|w|."""

    def create(self) -> None:
        self.clip = nn.Parameter(torch.tensor(1.0))

    def initialize(self, weight: Tensor) -> None:
        """The clip from the largest |w|."""
        with torch.no_grad():
            self.clip.copy_(weight.abs().max())

    def quantize(self, weight: Tensor) -> Tensor:
        quantized = fake_quantize_symmetric(weight, positive(self.clip), 2**self.bits - 1)
        self.quantization_error = mean_error(weight, quantized) if self.training else None
        return quantized


def mean_error(x: Tensor, quantized: Tensor) -> Tensor:
    """mean|x̂ − x|, a 0-d tensor."""
    return (in_float(quantized) - in_float(x)).abs().mean()


METHOD = Method(
    "fqsr",
    "FQSR",
    FQSRActivation,
    FQSRWeight,
    learning_rate=1e-4,
    bound_learning_rate=1e-4,
    calibrates_in_full_precision=True,
    quantization_loss_weight=0.3,
)
