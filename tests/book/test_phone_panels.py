"""On a phone the panels of a figure stand below each other; a figure of one panel stays as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from ddtb_lite.book import figures

BOOK = Path(__file__).resolve().parents[2] / "book"
sys.path.insert(0, str(BOOK / "extensions"))
phone_panels = pytest.importorskip("phone_panels")


def three(**options: Any) -> Figure:
    figure, places = plt.subplots(1, 3, figsize=(9, 3), **options)
    for place in places:
        place.plot([1, 2, 3], label="line")
        place.set(xlabel="x", ylabel="y", title="panel")
    return figure


def with_legend() -> Figure:
    figure = three()
    figure.suptitle("a heading that is longer than one of the three panels below it")
    handles, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(3 * handles, ["a line of each panel", "another", "a third"], loc="outside lower center", ncols=3)
    return figure


def with_names() -> Figure:
    figure, places = plt.subplots(1, 3, figsize=(9, 3), sharey=True)
    places[0].set_yticks([0, 1], ["a name of some length", "another name"])
    return figure


def alone() -> Figure:
    figure, place = plt.subplots(figsize=(9, 3))
    place.plot(np.arange(9), "o")
    place.spines["left"].set_visible(False)
    return figure


@pytest.mark.parametrize(
    ("draw", "expected"), [(three, 3), (with_legend, 5), (with_names, 0), (alone, 0), (lambda: plt.figure(), 0)]
)
def test_panels_are_found_where_there_are_gutters(draw: Callable[[], Figure], expected: int, tmp_path: Path) -> None:
    with figures.style():
        figure = draw()
        figure.savefig(tmp_path / "figure.png")
        width, height = (figure.get_size_inches() * figure.dpi).astype(int)
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        plt.close(figure)
    found = phone_panels.panels(tmp_path / "figure.png")
    assert len(found) == expected
    columns = [part for part in found if part[3] - part[1] > height / 2]
    for (left, top, right, bottom), box in zip(columns, boxes if columns else [], strict=True):
        assert left <= box.x0 and box.x1 <= right and top <= height - box.y1 and height - box.y0 <= bottom
        assert right - left < width / 2


def test_a_stack_shows_each_part_at_its_place(tmp_path: Path) -> None:
    with figures.style():
        figure = three()
        (tmp_path / "_images").mkdir()
        figure.savefig(tmp_path / "_images/figure.png")
        plt.close(figure)
    image = '<p><img alt="three lines" src="../_images/figure.png" /></p>'
    (tmp_path / "page").mkdir()
    shown = phone_panels.stacked(image, tmp_path / "page")
    assert image[3:-4] in shown and shown.count('src="../_images/figure.png"') == 4
    assert phone_panels.stacked(shown[:0], tmp_path) == ""


def test_a_column_that_ends_early_is_cut_short(tmp_path: Path) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(8, 4), dpi=100)
    for place in axes.flat:
        place.plot([0, 1], [0, 1])
    axes[1, 1].remove()
    figure.savefig(tmp_path / "figure.png", dpi=100)
    plt.close(figure)
    (_, top, _, long), (*_, short) = phone_panels.panels(tmp_path / "figure.png")
    assert top == 0 and long == 400 and 150 < short < 250


@pytest.mark.parametrize(("inches", "moves"), [(6.5, False), (9, True)])
def test_a_wide_panel_keeps_a_size_that_can_be_read(inches: float, moves: bool, tmp_path: Path) -> None:
    figure = plt.figure(figsize=(inches, 2), dpi=100)
    figure.add_subplot().plot([0, 1], [0, 1])
    (tmp_path / "_images").mkdir()
    figure.savefig(tmp_path / "_images/figure.png", dpi=100)
    plt.close(figure)
    image = '<img alt="a line" src="_images/figure.png" />'
    shown = phone_panels.stacked(image, tmp_path)
    assert ("--readable: 558px" in shown) == moves and (shown == image) == (not moves)


def test_on_a_phone_a_wide_panel_scrolls_and_the_page_does_not(built: Path, browser: Any) -> None:
    file = next(path for path in sorted(built.rglob("*.html")) if 'class="scrolling"' in path.read_text("utf-8"))
    for width, scrolls in ((1280, False), (390, True)):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(file.as_uri())
        place = page.locator(".scrolling").first
        assert place.evaluate("place => place.scrollWidth > place.clientWidth + 50") == scrolls
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.close()


def test_on_a_phone_the_stack_replaces_the_figure(built: Path, browser: Any) -> None:
    file = next(path for path in sorted(built.rglob("*.html")) if 'class="stacked"' in path.read_text(encoding="utf-8"))
    for width, wide, narrow in ((1280, True, False), (390, False, True)):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(file.as_uri())
        assert page.locator(".side-by-side").first.is_visible() == wide
        assert page.locator(".stacked").first.is_visible() == narrow
        parts = page.locator(".stacked").first.locator("span")
        if narrow:
            assert all(150 < part.bounding_box()["width"] <= 390 for part in parts.all())
        page.close()
