"""Figures, explorers and checks: what the notebooks draw and print."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ddtb_lite.book import figures
from ddtb_lite.book.explorers import Frame, explorer, swipe
from ddtb_lite.book.notebook import check

matplotlib.use("Agg")

NASTY = """<b>"5 < 6" & 'so' on</b></script>"""


def picture(seed: int = 0, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def drawing(seed: int = 0) -> Figure:
    with figures.style():
        figure, place = plt.subplots(figsize=(2, 1.5))
        place.plot(np.random.default_rng(seed).random(5), label="data")
        place.legend()
    return figure


@pytest.fixture(autouse=True)
def _no_figures_left() -> object:
    yield
    plt.close("all")


def test_dots_stand_at_their_numbers_from_top_to_bottom() -> None:
    (place,) = figures.dots({"bicubic": 28.9, "2 bits, DDTB": 29.7, "full precision": 30.45}, "PSNR [dB]").axes
    at = [tuple(float(each[0]) for each in line.get_data()) for line in place.lines]
    assert at == [(30.45, 0), (29.7, 1), (28.9, 2)]
    assert [label.get_text() for label in place.get_yticklabels()] == ["full precision", "2 bits, DDTB", "bicubic"]
    assert [each.get_text() for each in place.texts] == ["30.45", "29.70", "28.90"]
    named = ("full precision", "ddtb", "bicubic")
    assert [line.get_color() for line in place.lines] == [figures.COLORS[each] for each in named]


# --------------------------------------------------------------------------------------------- checks


def test_check_prints_a_constant_line(capsys: pytest.CaptureFixture[str]) -> None:
    for got in (3.0, 2.91, 3.099):
        check("PSNR", got, 3, 0.1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and set(lines) == {"✓ check PSNR: 3 ± 0.1"}


def test_check_includes_its_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    check("exact", 0.25, 0.25, 0)
    check("edge", 1.5, 1, 0.5)
    assert capsys.readouterr().out.count("✓") == 2


def test_check_of_a_condition(capsys: pytest.CaptureFixture[str]) -> None:
    for condition in (True, np.bool_(True), torch.tensor(True)):
        check("2 < 3", condition)
    assert set(capsys.readouterr().out.splitlines()) == {"✓ check 2 < 3"}
    for condition in (False, np.bool_(False), torch.tensor(False)):
        with pytest.raises(AssertionError, match="check 3 < 2, but it does not hold"):
            check("3 < 2", condition)


@pytest.mark.parametrize("got", [2.89, 3.11, math.nan, math.inf, -math.inf])
def test_check_raises(got: float, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match=rf"check PSNR: 3 ± 0\.1, but got {got:g}"):
        check("PSNR", got, 3, 0.1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("want", "tolerance"), [(math.nan, 0.1), (3, math.nan)])
def test_check_that_could_never_fail(want: float, tolerance: float) -> None:
    with pytest.raises(AssertionError):
        check("PSNR", 3, want, tolerance)


# -------------------------------------------------------------------------------------------- figures


def test_pictures() -> None:
    images = {f"image {index}": picture(index) for index in range(5)}
    row = figures.pictures(images)
    assert isinstance(row, Figure) and len(row.axes) == 5
    assert [place.get_title() for place in row.axes] == list(images)
    for place, image in zip(row.axes, images.values(), strict=True):
        (shown,) = place.get_images()
        assert np.array_equal(shown.get_array(), image) and shown.get_interpolation() == "nearest"
        assert not place.axison
    grid = figures.pictures(images, columns=3)
    assert len(grid.axes) == 6 and grid.axes[5].get_title() == "" and not grid.axes[5].axison
    grey = figures.pictures({"grey": np.full((4, 4), 100, np.uint8)})
    assert grey.axes[0].get_images()[0].get_clim() == (0, 255)  # not stretched to what it contains


def test_photo_with_crops() -> None:
    photo = picture(0, 40, 60)
    versions = {f"version {index}": picture(index, 40, 60) for index in range(4)}
    figure = figures.photo_with_crops(photo, (10, 20, 8), versions)
    assert isinstance(figure, Figure) and len(figure.axes) == 5
    whole, *crops = figure.axes
    assert np.array_equal(whole.get_images()[0].get_array(), photo)
    (frame,) = whole.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((20, 10), 8, 8)
    for place, (caption, image) in zip(crops, versions.items(), strict=True):
        assert place.get_title() == caption
        assert np.array_equal(place.get_images()[0].get_array(), image[10:18, 20:28])
    assert len(figures.photo_with_crops(photo, (0, 0, 8), {"one": photo}).axes) == 2


def test_activation_histogram() -> None:
    figure, place = plt.subplots()
    values = np.concatenate([np.full(30, -1.0), np.full(70, 3.0)]).reshape(10, 10)
    figures.activation_histogram(place, values, -0.5, 2.0, levels=(-0.5, 0.0, 1.0))
    assert sum(bar.get_height() for bar in place.patches) == 100 and place.get_yscale() == "log"
    lines = [(line.get_xdata()[0], line.get_color()) for line in place.lines]
    levels, lower, upper = lines[:3], lines[3], lines[4]
    assert [x for x, _ in levels] == [-0.5, 0.0, 1.0]
    assert (lower, upper) == ((-0.5, figures.COLORS["lower"]), (2.0, figures.COLORS["upper"]))
    assert [line.get_label() for line in place.lines[3:]] == ["lower bound -0.5", "upper bound 2.0"]
    _, bare = plt.subplots()
    figures.activation_histogram(bare, values)
    assert len(bare.lines) == 0


def test_a_forest_shows_every_run_its_mean_and_what_is_printed() -> None:
    _, place = plt.subplots()
    rows = [figures.Row("A", [1.0, 2.0, 3.0], printed=1.5), figures.Row("B", [4.0])]
    figures.forest(place, {"2 bits": rows, "3 bits": [figures.Row("C", [9.0, 9.4], printed=0.5)]}, limit=5)
    bar, mean, runs, printed, single, beyond = (line.get_xydata().tolist() for line in place.lines)
    assert bar == [[1, 1], [3, 1]] and mean == [[2, 1]] and runs == [[1, 1], [2, 1], [3, 1]]
    assert printed == [[1.5, 1]] and single == [[4, 2]] and beyond[0][0] == 0.5, "the last row's runs are off the axis"
    assert [text.get_text() for text in place.texts] == ["2 bits", "3 bits", "9.2 →"]
    assert [label.get_text() for label in place.get_yticklabels()] == ["A", "B", "C"]
    assert place.get_xlim()[1] == 5 and place.get_ylim()[0] > place.get_ylim()[1]


def test_style_is_left_behind() -> None:
    before = dict(matplotlib.rcParams)
    with pytest.raises(RuntimeError), figures.style():
        assert matplotlib.rcParams["axes.grid"] is True
        raise RuntimeError
    assert dict(matplotlib.rcParams) == before


def test_every_color_is_a_color() -> None:
    assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in figures.COLORS.values())


# ------------------------------------------------------------------------------------------ explorers


class Page(HTMLParser):
    """The elements of a piece of HTML, each with its attributes and text, and a check that all are closed."""

    VOID = ("img", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes), []))
        if tag not in self.VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.elements[self.open[-1]][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]

    def one(self, tag: str) -> tuple[dict[str, str | None], str]:
        (found,) = self.all(tag)
        return found


def decoded(source: str | None) -> tuple[str, bytes]:
    match = re.fullmatch(r"data:image/([a-z+]+);base64,([A-Za-z0-9+/=]+)", source or "")
    assert match
    return match[1], base64.b64decode(match[2], validate=True)


def data_in(script: str, identifier: str) -> list[list[str]]:
    """What a figure's script is called with, as a browser would parse it."""
    before = f"(document.getElementById('{identifier}'), "
    return json.JSONDecoder().raw_decode(script, script.index(before) + len(before))[0]


