"""Convolutions of whole numbers: one path that is exact everywhere, one that is fast on x86 CPUs.

The exact path adds in float64, which holds every whole number up to 2^53. No algorithm that a library may choose,
not even one that transforms its operands, comes near an error of one half, so that rounding gives the integer sum.
The fast path is oneDNN's convolution of bytes, as PyTorch carries it. These operators are no public interface: they are
called from here alone, after a trial in which they had to give the exact sums.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

# Without instructions for bytes (VNNI) oneDNN adds pairs of products, each up to 255 times a weight, in 16 bits.
LARGEST_FAST_WEIGHT = 2**15 // (2 * 255)
# Up to here a sum of whole numbers is a float32.
EXACT_IN_FLOAT32 = 2**24


class Shape(NamedTuple):
    """How a convolution moves over its input."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]


def exact_sums(integers: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The convolution of whole numbers N×C×H×W (any type) with int8 weights, float64 that holds whole numbers."""
    return F.conv2d(integers.double(), weight.double(), stride=shape.stride, padding=shape.padding).round_()


def fast_path_fits(weight: Tensor, device: torch.device) -> bool:
    """Whether `fast_convolution` works on this machine and is exact for these weights."""
    return device.type == "cpu" and int(weight.abs().max()) <= LARGEST_FAST_WEIGHT and _onednn_works()


def prepared(weight: Tensor, shape: Shape) -> Tensor:
    """The weight in the layout that `fast_convolution` wants."""
    unit, dilation = torch.ones(1), [1, 1]
    strides, padding = list(shape.stride), list(shape.padding)
    return torch.ops.onednn.qconv_prepack(weight.cpu(), unit, 1.0, 0, strides, padding, dilation, 1, None)


def fast_convolution(
    codes: Tensor, zero: int, weight: Tensor, shape: Shape, scale: float = 1.0, bias: Tensor | None = None
) -> Tensor:
    """scale · convolution(codes − zero, weight) + bias, float32, of uint8 codes and a `prepared` weight.

    Padding stands for `zero`, whatever whole number that is. Sums below 2^24 come out exactly.
    """
    unit, no_zero, dilation = torch.ones(1), torch.zeros(1, dtype=torch.int32), [1, 1]
    strides, padding = list(shape.stride), list(shape.padding)
    codes = codes.contiguous(memory_format=torch.channels_last)
    source, kernel = (codes, scale, zero), (weight, unit, no_zero, bias, strides, padding, dilation, 1)
    plain_float: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    return torch.ops.onednn.qconv2d_pointwise(*source, *kernel, *plain_float)


@functools.cache
def _onednn_works() -> bool:
    """A trial on numbers that would show a saturated sum, a wrong border and a wrong zero."""
    shape = Shape((1, 1), (1, 1))
    codes = (torch.arange(32 * 5 * 6) * 37 % 256).view(1, 32, 5, 6).to(torch.uint8)
    weight = ((torch.arange(8 * 32 * 9) * 29 % (2 * LARGEST_FAST_WEIGHT + 1)) - LARGEST_FAST_WEIGHT).view(8, 32, 3, 3)
    weight = weight.to(torch.int8)
    try:
        for zero in (0, 7, -300):
            ours = fast_convolution(codes, zero, prepared(weight, shape), shape)
            if not torch.equal(ours.double(), exact_sums(codes.double() - zero, weight, shape)):
                logger.warning("Integer convolutions take the exact path, because the fast one is inexact here.")
                return False
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.info("Integer convolutions take the exact path, because the fast one is not there: %s", reason)
        return False
    return True
