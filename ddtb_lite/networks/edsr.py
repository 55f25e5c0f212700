"""Enhanced Deep Residual Networks for Single Image Super-Resolution (Lim et al., CVPRW 2017).

https://arxiv.org/abs/1707.02921. The baseline configuration (16 blocks, 64 features, no batch norm), with the
parameter names of EDSR-PyTorch, so that published checkpoints load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base import (
    ActivationPoint,
    QuantizationPoints,
    SuperResolutionNetwork,
    check_variant,
    count_names,
    outer_points,
    upsampler_factors,
)

# Mean color of DIV2K's training images, subtracted before the first layer and added after the last.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ResidualBlock(nn.Module):
    """conv, ReLU, conv, plus the skip.

    The placeholders say where a quantizer can sit. `input` feeds conv 1 and the skip alike (the paper's variant),
    `skip` only the shortcut (the released code's), `branch` only conv 1 (variant "convolutions", and fully quantized
    networks, where the shortcut has its own 8 bits), `hidden` the input of conv 2, `output` the residual before the
    sum.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3x3(channels, channels), nn.ReLU(), conv3x3(channels, channels))
        self.input = nn.Identity()
        self.skip = nn.Identity()
        self.branch = nn.Identity()
        self.hidden = nn.Identity()
        self.output = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        conv1, relu, conv2 = self.body
        x = self.input(x)
        hidden = self.hidden(relu(conv1(self.branch(x))))
        return self.skip(x) + self.output(conv2(hidden))


class EDSR(SuperResolutionNetwork):
    """EDSR-baseline for ×2, ×3 or ×4: 1,517,571 parameters at ×4 with the default depth and width."""

    name = "edsr"
    gate_ratio, percentile = 0.3, 99
    first_weight, upsampler_prefix = "head.0.weight", "tail.0."

    def __init__(self, scale: int, n_blocks: int = 16, n_feats: int = 64) -> None:
        super().__init__(scale, n_blocks=n_blocks, n_feats=n_feats)
        factors = upsampler_factors(scale)
        self.mean: Tensor
        self.register_buffer("mean", 255 * torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Sequential(conv3x3(3, n_feats))
        self.body = nn.Sequential(*[ResidualBlock(n_feats) for _ in range(n_blocks)], conv3x3(n_feats, n_feats))
        upsampler = nn.Sequential()
        for factor in factors:
            upsampler.extend([conv3x3(n_feats, n_feats * factor**2), nn.PixelShuffle(factor)])
        self.tail = nn.Sequential(upsampler, conv3x3(n_feats, 3))
        # Placeholders outside the blocks: only a fully quantized network fills them.
        self.body_input = nn.Identity()
        self.body_output = nn.Identity()
        self.long_skip = nn.Identity()
        self.tail_inputs = nn.ModuleList(nn.Identity() for _ in range(len(factors) + 1))

    @classmethod
    def architecture_of(cls, state: Mapping[str, Tensor]) -> dict[str, int]:
        n_blocks = count_names(r"body\.\d+\.body\.0\.weight", state)
        n_feats = len(state[cls.first_weight])
        if (n_blocks, n_feats) == (32, 256):
            raise ValueError("this is the large EDSR, whose residuals are scaled by 0.1; only unscaled ones are known")
        return {"n_blocks": n_blocks, "n_feats": n_feats}

    def features(self, x: Tensor) -> Tensor:
        shallow = self.head(x - self.mean)
        deep = shallow
        for name in self.block_names():
            deep = self.get_submodule(name)(deep)
        return self.body_output(self.body[-1](self.body_input(deep))) + self.long_skip(shallow)

    def upsample(self, features: Tensor) -> Tensor:
        upsampler, last = self.tail
        assert isinstance(upsampler, nn.Sequential)
        x = features
        for index in range(len(self.tail_inputs) - 1):
            convolution, shuffle = upsampler[2 * index], upsampler[2 * index + 1]
            x = shuffle(convolution(self.tail_inputs[index](x)))
        return last(self.tail_inputs[-1](x)) + self.mean

    def block_names(self) -> list[str]:
        return [f"body.{index}" for index in range(self.architecture["n_blocks"])]

    def quantization_points(self, variant: str = "paper", fully: bool = False) -> QuantizationPoints:
        """3 activations a block (input or skip, hidden, output) and both its convolutions.

        Variant "convolutions" quantizes what the two convolutions multiply and leaves the shortcut in full precision:
        2 activations a block.

        `fully` quantizes every convolution and every operand of an addition; the image itself stays at the
        8 bits it comes with.
        """
        check_variant(variant)
        channels = self.architecture["n_feats"]
        activations: list[ActivationPoint] = []
        weights: list[str] = []
        for block in self.block_names():
            if fully:
                activations += [
                    ActivationPoint(f"{block}.skip", channels, skip=True),
                    ActivationPoint(f"{block}.branch", channels),
                ]
            else:
                first = {"paper": "input", "official": "skip", "convolutions": "branch"}[variant]
                activations.append(ActivationPoint(f"{block}.{first}", channels))
            activations.append(ActivationPoint(f"{block}.hidden", channels, nonnegative=True))
            if fully or variant != "convolutions":
                activations.append(ActivationPoint(f"{block}.output", channels))
            weights += [f"{block}.body.0", f"{block}.body.2"]
        if fully:
            activations += outer_points("body_input", "body_output", channels, len(self.tail_inputs))
            upsampler = [f"tail.0.{2 * index}" for index in range(len(self.tail_inputs) - 1)]
            weights = ["head.0", *weights, f"body.{len(self.block_names())}", *upsampler, "tail.1"]
        return QuantizationPoints(tuple(activations), tuple(weights))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # EDSR-PyTorch stores its fixed mean shift as 1×1 convolutions. Ours is a constant, and another one would give
        # other images.
        *_, errors = args
        for shift, sign in (("sub_mean", -1), ("add_mean", 1)):
            weight, bias = (state_dict.pop(f"{prefix}{shift}.{kind}", None) for kind in ("weight", "bias"))
            mean = sign * 255 * torch.tensor(DIV2K_MEAN)
            if not (_close(weight, torch.eye(3), 1e-3) and _close(bias, mean, 0.3)):
                errors.append(f"{shift} is not DIV2K's mean color in 0…255, the only one that is supported")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _close(stored: Tensor | None, expected: Tensor, tolerance: float) -> bool:
    """Whether stored numbers, if there are any, are the expected ones, in whatever shape."""
    if stored is None:
        return True
    values = stored.detach().cpu().float().flatten()
    return len(values) == expected.numel() and torch.allclose(values, expected.flatten(), rtol=0, atol=tolerance)