def test_explorer_holds_every_frame() -> None:
    images = [picture(seed) for seed in range(3)]
    frames = [Frame(f"{index} bits", f"what {index} bits do", image) for index, image in enumerate(images)]
    page = Page(explorer("bit-widths", "bit-width", frames, "How bits look.").data)
    assert page.one("figure")[0] == {"class": "ddtb explorer", "id": "bit-widths"}
    assert page.one("figcaption")[1] == "How bits look."
    image, slider = page.one("img")[0], page.one("input")[0]
    assert image["alt"] == "what 0 bits do"
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "2", "0")
    assert slider["aria-valuetext"] == "0 bits"
    assert page.one("label")[1] == "bit-width"
    assert page.one("output")[1] == "0 bits: what 0 bits do"
    assert len(page.all("i")) == 3
    stored = data_in(page.one("script")[1], "bit-widths")
    assert [row[1:] for row in stored] == [[frame.label, frame.text] for frame in frames]
    assert stored[0][0] == image["src"]
    for (source, _, _), original in zip(stored, images, strict=True):
        kind, data = decoded(source)
        shown = np.asarray(Image.open(io.BytesIO(data)))
        assert kind == "jpeg" and shown.shape == original.shape
        assert np.abs(shown.astype(int) - original).mean() < 12


