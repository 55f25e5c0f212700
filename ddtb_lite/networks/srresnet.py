"""SRResNet, from Photo-Realistic Single Image Super-Resolution Using a GAN (Ledig et al., CVPR 2017).

https://arxiv.org/abs/1609.04802. With batch norm and PReLU, 9×9 first and last convolutions, no convolution biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..support.distributed import BatchNorm2d
from .base import (
    ActivationPoint,
    QuantizationPoints,
    SuperResolutionNetwork,
    check_variant,
    count_names,
    outer_points,
    upsampler_factors,
)

# What the network computes in, darkest and brightest. With batch norm after each convolution a block adds about 1 to
# its input: audible beside pixels of −1…1, lost beside 0…255, which is what older networks were trained on.
PIXEL_RANGE = (-1.0, 1.0)
OLDER_PIXEL_RANGE = (0.0, 255.0)


def conv(in_channels: int, out_channels: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)


class ResidualBlock(nn.Module):
    """conv, batch norm, PReLU, conv, batch norm, plus the skip (which only a fully quantized network quantizes)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels)
        self.in1 = BatchNorm2d(channels)
        self.relu = nn.PReLU()
        self.conv2 = conv(channels, channels)
        self.in2 = BatchNorm2d(channels)
        self.branch = nn.Identity()
        self.hidden = nn.Identity()
        self.skip = nn.Identity()
        self.output = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.in1(self.conv1(self.branch(x))))
        return self.output(self.in2(self.conv2(self.hidden(hidden)))) + self.skip(x)


class SRResNet(SuperResolutionNetwork):
    """SRResNet for ×2, ×3 or ×4: 1,542,528 convolution weights at ×4 with the default depth and width.

    Images are 0…255 outside, as everywhere; the buffer `pixel_range` holds what they become inside, −1 and 1 in a new
    network. A state dict without it is one of 0 and 255, and the state dict of such a network does without.
    """

    name = "srresnet"
    gate_ratio, percentile = 0.1, 99
    paper_epochs = 500
    on_pixel_scale = False
    first_weight, upsampler_prefix = "conv_input.weight", "upscale."

    def __init__(self, scale: int, n_blocks: int = 16, n_feats: int = 64) -> None:
        super().__init__(scale, n_blocks=n_blocks, n_feats=n_feats)
        factors = upsampler_factors(scale)
        self.pixel_range: Tensor
        self.register_buffer("pixel_range", torch.tensor(PIXEL_RANGE))
        self.conv_input = conv(3, n_feats, 9)
        self.relu = nn.PReLU()
        self.residual = nn.Sequential(*[ResidualBlock(n_feats) for _ in range(n_blocks)])
        self.conv_mid = conv(n_feats, n_feats)
        self.bn_mid = BatchNorm2d(n_feats)
        self.upscale = nn.Sequential()
        for factor in factors:
            self.upscale.extend([conv(n_feats, n_feats * factor**2), nn.PixelShuffle(factor), nn.PReLU()])
        self.conv_output = conv(n_feats, 3, 9)
        # Placeholders outside the blocks: only a fully quantized network fills them.
        self.body_input = nn.Identity()
        self.body_output = nn.Identity()
        self.long_skip = nn.Identity()
        self.tail_inputs = nn.ModuleList(nn.Identity() for _ in range(len(factors) + 1))

    @classmethod
    def architecture_of(cls, state: Mapping[str, Tensor]) -> dict[str, int]:
        n_blocks = count_names(r"residual\.\d+\.conv1\.weight", state)
        return {"n_blocks": n_blocks, "n_feats": len(state[cls.first_weight])}

    def features(self, x: Tensor) -> Tensor:
        darkest, brightest = self.pixel_range
        shallow = self.relu(self.conv_input(x * ((brightest - darkest) / 255) + darkest))
        deep = self.residual(shallow)
        return self.body_output(self.bn_mid(self.conv_mid(self.body_input(deep)))) + self.long_skip(shallow)

    def upsample(self, features: Tensor) -> Tensor:
        x = features
        for index in range(len(self.tail_inputs) - 1):
            x = self.upscale[3 * index](self.tail_inputs[index](x))
            x = self.upscale[3 * index + 2](self.upscale[3 * index + 1](x))
        darkest, brightest = self.pixel_range
        # In float32 under autocast too: between −1 and 1 bf16 has fewer steps than an image has grey levels.
        pixels = self.conv_output(self.tail_inputs[-1](x)).to(torch.promote_types(x.dtype, darkest.dtype))
        return (pixels - darkest) * (255 / (brightest - darkest))

    def block_names(self) -> list[str]:
        return [f"residual.{index}" for index in range(self.architecture["n_blocks"])]

    def quantization_points(self, variant: str = "paper", fully: bool = False) -> QuantizationPoints:
        """The inputs of both convolutions of each block: 32 activations, in every variant."""
        check_variant(variant)
        channels = self.architecture["n_feats"]
        activations: list[ActivationPoint] = []
        weights: list[str] = []
        for block in self.block_names():
            activations += [ActivationPoint(f"{block}.{name}", channels) for name in ("branch", "hidden")]
            if fully:
                activations += [
                    ActivationPoint(f"{block}.skip", channels, skip=True),
                    ActivationPoint(f"{block}.output", channels),
                ]
            weights += [f"{block}.conv1", f"{block}.conv2"]
        if fully:
            activations += outer_points("body_input", "body_output", channels, len(self.tail_inputs))
            upsampler = [f"upscale.{3 * index}" for index in range(len(self.tail_inputs) - 1)]
            weights = ["conv_input", *weights, "conv_mid", *upsampler, "conv_output"]
        return QuantizationPoints(tuple(activations), tuple(weights))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.pixel_range.is_meta and tuple(self.pixel_range.tolist()) == OLDER_PIXEL_RANGE:
            del destination[f"{prefix}pixel_range"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        *_, errors = args
        stored = state_dict.setdefault(f"{prefix}pixel_range", torch.tensor(OLDER_PIXEL_RANGE))
        if tuple(stored.flatten().tolist()) not in (PIXEL_RANGE, OLDER_PIXEL_RANGE):
            known = " or ".join(f"{darkest:g}…{brightest:g}" for darkest, brightest in (PIXEL_RANGE, OLDER_PIXEL_RANGE))
            errors.append(f"pixel_range is {stored.tolist()}, expected {known}; update ddtb_lite for newer networks")
        super()._load_from_state_dict(state_dict, prefix, *args)
