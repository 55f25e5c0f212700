"""The dynamic gate controller: two factors for the bounds, read off each image (section 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks.base import check_variant
from .support import distributed
from .uniform import check_bits, fake_quantize, fake_quantize_steps

HIDDEN_CHANNELS = 32


class DynamicGate(nn.Module):
    """N×C×H×W to (β_upper, β_lower), each of shape N and between 0 and 2, from each image's channel means.

    Average pool, 1×1 convolution to 32 channels, batch norm, ReLU, 1×1 convolution to 2, twice a sigmoid: logits of 0
    give β = 1, the static quantizer. Weights and activations inside are themselves quantized to `bits`: 2112
    weights for C = 64, 132 32-bit parameters' worth at 2 bits, and 64 of batch norm.

    In variant "paper" each image's activations are quantized by that image's own minimum and maximum and the
    whole gate trains. In "official" minimum and maximum run over the batch, and no gradient passes the inner
    quantizers, so that only the last convolution learns (section 12, items 2 and 4).

    `logits` (N×2) keeps what the last forward pass computed: warm-up pulls it to zero.
    """

    def __init__(self, channels: int, bits: int = 2, variant: str = "paper") -> None:
        super().__init__()
        check_bits(bits)
        check_variant(variant)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels is {channels!r}, expected a positive whole number.")
        self.bits = bits
        self.variant = variant
        self.reduce = nn.Conv2d(channels, HIDDEN_CHANNELS, 1, bias=False)
        self.norm = distributed.BatchNorm2d(HIDDEN_CHANNELS)
        self.expand = nn.Conv2d(HIDDEN_CHANNELS, 2, 1, bias=False)
        self.logits: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x)
        with torch.autocast(x.device.type, enabled=False):
            pooled = x.detach().to(self.norm.weight.dtype).mean(dim=(2, 3), keepdim=True)
            hidden = F.conv2d(self._quantize(pooled), self.quantized_weight(self.reduce))
            hidden = self._quantize(F.relu(self.norm(hidden)))
            self.logits = F.conv2d(hidden, self.quantized_weight(self.expand)).flatten(1)
            beta_upper, beta_lower = (2 * torch.sigmoid(self.logits)).unbind(1)
        return beta_upper, beta_lower

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.reduce.in_channels:
            shape = "×".join(map(str, x.shape))
            raise ValueError(f"The gate got a tensor {shape}, expected N×{self.reduce.in_channels}×H×W.")
        if self.training and x.shape[0] * distributed.world_size() < 2:
            raise ValueError("A gate got one image, expected at least two: in training, batch norm compares images.")

    def _quantize(self, x: Tensor) -> Tensor:
        """Asymmetric min-max quantization of a small N×C×1×1 tensor."""
        if self.variant == "official":
            x = x.detach()
            lower, upper = torch.aminmax(x)
            if self.training:
                lower, upper = distributed.extremes(lower, upper)
            return fake_quantize(x, lower, upper, self.bits, clamp=False)
        values = x.detach()
        lower, upper = values.amin(dim=(1, 2, 3), keepdim=True), values.amax(dim=(1, 2, 3), keepdim=True)
        return fake_quantize(x, lower, upper, self.bits)

    def quantized_weight(self, convolution: nn.Conv2d) -> Tensor:
        """The weight that `reduce` or `expand` works with: symmetric, 2^bits − 1 levels, ternary at 2 bits."""
        limit = convolution.weight.detach().abs().max()
        return fake_quantize_steps(convolution.weight, -limit, limit, 2**self.bits - 2)

    def __getstate__(self) -> dict[str, Any]:
        # Copying a network must not try to copy the graph behind what its last forward pass left here.
        return {**self.__dict__, "logits": None}

    def extra_repr(self) -> str:
        return f"bits={self.bits}, variant={self.variant!r}"
