"""ODM: Overcoming Distribution Mismatch in Quantizing Image Super-Resolution Networks (Hong and Lee, ECCV 2024).

https://arxiv.org/abs/2307.13337. What is here comes from a public note on the paper; what the note leaves open is
marked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from ..support import distributed
from ..uniform import fake_quantize_steps
from .base import ActivationQuantizer, Method, WeightQuantizer, fake_quantize_symmetric, in_float, positive
from .dorefa import magnitude
from .dual_bound import percentile_bounds

# The paper's own, whatever percentile other methods start from.
PERCENTILE = 99


class ODMActivation(ActivationQuantizer):
    """x̂ = round((clip(x, l, u) − l)/s)·s + l, s = (u − l)/(2^k − 1), with trainable l and u, nothing dynamic.

    The lowest level is l itself, so that zero need not be a level. The bounds start at the 1st and the 99th
    percentile, averaged over 20 batches of what the network computes in full precision (how many, and whether in full
    precision, is our choice). `quantization_error` is the mismatch ‖x − x̂‖₂ of a layer, over the whole batch: what
    training adds with cooperative gradients (`Method.cooperative_loss_weights`).
    """

    calibration_batches = 20

    def create(self, point: ActivationPoint) -> None:
        self.lower = nn.Parameter(torch.tensor(-1.0))
        self.upper = nn.Parameter(torch.tensor(1.0))
        self.batches_seen = 0

    def begin_calibration(self) -> None:
        """The means begin anew."""
        self.batches_seen = 0

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Take one more batch's 1st and 99th percentile into the means."""
        self.batches_seen += 1
        with torch.no_grad():
            for bound, value in zip((self.upper, self.lower), percentile_bounds(x, PERCENTILE), strict=True):
                bound.add_((value - bound) / self.batches_seen)

    def quantize(self, x: Tensor) -> Tensor:
        lower, width = self.lower, self.upper - self.lower
        shifted = fake_quantize_steps(in_float(x) - lower, torch.zeros_like(width), width, 2**self.bits - 1)
        quantized = (shifted + lower).to(x.dtype)
        self.quantization_error = mismatch(x, quantized) if self.training else None
        return quantized


class ODMWeight(WeightQuantizer):
    """Weights between ±γ·p, p the 99th percentile of |w|, with one trainable γ a layer that starts at 1.

    2^k levels that divide the range evenly, both ends included (as for activations; the note does not say).
    """

    def create(self) -> None:
        self.gamma = nn.Parameter(torch.tensor(1.0))

    def initialize(self, weight: Tensor) -> None:
        """γ = 1; due again when the bit-width changes."""
        with torch.no_grad():
            self.gamma.fill_(1)

    def quantize(self, weight: Tensor) -> Tensor:
        limit = positive(self.gamma * magnitude(weight, PERCENTILE))
        return fake_quantize_symmetric(weight, limit, 2**self.bits - 1)


def mismatch(x: Tensor, quantized: Tensor) -> Tensor:
    """‖x − x̂‖₂ over the batch of all processes, a 0-d tensor; its gradient is 0 where they are equal."""
    own = torch.linalg.vector_norm(in_float(x) - in_float(quantized))
    return torch.linalg.vector_norm(distributed.gathered(own))


METHOD = Method(
    "odm",
    "ODM",
    ODMActivation,
    ODMWeight,
    learning_rate=1e-4,
    bound_learning_rate=1e-3,
    calibrates_in_full_precision=True,
    cooperative_loss_weights={"rdn": 1e-6, "": 1e-5},
)
