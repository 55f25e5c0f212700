"""How a notebook becomes a page for reading: what only its kernel needs is folded, everything stays in the notebook.

Four things happen to the tree of a notebook's page, and to nothing else:

* Under the title comes one strip, "12 min · runs in 1 min · run in Colab · goals and parameters". The last unfolds
  what a notebook has to say before it begins: goals, the Colab cell, its parameters, the imports.
* A cell that does nothing but check becomes one line, "✓ 5 checks", that unfolds; so do check lines under other cells.
* Code that draws, lays out or checks is folded to a word, unless its cell is tagged `show-input`: what a reader learns
  from it is the picture. Code is dedented as it is shown, so that a quoted method begins at the margin.
* What a cell tagged `first` shows stands right beneath the strip: a page opens with its result, which its notebook has
  to compute before.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes

WORDS_A_MINUTE = 200
MARK = "✓ "
# What a cell calls that draws a picture, lays out a table, quotes a source or checks a number.
DRAWING = re.compile(
    r"\bplt\.|\bfigures\.|\btables\.|\b(?:explorer|swipe|interact|lab|HTML|Markdown|display|source|check)\("
)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", _read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _read(app: Any, tree: nodes.document) -> None:
    notebook = Path(app.env.doc2path(app.env.docname))
    if notebook.suffix != ".ipynb" or app.builder.format != "html":
        return
    prose = (nodes.paragraph, nodes.title, nodes.caption)
    words = sum(len(each.astext().split()) for each in tree.findall(lambda node: isinstance(node, prose)))
    for cell in list(tree.findall(_is_cell)):
        _dedent(cell)
        _fold_drawing(cell)
        _fold_checks(cell)
    section = next(iter(tree.findall(nodes.section)), None)
    if section is not None:
        execution = json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("minutes")
        _strip(section, max(1, round(words / WORDS_A_MINUTE)), execution, _colab(app))


def _colab(app: Any) -> str:
    """The address at which Colab opens the page's notebook."""
    repository = app.config.html_theme_options["repository_url"].removeprefix("https://github.com/")
    branch = app.config.html_theme_options.get("repository_branch", "main")
    folder = app.config.html_theme_options.get("path_to_docs", "book").strip("/")
    return f"https://colab.research.google.com/github/{repository}/blob/{branch}/{folder}/{app.env.docname}.ipynb"


# ------------------------------------------------------------------------------------------------- cells


def _is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def _part(cell: nodes.Element, kind: str) -> nodes.Element | None:
    return next(
        (each for each in cell.children if isinstance(each, nodes.Element) and each.get("nb_element") == kind), None
    )


def _source(cell: nodes.Element) -> str:
    part = _part(cell, "cell_code_source")
    return "" if part is None else part.astext()


def _dedent(cell: nodes.Element) -> None:
    for block in cell.findall(nodes.literal_block):
        text = textwrap.dedent(block.astext())
        if text != block.astext():
            block.rawsource = text
            block.children = [nodes.Text(text)]


def _fold_drawing(cell: nodes.Element) -> None:
    if "tag_show-input" not in cell["classes"] and not cell.get("hide_mode") and DRAWING.search(_source(cell)):
        cell["hide_mode"], cell["prompt_show"], cell["prompt_hide"] = "input", "code", "code"


def _unfold(cell: nodes.Element) -> None:
    """Inside another fold, one is enough."""
    cell.attributes.pop("hide_mode", None)


def _only_checks(source: str) -> bool:
    """Whether a cell calls `check`, under conditions or in loops perhaps, and shows nothing else."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a line magic
        return False

    def fits(statement: ast.stmt) -> bool:
        if isinstance(statement, ast.If | ast.For):
            return all(map(fits, statement.body + statement.orelse))
        if isinstance(statement, ast.Expr):
            call = statement.value
            return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"
        return isinstance(statement, ast.Assign | ast.FunctionDef | ast.Assert)

    return any(isinstance(each, ast.Call) for each in ast.walk(tree)) and all(map(fits, tree.body))


def _fold_checks(cell: nodes.Element) -> None:
    output = _part(cell, "cell_code_output")
    blocks = (
        [] if output is None else [block for block in output.findall(nodes.literal_block) if MARK in block.astext()]
    )
    lines = [line for block in blocks for line in block.astext().splitlines() if line.startswith(MARK)]
    if not lines:
        return
    if _only_checks(_source(cell)):
        _unfold(cell)
        parent = cell.parent
        index = parent.index(cell)
        parent[index : index + 1] = [_open(_count(lines), "checks"), cell, _close()]
        return
    for block in blocks:
        kept = [line for line in block.astext().splitlines() if not line.startswith(MARK)]
        checks = [line for line in block.astext().splitlines() if line.startswith(MARK)]
        folded = block.deepcopy()
        folded.children = [nodes.Text("\n".join(checks))]
        folded.rawsource = "\n".join(checks)
        block.rawsource = "\n".join(kept)
        block.children = [nodes.Text("\n".join(kept))]
        index = block.parent.index(block)
        new = [_open(_count(checks), "checks"), folded, _close()]
        block.parent[index : index + 1] = [block, *new] if any(map(str.strip, kept)) else new


def _count(lines: list[str]) -> str:
    return f"✓ {len(lines)} check{'s' * (len(lines) > 1)}"


def _open(summary: str, kind: str) -> nodes.raw:
    return nodes.raw("", f'<details class="{kind}"><summary>{summary}</summary>', format="html")


def _close() -> nodes.raw:
    return nodes.raw("", "</details>", format="html")


# ------------------------------------------------------------------------------------------------- strip


def _strip(section: nodes.section, reading: int, execution: int | None, colab: str) -> None:
    """Put the strip under the title, and what precedes the page's first thought into its fold."""
    children = list(section.children)
    title = next((index for index, each in enumerate(children) if isinstance(each, nodes.title)), None)
    parameters = next(
        (index for index, each in enumerate(children) if _is_cell(each) and "tag_parameters" in each["classes"]), None
    )
    if title is None or parameters is None:
        return
    end = parameters + 1
    while end < len(children) and isinstance(children[end], nodes.paragraph):
        end += 1  # what the parameters mean
    if end < len(children) and _is_cell(children[end]) and _part(children[end], "cell_code_output") is None:
        end += 1  # imports
    claim = [each for each in children[title + 1 : parameters] if isinstance(each, nodes.paragraph)][:1]
    folded = [each for each in children[title + 1 : end] if each not in claim and not _is_link_to_colab(each)]
    for each in folded:
        if _is_cell(each):
            _unfold(each)
    ran = "" if execution is None else f"<span>runs in {execution} min</span>"
    strip = nodes.raw(
        "",
        f'<div class="page-strip"><span>{reading} min</span>{ran}<a href="{colab}">run in Colab</a>'
        '<details class="goals"><summary>goals and parameters</summary>',
        format="html",
    )
    end_of_strip = nodes.raw("", "</details></div>", format="html")
    first = [cell for cell in section.findall(_is_cell) if "tag_first" in cell["classes"]]
    for cell in first:
        cell.parent.remove(cell)
    section.children = []
    rest = [each for each in children[end:] if each not in first]
    section.extend([*children[: title + 1], *claim, strip, *folded, end_of_strip, *first, *rest])


def _is_link_to_colab(node: nodes.Node) -> bool:
    return isinstance(node, nodes.paragraph) and node.astext().startswith("Open this page in Colab")
