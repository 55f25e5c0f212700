"""The one uniform quantizer that every method shares (equations of section 2).

A uniform quantizer is a lower bound, an upper bound and a number of steps between them. The methods differ in
where the bounds come from and in how they are trained; the arithmetic is the same, and it is here, once: the
forward pass, the straight-through gradient to the input, and the closed-form gradients to the bounds.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Narrowest range, relative to the bounds' magnitude, that float32 still divides into 255 exact steps.
MINIMUM_RELATIVE_WIDTH = 1e-3
MINIMUM_WIDTH = 1e-8


def check_bits(bits: int, lowest: int = 2, highest: int = 8) -> None:
    """Raise `ValueError` unless `bits` is a whole number from `lowest` to `highest`."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not lowest <= bits <= highest:
        expected = f"a whole number from {lowest} to {highest}" if lowest < highest else str(lowest)
        raise ValueError(f"bits is {bits!r}, expected {expected}.")


def separate(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Keep a minimum distance between the bounds, so that they can never meet or cross.

    Bounds that are too close move apart by the same amount around their midpoint, which is the nearest valid
    pair. The gradient ignores the move: it reaches both bounds as if they were valid, and so training can
    open a collapsed range again.
    """
    magnitude = torch.maximum(lower.abs(), upper.abs())
    missing = MINIMUM_RELATIVE_WIDTH * magnitude + MINIMUM_WIDTH - (upper - lower)
    half = missing.clamp(min=0).detach() / 2
    return lower - half, upper + half


class _Grid(NamedTuple):
    """What the kernels need to know of each pair of bounds, R×1×1 each, computed once and not for each element."""

    lower: Tensor
    upper: Tensor
    step: Tensor
    inverse_step: Tensor
    highest: Tensor

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor, steps: int, clamp: bool) -> _Grid:
        lower, upper = separate(lower.reshape(-1, 1, 1), upper.reshape(-1, 1, 1))
        inverse_step = steps / (upper - lower)
        # Bounds that lie exactly between two grid points would yield one level too many, at the upper end.
        highest = torch.round(inverse_step * lower) + steps if clamp else torch.full_like(lower, torch.inf)
        return cls(lower, upper, (upper - lower) / steps, inverse_step, highest)


def _quantize(x: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    """(x̂, x̄) for rows R×M×K: quantized, and only clipped, in the bounds' precision."""
    clipped = torch.minimum(torch.maximum(x.to(grid.lower.dtype), grid.lower), grid.upper)
    code = torch.minimum(torch.round(grid.inverse_step * clipped), grid.highest)
    return code * grid.step, clipped


def _forward(x: Tensor, grid: _Grid) -> Tensor:
    # In place, because a large image's activations may fill most of the memory.
    code = x.to(grid.lower.dtype).clamp(grid.lower, grid.upper).mul_(grid.inverse_step).round_()
    return code.clamp_(max=grid.highest).mul_(grid.step).to(x.dtype)


def _backward(grad: Tensor, x: Tensor, grid: _Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to x (R×M×K) and, summed over a row, to lower and upper: the closed form of section 2.

    The error term e = (x̂ − x̄) / (upper − lower) is in both bounds' gradients, with opposite signs.
    """
    quantized, clipped = _quantize(x, grid)
    wide, gradient = x.to(grid.lower.dtype), grad.to(grid.lower.dtype)
    above, below = wide > grid.upper, wide < grid.lower
    error = ((quantized - clipped) * gradient).sum((1, 2)) / (grid.upper - grid.lower).flatten()
    to_lower = torch.where(below, gradient, 0).sum((1, 2)) - error
    to_upper = torch.where(above, gradient, 0).sum((1, 2)) + error
    return torch.where(above | below, 0, grad), to_lower, to_upper


def _straight_through(grad: Tensor, x: Tensor, grid: _Grid) -> Tensor:
    wide = x.to(grid.lower.dtype)
    return torch.where((wide > grid.upper) | (wide < grid.lower), 0, grad)


def _to_rows(x: Tensor, like: Tensor, bound: Tensor) -> Tensor:
    """`x` as R×M×K, where a row R shares a pair of bounds: one image, or all; a view where possible.

    Elements come in the order in which those of `like` lie in memory, so that every kernel runs through memory
    once: M pixels of K channels each if they lie pixel by pixel.
    """
    if _lies_pixel_by_pixel(like):
        x = x.permute(0, 2, 3, 1).flatten(0, 2)
        return x.unflatten(0, (bound.numel(), -1)).detach()
    return x.reshape(bound.numel(), 1, -1).detach()


def _from_rows(rows: Tensor, like: Tensor) -> Tensor:
    if _lies_pixel_by_pixel(like):
        count, channels, height, width = like.shape
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
    return rows.view(like.shape)


def _lies_pixel_by_pixel(x: Tensor) -> bool:
    """Whether `x` is channels-last, or some neighboring channels of a channels-last tensor."""
    if x.dim() != 4 or x.is_contiguous():
        return False
    height, width, pixel = x.shape[2], x.shape[3], x.stride(3)
    return x.stride() == (height * width * pixel, 1, width * pixel, pixel)


class _FakeQuantize(torch.autograd.Function):
    """Keeps nothing for the backward pass but x itself and the bounds: the codes are cheap to compute again.

    The gradients themselves have none: a second derivative is refused.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, steps: int, clamp: bool) -> Tensor:
        ctx.save_for_backward(x, lower, upper)
        ctx.steps, ctx.clamp = steps, clamp
        grid = _Grid.between(lower, upper, steps, clamp)
        return _from_rows(kernel(_forward, x)(_to_rows(x, x, lower), grid), x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, lower, upper = ctx.saved_tensors
        grid = _Grid.between(lower, upper, ctx.steps, ctx.clamp)
        rows = _to_rows(grads[0], x, lower), _to_rows(x, x, lower), grid
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return _from_rows(kernel(_straight_through, x)(*rows), x), None, None, None, None
        to_x, to_lower, to_upper = kernel(_backward, x)(*rows)
        return _from_rows(to_x, x), to_lower.view_as(lower), to_upper.view_as(upper), None, None


def fake_quantize_steps(x: Tensor, lower: Tensor, upper: Tensor, steps: int, clamp: bool = True) -> Tensor:
    """Quantize `x` to `steps` + 1 levels between two bounds and return it in real values.

    The grid is the multiples of (upper − lower) / steps, so zero is a level whenever the bounds enclose it, and
    the outermost levels can miss their bound by half a step (section 2). `x` is of any shape, each bound a
    one-element tensor or N×1×1×1, one for each image. The result has the shape and dtype of `x`; bounds and
    codes are computed in float32 (float64 if `x` is), under autocast too. `clamp=False` leaves out the clamp
    of the codes, as the released code does: bounds that are exactly symmetric then give one level more.
    Gradients reach `x` (straight through), `lower` and `upper` (closed form of section 2).
    """
    precision = torch.promote_types(x.dtype, torch.float32)
    bounds = []
    for name, bound in (("lower", lower), ("upper", upper)):
        if bound.numel() == 1:
            bound = bound.reshape(())
        elif bound.shape != (x.shape[0], *[1] * (x.dim() - 1)):
            shape = "×".join(map(str, bound.shape))
            raise ValueError(f"{name} has shape {shape}, expected one element or N×1×1×1, one for each image.")
        bounds.append(bound.to(precision))
    if not x.is_floating_point():
        raise ValueError(f"x is of type {x.dtype}, expected a floating-point tensor.")
    lower, upper = (bound.contiguous() for bound in torch.broadcast_tensors(*bounds))
    return _FakeQuantize.apply(x, lower, upper, steps, clamp)


def fake_quantize(x: Tensor, lower: Tensor, upper: Tensor, bits: int, clamp: bool = True) -> Tensor:
    """Quantize `x` to 2^bits levels between two bounds: `fake_quantize_steps` with 2^bits − 1 steps.

    Raises `ValueError` unless `bits` is 2 to 8.
    """
    check_bits(bits)
    return fake_quantize_steps(x, lower, upper, 2**bits - 1, clamp)


def integer_codes(x: Tensor, lower: Tensor, upper: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Codes 0…steps of `x` and the offset that maps them back: x̂ = (code + offset) · (upper − lower) / steps.

    Same shapes as `fake_quantize_steps`; both results are float tensors that hold whole numbers.
    """
    lower, upper = separate(lower, upper)
    inverse_step = steps / (upper - lower)
    offset = torch.round(inverse_step * lower)
    clipped = torch.minimum(torch.maximum(x, lower), upper)
    return (torch.round(inverse_step * clipped) - offset).clamp(0, steps), offset


def percentile(x: Tensor, percent: float) -> Tensor:
    """The given percentile of all of `x` as a 0-d tensor, linearly interpolated like numpy's; no gradient.

    `torch.quantile` sorts everything and refuses large tensors; the tail beyond the percentile is enough.
    Raises `ValueError` unless `percent` is 0 to 100.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percentile is {percent!r}, expected 0 to 100.")
    if not x.numel():
        raise ValueError("An empty tensor has no percentile.")
    flat = x.detach().flatten()
    rank = percent / 100 * (flat.numel() - 1)
    from_top = percent >= 50
    distance = flat.numel() - 1 - rank if from_top else rank
    nearest = int(distance)
    count = min(nearest + 2, flat.numel())
    tail = torch.topk(flat, count, largest=from_top).values
    inner = tail[count - 1]
    return torch.lerp(tail[nearest], inner, distance - nearest)


# Compiling the two kernels fuses about twenty passes over memory into one. It is switched by a context, not by an
# argument, because it concerns the machine and not the method.
_compile_enabled = False

# Smaller tensors (weights of one layer, a gate's inside) gain nothing, and each new kind costs a compilation.
SMALLEST_COMPILED = 2**16
# A kernel is compiled for each combination of shapes, memory format and kind of bounds; past PyTorch's limit of 8 it
# would run eagerly.
RECOMPILE_LIMIT = 64


@contextmanager
def compiled(enabled: bool = True) -> Iterator[None]:
    """Inside this context the quantizers run as fused kernels, made by `torch.compile` at their first use.

    Without a working compiler for the device they run eagerly instead, and one logged line says so.
    """
    global _compile_enabled
    before = _compile_enabled
    _compile_enabled = enabled
    limit = torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT) if enabled else nullcontext()
    try:
        with limit:
            yield
    finally:
        _compile_enabled = before


def kernel(function: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """`function`, or inside `compiled` and for a large tensor `x` its fused version, which computes the same."""
    if not (_compile_enabled and x.numel() >= SMALLEST_COMPILED and _compiler_works(x.device.type)):
        return function
    # A GPU's backward pass has a thread of its own, which `compiled` does not reach.
    torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
    return _compiled_kernel(function)


@functools.cache
def _compiled_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


@functools.cache
def _compiler_works(device: str) -> bool:
    try:
        torch.compile(lambda x: x + 1, dynamic=True)(torch.zeros(2, device=device))
    except Exception as error:  # whatever the toolchain raises, the eager kernels compute the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logger.warning("The quantizers run eagerly, because torch.compile does not work here: %s", reason)
        return False
    return True
