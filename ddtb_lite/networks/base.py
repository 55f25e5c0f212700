"""What every super-resolution network of the package has in common."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from .recomputation import recomputed

# Where activations are quantized: as the paper says, as the released code does, or what convolutions multiply alone.
VARIANTS = ("paper", "official", "convolutions")


@dataclass(frozen=True)
class ActivationPoint:
    """One place where a network's activation is quantized.

    `path` names the placeholder module (an `nn.Identity`) that conversion replaces, `channels` the size of
    the tensor's second dimension. `nonnegative` marks tensors that come straight from a ReLU, `skip` the
    shortcut operand of an addition, which a fully quantized network keeps at 8 bits.
    """

    path: str
    channels: int
    nonnegative: bool = False
    skip: bool = False


@dataclass(frozen=True)
class QuantizationPoints:
    """Everything that gets quantized in a network: activations by placeholder, weights by convolution."""

    activations: tuple[ActivationPoint, ...]
    weights: tuple[str, ...]


def outer_points(first: str, last: str, channels: int, tail_inputs: int) -> list[ActivationPoint]:
    """What only a fully quantized network quantizes around its blocks: their ends, the long shortcut, and the tail."""
    skip = ActivationPoint("long_skip", channels, skip=True)
    tail = [ActivationPoint(f"tail_inputs.{index}", channels) for index in range(tail_inputs)]
    return [ActivationPoint(first, channels), ActivationPoint(last, channels), skip, *tail]


@dataclass(frozen=True)
class Quantization:
    """How a network was quantized (see `ddtb_lite.quantize` for each field)."""

    method: str
    bits: int
    variant: str = "paper"
    gate_ratio: float = 0.0
    percentile: float = 99.0
    fully: bool = False


class SuperResolutionNetwork(nn.Module):
    """Base of EDSR, RDN and SRResNet: N×3×H×W in, N×3×(scale·H)×(scale·W) out, pixel values 0…255.

    A subclass splits its forward pass at the tensor that enters the upsampler, because the structured
    knowledge transfer loss compares student and teacher there (section 8: "after the long skip").
    `quantization` is None in full precision, `phase` what a quantized network has been through.

    A subclass also brings what the papers and the released code say of it: a new network is one file.
    """

    name: str
    # Sections 3, 5 and 6: the fraction of quantizers with a gate, and where bounds of activations and weights start.
    gate_ratio: ClassVar[float]
    percentile: ClassVar[float]
    weight_percentile: ClassVar[float] = 99
    # Section 8: the side of the high-resolution patch by scale, and epochs of 1000 steps in full precision.
    paper_patch_size: ClassVar[Mapping[int, int]] = {2: 96, 3: 144, 4: 192}
    paper_epochs: ClassVar[int] = 300
    # Whether features, and with them bounds, are as large as pixels of 0…255.
    on_pixel_scale: ClassVar[bool] = True
    # Whether the released code leaves weights quantized while it watches ranges (section 12, item 5).
    official_watches_quantized_weights: ClassVar[bool] = False
    # In a state dict: the first convolution's weight, and what the names of the upsampler's parameters start with.
    first_weight: ClassVar[str]
    upsampler_prefix: ClassVar[str]

    scale: int
    architecture: dict[str, int]
    quantization: Quantization | None = None
    phase: str = "new"
    dynamic_intensity: dict[str, float] | None = None
    metadata: dict[str, object] | None = None

    def __init__(self, scale: int, **architecture: int) -> None:
        super().__init__()
        self.scale, self.architecture = scale, architecture

    @classmethod
    def options(cls) -> dict[str, int]:
        """What `build` takes besides the scale, depth and width, with their defaults."""
        parameters = inspect.signature(cls).parameters.values()
        return {each.name: each.default for each in parameters if each.name != "scale"}

    @classmethod
    def architecture_of(cls, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Depth and width of the network that a state dict belongs to; `ValueError` for one that cannot be built."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Image N×3×H×W to high-level features N×C×H×W, the long skip included."""
        raise NotImplementedError

    def upsample(self, features: Tensor) -> Tensor:
        """Features N×C×H×W to the image N×3×(scale·H)×(scale·W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous():
            # One image of a channels-last batch can pass for contiguous too. Convolutions then round otherwise than
            # they do for the batch, and a quantizer without a zero level turns that into another picture.
            x = x.clone(memory_format=torch.channels_last)
        return self.upsample(self.features(x))

    def quantization_points(self, variant: str = "paper", fully: bool = False) -> QuantizationPoints:
        """The tensors that conversion quantizes; the one place that says so for this architecture."""
        raise NotImplementedError

    @property
    def points(self) -> QuantizationPoints:
        """The tensors that are quantized in this network; in full precision those that `quantize` would by default."""
        how = self.quantization
        return self.quantization_points() if how is None else self.quantization_points(how.variant, how.fully)

    def block_names(self) -> Sequence[str]:
        """Paths of the residual (dense) blocks, in the order in which they run."""
        raise NotImplementedError

    @property
    def checkpointing(self) -> bool:
        """Whether the blocks are computed again in the backward pass, to save memory: same gradients, more time."""
        return any("forward" in vars(self.get_submodule(name)) for name in self.block_names())

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        for name in self.block_names():
            block = self.get_submodule(name)
            vars(block).pop("forward", None)
            if wanted:
                # Inside the call of the block, so that hooks see each block once.
                block.forward = partial(recomputed, block)  # type: ignore[method-assign]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def count_names(pattern: str, state: Mapping[str, Tensor]) -> int:
    """How many names of a state dict the regular expression matches as a whole."""
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def check_variant(variant: str) -> None:
    """Raise `ValueError` unless `variant` is one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}.")


def check_scale(scale: int) -> None:
    """Raise `ValueError` unless `scale` is 2, 3 or 4, the factors that the upsamplers are built for."""
    if scale not in (2, 3, 4):
        raise ValueError(f"scale is {scale!r}, expected 2, 3 or 4.")


def upsampler_factors(scale: int) -> list[int]:
    """Pixel-shuffle factors whose product is `scale`: ×4 is two shuffles by 2, ×2 and ×3 one shuffle."""
    check_scale(scale)
    return [2, 2] if scale == 4 else [scale]
