"""Leaves out of each built page what the theme loads and the page does not use: more than two megabytes.

The theme's icons come from its fonts; the script that draws them a second time is for icons of one's own. Equations are
set where there are some. Search begins on its own page, which loads the index itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SCRIPT = r'\s*<script [^>]*src="[^"]*{}[^"]*"[^>]*></script>'
ICONS = re.compile(SCRIPT.format(r"scripts/fontawesome\.js"))
EQUATIONS = re.compile(SCRIPT.format(r"/mathjax/"))
SEARCH = re.compile(SCRIPT.format(r"(?:searchtools|language_data|searchindex)\.js"))


def lighter(page: str, name: str) -> str:
    """The HTML of a page without the scripts that it does not need."""
    page = ICONS.sub("", page)
    if 'class="math' not in page:
        page = EQUATIONS.sub("", page)
    return page if name == "search.html" else SEARCH.sub("", page)


def _lighten(app: Any, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    for file in Path(app.outdir).rglob("*.html"):
        page = file.read_text(encoding="utf-8")
        if (light := lighter(page, file.name)) != page:
            file.write_text(light, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
