"""Bounds that learn, as a page plays them: the pushes are the quantizer's, and nothing moves unasked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_components import desk, layout, show  # noqa: F401
from test_lab import activation

from ddtb_lite import uniform
from ddtb_lite.book.lab import descend, some
from ddtb_lite.book.resting import push, trembling

STEPS = 40


def figure() -> str:
    return trembling("rest", activation(), 2, "Two bounds.", STEPS).data


def test_pushes_are_those_of_the_formula() -> None:
    """Written out here: clipped values pull their bound, rounding errors pull both, in opposite directions."""
    x, lower, upper = some(activation()), -1.3, 2.1
    error = uniform.fake_quantize(x, torch.tensor(lower), torch.tensor(upper), 2)
    slope = 2 * (error - x) / x.numel()
    e = (error - x.clamp(lower, upper)) / (upper - lower)
    wanted = -(slope * ((x < lower).float() - e)).sum(), -(slope * ((x > upper).float() + e)).sum()
    assert push(x, lower, upper, 2) == pytest.approx([each.item() for each in wanted], rel=1e-4)


def test_it_waits_where_motion_is_reduced_and_plays_when_asked(show: Any) -> None:  # noqa: F811
    page = show(figure())
    before = layout(page)
    assert page.is_hidden("figure > img") and page.inner_text("[data-part=step]") == f"step {STEPS}"
    page.wait_for_timeout(400)
    assert page.inner_text("[data-part=step]") == f"step {STEPS}"
    page.click("[data-part=play]")
    page.wait_for_function("document.querySelector('[data-part=step]').textContent === 'step 3'")
    page.click("[data-part=play]")
    stopped = page.inner_text("[data-part=step]")
    page.wait_for_timeout(400)
    assert page.inner_text("[data-part=step]") == stopped and layout(page) == before


def test_the_slider_tells_bounds_and_levels_of_its_step(desk: Any) -> None:  # noqa: F811
    page, path = desk(figure()), descend(activation(), 2, STEPS, every=1)
    page.focus("[data-part=walk]")
    page.keyboard.press("Home")
    for step in (0, 1):
        _, lower, upper = path[step]
        lowest = round(3 * lower / (upper - lower))
        assert float(page.inner_text("[data-part=lower]").replace("−", "-")) == pytest.approx(lower, abs=0.06)
        assert page.inner_text("[data-part=levels]").replace("−", "-") == f"{lowest} … {lowest + 3}"
        page.keyboard.press("ArrowRight")
    page.emulate_media(reduced_motion="no-preference")
    page.reload()  # now it begins by itself
    page.wait_for_function("document.querySelector('[data-part=step]').textContent === 'step 2'")


def test_without_scripts_there_is_a_picture(browser: Any, tmp_path: Any) -> None:
    file = tmp_path / "page.html"
    file.write_text(figure(), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.is_visible("figure > img") and page.is_hidden(".controls")
    context.close()
