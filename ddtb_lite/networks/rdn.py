"""Residual Dense Network for Image Super-Resolution (Zhang et al., CVPR 2018).

https://arxiv.org/abs/1802.08797. Configuration B: D = 16 dense blocks of C = 8 convolutions, G = 64 features each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import (
    ActivationPoint,
    QuantizationPoints,
    SuperResolutionNetwork,
    check_variant,
    upsampler_factors,
)


class DenseConvolution(nn.Module):
    """A 3×3 convolution with ReLU that appends its G features to its input; `input` is its placeholder."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(in_channels, growth, 3, padding=1), nn.ReLU())
        self.input = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.input(x))], dim=1)


class ResidualDenseBlock(nn.Module):
    """C dense convolutions, a 1×1 local feature fusion, and the skip."""

    def __init__(self, channels: int, growth: int, n_convs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *[DenseConvolution(channels + index * growth, growth) for index in range(n_convs)]
        )
        self.LFF = nn.Conv2d(channels + n_convs * growth, channels, 1)
        self.fusion_input = nn.Identity()
        self.skip = nn.Identity()
        self.output = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.LFF(self.fusion_input(self.convs(x)))) + self.skip(x)


class RDN(SuperResolutionNetwork):
    """RDN for ×2, ×3 or ×4: 22,271,107 parameters at ×4 with the default D, C and G."""

    name = "rdn"

    def __init__(self, scale: int, D: int = 16, C: int = 8, G: int = 64) -> None:
        super().__init__()
        factors = upsampler_factors(scale)
        self.scale = scale
        self.architecture = {"D": D, "C": C, "G": G}
        self.SFENet1 = nn.Conv2d(3, G, 3, padding=1)
        self.SFENet2 = nn.Conv2d(G, G, 3, padding=1)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(G, G, C) for _ in range(D))
        self.GFF = nn.Sequential(nn.Conv2d(D * G, G, 1), nn.Conv2d(G, G, 3, padding=1))
        self.UPNet = nn.Sequential()
        for factor in factors:
            self.UPNet.extend([nn.Conv2d(G, G * factor**2, 3, padding=1), nn.PixelShuffle(factor)])
        self.UPNet.append(nn.Conv2d(G, 3, 3, padding=1))
        self.fusion_inputs = nn.ModuleList([nn.Identity(), nn.Identity()])
        # Only a fully quantized network fills these.
        self.shallow_input = nn.Identity()
        self.fusion_output = nn.Identity()
        self.long_skip = nn.Identity()
        self.tail_inputs = nn.ModuleList(nn.Identity() for _ in range(len(factors) + 1))

    def features(self, x: Tensor) -> Tensor:
        shallow = self.SFENet1(x)
        block_output = self.SFENet2(self.shallow_input(shallow))
        block_outputs = []
        for block in self.RDBs:
            block_output = block(block_output)
            block_outputs.append(block_output)
        fused = self.GFF[0](self.fusion_inputs[0](torch.cat(block_outputs, dim=1)))
        fused = self.GFF[1](self.fusion_inputs[1](fused))
        return self.fusion_output(fused) + self.long_skip(shallow)

    def upsample(self, features: Tensor) -> Tensor:
        x = features
        for index in range(len(self.tail_inputs) - 1):
            x = self.UPNet[2 * index + 1](self.UPNet[2 * index](self.tail_inputs[index](x)))
        return self.UPNet[-1](self.tail_inputs[-1](x))

    def block_names(self) -> list[str]:
        return [f"RDBs.{index}" for index in range(self.architecture["D"])]

    def quantization_points(self, variant: str = "paper", fully: bool = False) -> QuantizationPoints:
        """Each dense convolution's and each fusion's input: 146 activations; the released code has 145.

        It leaves the input of the global 3×3 fusion in full precision. Concatenation and local skip carry the
        tensor as it was before quantization: every convolution quantizes its own input.
        """
        check_variant(variant)
        D, C, G = (self.architecture[key] for key in "DCG")
        activations: list[ActivationPoint] = []
        weights: list[str] = []
        for block in self.block_names():
            if fully:
                activations.append(ActivationPoint(f"{block}.skip", G, skip=True))
            activations += [ActivationPoint(f"{block}.convs.{i}.input", (i + 1) * G) for i in range(C)]
            activations.append(ActivationPoint(f"{block}.fusion_input", (C + 1) * G))
            if fully:
                activations.append(ActivationPoint(f"{block}.output", G))
            weights += [f"{block}.convs.{i}.conv.0" for i in range(C)] + [f"{block}.LFF"]
        activations.append(ActivationPoint("fusion_inputs.0", D * G))
        if variant == "paper" or fully:
            activations.append(ActivationPoint("fusion_inputs.1", G))
        weights += ["GFF.0", "GFF.1"]
        if fully:
            activations += [
                ActivationPoint("shallow_input", G),
                ActivationPoint("fusion_output", G),
                ActivationPoint("long_skip", G, skip=True),
                *[ActivationPoint(f"tail_inputs.{i}", G) for i in range(len(self.tail_inputs))],
            ]
            upsampler = [f"UPNet.{2 * index}" for index in range(len(self.tail_inputs))]
            weights = ["SFENet1", "SFENet2", *weights, *upsampler]
        return QuantizationPoints(tuple(activations), tuple(weights))
