r"""Formulas on every screen: punctuation stays with them, and formulas that share a line stack where it is narrow.

MathJax sets each formula as one box, after which a line may break before a comma, and which no browser can fold. So an
inline formula is wrapped together with the punctuation around it, and a displayed one becomes several at its `\qquad`,
which stand side by side where there is room.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes

BEFORE, AFTER = re.compile(r"[(\[“‘±]+$"), re.compile(r"^[.,;:!?)\]’”…-]+")
APART = re.compile(r"(?:\\qquad)+")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", _read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _read(app: Any, tree: nodes.document) -> None:
    if app.builder.format != "html":
        return
    for formula in list(tree.findall(nodes.math)):
        _keep_punctuation(formula)
    for block in list(tree.findall(nodes.math_block)):
        _side_by_side(block)


def _keep_punctuation(formula: nodes.math) -> None:
    parent = formula.parent
    index = parent.index(formula)
    whole = nodes.inline(classes=["whole"])
    if index + 1 < len(parent) and isinstance(parent[index + 1], nodes.Text):
        text = parent[index + 1].astext()
        if found := AFTER.match(text):
            parent[index + 1] = nodes.Text(text[found.end() :])
            whole += [formula, nodes.Text(found[0])]
    if index and isinstance(parent[index - 1], nodes.Text):
        text = parent[index - 1].astext()
        if found := BEFORE.search(text):
            parent[index - 1] = nodes.Text(text[: found.start()])
            whole.children = [nodes.Text(found[0]), *(whole.children or [formula])]
    if whole.children:
        parent[index] = whole
        whole.setup_child(formula)


def _side_by_side(block: nodes.math_block) -> None:
    parts = [part.strip() for part in APART.split(block.astext())]
    if len(parts) == 1 or "\\begin" in block.astext() or block.get("label"):
        return
    row = nodes.container(classes=["formulas"])
    for part in filter(None, parts):
        latex = f"\\displaystyle {part}"
        row += nodes.math(latex, latex)
    block.replace_self(row)
