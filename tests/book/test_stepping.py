"""Sums to step through: what is marked is what is summed, by buttons and by keys, and the page never moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_components import desk, layout, show  # noqa: F401

from ddtb_lite.book.stepping import Step, stepper, weighted_sum

ROW = np.array([[3, 5, 7]])
STEPS = [
    Step({"row": [(0, x), (0, x + 1)]}, [(0, x)], weighted_sum(ROW[0, x : x + 2], (-1, 2)), (-1, 2)) for x in (0, 1)
]


def figure(steps: list[Step] = STEPS) -> str:
    return stepper("sum", {"row": ROW}, ("result", np.array([[7, 9]])), steps, "Two numbers.").data


def marked(page: Any, kind: str) -> list[tuple[str, str | None]]:
    return [(each.text_content(), each.get_attribute("data-weight")) for each in page.query_selector_all(f"i.{kind}")]


def test_a_sum_is_written_as_by_hand() -> None:
    assert weighted_sum((3, 5), (-1, 2)) == "−1·3 + 2·5 = 7"
    assert weighted_sum((3, 5), (2, -1)) == "2·3 − 1·5 = 1"
    assert weighted_sum((64, 192), (111, -9), 128) == "(111·64 − 9·192) / 128 = 42"


def test_steps_mark_what_is_read_and_what_is_made(show: Any) -> None:  # noqa: F811
    page = show("<p>above</p>" + figure())
    before = layout(page)
    assert page.inner_text("output") == "−1·3 + 2·5 = 7"
    assert marked(page, "read") == [("3", "−1"), ("5", "2")]
    assert marked(page, "made") == [("7", None)] and marked(page, "later") == [("9", None)]
    page.click("text=step")
    assert page.inner_text("output") == "−1·5 + 2·7 = 9"
    assert marked(page, "read") == [("5", "−1"), ("7", "2")]
    assert marked(page, "made") == [("9", None)] and not marked(page, "later")
    assert page.is_disabled("text=step")
    page.click("text=back")
    assert marked(page, "made") == [("7", None)]
    assert layout(page) == before and page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_keys_step(desk: Any) -> None:  # noqa: F811
    page = desk(figure())
    page.focus("input")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("input", "aria-valuetext") == "2 of 2: −1·5 + 2·7 = 9"
    page.keyboard.press("Home")
    assert page.inner_text("output") == "−1·3 + 2·5 = 7"


def test_without_scripts_all_numbers_are_there(browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(figure())
    assert [each.inner_text() for each in page.query_selector_all(".grid i")] == ["3", "5", "7", "7", "9"]
    assert page.inner_text("output") == "−1·3 + 2·5 = 7" and not page.is_visible("button")
    context.close()


def test_steps_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no cell \(0, 3\) in 1×3"):
        figure([Step({"row": [(0, 3)]}, [(0, 0)], "")])
    with pytest.raises(ValueError, match="1 weights for 2 cells"):
        figure([Step({"row": [(0, 0), (0, 1)]}, [(0, 0)], "", (1,))])
