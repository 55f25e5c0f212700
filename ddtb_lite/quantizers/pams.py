"""PAMS: Quantized Super-Resolution via Parameterized Max Scale (Li et al., ECCV 2020).

https://arxiv.org/abs/2011.04212
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from ..uniform import fake_quantize_steps
from .base import ActivationQuantizer, Method, WeightQuantizer, positive


class PAMSActivation(ActivationQuantizer):
    """x̂ = round(clip(x, −α, α) · (2^(k−1) − 1)/α) · α/(2^(k−1) − 1) with a trainable α: 2^k − 1 levels.

    The gradient of α is ±1 where x is clipped and (x̂ − x)/α elsewhere, the straight-through rule applied
    to the whole equation. The range is symmetric after a ReLU too, as in the paper, where half of the
    levels then lie idle. `positive` keeps α above zero.
    """

    def create(self, point: ActivationPoint) -> None:
        self.alpha = nn.Parameter(torch.tensor(1.0))

    def initialize(self, x: Tensor, percentile: float) -> None:
        """α from the mean over the batch's images of max|x|."""
        with torch.no_grad():
            self.alpha.copy_(x.abs().flatten(1).amax(1).mean())

    def quantize(self, x: Tensor) -> Tensor:
        alpha = positive(self.alpha)
        return fake_quantize_steps(x, -alpha, alpha, 2**self.bits - 2)


class MaxAbsWeight(WeightQuantizer):
    """Weights between −max|w| and max|w| of the layer, 2^k − 1 levels, nothing trained."""

    def quantize(self, weight: Tensor) -> Tensor:
        limit = weight.detach().abs().max()
        return fake_quantize_steps(weight, -limit, limit, 2**self.bits - 2)


METHOD = Method("pams", "PAMS", PAMSActivation, MaxAbsWeight, learning_rate=1e-4, bound_learning_rate=1e-2)
