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

import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image


@dataclass(frozen=True)
class Frame:
    """One position of a slider: its label, a sentence that says what is to be seen, and the picture."""

    label: str
    text: str
    picture: Figure | np.ndarray


def explorer(identifier: str, slider: str, frames: Sequence[Frame], caption: str) -> HTML:
    """A figure whose slider, named `slider`, goes through `frames`; `identifier` is unique on its page."""
    _check_identifier(identifier)
    sources = [_data_url(frame.picture) for frame in frames]
    data = json.dumps([[source, frame.label, frame.text] for source, frame in zip(sources, frames, strict=True)])
    first = frames[0]
    return HTML(
        f'<figure class="explorer" id="{identifier}">'
        f'<img src="{sources[0]}" alt="{html.escape(first.text)}">'
        f'<label>{html.escape(slider)}<input type="range" min="0" max="{len(frames) - 1}" value="0" '
        f'aria-valuetext="{html.escape(first.label)}"></label>'
        f"<output>{html.escape(first.label)}: {html.escape(first.text)}</output>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        f"<script>(() => {{ const root = document.getElementById('{identifier}'), frames = {_for_script(data)};"
        "const input = root.querySelector('input'), image = root.querySelector('img');"
        "input.addEventListener('input', () => { const [source, label, text] = frames[input.value];"
        "image.src = source; image.alt = text; input.setAttribute('aria-valuetext', label);"
        "root.querySelector('output').textContent = label + ': ' + text; }); })();</script>"
    )


def swipe(identifier: str, versions: Mapping[str, np.ndarray], caption: str) -> HTML:
    """Pictures of one scene, uint8 and of one size, by label; a slider moves the line between two of them.

    At first these are the first version, on the left, and the last; if there are more, menus choose any two.
    """
    _check_identifier(identifier)
    shapes = {version.shape for version in versions.values()}
    if len(versions) < 2 or len(shapes) > 1:
        raise ValueError(f"The images are {', '.join(map(str, shapes)) or 'none'}, expected two or more of one shape.")
    labels, sources = list(versions), [_data_url(version) for version in versions.values()]
    left, right = html.escape(labels[0]), html.escape(labels[-1])
    if len(labels) == 2:
        sides = f"left of the line: {left}; right of it: {right}"
    else:
        sides = f"left of the line: {_menu('before', labels, 0)} right of it: {_menu('after', labels, len(labels) - 1)}"
    return HTML(
        f'<figure class="swipe" id="{identifier}"><div class="stage" style="--position:50%">'
        f'<img class="before" src="{sources[0]}" alt="{left}">'
        f'<img class="after" src="{sources[-1]}" alt="{right}"></div>'
        f'<div class="sides">{sides}</div>'
        '<label><input type="range" min="0" max="100" value="50" aria-label="position of the line in percent"></label>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        f"<script>(() => {{ const root = document.getElementById('{identifier}'),"
        f"versions = {_for_script(json.dumps(list(zip(labels, sources, strict=True))))};"
        "const input = root.querySelector('input'), stage = root.querySelector('.stage');"
        "input.addEventListener('input', () => stage.style.setProperty('--position', input.value + '%'));"
        "for (const menu of root.querySelectorAll('select')) { menu.addEventListener('change', () => {"
        "const [label, source] = versions[menu.value], image = stage.querySelector('.' + menu.className);"
        "image.src = source; image.alt = label; }); }})();</script>"
    )


def _menu(side: str, labels: Sequence[str], chosen: int) -> str:
    """A menu of versions for one side, "before" or "after" the line."""
    options = "".join(
        f'<option value="{index}"{" selected" if index == chosen else ""}>{html.escape(label)}</option>'
        for index, label in enumerate(labels)
    )
    place = "left" if side == "before" else "right"
    return f'<select class="{side}" aria-label="{place} of the line">{options}</select>'


def _check_identifier(identifier: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", identifier):
        raise ValueError(f"identifier is {identifier!r}, expected lower-case letters, digits and hyphens.")


def _for_script(data: str) -> str:
    """JSON that neither ends the script element it stands in nor opens a comment there."""
    return data.replace("<", "\\u003c")


def _data_url(picture: Figure | np.ndarray) -> str:
    """A figure as vector graphics, an image as JPEG of high quality, both inside the address itself."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        # No date and fixed identifiers, so that the same figure gives the same text.
        with plt.rc_context({"svg.hashsalt": "ddtb_lite", "svg.fonttype": "path"}):
            picture.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(picture)
        kind = "svg+xml"
    else:
        Image.fromarray(picture).save(buffer, format="JPEG", quality=92, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
