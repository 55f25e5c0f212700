"""The directive `data-set-addresses`: where each data set is fetched from, as a table of `data/datasets.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

REGISTRY = Path(__file__).resolve().parents[2] / "data" / "datasets.toml"


def lines(sets: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The table in Markdown, a row an address; what is unknown is left empty."""
    yield "| set | from | size | SHA-256 begins with |"
    yield "|-|-|-:|-|"
    for name, each in sets.items():
        if not each["sources"]:
            yield f"| {name} | [{urlsplit(each['page']).hostname}]({each['page']}), by hand | | |"
        for index, source in enumerate(each["sources"]):
            address = urlsplit(source["url"])
            shown = f"[{address.hostname}, {Path(address.path).name}]({source['url']})"
            size = f"{source['size'] / 1e6:,.0f}\u00a0MB" if source["size"] else ""
            digest = f"`{source['sha256'][:12]}`" if source["sha256"] else ""
            yield f"| {'' if index else name} | {shown} | {size} | {digest} |"


class DataSetAddresses(SphinxDirective):
    """The table, in a page's place."""

    def run(self) -> list[nodes.Node]:
        """Parse it as the page itself is parsed."""
        self.env.note_dependency(str(REGISTRY))
        place = nodes.container()
        table = lines(tomllib.loads(REGISTRY.read_text(encoding="utf-8")))
        self.state.nested_parse(StringList(list(table), str(REGISTRY)), 0, place)
        return place.children


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("data-set-addresses", DataSetAddresses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
