"""The uniform quantizer against a slow reference, plain autograd, and hand-computed values."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddtb_lite import uniform
from ddtb_lite.uniform import fake_quantize, fake_quantize_steps, integer_codes, percentile, separate

ALL_BITS = range(2, 9)


def reference(x: float, lower: float, upper: float, steps: int, clamp: bool) -> float:
    """One number, in Python's own float64 arithmetic; its `round` is half-to-even."""
    inverse_step = steps / (upper - lower)
    lowest = round(inverse_step * lower)
    code = round(inverse_step * min(max(x, lower), upper))
    if clamp:
        code = min(max(code, lowest), lowest + steps)
    return code / inverse_step


def rounded(x: Tensor) -> Tensor:
    """Rounding with the straight-through gradient."""
    return x + (torch.round(x) - x).detach()


def official(x: Tensor, lower: Tensor, upper: Tensor, bits: int) -> Tensor:
    """Section 2, operation by operation, differentiated by autograd."""
    clipped = torch.where(x > upper, upper, torch.where(x < lower, lower, x))
    s = (2**bits - 1) / (upper - lower)
    z = rounded(s * lower) + 2 ** (bits - 1)
    q = rounded(s * clipped - z)
    return (q + z) / s


def random_bounds(generator: torch.Generator, cases: int) -> tuple[Tensor, Tensor]:
    """Bounds of any sign and order of magnitude, as N×1×1×1."""
    shape = (cases, 1, 1, 1)
    size = 10 ** (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 2)
    center = torch.randn(shape, generator=generator, dtype=torch.float64) * size
    return center - size, center + size * torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_random_cases_equal_the_slow_reference(bits: int, clamp: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    lower, upper = random_bounds(generator, 720)  # × 7 bit-widths × 2 = 10,080 cases
    x = lower + (upper - lower) * (3 * torch.rand(720, 3, 1, 2, generator=generator, dtype=torch.float64) - 1)
    result = fake_quantize(x, lower, upper, bits, clamp)
    assert result.dtype == torch.float64
    for image, low, high, got in zip(x, lower.flatten(), upper.flatten(), result, strict=True):
        bounds = low.item(), high.item()
        expected = [reference(value, *bounds, 2**bits - 1, clamp) for value in image.flatten().tolist()]
        assert got.flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_exact_halves_round_to_even(bits: int) -> None:
    """Steps that are powers of two and inputs at multiples of half a step: every other input is a tie."""
    steps = 2**bits - 1
    for step, offset in ((1.0, 0.0), (0.25, -3.0), (2.0, -5.5), (0.5, -steps / 2)):
        lower, upper = step * offset, step * (offset + steps)
        x = torch.arange(-4, 2 * steps + 5) / 2 * step + lower
        for clamp in (True, False):
            result = fake_quantize(x, torch.tensor(lower), torch.tensor(upper), bits, clamp)
            assert result.tolist() == [reference(value, lower, upper, steps, clamp) for value in x.tolist()]


def test_halves_by_hand() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, 3.5])
    result = fake_quantize(x, torch.tensor(0.0), torch.tensor(3.0), 2)
    assert result.tolist() == [0, 2, 2, 0, 3]


@pytest.mark.parametrize(("bits", "levels"), [(2, 5), (3, 9), (4, 17)])
def test_symmetric_bounds_have_one_level_too_many_without_the_clamp(bits: int, levels: int) -> None:
    x = torch.linspace(-12, 12, 4001)
    bounds = torch.tensor(-10.0), torch.tensor(10.0)
    unclamped = fake_quantize(x, *bounds, bits, clamp=False).unique()
    assert len(unclamped) == levels
    torch.testing.assert_close(unclamped, -unclamped.flip(0))
    assert len(fake_quantize(x, *bounds, bits).unique()) == 2**bits


