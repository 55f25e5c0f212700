"""What readers touch, in a browser: moved by mouse, finger and keys, without moving the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE
from matplotlib import pyplot as plt

from ddtb_lite.book.explorers import Frame, explorer, swipe

CHECKS = Path(__file__).with_name("component_checks.js")
HEAD = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
SIZES = {"desk": {"viewport": {"width": 1280, "height": 900}}, "phone": {"viewport": {"width": 390, "height": 844}}}


@contextmanager
def tab(browser: Any, file: Path, size: str) -> Iterator[Any]:
    """A function that opens HTML in a tab, from `file`, and returns its page; what goes wrong there is an error."""
    problems: list[str] = []
    context = browser.new_context(**SIZES[size], has_touch=size == "phone", reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(path=CHECKS)
    page = context.new_page()
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or problems.append(r.url))

    def show(html: str) -> Any:
        file.write_text(f'{HEAD}{html}<p id="end">.</p>', encoding="utf-8")
        page.goto(file.as_uri())
        return page

    yield show
    context.close()
    assert not problems


@pytest.fixture(params=SIZES)
def show(request: Any, browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Shows HTML on a desk and on a phone, for what depends on room and finger."""
    with tab(browser, tmp_path / "page.html", request.param) as show:
        yield show


@pytest.fixture
def desk(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Shows HTML on a desk."""
    with tab(browser, tmp_path / "page.html", "desk") as show:
        yield show


def noise(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def drag(page: Any, element: Any, start: tuple[float, float], end: tuple[float, float], finger: bool) -> None:
    """From `start` to `end`, both as fractions of the element's box, by mouse or by finger."""
    box = element.bounding_box()
    across, down = (np.linspace(start[axis], end[axis], 6) for axis in (0, 1))
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in zip(across, down, strict=True)]
    if finger:
        client = page.context.new_cdp_session(page)
        for i, (x, y) in enumerate(points):
            touch = {"type": "touchMove" if i else "touchStart", "touchPoints": [{"x": x, "y": y}]}
            client.send("Input.dispatchTouchEvent", touch)
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    else:
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def layout(page: Any) -> Any:
    return page.evaluate("components.layout()")


def position(page: Any) -> float:
    line, cut = page.evaluate("components.curtain()")
    assert line == pytest.approx(cut, abs=1)
    return line


def versions(count: int) -> dict[str, np.ndarray]:
    return {f"version {index}": noise(index) for index in range(count)}


def test_a_curtain_is_dragged_on_the_picture(show: Any) -> None:
    page = show("<p>above</p>" + swipe("curtain", versions(2), "Two.").data)
    stage, before = page.query_selector(".stage"), layout(page)
    assert position(page) == pytest.approx(50, abs=0.5)
    for finger in (False, page.evaluate("navigator.maxTouchPoints > 0")):
        drag(page, stage, (0.5, 0.3), (0.2, 0.4), finger)
        assert position(page) == pytest.approx(20, abs=1)
        drag(page, stage, (0.9, 0.5), (1.2, 0.5), finger)  # also past the picture's edge
        assert position(page) == pytest.approx(100, abs=1)
    page.mouse.move(0, 0)
    assert position(page) == pytest.approx(100, abs=1), "the line follows a mouse whose button is up"
    assert layout(page) == before


def test_a_curtain_is_moved_by_keys(desk: Any) -> None:
    page = desk(swipe("curtain", versions(2), "Two.").data)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.stage input[type=range]')")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert position(page) == pytest.approx(55, abs=0.5)
    page.keyboard.press("Home")
    assert position(page) == pytest.approx(0, abs=0.5)
    assert page.get_attribute(".stage input", "aria-valuetext") == "0 %, left of it version 0, right of it version 1"


def test_the_curtains_menus_choose_any_two(desk: Any) -> None:
    page = desk(swipe("curtain", versions(3), "Three.").data)
    before = layout(page)
    source = page.get_attribute("img.after", "src")
    page.select_option("select.after", label="version 1")
    assert page.get_attribute("img.after", "alt") == page.inner_text(".tag.after") == "version 1"
    assert page.get_attribute("img.after", "src") not in (source, page.get_attribute("img.before", "src"))
    page.select_option("select.before", label="version 2")
    assert page.get_attribute("img.before", "src") == source
    assert layout(page) == before


def test_enlarged_pixels_stay_squares(show: Any) -> None:
    page = show(swipe("curtain", versions(2), "Two.").data)
    for picture in page.query_selector_all(".stage img"):
        assert picture.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
        shown = picture.bounding_box()
        assert shown["width"] / shown["height"] == pytest.approx(80 / 60, abs=0.01)
        assert page.viewport_size["width"] < 600 or shown["width"] % 80 == 0


def test_an_explorer_never_moves_the_page(show: Any) -> None:
    frames = []
    for index, height in enumerate((2, 3, 1)):
        figure, _ = plt.subplots(figsize=(5, height))
        frames.append(Frame(f"{index} bits", "much is said of it " * (1 + 9 * index), figure))
    page = show(explorer("frames", "bits", frames, "Three frames.").data)
    before, said = layout(page), set()
    page.keyboard.press("Tab")
    for _ in frames:
        said.add((page.inner_text("output"), page.get_attribute("img", "src")))
        assert layout(page) == before
        page.keyboard.press("ArrowRight")
    assert len(said) == 3
    slider, ticks = page.query_selector("input").bounding_box(), page.query_selector_all(".ticks i")
    places = [tick.bounding_box()["x"] for tick in ticks]
    assert len(places) == 3 and slider["x"] < places[0] < places[1] < places[2] < slider["x"] + slider["width"]
