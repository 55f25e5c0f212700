"""Excerpts in search results also where the book is read from a folder, in which no script may fetch a page.

Search fetches each page that it has found and quotes it. From a folder it gets the pages' texts out of a script
instead, which the search page loads there alone.
"""

from __future__ import annotations

import json
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

SCRIPT = "search-texts.js"
LOADS = f"""<script>
if (location.protocol === "file:") document.write('<script src="{SCRIPT}"><\\/script>');
</script>
"""
ANSWERS = r"""
globalThis.fetch = async address => new Response(texts[address.replace(/^(\.\/)+|\.html.*$/g, "")] ?? "");
"""
LEFT_OUT = ("script", "style", "svg", "form", "select")


class Words(HTMLParser):
    """What is to be read in a page's article, with the sections that results point to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.inside = self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside += tag == "article"
        self.hidden += tag in LEFT_OUT
        if tag == "section" and self.inside:
            self.text += f'<section id="{escape(dict(attrs).get("id") or "")}">'

    def handle_endtag(self, tag: str) -> None:
        if tag == "section" and self.inside:
            self.text += "</section>"
        self.inside -= tag == "article"
        self.hidden -= tag in LEFT_OUT

    def handle_data(self, data: str) -> None:
        if self.inside and not self.hidden:
            self.text += escape(data, quote=False)


def _write(app: Any, error: Exception | None) -> None:
    folder = Path(app.outdir)
    if error is not None or app.builder.format != "html":
        return
    pages = {name: (folder / f"{name}.html").read_text(encoding="utf-8") for name in sorted(app.env.found_docs)}
    texts = {name: f'<div role="main">{Words(page).text}</div>' for name, page in pages.items()}
    (folder / SCRIPT).write_text(f"const texts = {json.dumps(texts)};{ANSWERS}", encoding="utf-8")
    search = folder / "search.html"
    page = search.read_text(encoding="utf-8")
    if LOADS not in page:
        search.write_text(page.replace("</head>", f"{LOADS}</head>", 1), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
