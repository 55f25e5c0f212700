"""Interaction that needs no kernel: frames computed beforehand, and a slider that chooses among them.

A widget on a static page moves its slider while its result stays. These figures hold every answer that their
slider can ask for. The first frame is visible without scripts; keyboard and touch work.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ..support import resources


@dataclass(frozen=True)
class Frame:
    """One position of a slider: its label, a sentence that says what is to be seen, and the picture."""

    label: str
    text: str
    picture: Figure | np.ndarray


def explorer(identifier: str, slider: str, frames: Sequence[Frame], caption: str) -> HTML:
    """A figure whose slider, named `slider`, goes through `frames`; `identifier` is unique on its page."""
    sources = [data_url(frame.picture) for frame in frames]
    rows = [[source, frame.label, frame.text] for source, frame in zip(sources, frames, strict=True)]
    width, height = max(map(_size, (frame.picture for frame in frames)), key=lambda size: size[1] / size[0])
    pixels = ' class="pixels"' if isinstance(frames[0].picture, np.ndarray) else ""
    _, label, text = (html.escape(part) for part in rows[0])
    spans = "".join(f"<span>{html.escape(label)}: {html.escape(text)}</span>" for _, label, text in rows)
    return component(
        ("explorer",),
        identifier,
        f'<img src="{sources[0]}" alt="{text}"{pixels} style="--width:{width:g};aspect-ratio:{width:g}/{height:g}">'
        f'<label>{html.escape(slider)}<input type="range" min="0" max="{len(rows) - 1}" value="0" '
        f'aria-valuetext="{label}"></label>'
        f'<div class="ticks" aria-hidden="true">{"<i></i>" * len(rows)}</div>'
        f'<div class="ends" aria-hidden="true"><span>{label}</span><span>{html.escape(rows[-1][1])}</span></div>'
        f'<div class="texts"><output>{label}: {text}</output>{spans}</div>',
        caption,
        rows,
    )


def swipe(identifier: str, versions: Mapping[str, np.ndarray], caption: str) -> HTML:
    """Pictures of one scene, uint8 and of one size, by label; a curtain between two of them is dragged on the picture.

    At first these are the first version, on the left, and the last; if there are more, menus choose any two.
    """
    if len(versions) < 2 or len({version.shape for version in versions.values()}) > 1:
        shapes = ", ".join(str(version.shape) for version in versions.values())
        raise ValueError(f"The images are {shapes or 'none'}, expected two or more of one shape.")
    sources = {label: data_url(version) for label, version in versions.items()}
    height, width = next(iter(versions.values())).shape[:2]
    body = curtain(sources, width, height, (0, len(sources) - 1))
    return component(("swipe",), identifier, body, caption, list(sources.items()))


def curtain(sources: Mapping[str, str], width: int, height: int, shown: tuple[int, int]) -> str:
    """What a curtain is dragged on: two of the pictures, given by label and address, one upon the other."""
    labels = [html.escape(label) for label in sources]
    addresses = list(sources.values())
    sides = list(zip(("before", "after"), shown, strict=True))
    pictures = "".join(
        f'<img class="{side}" src="{addresses[index]}" alt="{labels[index]}" width="{width}" height="{height}">'
        for side, index in sides
    )
    tags = "".join(f'<span class="tag {side}" aria-hidden="true">{labels[index]}</span>' for side, index in sides)
    menus = "".join(_menu(side, labels, index) for side, index in sides)
    return (
        f'<div class="stage" style="--width:{width};--position:50%">{pictures}'
        '<input type="range" min="0" max="100" step="any" value="50" aria-label="position of the curtain">'
        f'<div class="line"></div>{tags}</div>' + (f'<div class="sides">{menus}</div>' if len(labels) > 2 else "")
    )


def _menu(side: str, labels: Sequence[str], chosen: int) -> str:
    """A menu of versions for one side, "before" or "after" the line."""
    options = "".join(
        f'<option value="{index}"{" selected" if index == chosen else ""}>{label}</option>'
        for index, label in enumerate(labels)
    )
    place = "left" if side == "before" else "right"
    return f'<select class="{side}" aria-label="{place} of the curtain">{options}</select>'


def component(parts: Sequence[str], identifier: str, body: str, caption: str, data: Any) -> HTML:
    """A figure that brings along all that it needs, so that it lives in any notebook.

    `parts` are files of `book/engine/ui`. The last one names the figure's class and the script's function, which gets
    the figure's element and the data. ValueError for an `identifier` that is none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", identifier):
        raise ValueError(f"identifier is {identifier!r}, expected lower-case letters, digits and hyphens.")
    styles = "".join(_code(f"{part}.css") for part in ("panel", *parts))
    scripts = "".join(_code(f"{part}.js") for part in parts)
    call = f"{parts[-1]}(document.getElementById('{identifier}'), {_for_script(json.dumps(data))});"
    said = f"<figcaption>{html.escape(caption)}</figcaption>"
    return HTML(
        f'<figure class="ddtb {parts[-1]}" id="{identifier}">{body}{said}</figure>'
        f"<style>\n{styles}</style><script>(() => {{\n{scripts}{call}\n}})();</script>"
    )


def _code(name: str) -> str:
    """A file of `book/engine/ui`, a checkout's, else the installed copy; nothing for a part without a style."""
    checkout = resources.repository()
    file = (resources.data("ui") if checkout is None else checkout / "book" / "engine" / "ui") / name
    return file.read_text(encoding="utf-8") if file.exists() or file.suffix == ".js" else ""


def _size(picture: Figure | np.ndarray) -> tuple[float, float]:
    """(width, height), an image's in pixels, a figure's in points."""
    if isinstance(picture, Figure):
        return tuple(72 * picture.get_size_inches())
    return picture.shape[1], picture.shape[0]


def _for_script(data: str) -> str:
    """JSON that neither ends the script element it stands in nor opens a comment there."""
    return data.replace("<", "\\u003c")


def data_url(picture: Figure | np.ndarray, exact: bool = False) -> str:
    """A figure as vector graphics, an image as JPEG of high quality or, `exact`, as PNG; inside the address itself."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        # No date and fixed identifiers, so that the same figure gives the same text.
        with plt.rc_context({"svg.hashsalt": "ddtb_lite", "svg.fonttype": "path"}):
            picture.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(picture)
        kind = "svg+xml"
    elif exact:
        Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
        kind = "png"
    else:
        Image.fromarray(picture).save(buffer, format="JPEG", quality=92, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