def test_explorer_draws_figures_as_vectors_and_closes_them() -> None:
    result = explorer("lines", "seed", [Frame(str(seed), "a line", drawing(seed)) for seed in range(2)], "Lines.")
    sources = [row[0] for row in data_in(Page(result.data).one("script")[1], "lines")]
    for source in sources:
        kind, data = decoded(source)
        assert kind == "svg+xml" and b"<svg" in data and b"<dc:date>" not in data
    assert sources[0] != sources[1]
    assert plt.get_fignums() == []


def test_the_same_input_gives_the_same_bytes() -> None:
    def results() -> list[str]:
        frames = [Frame("drawn", "a line", drawing()), Frame("photo", "noise", picture())]
        return [
            explorer("x", "kind", frames, "Two kinds.").data,
            swipe("y", {"old": picture(1), "new": picture(2)}, "Two.").data,
        ]

    assert results() == results()


def test_explorer_escapes_what_it_is_given() -> None:
    frames = [Frame(NASTY, NASTY, picture()), Frame(f"2{NASTY}", NASTY, picture(1))]
    page = Page(explorer("nasty", NASTY, frames, NASTY).data)
    assert {name for name, _, _ in page.elements} == {
        "figure", "img", "label", "input", "div", "i", "span", "output", "figcaption", "style", "script",
    }  # fmt: skip
    assert page.one("img")[0]["alt"] == page.one("figcaption")[1] == page.one("label")[1] == NASTY
    assert page.one("input")[0]["aria-valuetext"] == NASTY
    assert page.one("output")[1] == f"{NASTY}: {NASTY}"
    assert [row[1:] for row in data_in(page.one("script")[1], "nasty")] == [[NASTY, NASTY], [f"2{NASTY}", NASTY]]


def test_a_script_cannot_be_swallowed_by_a_comment() -> None:
    """After "<!--<script>" a browser no longer ends the script at its end tag."""
    result = explorer("x", "slider", [Frame("<!--<script>", "text", picture())], "caption")
    script = Page(result.data).one("script")[1]
    assert "<!--" not in script
    assert data_in(script, "x")[0][1] == "<!--<script>"


def test_swipe() -> None:
    before, after = picture(1), picture(2)
    page = Page(swipe("compare", {NASTY: before, "after": after}, NASTY).data)
    assert page.one("figure")[0] == {"class": "ddtb swipe", "id": "compare"}
    images = [attributes for attributes, _ in page.all("img")]
    assert [(each["class"], each["alt"]) for each in images] == [("before", NASTY), ("after", "after")]
    for each, original in zip(images, (before, after), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(decoded(each["src"])[1])))
        assert shown.shape == original.shape and np.abs(shown.astype(int) - original).mean() < 12
        assert (each["width"], each["height"]) == ("16", "12")
    slider = page.one("input")[0]
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "100", "50")
    assert slider["aria-label"]
    assert [text for attributes, text in page.all("span")] == [NASTY, "after"]
    assert page.one("figcaption")[1] == NASTY
    assert not page.all("select")


def test_swipe_between_any_two_of_several() -> None:
    versions = {label: picture(seed) for seed, label in enumerate(("bicubic", NASTY, "full precision"))}
    page = Page(swipe("compare", versions, "Three.").data)
    assert [attributes["alt"] for attributes, _ in page.all("img")] == ["bicubic", "full precision"]
    assert [attributes["class"] for attributes, _ in page.all("select")] == ["before", "after"]
    options = page.all("option")
    assert [text for _, text in options] == [*versions, *versions]
    assert [index for index, (attributes, _) in enumerate(options) if "selected" in attributes] == [0, 5]
    assert [label for label, _ in data_in(page.one("script")[1], "compare")] == list(versions)


def test_swipe_needs_one_size() -> None:
    for versions in ({"a": picture(), "b": picture()[:, :8]}, {"a": picture()}, {}):
        with pytest.raises(ValueError, match=r"expected two or more of one shape"):
            swipe("x", versions, "c")


@pytest.mark.parametrize("identifier", ["", "A", "1a", "a b", "a'", 'a"', "a_b", "-a", "a\n"])
def test_identifiers(identifier: str) -> None:
    with pytest.raises(ValueError, match="identifier is .*, expected lower-case letters, digits and hyphens"):
        explorer(identifier, "s", [Frame("a", "b", picture())], "c")
    with pytest.raises(ValueError, match="identifier is"):
        swipe(identifier, {"a": picture(), "b": picture()}, "c")
