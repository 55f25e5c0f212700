"""Panels that stand side by side on a wide screen stand below each other on a phone, where they would be too small.

A figure of several panels is one picture. Where white gutters run through it from top to bottom, a narrow screen shows
the pieces between them one after the other: the same file, each time another part of it. A wide picture in one piece
keeps a size at which it can be read, and is moved by a finger.
"""

from __future__ import annotations

import os
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# All in pixels, of figures at 110 dots an inch. Narrower pictures fit a phone, and higher ones compare row by row.
WIDE, ASPECT = 560, 1.4
# From this width on a single panel is too small on a phone; there it gets this share of its width.
WIDER, READABLE = 750, 0.62
# Narrower gaps lie inside a panel. A heading or a legend has few lines of text, and no rule as an axis has.
GUTTER, LINES, RULE = 7, 60, 0.4
# A piece this thin is no panel but an axis' numbers, at the left of what they count. A first panel wider than the next
# by this has names at its left, without which the others could not be read; and panels are of about one width.
THIN, NAMES, SHARE = 60, 60, 0.5
# Panels narrower than this stand in pairs.
HALF = 260
# A panel with less than this share of its height in use is cut short.
FILLED = 0.7
WHITE = 250
IMAGE = re.compile(r'<img [^>]*?src="([^"]*_images/[^"]+\.png)"[^>]*>')

Box = tuple[int, int, int, int]  # left, top, right, bottom


@cache
def panels(file: Path) -> list[Box]:
    """The panels of a picture, and a heading or a legend that lies across them; none if it has no gutters."""
    picture = Image.open(file).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    inked = (np.asarray(page.convert("RGB")) < WHITE).any(-1)
    height, width = inked.shape
    if width < max(WIDE, ASPECT * height):
        return []
    for first, last in _bands(inked):
        if len(found := _columns(inked[first:last])) > 1:
            lines = [_trimmed(inked, top, bottom) for top, bottom in ((0, first), (last, height)) if top < bottom]
            parts = [(left, first, right, _end(inked[first:last, left:right]) + first) for left, right in found]
            return [*lines[: first > 0], *parts, *lines[first > 0 :]]
    return []


def _bands(inked: np.ndarray) -> list[tuple[int, int]]:
    """The picture from top to bottom, then without a heading, without a legend below it, without both."""
    rows = np.flatnonzero(inked.any(1))
    gaps = np.flatnonzero(np.diff(rows) > GUTTER)
    top, bottom = 0, len(inked)
    if len(gaps) and _is_text(inked[rows[0] : (end := int(rows[gaps[0]]) + 1)]):
        top = end
    if len(gaps) and _is_text(inked[(begin := int(rows[gaps[-1] + 1])) : rows[-1] + 1]):
        bottom = begin
    return [(first, last) for first in dict.fromkeys((0, top)) for last in dict.fromkeys((len(inked), bottom))]


def _is_text(inked: np.ndarray) -> bool:
    return len(inked) < LINES and inked.mean(1).max() < RULE


def _columns(inked: np.ndarray) -> list[tuple[int, int]]:
    columns = np.flatnonzero(inked.any(0))
    ends = np.flatnonzero(np.diff(columns) > GUTTER)
    cuts = [0, *(int(columns[end] + columns[end + 1]) // 2 for end in ends), inked.shape[1]]
    thick = [right - left for left, right in pairwise(cuts) if right - left >= THIN]
    if len(thick) < 2 or thick[0] - thick[1] > NAMES or min(thick) < SHARE * max(thick):
        return []
    begins = [0, *(right for left, right in pairwise(cuts) if right - left >= THIN)]
    # What is left at the end, such as a scale of colours, has one neighbour only.
    return list(pairwise([*begins[:-1], inked.shape[1]]))


def _end(inked: np.ndarray) -> int:
    """Where a panel ends: early, if the place below it is empty, which in other panels is not."""
    end = int(np.flatnonzero(inked.any(1))[-1]) + GUTTER
    return end if end < FILLED * len(inked) else len(inked)


def _trimmed(inked: np.ndarray, top: int, bottom: int) -> Box:
    columns = np.flatnonzero(inked[top:bottom].any(0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def stacked(page: str, folder: Path) -> str:
    """The HTML of a page in `folder`, with a stack of panels after each picture that has several; others may scroll."""

    def with_stack(match: re.Match[str]) -> str:
        file = Path(os.path.normpath(folder / match[1]))
        across = Image.open(file).width
        if not (found := panels(file)):
            readable = f'<span class="scrolling" style="--readable: {READABLE * across:.0f}px">{match[0]}</span>'
            return readable if across > WIDER else match[0]
        pieces = ""
        for number, (left, top, right, bottom) in enumerate(found, 1):
            width = right - left
            place = f"width: {100 * across / width:.2f}%; left: {-100 * left / width:.2f}%"
            # A percentage of a margin is one of the width, also at the top.
            place += f"; margin-top: {-100 * top / width:.2f}%"
            image = f'<img src="{match[1]}" alt="part {number} of {len(found)}" style="{place}">'
            kind = ' class="half"' if width < HALF else ""
            pieces += f'<span{kind} style="aspect-ratio: {width} / {bottom - top}">{image}</span>'
        return f'<span class="side-by-side">{match[0]}</span><span class="stacked">{pieces}</span>'

    return IMAGE.sub(with_stack, page)


def _stack(app: Any, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    for file in Path(app.outdir).rglob("*.html"):
        page = file.read_text(encoding="utf-8")
        # A page that was not built again has its stacks already.
        if not re.search('class="(stacked|scrolling)"', page) and (narrow := stacked(page, file.parent)) != page:
            file.write_text(narrow, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _stack)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
