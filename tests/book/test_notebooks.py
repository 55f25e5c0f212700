"""The notebooks as stored: executed, small, complete by themselves, ready for papermill and for Colab."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddtb_lite.training.recipe import PRESETS

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
LARGEST_NOTEBOOK = 3_000_000  # bytes
SETTINGS = {"network", "scale", "bits", "lower", "upper"}  # where a page sets them, parameters or not

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[str(p.relative_to(BOOK)) for p in NOTEBOOKS])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def names_in(target: ast.expr) -> set[str]:
    return {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def rendered(notebook: dict[str, Any]) -> Iterator[str]:
    """Whatever a browser would load from: Markdown cells and HTML, Markdown, SVG or script outputs."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            yield text(cell["source"])
        for output in cell.get("outputs", []):
            for kind, value in output.get("data", {}).items():
                if kind in ("text/html", "text/markdown", "image/svg+xml", "application/javascript"):
                    yield text(value)


def printed(notebook: dict[str, Any]) -> Iterator[str]:
    """The outputs that nbval compares letter by letter."""
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            yield text(output.get("text", ""))
            yield text(output.get("data", {}).get("text/plain", ""))
            html = text(output.get("data", {}).get("text/html", ""))
            yield re.sub(r"data:[\w/+;=-]+,[A-Za-z0-9+/=]+", "", html)


# Attributes, style sheets and Markdown pictures that make a browser fetch; a link in <a> is free.
EXTERNAL = re.compile(
    r"""<(?:img|script|iframe|video|audio|source|embed|object|link)\b[^>]*?(?:src|href|data|srcset)\s*=\s*["']?(?:https?:)?//"""
    r"""|url\(\s*["']?(?:https?:)?//|@import|!\[[^\]]*\]\((?:https?:)?//|(?:fetch|import)\(\s*["'](?:https?:)?//""",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    "fragment",
    [
        '<img alt="x" src="https://example.org/a.png">',
        "<script src=//example.org/a.js></script>",
        "![a](http://example.org/a.png)",
        "body { background: url('https://example.org/a.png') }",
        '<link rel="stylesheet" href="https://example.org/a.css">',
    ],
)
def test_the_guard_sees_external_resources(fragment: str) -> None:
    assert EXTERNAL.search(fragment)
    assert not EXTERNAL.search('<a href="https://example.org">free</a> [free](https://example.org)')


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@each_notebook
def test_notebook_was_executed_from_top_to_bottom(path: Path) -> None:
    cells = code_cells(read(path))
    assert all(text(cell["source"]).strip() for cell in cells), "an empty code cell"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


@each_notebook
def test_notebook_ran_without_errors_and_warnings(path: Path) -> None:
    for cell in code_cells(read(path)):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", text(cell["source"])
            assert output.get("name") != "stderr", text(output["text"])


@each_notebook
def test_notebook_carries_no_widget_state(path: Path) -> None:
    notebook = read(path)
    assert "widgets" not in notebook["metadata"]
    for cell in code_cells(notebook):
        live = any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in cell["outputs"])
        # On a page without a kernel a widget's slider would move while its result stays.
        assert not live or "remove-output" in tags(cell), text(cell["source"])


@each_notebook
def test_notebook_is_small_and_complete_by_itself(path: Path) -> None:
    assert path.stat().st_size < LARGEST_NOTEBOOK
    for fragment in rendered(read(path)):
        found = EXTERNAL.search(fragment)
        assert not found, f"loads from outside: {found.group(0)}"


@each_notebook
def test_outputs_name_no_path_and_no_address(path: Path) -> None:
    private = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|work|Users|content)/\w|\b0x[0-9a-f]{6,}")
    for output in printed(read(path)):
        found = private.search(output)
        assert not found, f"{found.group(0)} in: {output[:200]}"


@each_notebook
def test_every_figure_has_a_text_alternative(path: Path) -> None:
    for cell in code_cells(read(path)):
        if {"remove-output", "remove-cell"} & set(tags(cell)):
            continue
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "text/html" in data:
                for image in re.findall(r"<img\b[^>]*>", text(data["text/html"])):
                    assert re.search(r"""\balt\s*=\s*(["'])\s*\S.*?\1""", image, re.DOTALL), image[:200]
            elif "image/png" in data or "image/svg+xml" in data:
                alternative = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
                assert alternative.strip(), f"no metadata mystnb.image.alt: {text(cell['source'])}"


@each_notebook
def test_parameters_are_literals(path: Path) -> None:
    marked = [cell for cell in code_cells(read(path)) if "parameters" in tags(cell)]
    assert len(marked) == 1, "exactly one cell is tagged parameters"
    assigned: dict[str, Any] = {}
    for statement in ast.parse(text(marked[0]["source"])).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1, ast.unparse(statement)
        name = statement.targets[0]
        assert isinstance(name, ast.Name), ast.unparse(statement)
        assigned[name.id] = ast.literal_eval(statement.value)
    assert assigned
    assert assigned.get("preset", "smoke") in PRESETS


