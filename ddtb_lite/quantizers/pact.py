"""PACT: Parameterized Clipping Activation for Quantized Neural Networks (Choi et al., 2018).

https://arxiv.org/abs/1805.06085
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks import ActivationPoint
from ..uniform import fake_quantize_steps
from .base import ActivationQuantizer, Method, in_float, positive
from .dorefa import DoReFaWeight, magnitude


class PACTActivation(ActivationQuantizer):
    """Activations clipped to [0, α] with a trainable α, in 2^k − 1 steps (equations 1 and 2).

    The gradient of α is the indicator of clipping alone (equation 3): the clip carries it, and the rounding
    after it has fixed bounds. PACT replaces a ReLU; most activations in super-resolution have both signs,
    where the clip becomes [−α, α] in 2^k − 2 steps, so that zero stays a level. The paper starts α high and
    lets weight decay bring it down. Super-resolution trains without weight decay, and an α that clips
    nothing has no gradient, so α starts at a percentile of |x|. `positive` keeps it above zero.
    """

    def create(self, point: ActivationPoint) -> None:
        self.alpha = nn.Parameter(torch.tensor(1.0))

    def initialize(self, x: Tensor, percentile: float) -> None:
        """α from the percentile of |x|."""
        with torch.no_grad():
            self.alpha.copy_(magnitude(x, percentile))

    def quantize(self, x: Tensor) -> Tensor:
        alpha = positive(self.alpha)
        lower = torch.zeros_like(alpha) if self.nonnegative else -alpha
        steps = 2**self.bits - (1 if self.nonnegative else 2)
        # In float32, because a bound that is rounded to bf16 can end up outside of itself.
        clipped = torch.clamp(in_float(x), lower, alpha)
        return fake_quantize_steps(clipped, lower.detach(), alpha.detach(), steps).to(x.dtype)


# The paper quantizes weights as DoReFa-Net does.
METHOD = Method("pact", "PACT", PACTActivation, DoReFaWeight, cuts_tails=True)