@pytest.mark.parametrize("bits", ALL_BITS)
def test_levels_are_multiples_of_the_step_and_hold_zero(bits: int) -> None:
    lower, upper = torch.tensor(-1.37, dtype=torch.float64), torch.tensor(2.91, dtype=torch.float64)
    levels = fake_quantize(torch.linspace(-3, 5, 20001, dtype=torch.float64), lower, upper, bits).unique()
    assert len(levels) == 2**bits and (levels == 0).any()
    codes = levels * (2**bits - 1) / (upper - lower)
    torch.testing.assert_close(codes, codes.round())


# ------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_gradients_equal_autograd_of_the_official_operations(bits: int, per_image: bool, clamp: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    lower, upper = random_bounds(generator, 6 if per_image else 1)
    x = lower + (upper - lower) * (2 * torch.rand(6, 4, 5, 3, generator=generator, dtype=torch.float64) - 0.5)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    inputs = [tensor.clone().requires_grad_() for tensor in (x, lower, upper)]
    expected = torch.autograd.grad((official(*inputs, bits) * weight).sum(), inputs)
    result = fake_quantize(*inputs, bits, clamp)
    torch.testing.assert_close(result, official(*inputs, bits), rtol=1e-12, atol=1e-12)
    for got, want in zip(torch.autograd.grad((result * weight).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("bounds", [(-10.0, 10.0), (-1.37, 2.91), (0.0, 4.0), (-3.0, -1.0)])
def test_gradients_equal_the_closed_form(bounds: tuple[float, float], clamp: bool) -> None:
    """Section 2 in numpy, symmetric ties included: e = (x̂ − x̄) / (upper − lower)."""
    low, high = bounds
    x = np.linspace(low - 3, high + 3, 501)
    gradient = np.random.default_rng(0).standard_normal(x.shape)
    quantized = np.array([reference(value, low, high, 7, clamp) for value in x])
    error = (quantized - np.clip(x, low, high)) / (high - low)
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (x, low, high)]
    to_x, to_lower, to_upper = torch.autograd.grad(fake_quantize(*inputs, 3, clamp), inputs, torch.from_numpy(gradient))
    np.testing.assert_array_equal(to_x.numpy(), np.where((x < low) | (x > high), 0, gradient))
    assert to_upper.item() == pytest.approx((gradient * ((x > high) + error)).sum(), rel=1e-10)
    assert to_lower.item() == pytest.approx((gradient * ((x < low) - error)).sum(), rel=1e-10)


def test_gradients_equal_finite_differences_where_rounding_stands_still() -> None:
    """Straight through means: the rounding error stays what it is, in steps, while the bounds move.

    Beyond the bounds nothing depends on x; with one bound at zero the other one is a level itself, and so the
    true derivative exists. In between, the rounding errors are frozen by hand.
    """
    x = torch.tensor([-4.0, -1.1, -0.3, 0.41, 1.9, 7.0], dtype=torch.float64)
    low, high, delta, steps = -2.03, 3.11, 1e-6, 15

    def double(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, requires_grad=True)

    def clip(low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    scaled = clip(low, high) * steps / (high - low)
    frozen = scaled.round() - scaled

    def surrogate(low: float, high: float) -> Tensor:
        return clip(low, high) + frozen * (high - low) / steps

    for index in range(len(x)):
        inputs = [double(x[index].item()), double(low), double(high)]
        to_x, to_lower, to_upper = torch.autograd.grad(fake_quantize(*inputs, 4).sum(), inputs)
        by_upper = (surrogate(low, high + delta) - surrogate(low, high - delta))[index] / (2 * delta)
        by_lower = (surrogate(low + delta, high) - surrogate(low - delta, high))[index] / (2 * delta)
        assert to_upper.item() == pytest.approx(by_upper.item(), abs=1e-8)
        assert to_lower.item() == pytest.approx(by_lower.item(), abs=1e-8)
        assert to_x.item() == (1 if low < x[index] < high else 0)

    for bounds, outside, which in (((0.0, 3.0), 5.0, 2), ((-3.0, 0.0), -5.0, 1)):
        moved = []
        for sign in (1, -1):
            shifted = [outside, *bounds]
            shifted[which] += sign * delta
            moved.append(fake_quantize(*map(double, shifted), 4).item())
        inputs = [double(value) for value in (outside, *bounds)]
        gradients = torch.autograd.grad(fake_quantize(*inputs, 4).sum(), inputs)
        assert gradients[which].item() == pytest.approx((moved[0] - moved[1]) / (2 * delta), abs=1e-8)
        assert gradients[0].item() == 0


def test_a_scalar_bound_beside_a_per_image_one_gets_the_sum() -> None:
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    lower = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).view(3, 1, 1, 1).requires_grad_()
    together = torch.autograd.grad(fake_quantize(x, lower, upper, 3).sum(), [lower, upper])
    apart = [
        torch.autograd.grad(fake_quantize(image, lower, high.flatten(), 3).sum(), [lower, upper])
        for image, high in zip(x, upper, strict=True)
    ]
    torch.testing.assert_close(together[0], sum(gradient[0] for gradient in apart))
    torch.testing.assert_close(together[1], sum(gradient[1] for gradient in apart))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_any_one_element_bound_is_a_scalar(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, 3, 2, 2)
    lower = torch.full(shape, -1.0, requires_grad=True)
    upper = torch.full(shape, 1.5, requires_grad=True)
    result = fake_quantize(x, lower, upper, 2)
    result.sum().backward()
    assert lower.grad is not None and lower.grad.shape == shape
    torch.testing.assert_close(result, fake_quantize(x, torch.tensor(-1.0), torch.tensor(1.5), 2))


def test_per_image_bounds_equal_one_image_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    lower, upper = (bound.float() for bound in random_bounds(generator, 4))
    x = torch.randn(4, 3, 5, 7, generator=generator) * 10
    result = fake_quantize(x, lower, upper, 4)
    for index in range(4):
        alone = fake_quantize(x[index : index + 1], lower[index], upper[index], 4)
        assert torch.equal(result[index : index + 1], alone)


@pytest.mark.parametrize("bound_shape", [(), (2, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_some_channels_of_a_channels_last_tensor_are_read_as_they_lie(
    dtype: torch.dtype, bound_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a copy, and with the results of one, to the bit."""
    whole = (torch.randn(2, 7, 5, 6) * 3).to(dtype).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(2, 4, 5, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    seen: list[int] = []
    kernel = uniform.kernel
    monkeypatch.setattr(
        uniform,
        "kernel",
        lambda function, x: lambda *rows: seen.append(rows[-2].data_ptr()) or kernel(function, x)(*rows),
    )
    results = []
    for part in (whole[:, 2:6], whole[:, 2:6].contiguous(memory_format=torch.channels_last)):
        x = part.detach().requires_grad_()
        bounds = [torch.full(bound_shape, value, requires_grad=True) for value in (-1.5, 2.5)]
        result = fake_quantize(x, *bounds, 3)
        assert result.is_contiguous(memory_format=torch.channels_last)
        result.backward(gradient)
        results.append([result, x.grad, *(bound.grad for bound in bounds)])
        assert seen == [x.data_ptr()] * 2
        seen.clear()
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


# ------------------------------------------------------------------------- precision, memory, compilation


def test_float32_is_float64_up_to_flipped_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_000, generator=generator) * 40
    bounds = torch.tensor(-61.3), torch.tensor(83.9)
    result = fake_quantize(x, *bounds, 4)
    exact = fake_quantize(x.double(), *bounds, 4)
    assert result.dtype == torch.float32
    assert ((result - exact).abs() > 1e-4).float().mean() < 1e-3


def test_arithmetic_is_float32_under_bf16_autocast() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    lower, upper = (torch.tensor(value, requires_grad=True) for value in (-1.0123, 1.7071))
    plain = fake_quantize(x, lower, upper, 8)
    expected = torch.autograd.grad(plain.square().sum(), [x, lower, upper])
    with torch.autocast("cpu", torch.bfloat16):
        result = fake_quantize(x, lower, upper, 8)
    assert result.dtype == torch.float32 and torch.equal(result, plain)
    gradients = torch.autograd.grad(result.square().sum(), [x, lower, upper])
    assert all(map(torch.equal, gradients, expected))


def test_bf16_input_is_quantized_in_float32() -> None:
    x = (torch.randn(2, 3, 8, 8) * 3).bfloat16().requires_grad_()
    lower, upper = (torch.tensor(value, requires_grad=True) for value in (-1.0123, 1.7071))
    result = fake_quantize(x, lower, upper, 8)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, fake_quantize(x.float(), lower, upper, 8).bfloat16())
    result.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert lower.grad is not None and lower.grad.dtype == torch.float32


@pytest.mark.parametrize("bound_shape", [(), (4, 1, 1, 1)])
def test_nothing_but_x_and_the_bounds_is_kept_for_backward(bound_shape: tuple[int, ...]) -> None:
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    lower, upper = (torch.full(bound_shape, value, requires_grad=True) for value in (-1.0, 2.0))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        fake_quantize(x, lower, upper, 2)
    large = [tensor for tensor in kept if tensor.numel() > 4]
    assert len(large) == 1 and large[0].data_ptr() == x.data_ptr()


def test_compiled_kernels_equal_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    if not uniform._compiler_works("cpu"):
        pytest.skip("torch.compile does not work here")
    monkeypatch.setattr(uniform, "SMALLEST_COMPILED", 1)
    generator = torch.Generator().manual_seed(0)
    ran: list[str] = []
    compile_kernel = uniform._compiled_kernel.__wrapped__

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        ran.append(function.__name__)
        return compile_kernel(function)

    monkeypatch.setattr(uniform, "_compiled_kernel", counting)
    with uniform.compiled():
        for bound_shape in ((), (4, 1, 1, 1)):
            x = torch.randn(4, 8, 6, 6, generator=generator, requires_grad=True)
            lower, upper = (torch.full(bound_shape, value, requires_grad=True) for value in (-1.03, 2.07))
            inputs = [x, lower, upper]
            result = fake_quantize(*inputs, 3)
            gradients = torch.autograd.grad(result.square().sum(), inputs)
            with uniform.compiled(False):
                eager = fake_quantize(*inputs, 3)
                expected = torch.autograd.grad(eager.square().sum(), inputs)
            torch.testing.assert_close(result, eager)
            for got, want in zip(gradients, expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert ran == ["_forward", "_backward"] * 2, "both kernels ran compiled, for either kind of bounds"


def test_a_second_derivative_is_refused() -> None:
    x, weight = (torch.tensor(value, requires_grad=True) for value in ([0.3, 0.7], [1.1, 0.9]))
    loss = fake_quantize(weight * x, torch.tensor(-1.0), torch.tensor(1.0), 2).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_compilation_ends_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniform, "_compiler_works", lambda device: True)
    with pytest.raises(KeyError), uniform.compiled():
        assert uniform._compile_enabled
        raise KeyError
    assert not uniform._compile_enabled


# ------------------------------------------------------------------------------------- bounds that collapse


@pytest.mark.parametrize(("low", "high"), [(3.0, 1.0), (2.0, 2.0), (0.0, 0.0), (-5.0, -5.0), (1e3, 1000.01)])
def test_separated_bounds_keep_their_middle_and_a_width(low: float, high: float) -> None:
    lower, upper = separate(torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64))
    width = max(abs(low), abs(high)) * uniform.MINIMUM_RELATIVE_WIDTH + uniform.MINIMUM_WIDTH
    assert (upper - lower).item() == pytest.approx(width, rel=1e-6)
    assert ((lower + upper) / 2).item() == pytest.approx((low + high) / 2, abs=1e-12)


def test_separation_leaves_valid_bounds_alone() -> None:
    lower, upper = torch.tensor([-3.0, 0.0, 5.0]), torch.tensor([-2.0, 1e-6, 5.1])
    separated = separate(lower, upper)
    assert torch.equal(separated[0], lower) and torch.equal(separated[1], upper)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize(("low", "high"), [(3.0, 1.0), (2.0, 2.0), (0.0, 0.0), (9e5, -1e6)])
def test_collapsed_bounds_give_finite_numbers_and_gradients(low: float, high: float, bits: int) -> None:
    x = torch.linspace(-2e6, 2e6, 41)
    lower, upper = torch.tensor(low, requires_grad=True), torch.tensor(high, requires_grad=True)
    result = fake_quantize(x, lower, upper, bits)
    assert torch.isfinite(result).all()
    middle = (low + high) / 2
    half_width = (max(abs(low), abs(high)) * uniform.MINIMUM_RELATIVE_WIDTH + uniform.MINIMUM_WIDTH) / 2
    assert (result - middle).abs().max() <= 2 * half_width
    weight = torch.where(x > middle, 1.0, 2.0)  # otherwise as many pulls up as down
    (result * weight).sum().backward()
    for bound in (lower, upper):
        assert bound.grad is not None and torch.isfinite(bound.grad) and bound.grad != 0


# -------------------------------------------------------------------------------- codes and percentiles


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 14, 255])
def test_integer_codes_reproduce_the_quantized_tensor(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    for low, high in ((-1.37, 2.91), (0.0, 1.5), (-7.3, -2.2)):
        lower, upper = torch.tensor(low), torch.tensor(high)
        x = torch.randn(500, generator=generator) * 8
        codes, offset = integer_codes(x, lower, upper, steps)
        assert torch.equal(codes, codes.round()) and torch.equal(offset, offset.round())
        assert codes.min() == 0 and codes.max() == steps
        expected = fake_quantize_steps(x, lower, upper, steps)
        torch.testing.assert_close((codes + offset) * (upper - lower) / steps, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 101, 36_864])
@pytest.mark.parametrize("percent", [0, 0.5, 1, 5, 33.3, 49.9, 50, 50.1, 95, 99, 99.9, 100])
def test_percentile_equals_numpys(size: int, percent: float) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    result = percentile(x, percent)
    assert result.shape == () and not result.requires_grad
    assert result.item() == pytest.approx(np.percentile(x.numpy(), percent), rel=1e-12, abs=1e-13)


def test_percentile_of_any_shape_with_ties() -> None:
    x = torch.randint(0, 5, (3, 4, 5, 6), generator=torch.Generator().manual_seed(0)).float().requires_grad_()
    for percent in (1, 50, 62.7, 99):
        result = percentile(x, percent)
        assert result.item() == pytest.approx(np.percentile(x.detach().numpy(), percent), rel=1e-6)


# ----------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 33, True, 2.0, "2", None])
def test_wrong_bits(bits: object) -> None:
    with pytest.raises(ValueError, match="bits is .*expected a whole number from 2 to 8"):
        fake_quantize(torch.zeros(3), torch.tensor(0.0), torch.tensor(1.0), bits)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (2, 1, 1), (2, 3, 1, 1), (3, 1, 1, 1), (0,)])
def test_wrong_bound_shape(shape: tuple[int, ...]) -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="upper has shape .*expected one element or N×1×1×1"):
        fake_quantize(x, torch.tensor(0.0), torch.ones(shape), 2)
    with pytest.raises(ValueError, match="lower has shape"):
        fake_quantize(x, torch.zeros(shape), torch.tensor(1.0), 2)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a floating-point tensor"):
        fake_quantize(torch.zeros(3, dtype=torch.uint8), torch.tensor(0.0), torch.tensor(1.0), 2)


@pytest.mark.parametrize("percent", [-1, 100.1, float("nan")])
def test_wrong_percentile(percent: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 100"):
        percentile(torch.zeros(3), percent)


def test_the_limit_of_compiled_kernels_holds_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's backward pass runs in a thread of its own, and settings may belong to a thread."""
    monkeypatch.setattr(uniform, "_compiler_works", lambda device: True)
    monkeypatch.setattr(uniform, "_compiled_kernel", lambda function: torch._dynamo.config.recompile_limit)
    seen: list[object] = []
    with uniform.compiled():
        thread = threading.Thread(target=lambda: seen.append(uniform.kernel(abs, torch.zeros(2**16))))
        thread.start()
        thread.join()
    assert seen == [uniform.RECOMPILE_LIMIT]
