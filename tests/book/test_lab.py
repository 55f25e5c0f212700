"""The quantizer lab: the same bits as in Python, bounds where the methods put them, and two handles to drag."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_components import CHECKS, HEAD, desk, drag, layout, show  # noqa: F401
from torch import Tensor

from ddtb_lite import uniform
from ddtb_lite.book.lab import Sample, descend, quantizer_lab, sample, starting_bounds, weight_bounds, weight_sample
from ddtb_lite.networks import ActivationPoint
from ddtb_lite.quantizers import METHODS

UI = Path(__file__).resolve().parents[2] / "book" / "engine" / "ui"
STEPS = (2, 3, 6, 7, 14, 15, 255)


def activation(seed: int = 0, count: int = 3000) -> Tensor:
    """Numbers with a long tail, both signs, and many zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1, 1, count, generator=generator).exp() - 1.5
    return torch.where(torch.rand(x.shape, generator=generator) < 0.2, 0, x)


def random_cases(steps: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values count×8, and bounds of each row: ordinary, narrow, crossed, symmetric, and of all magnitudes."""
    generator = torch.Generator().manual_seed(steps)
    scale = 10 ** (6 * torch.rand(count, 1, generator=generator) - 3)
    lower, upper = (scale * torch.randn(count, 1, generator=generator) for _ in range(2))
    kind = torch.randint(5, (count, 1), generator=generator)
    lower = torch.where(kind == 0, -upper, torch.where(kind == 1, upper - 1e-4 * scale, lower))
    x = 2 * scale * torch.randn(count, 8, generator=generator)
    ties = (torch.randint(-4, 5, (count, 8), generator=generator) + 0.5) * (upper - lower) / steps
    return torch.where(kind == 2, ties, torch.where(kind == 3, torch.cat([lower, upper] * 4, dim=1), x)), lower, upper


def test_the_page_rounds_as_python_does_to_the_bit(browser: Any) -> None:
    page = browser.new_page()
    for script in (CHECKS, UI / "quantizer.js"):
        page.add_script_tag(path=script)
    for steps in STEPS:
        count = 10_000 // len(STEPS) + 1
        x, lower, upper = random_cases(steps, count)
        expected = uniform.fake_quantize_steps(x, lower, upper, steps)
        rows = base64.b64encode(torch.cat([lower, upper, x], dim=1).numpy().tobytes()).decode()
        got = page.evaluate("components.quantized", [rows, steps])
        bits = np.frombuffer(base64.b64decode(got), np.uint32).reshape(count, 8)
        assert np.array_equal(bits, expected.numpy().view(np.uint32)), f"{steps} steps"
    page.close()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_starting_bounds_are_those_of_the_methods(bits: int, nonnegative: bool) -> None:
    x = activation().clamp(min=0) if nonnegative else activation()
    bounds = starting_bounds(x, bits, nonnegative)
    names = {"min–max": "minmax", "percentiles 1, 99": "ddtb", "PAMS": "pams", "PACT": "pact", "LSQ": "lsq"}
    assert list(bounds) == list(names)
    for title, (lower, upper, steps) in bounds.items():
        point = ActivationPoint("x", 1, nonnegative=nonnegative)
        quantizer = METHODS[names[title]].activation(bits, point, "paper").eval()
        quantizer.initialize(x, 99)
        with torch.no_grad():
            expected = quantizer(x)
        got = uniform.fake_quantize_steps(x, torch.tensor(lower), torch.tensor(upper), steps)
        assert torch.allclose(got, expected, rtol=1e-6, atol=1e-7), title


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bounds_of_weights_are_those_of_the_methods(bits: int) -> None:
    weight = activation(5).view(20, 10, 5, 3) / 30
    names = {"min–max": "minmax", "percentiles 1, 99": "ddtb", "PAMS": "pams", "LSQ": "lsq", "DDTB": "ddtb"}
    bounds = weight_bounds(weight, bits)
    assert list(bounds) == list(names)
    for title, (lower, upper, steps) in bounds.items():
        quantizer = METHODS[names[title]].weight(bits).eval()
        quantizer.initialize(weight)
        with torch.no_grad():
            expected = quantizer(weight)
        got = uniform.fake_quantize_steps(weight, torch.tensor(lower), torch.tensor(upper), steps)
        assert torch.allclose(got, expected, rtol=1e-6, atol=1e-7), title


def test_descent_ends_with_less_error() -> None:
    x = activation()
    path = descend(x, 2, steps=120, every=4)
    assert [step for step, _, _ in path] == list(range(0, 121, 4))
    error = [
        (uniform.fake_quantize(x, torch.tensor(lower), torch.tensor(upper), 2) - x).square().mean().item()
        for _, lower, upper in (path[0], path[-1])
    ]
    assert error[1] < 0.9 * error[0]


def test_a_sample_keeps_the_extremes() -> None:
    x = activation(count=50_000)
    kept = sample("x", x, bits=(2,))
    assert kept.values.dtype == np.float32 and kept.values.size == 4000
    assert (kept.values.min(), kept.values.max()) == (x.min().item(), x.max().item())
    assert np.isin(kept.values, x.numpy()).all()
    _, *end = kept.paths[2]["DDTB"][-1]
    assert kept.bounds[2]["DDTB"] == (*end, 3)


@cache
def two_samples() -> list[Sample]:
    relu = activation(1).clamp(min=0)
    made = []
    for label, x, nonnegative in (("both signs", activation(), False), ("behind a ReLU", relu, True)):
        paths = {bits: {"DDTB": descend(x, bits, steps=40)} for bits in (2, 4)}
        made.append(Sample(label, x.flatten().numpy(), {b: starting_bounds(x, b, nonnegative) for b in (2, 4)}, paths))
    return made


def told(page: Any) -> dict[str, str]:
    names = ("lower", "upper", "levels", "error", "clipped")
    return {name: page.inner_text(f"[data-part={name}]").replace("−", "-") for name in names}


def expected(values: np.ndarray, lower: float, upper: float, steps: int) -> dict[str, str]:
    x = torch.from_numpy(values)
    quantized = uniform.fake_quantize_steps(x, torch.tensor(lower), torch.tensor(upper), steps)
    error = (quantized - x).double().square().mean() / x.double().var(correction=0)
    # Bounds are compared in float32 where they come from, and in float64 where they are counted.
    clipped = ((x.double() < lower) | (x.double() > upper)).double().mean()
    return {
        "levels": f"{(quantized + 0.0).unique().numel()} of {steps + 1}",
        "error": f"{100 * error:.1f} %",
        "clipped": f"{100 * clipped:.1f} %",
    }


def test_every_method_button_tells_what_python_computes(desk: Any) -> None:  # noqa: F811
    samples = two_samples()
    page = desk(quantizer_lab("lab", samples, "Two samples.").data)
    assert page.is_hidden("figure > img") and page.is_visible(".controls")
    before = layout(page)
    for index, each in enumerate(samples):
        page.select_option("select", str(index))
        for bits, methods in each.bounds.items():
            page.click(f"[data-bits='{bits}']")
            for method, bounds in methods.items():
                page.click(f"[data-method='{method}']")
                numbers = told(page)
                assert float(numbers.pop("lower")) == pytest.approx(bounds[0], rel=0.006)
                assert float(numbers.pop("upper")) == pytest.approx(bounds[1], rel=0.006)
                assert numbers == expected(each.values, *bounds), (each.label, bits, method)
                assert page.get_attribute(f"[data-method='{method}']", "aria-pressed") == "true"
    assert layout(page) == before


def test_both_bounds_are_dragged(show: Any) -> None:  # noqa: F811
    page = show("<p>above</p>" + quantizer_lab("lab", two_samples()[:1], "One sample.").data)
    before = layout(page)
    for finger in {False, page.evaluate("navigator.maxTouchPoints > 0")}:
        page.click("[data-method='min–max']")
        for name, way in (("upper", -1), ("lower", 1)):
            old = told(page)
            handle = page.query_selector(f".bound.{name}")
            drag(page, handle, (0.5, 0.6), (0.5 + way * 1.5, 0.7), finger)
            new = told(page)
            assert way * (float(new[name]) - float(old[name])) > 0 and new["error"] != old["error"]
            assert float(handle.get_attribute("aria-valuenow")) == pytest.approx(float(new[name]), rel=0.01, abs=0.01)
        assert page.get_attribute("[data-method='min–max']", "aria-pressed") == "false"
    assert layout(page) == before


def test_bounds_move_by_keys_and_never_cross(desk: Any) -> None:  # noqa: F811
    page = desk(quantizer_lab("lab", two_samples()[:1], "One sample.").data)
    for name, key, way in (("lower", "ArrowRight", 1), ("upper", "PageDown", -1), ("upper", "ArrowUp", 1)):
        page.focus(f".bound.{name}")
        old = float(told(page)[name])
        page.keyboard.press(key)
        assert way * (float(told(page)[name]) - old) > 0
    page.focus(".bound.lower")
    page.keyboard.press("End")
    numbers = told(page)
    assert float(numbers["lower"]) < float(numbers["upper"])


def test_training_is_replayed(desk: Any) -> None:  # noqa: F811
    (first, *_) = two_samples()
    page = desk(quantizer_lab("lab", [first], "One sample.").data)
    path = first.paths[2]["DDTB"]
    page.focus("[data-part=walk]")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("[data-part=step]") == f"step {path[1][0]}"
    assert float(told(page)["upper"]) == pytest.approx(path[1][2], rel=0.006)
    page.click("[data-part=play]")  # motion is reduced here: straight to the end
    assert page.inner_text("[data-part=step]") == f"step {path[-1][0]}"
    assert float(told(page)["lower"]) == pytest.approx(path[-1][1], rel=0.006)
    page.emulate_media(reduced_motion="no-preference")
    page.evaluate("globalThis.seen = components.watch(document.querySelector('[data-part=step]'))")
    page.click("[data-part=play]")
    page.wait_for_function("document.querySelector('[data-part=play]').textContent === 'play'")
    seen = page.evaluate("seen")  # a slow machine leaves out frames, but none comes twice or too early
    every = [f"step {step}" for step, _, _ in path]
    assert len(seen) > 2 and seen[-1] == every[-1] and seen == [step for step in every if step in seen]


def test_weights_have_no_training_and_fewer_methods(show: Any) -> None:  # noqa: F811
    samples = [*two_samples()[:1], weight_sample("weights", activation(2), (2, 4))]
    page = show(quantizer_lab("lab", samples, "Two.").data)
    before = layout(page)
    page.select_option("select", "1")
    assert page.is_disabled("[data-method='PACT']") and page.is_enabled("[data-method='LSQ']")
    assert page.is_disabled("[data-part=play]") and page.is_disabled("[data-part=walk]")
    page.click("[data-method='PAMS']")
    assert told(page)["levels"].endswith("of 3")
    page.select_option("select", "0")
    assert page.is_enabled("[data-method='PACT']") and page.is_enabled("[data-part=play]")
    assert layout(page) == before


def mapped() -> Sample:
    """A sample with two paths, one of them on a ray."""
    x = activation(3)
    ray = [(step, -2.0 - step / 50, 1.0 + step / 100) for step in range(0, 41, 4)]
    paths = {bits: {"DDTB": descend(x, bits, steps=40), "LSQ": ray} for bits in (2, 4)}
    return Sample("both", x.flatten().numpy(), {bits: starting_bounds(x, bits) for bits in (2, 4)}, paths)


def shade(page: Any, lower: float, upper: float) -> int:
    """The grey of the map at a pair of bounds."""
    return page.evaluate(
        """([x, y]) => {
        const canvas = document.querySelector("[data-part=map] canvas"), { width, height } = canvas;
        return canvas.getContext("2d").getImageData(Math.floor(x * width), Math.floor(y * height), 1, 1).data[0];
    }""",
        [1 - lower / domain(page)[0], 1 - upper / domain(page)[1]],
    )


def domain(page: Any) -> list[float]:
    return [float(page.get_attribute(".bound.lower", f"aria-value{end}")) for end in ("min", "max")]


def test_the_error_map_is_walked_on(show: Any) -> None:  # noqa: F811
    page = show("<p>above</p>" + quantizer_lab("lab", [mapped()], "A map.", error_map=True).data)
    before, ground = layout(page), page.query_selector("[data-part=map] .ground")
    lowest, highest = domain(page)
    for finger in {False, page.evaluate("navigator.maxTouchPoints > 0")}:
        drag(page, ground, (0.9, 0.9), (0.5, 0.25), finger)
        numbers = told(page)
        assert float(numbers["lower"]) == pytest.approx(lowest / 2, rel=0.03)
        assert float(numbers["upper"]) == pytest.approx(0.75 * highest, rel=0.03)
        want = expected(mapped().values, *(float(numbers.pop(name)) for name in ("lower", "upper")), 3)
        assert float(numbers["error"][:-1]) == pytest.approx(float(want["error"][:-1]), rel=0.05)
        assert numbers["error"].replace("-", "−") in ground.get_attribute("aria-label")
    ground.focus()
    for key, name, way in (("ArrowLeft", "lower", -1), ("ArrowUp", "upper", 1), ("Shift+ArrowRight", "lower", 1)):
        old = float(told(page)[name])
        page.keyboard.press(key)
        assert way * (float(told(page)[name]) - old) > 0
    assert layout(page) == before


def test_the_error_map_is_dark_where_the_error_is_small(desk: Any) -> None:  # noqa: F811
    page = desk(quantizer_lab("lab", [mapped()], "A map.", error_map=True).data)
    lowest, highest = domain(page)
    x = torch.from_numpy(mapped().values)
    for bits in (2, 4):
        page.click(f"[data-bits='{bits}']")
        points = [(lowest * a, highest * b) for a in (0.1, 0.3, 0.6, 0.9) for b in (0.1, 0.3, 0.6, 0.9)]
        errors = [
            (uniform.fake_quantize(x, torch.tensor(a), torch.tensor(b), bits) - x).square().mean().item()
            for a, b in points
        ]
        shades = [shade(page, a, b) for a, b in points]
        ranks = [np.argsort(np.argsort(each, kind="stable"), kind="stable") for each in (errors, shades)]
        assert np.corrcoef(*ranks)[0, 1] > 0.9


def test_one_of_several_trainings_is_replayed(desk: Any) -> None:  # noqa: F811
    page = desk(quantizer_lab("lab", [mapped()], "A map.", error_map=True).data)
    path = mapped().paths[2]
    assert page.locator("[data-part=map] line.only").count() == 1  # what stays on a ray says so
    for method in ("LSQ", "DDTB"):
        page.click(f"[data-path='{method}']")
        assert float(told(page)["upper"]) == pytest.approx(path[method][0][2], rel=0.006)
        page.click("[data-part=play]")
        assert float(told(page)["upper"]) == pytest.approx(path[method][-1][2], rel=0.006)
        at_rest = page.locator("[data-part=map] li", has_text=method).inner_text()
        assert at_rest == f"{method} rests at {told(page)['error']}"


def test_without_scripts_there_is_a_picture(browser: Any, tmp_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    (tmp_path / "page.html").write_text(HEAD + quantizer_lab("lab", two_samples(), "Two.").data, encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    assert page.is_visible("figure > img") and "both signs" in page.get_attribute("figure > img", "alt")
    assert page.is_hidden(".controls")
    context.close()
