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
from string import Template
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
    rows = [(data_url(frame.picture), frame.label, frame.text) for frame in frames]
    width, height = max(map(_size, (frame.picture for frame in frames)), key=lambda size: size[1] / size[0])
    texts = [html.escape(f"{label}: {text}") for _, label, text in rows]
    body = template(
        "explorer",
        source=rows[0][0],
        label=html.escape(rows[0][1]),
        text=html.escape(rows[0][2]),
        kind="pixels" if isinstance(frames[0].picture, np.ndarray) else "drawing",
        width=f"{width:g}",
        height=f"{height:g}",
        slider=html.escape(slider),
        last=len(rows) - 1,
        last_label=html.escape(rows[-1][1]),
        ticks="<i></i>" * len(rows),
        texts="".join(f"<span>{text}</span>" for text in texts),
    )
    return component(("explorer",), identifier, body, caption, rows)


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
    labels, addresses = [html.escape(label) for label in sources], list(sources.values())
    before, after = shown
    menus = _menu("before", labels, before) + _menu("after", labels, after)
    return template(
        "swipe",
        width=width,
        height=height,
        before=addresses[before],
        before_label=labels[before],
        after=addresses[after],
        after_label=labels[after],
        menus=f'<div class="sides">{menus}</div>' if len(labels) > 2 else "",
    )


def _menu(side: str, labels: Sequence[str], chosen: int) -> str:
    """A menu of versions for one side, "before" or "after" the line."""
    options = "".join(
        f'<option value="{index}"{" selected" if index == chosen else ""}>{label}</option>'
        for index, label in enumerate(labels)
    )
    place = "left" if side == "before" else "right"
    return f'<select class="{side}" aria-label="{place} of the curtain">{options}</select>'


def buttons(kind: str, labels: Mapping[Any, str], pressed: Any = None) -> str:
    """A row of buttons, one of them pressed: the texts by what each puts into its `data-<kind>`."""
    return "".join(
        f'<button type="button" data-{kind}="{html.escape(str(key))}" aria-pressed="{str(key == pressed).lower()}">'
        f"{html.escape(text)}</button>"
        for key, text in labels.items()
    )


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
        f'<figure class="ddtb {parts[-1]}" id="{identifier}">\n{body}{said}</figure>\n'
        f"<style>\n{styles}</style>\n<script>(() => {{\n{scripts}{call}\n}})();</script>"
    )


def template(name: str, **fields: object) -> str:
    """The HTML of a component, with its fields filled in: text that is escaped already, addresses, and HTML."""
    return Template(_code(f"{name}.html")).substitute(fields)


def _code(name: str) -> str:
    """A file of `book/engine/ui`, a checkout's, else the installed copy; nothing for a part without a style."""
    checkout = resources.repository()
    file = (resources.data("ui") if checkout is None else checkout / "book" / "engine" / "ui") / name
    return "" if file.suffix == ".css" and not file.exists() else file.read_text(encoding="utf-8")


def _size(picture: Figure | np.ndarray) -> tuple[float, float]:
    """(width, height), an image's in pixels, a figure's in points."""
    if isinstance(picture, Figure):
        return tuple(72 * picture.get_size_inches())
    return picture.shape[1], picture.shape[0]


def _for_script(data: str) -> str:
    """JSON that neither ends the script element it stands in nor opens a comment there."""
    return data.replace("<", "\\u003c")


def data_url(picture: Figure | np.ndarray, exact: bool = False) -> str:
    """A picture inside its own address: a figure as vector graphics, an image as JPEG of high quality.

    `exact` says PNG: for an image all of its pixels, for a figure the smaller file.
    """
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        kind = "png" if exact else "svg+xml"
        # No date and fixed identifiers, so that the same figure gives the same text.
        with plt.rc_context({"svg.hashsalt": "ddtb_lite", "svg.fonttype": "path"}):
            metadata = {"Software": None} if exact else {"Date": None}
            picture.savefig(buffer, format=kind.removesuffix("+xml"), metadata=metadata)
        plt.close(picture)
    elif exact:
        kind = "png"
        Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        Image.fromarray(picture).save(buffer, format="JPEG", quality=92, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
