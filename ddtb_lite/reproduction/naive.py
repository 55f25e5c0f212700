"""The slow way: what the fast one is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ..quantizers import dual_bound


@contextlib.contextmanager
def naive_quantizer() -> Iterator[None]:
    """Inside, DDTB's quantizer is the formulas of section 2, one recorded operation after the other."""

    def straight_through_round(x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()

    def naive(x: Tensor, lower: Tensor, upper: Tensor, bits: int, clamp: bool = True) -> Tensor:
        steps_per_unit = (2**bits - 1) / (upper - lower)
        offset = straight_through_round(steps_per_unit * lower) + 2 ** (bits - 1)
        clipped = torch.minimum(torch.maximum(x, lower), upper)
        code = straight_through_round(steps_per_unit * clipped - offset)
        return (code + offset) / steps_per_unit

    fused = dual_bound.fake_quantize
    dual_bound.fake_quantize = naive
    try:
        yield
    finally:
        dual_bound.fake_quantize = fused