@each_notebook
def test_no_loop_leaves_another_value_in_a_setting(path: Path) -> None:
    """A loop outside functions goes on under its variable's name: after `for bits in (2, 3, 8)` a page has 8 bits."""
    settings: set[str] = set()
    for cell in code_cells(read(path)):
        tree = syntax(cell)
        inner = {each for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef) for each in ast.walk(outer)}
        for loop in (each for each in ast.walk(tree) if isinstance(each, ast.For) and each not in inner):
            assert not (taken := names_in(loop.target) & settings), f"{taken} in: for {ast.unparse(loop.target)}"
        every = "parameters" in tags(cell)
        for assignment in (each for each in ast.walk(tree) if isinstance(each, ast.Assign) and each not in inner):
            found = set().union(*map(names_in, assignment.targets))
            settings |= found if every else found & SETTINGS


@each_notebook
def test_notebook_opens_and_installs_on_colab(path: Path) -> None:
    notebook = read(path)
    repository = REPOSITORY.removeprefix("https://github.com/")
    page = rf"colab\.research\.google\.com/github/{repository}/blob/[\w.-]+/{path.relative_to(ROOT)}"
    prose = [text(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert any(re.search(page, source) for source in prose), f"no link that matches {page}"
    sources = [text(cell["source"]) for cell in code_cells(notebook)]
    installing = [source for source in sources if "pip install" in source]
    assert len(installing) == 1
    assert f"ddtb-lite[notebooks] @ git+{REPOSITORY}" in installing[0]
    assert not re.search(r"\b(?:torch|numpy)\b", installing[0]), "Colab's own torch and numpy stay"


def test_the_repository_has_one_address() -> None:
    name = REPOSITORY.rsplit("/", 1)[1]
    files = [p for p in ROOT.glob("*") if p.suffix in (".toml", ".cff", ".md")]
    files += [p for p in BOOK.rglob("*") if p.suffix in (".md", ".ipynb")]
    for path in files:
        for address in re.findall(rf"github\.com/[\w.-]+/{name}\b", path.read_text(encoding="utf-8")):
            assert f"https://{address}" == REPOSITORY, path


# ------------------------------------------------------------------------------------------------ the package's face


def syntax(cell: dict[str, Any]) -> ast.Module:
    """A cell's syntax tree, IPython's own commands left out."""
    lines = text(cell["source"]).splitlines()
    return ast.parse("\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines))


def imported(notebook: dict[str, Any]) -> Iterator[str]:
    """Dotted names of all that a notebook imports from the package."""
    for cell in code_cells(notebook):
        for node in ast.walk(syntax(cell)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "ddtb_lite")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddtb_lite":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each_notebook
def test_what_a_page_imports_is_public_and_on_the_map(path: Path) -> None:
    """No private name; no file or room that README's map does not name, but names of the package itself."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is where")[2]
    on_map = set(re.findall(r"`(?:ddtb_lite/)?(\w+)(?:\.py|/)`", table))
    for name in imported(read(path)):
        parts = name.split(".")
        assert not any(part.startswith("_") for part in parts), name
        module = ROOT / "ddtb_lite" / parts[1] if len(parts) > 1 else None
        if module and (module.is_dir() or module.with_suffix(".py").is_file()):
            assert parts[1] in on_map, f"{name}: README does not say what {parts[1]} is"


@each_notebook
def test_what_pages_share_is_imported(path: Path) -> None:
    """Networks that come with the package, and code to be shown, are asked for by `book.notebook` alone."""
    code = "\n".join(text(cell["source"]) for cell in code_cells(read(path)))
    assert not re.search(r"inspect\.getsource|except FileNotFoundError:\n +\w+ = ddtb\.(build|quantize)", code)
    assert not re.search(r"^as_p\w+ = (?!published\()", code, re.MULTILINE)


@each_notebook
def test_stored_components_are_made_of_the_present_parts(path: Path) -> None:
    """A component brings its styles and scripts along, so a page is executed again when they change."""
    parts = [file.read_text(encoding="utf-8") for file in (BOOK / "engine" / "ui").glob("*.[cj]s*")]
    for html in rendered(read(path)):
        if html.startswith('<figure class="ddtb'):
            style, script = html.split("<style>\n")[1].split("</style>\n<script>(() => {\n")
            for part in parts:
                style, script = style.replace(part, ""), script.replace(part, "")
            assert not style and script.count("\n") == 1, "execute the page again"
