"""The grid of every quantizer, as whole numbers and one step.

A quantized value is (code − zero) · step with a code that is not negative. Most grids are the multiples of a step,
and zero is the code of 0. The grids that leave zero out (DoReFa-Net's and FQSR's for both signs) are the odd multiples
of half a step: there codes are even, and zero is the odd number in their middle, which no value takes. Either way
`code − zero` is a whole number and 0 stands for 0, so that a convolution of such numbers pads with 0 like any other,
wherever the bounds lie. ODM's grid begins at its lower bound, which is any number: its values are code · step + offset,
and a convolution adds the offset once for every weight that lies on the picture.
"""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from ..quantizers import ActivationQuantizer, DualBound
from ..quantizers.base import positive
from ..quantizers.dorefa import DoReFaActivation
from ..quantizers.fqsr import FQSRActivation
from ..quantizers.lsq import LSQActivation, integer_limits
from ..quantizers.minmax import MinMaxActivation
from ..quantizers.odm import ODMActivation
from ..quantizers.pact import PACTActivation
from ..quantizers.pams import PAMSActivation
from ..uniform import separate

# The largest whole number that a signed byte holds on both sides.
LARGEST_WEIGHT = 127
# How far a weight may lie from its grid point, relative to the step between whole numbers: float32 rounds a weight of
# 127 steps by 1e-5 of a step.
TOLERANCE = 1e-3


class Grid(NamedTuple):
    """How an activation becomes codes; every field is a 0-d tensor, or N×1×1×1 while a gate is live.

    The level is round((x + shift) · inverse_step), held between `lowest` and `highest`, the code is `stride` ·
    (level − lowest), and the value is (code − zero) · step + offset; no shift and no offset mean 0.
    """

    shift: Tensor | None
    inverse_step: Tensor
    lowest: Tensor
    highest: Tensor
    stride: int
    zero: Tensor
    step: Tensor
    offset: Tensor | None = None


def multiples(lower: Tensor, upper: Tensor, steps: int, clamp: bool = True) -> Grid:
    """The grid of `uniform.fake_quantize_steps`: multiples of (upper − lower) / steps.

    Rounding keeps the order, so that clipping the levels is clipping the values: bit for bit the same. Without `clamp`
    bounds that are exactly symmetric keep the one level more that the released code gives them.
    """
    lower, upper = separate(lower.detach(), upper.detach())
    inverse_step = steps / (upper - lower)
    lowest, highest = torch.round(inverse_step * lower), torch.round(inverse_step * upper)
    if clamp:
        highest = torch.minimum(highest, lowest + steps)
    return Grid(None, inverse_step, lowest, highest, 1, -lowest, (upper - lower) / steps)


def odd_multiples(limit: Tensor, steps: int) -> Grid:
    """The grid of `quantizers.base.fake_quantize_symmetric` for an odd number of steps: ±limit/steps, ±3·limit/steps …

    Zero is `steps`, an odd number between the even codes 0, 2, …, 2 · steps.
    """
    limit = limit.detach()
    inner = multiples(torch.zeros_like(limit), 2 * limit, steps)
    middle = torch.full_like(limit, steps)
    return inner._replace(shift=limit, stride=2, zero=middle, step=inner.step / 2)


@singledispatch
def activation_grid(quantizer: ActivationQuantizer, x: Tensor) -> Grid:
    """The grid on which `quantizer` puts the activation `x`, in the precision of its bounds.

    `x` matters to live gates only. Raises `ValueError` for a quantizer whose channels have grids of their own: inside
    the sum over channels they have no common step.
    """
    raise ValueError(
        f"{type(quantizer).__name__} gives each channel levels of its own. A convolution adds up channels, and numbers "
        "with different steps cannot be added as integers: run this student as it is."
    )


@activation_grid.register
def _(quantizer: DualBound, x: Tensor) -> Grid:
    return multiples(*quantizer.bounds(x), 2**quantizer.bits - 1, clamp=quantizer.variant != "official")


