"""Activations as integer codes, on their way from a quantizer to a convolution or to a sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..uniform import kernel
from .grids import Grid

LARGEST_SIGNED_BYTE, LARGEST_BYTE = 127, 255


@dataclass(frozen=True)
class Codes:
    """A tensor N×C×H×W of values (code − zero) · step + offset, with codes from 0 on.

    `values` is uint8, int16 in the few cases where 8 bits and their sign do not fit in one byte. `zero` (whole) and
    `step` are 0-d, or N×1×1×1 while a gate is live; `offset` is 0-d, None for 0. Whatever is added to it meets its real
    values.
    """

    values: Tensor
    zero: Tensor
    step: Tensor
    offset: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def integers(self) -> Tensor:
        """code − zero: whole numbers (float64) that are proportional to the values less the offset."""
        return self.values.double() - self.zero.double()

    def real(self) -> Tensor:
        """The real values, float32."""
        real = kernel(_real, self.values)(self.values, self.zero, self.step)
        return real if self.offset is None else real.add_(self.offset)

    def __add__(self, other: Tensor | Codes) -> Tensor:
        if self.offset is not None:
            return self.real() + other
        if isinstance(other, Codes):
            own = (self.values, self.zero, self.step)
            return kernel(_sum_of_codes, self.values)(*own, other.values, other.zero, other.step)
        return kernel(_sum, self.values)(self.values, self.zero, self.step, other)

    __radd__ = __add__


def encode(x: Tensor, grid: Grid, largest: int) -> Codes:
    """The codes of `x` on a grid, none of which is larger than `largest`."""
    shift, inverse_step, lowest, highest, stride, zero, step, offset = grid
    values = kernel(_encode, x)(x, shift, inverse_step, lowest, highest, stride, largest)
    return Codes(values, zero, step, offset)


def _encode(
    x: Tensor, shift: Tensor | None, inverse: Tensor, lowest: Tensor, highest: Tensor, stride: int, largest: int
) -> Tensor:
    # The same operations as in fake quantization, in the same order and precision: the same levels, bit for bit.
    x = x.to(inverse.dtype)
    level = (x * inverse if shift is None else (x + shift).mul_(inverse)).round_()
    # Not clamp_, which takes twenty times as long when its bounds are tensors.
    level = torch.minimum(torch.maximum(level, lowest, out=level), highest, out=level).sub_(lowest)
    level = level if stride == 1 else level.mul_(stride)
    # PyTorch converts floats to signed integers ten times as fast as to unsigned ones.
    if largest <= LARGEST_SIGNED_BYTE:
        return level.to(torch.int8).view(torch.uint8)
    codes = level.to(torch.int16)
    return codes.to(torch.uint8) if largest <= LARGEST_BYTE else codes


def _real(values: Tensor, zero: Tensor, step: Tensor) -> Tensor:
    return values.to(zero.dtype).sub_(zero).mul_(step)


def _sum(values: Tensor, zero: Tensor, step: Tensor, other: Tensor) -> Tensor:
    return _real(values, zero, step).add_(other)


def _sum_of_codes(values: Tensor, zero: Tensor, step: Tensor, values2: Tensor, zero2: Tensor, step2: Tensor) -> Tensor:
    return _real(values, zero, step).add_(_real(values2, zero2, step2))
