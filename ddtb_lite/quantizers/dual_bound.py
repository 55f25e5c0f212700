"""Dynamic Dual Trainable Bounds for Ultra-low Precision Super-Resolution Networks (Zhong et al., ECCV 2022).

https://arxiv.org/abs/2203.03844
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..gate import DynamicGate
from ..networks import ActivationPoint
from ..uniform import fake_quantize, percentile
from .base import ActivationQuantizer, Method, WeightQuantizer

# Where the released code starts the bounds at 3 and 4 bits, whatever the data (section 12, item 1).
OFFICIAL_START = 10.0


class DualBound(ActivationQuantizer):
    """Activation quantizer with a trainable upper and a trainable lower bound (sections 2 and 6).

    Where the range moves most from image to image, `gate` (a `DynamicGate`, otherwise None) rescales both
    bounds for each image. `gate_phase` says what the gate does: "bypassed" (β = 1, the gate does not run),
    "warm-up" (it runs and its logits are trained, but β = 1 still), or "live".
    """

    def create(self, point: ActivationPoint) -> None:
        self.upper = nn.Parameter(torch.tensor(OFFICIAL_START))
        self.lower = nn.Parameter(torch.tensor(-OFFICIAL_START))
        self.gate: DynamicGate | None = None
        self.gate_phase = "bypassed"

    def initialize(self, x: Tensor, percentile: float) -> None:
        """Bounds from the two percentiles of `x`; the released code does so at 2 bits only."""
        if self.variant == "official" and self.bits != 2:
            upper, lower = torch.tensor(OFFICIAL_START), torch.tensor(-OFFICIAL_START)
        else:
            upper, lower = percentile_bounds(x, percentile)
        with torch.no_grad():
            self.upper.copy_(upper)
            self.lower.copy_(lower)

    def bound_parameters(self) -> list[nn.Parameter]:
        return [self.upper, self.lower]

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(lower, upper) for `x`: 0-d tensors, or N×1×1×1 each while the gate is live."""
        if self.gate is None or self.gate_phase == "bypassed":
            return self.lower, self.upper
        beta_upper, beta_lower = self.gate(x)
        if self.gate_phase == "warm-up":
            return self.lower, self.upper
        return (beta_lower * self.lower).view(-1, 1, 1, 1), (beta_upper * self.upper).view(-1, 1, 1, 1)

    def quantize(self, x: Tensor) -> Tensor:
        lower, upper = self.bounds(x)
        return fake_quantize(x, lower, upper, self.bits, clamp=self.variant != "official")


class PercentileWeight(WeightQuantizer):
    """Weights between two percentiles of the layer, recomputed in each forward pass (section 3)."""

    def quantize(self, weight: Tensor) -> Tensor:
        upper, lower = percentile_bounds(weight, self.percentile)
        return fake_quantize(weight, lower, upper, self.bits)


def percentile_bounds(x: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """The `percent` and the (100 − `percent`) percentile of `x`, as 0-d tensors: (upper, lower)."""
    return percentile(x, percent), percentile(x, 100 - percent)


METHOD = Method("ddtb", "Dynamic dual trainable bounds", DualBound, PercentileWeight, gated=True, cuts_tails=True)