@activation_grid.register
def _(quantizer: MinMaxActivation, x: Tensor) -> Grid:
    return multiples(quantizer.lower.clamp(max=0), quantizer.upper.clamp(min=0), 2**quantizer.bits - 1)


@activation_grid.register
def _(quantizer: ODMActivation, x: Tensor) -> Grid:
    lower, upper = quantizer.lower.detach(), quantizer.upper.detach()
    from_lower = multiples(torch.zeros_like(lower), upper - lower, 2**quantizer.bits - 1)
    return from_lower._replace(shift=-lower, offset=lower)


@activation_grid.register
def _(quantizer: PACTActivation, x: Tensor) -> Grid:
    alpha = positive(quantizer.alpha)
    if quantizer.nonnegative:
        return multiples(torch.zeros_like(alpha), alpha, 2**quantizer.bits - 1)
    return multiples(-alpha, alpha, 2**quantizer.bits - 2)


@activation_grid.register
def _(quantizer: PAMSActivation, x: Tensor) -> Grid:
    alpha = positive(quantizer.alpha)
    return multiples(-alpha, alpha, 2**quantizer.bits - 2)


@activation_grid.register
def _(quantizer: LSQActivation, x: Tensor) -> Grid:
    lowest, highest = integer_limits(quantizer.bits, quantizer.nonnegative)
    step = positive(quantizer.step)
    return multiples(lowest * step, highest * step, highest - lowest)


@activation_grid.register
def _(quantizer: DoReFaActivation, x: Tensor) -> Grid:
    return _half_or_full_range(positive(quantizer.scale), quantizer.bits, quantizer.nonnegative)


@activation_grid.register
def _(quantizer: FQSRActivation, x: Tensor) -> Grid:
    return _half_or_full_range(positive(quantizer.clip), quantizer.bits, quantizer.nonnegative)


def _half_or_full_range(limit: Tensor, bits: int, nonnegative: bool) -> Grid:
    if nonnegative:
        return multiples(torch.zeros_like(limit), limit, 2**bits - 1)
    return odd_multiples(limit, 2**bits - 1)


def weight_codes(weight: Tensor, bits: int) -> tuple[Tensor, float]:
    """A quantized weight as whole numbers (int8, its shape) and the step that they are multiples of.

    Nothing but the values counts, whatever quantizer made them and whether or not it is still there: the step is the
    largest number that divides them all. Raises `ValueError` for a weight that is not finite, has more than 2^bits
    values, or is not made of multiples up to ±127 of one step.
    """
    values, place = torch.unique(weight.detach().double(), return_inverse=True)
    if not values.isfinite().all():
        raise ValueError("the quantized weight holds NaN or infinite values")
    if len(values) > 2**bits:
        raise ValueError(f"the weight has {len(values)} values, expected at most {2**bits} for {bits} bits")
    largest = values.abs().max()
    if largest == 0:
        return torch.zeros_like(weight, dtype=torch.int8), 1.0
    # Row j: the values in units of largest / (j + 1). Two fractions with denominators up to 127 differ by more than the
    # tolerance unless they are equal, so the first row of whole numbers is the right one.
    units = values / largest * torch.arange(1, LARGEST_WEIGHT + 1, dtype=torch.double, device=values.device)[:, None]
    whole = (units - units.round()).abs().amax(dim=1) < TOLERANCE
    if not whole.any():
        raise ValueError(
            f"the weight's {len(values)} values are not multiples, up to ±{LARGEST_WEIGHT}, of one step: either its "
            "channels have steps of their own, or its bounds are far from enclosing zero, or it has 8 bits and leans "
            "to one side"
        )
    codes = units[int(whole.int().argmax())].round()
    step = float((values * codes).sum() / (codes * codes).sum())
    return codes[place].reshape(weight.shape).to(torch.int8), step
