"""Residual Dense Network for Image Super-Resolution (Zhang et al., CVPR 2018).

https://arxiv.org/abs/1802.08797. Configuration B: D = 16 dense blocks of C = 8 convolutions, G = 64 features each.
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


class Concatenation:
    """Concatenates tensors N×…×H×W along the channels as they arrive, in one piece of memory set aside for all.

    Calls give the values and gradients of `torch.cat([so_far, x], 1)`. That would copy all features at each of
    eight dense convolutions, five times what they are in the end, and each copy stays for the backward pass. Here
    only `x` moves: it fills channels further on, so what earlier calls have returned stays as it was.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.memory: Tensor | None = None
        self.so_far: Tensor | None = None

    def __call__(self, so_far: Tensor, x: Tensor) -> Tensor:
        """`so_far` is what the last call returned, or in the first call the tensor to begin with."""
        if torch.compiler.is_compiling():  # which sees to its memory itself, and follows no write behind its back
            return torch.cat([so_far, x], dim=1)
        kind = torch.promote_types(so_far.dtype, x.dtype)
        if self.memory is None:
            pixel_by_pixel = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            layout = torch.channels_last if pixel_by_pixel else torch.contiguous_format
            shape = (x.shape[0], self.channels, *x.shape[2:])
            self.memory = torch.empty(shape, dtype=kind, device=x.device, memory_format=layout)
        if kind != self.memory.dtype:
            raise ValueError(f"{x.dtype} cannot be concatenated to {self.memory.dtype} without being rounded.")
        self.so_far = _Append.apply(self.memory, so_far, x, so_far is self.so_far)
        return self.so_far


class _Append(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory: Tensor, so_far: Tensor, x: Tensor, already_there: bool) -> Tensor:
        ctx.start = so_far.shape[1]
        end = ctx.start + x.shape[1]
        # Through `data`, because autograd would take each write for a change of everything returned before.
        memory = memory.data
        if not already_there:
            memory[:, : ctx.start] = so_far
        memory[:, ctx.start : end] = x
        return memory[:, :end]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        return None, grads[0][:, : ctx.start], grads[0][:, ctx.start :], None


class DenseConvolution(nn.Module):
    """A 3×3 convolution with ReLU that makes G new features of all features so far; `input` is its placeholder."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(in_channels, growth, 3, padding=1), nn.ReLU())
        self.input = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.input(x))


class ResidualDenseBlock(nn.Module):
    """C dense convolutions, each of which sees what all before it made, a 1×1 local feature fusion, and the skip."""

    def __init__(self, channels: int, growth: int, n_convs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*[DenseConvolution(channels + index * growth, growth) for index in range(n_convs)])
        self.LFF = nn.Conv2d(channels + n_convs * growth, channels, 1)
        self.fusion_input = nn.Identity()
        self.skip = nn.Identity()
        self.output = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        concatenate = Concatenation(self.LFF.in_channels)
        dense = x
        for convolution in self.convs:
            dense = concatenate(dense, convolution(dense))
        return self.output(self.LFF(self.fusion_input(dense))) + self.skip(x)


class RDN(SuperResolutionNetwork):
    """RDN for ×2, ×3 or ×4: 22,271,107 parameters at ×4 with the default D, C and G."""

    name = "rdn"
    gate_ratio, percentile, weight_percentile = 0.5, 95, 100
    paper_patch_size = {2: 64, 3: 96, 4: 96}
    official_watches_quantized_weights = True
    first_weight, upsampler_prefix = "SFENet1.weight", "UPNet."

    def __init__(self, scale: int, D: int = 16, C: int = 8, G: int = 64) -> None:
        super().__init__(scale, D=D, C=C, G=G)
        factors = upsampler_factors(scale)
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

    @classmethod
    def architecture_of(cls, state: Mapping[str, Tensor]) -> dict[str, int]:
        return {
            "D": count_names(r"RDBs\.\d+\.LFF\.weight", state),
            "C": count_names(r"RDBs\.0\.convs\.\d+\.conv\.0\.weight", state),
            "G": len(state[cls.first_weight]),
        }

    def features(self, x: Tensor) -> Tensor:
        shallow = self.SFENet1(x)
        first, *others = self.RDBs
        dense = block_output = first(self.SFENet2(self.shallow_input(shallow)))
        concatenate = Concatenation(self.architecture["D"] * self.architecture["G"])
        for block in others:
            block_output = block(block_output)
            dense = concatenate(dense, block_output)
        fused = self.GFF[0](self.fusion_inputs[0](dense))
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
        if variant != "official" or fully:
            activations.append(ActivationPoint("fusion_inputs.1", G))
        weights += ["GFF.0", "GFF.1"]
        if fully:
            activations += outer_points("shallow_input", "fusion_output", G, len(self.tail_inputs))
            upsampler = [f"UPNet.{2 * index}" for index in range(len(self.tail_inputs))]
            weights = ["SFENet1", "SFENet2", *weights, *upsampler]
        return QuantizationPoints(tuple(activations), tuple(weights))
