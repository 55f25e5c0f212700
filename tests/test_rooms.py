"""The house: who may import whom, how large a module may be, and that a name means one thing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import ddtb_lite

PACKAGE = Path(ddtb_lite.__file__).parent
# From the command line down to the arithmetic. A room or a file imports from lower floors, never from its own or above.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("book",),
    ("ddtb_lite",),  # the package's own names: what `import ddtb_lite` gives
    ("reproduction",),
    ("training",),
    ("checkpoints", "deploy"),
    ("initializer", "evaluation", "cost", "diagnostics"),
    ("inference", "conversion"),
    ("quantizers",),
    ("gate", "lookup"),
    ("networks",),
    ("datasets", "metrics"),
    ("archives",),
    ("images",),
    ("uniform", "support"),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
LONGEST, MOST_FILES = 300, 20


def module_name(path: Path) -> str:
    """ "ddtb_lite.training.run" of ddtb_lite/training/run.py; a room's `__init__` is the room."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room(module: str) -> str:
    """The room or the file at the top that a module belongs to; the package itself is "ddtb_lite"."""
    return module.split(".")[1] if "." in module else module


def imports(module: str, tree: ast.Module | None = None) -> Iterator[tuple[str, int]]:
    """(module, line) of everything of the package that a module imports, wherever in it the import stands."""
    is_room = module in MODULES and MODULES[module].name == "__init__.py"
    inside = (module if is_room else module.rpartition(".")[0]).split(".")
    for node in ast.walk(tree or TREES[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            if ours(source):
                for alias in node.names:
                    name = f"{source}.{alias.name}"
                    yield (name if name in MODULES else source), node.lineno


def ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE.name


def test_imports_point_down() -> None:
    unknown = {room(module) for module in MODULES} - set(FLOOR)
    assert not unknown, f"no floor for {unknown}: say in FLOORS where it belongs"
    upward = [
        f"{module}, line {line}, imports {other}"
        for module in MODULES
        for other, line in imports(module)
        if room(other) != room(module) and FLOOR[room(other)] <= FLOOR[room(module)]
    ]
    assert not upward, "\n".join(upward)


def test_modules_of_a_room_import_each_other_in_one_order() -> None:
    arrows = {module: {other for other, _ in imports(module) if other != module} for module in MODULES}
    order = list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle
    assert set(order) >= set(MODULES)


def test_the_reader_of_imports_finds_those_in_functions_and_for_types() -> None:
    """Else the tests above would pass whatever is imported."""
    text = "from ..cli import main\ndef f():\n    import ddtb_lite.book.tables\nif True:\n    from .run import Run\n"
    found = [other for other, _ in imports("ddtb_lite.training.made_up", ast.parse(text))]
    assert sorted(found) == ["ddtb_lite.book.tables", "ddtb_lite.cli.main", "ddtb_lite.training.run"]


def test_no_module_holds_two_things() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FILES


def test_every_room_says_what_lives_there() -> None:
    rooms = [folder for folder in PACKAGE.iterdir() if any(folder.glob("*.py"))]
    for folder in rooms:
        about = ast.get_docstring(TREES[f"{PACKAGE.name}.{folder.name}"])
        assert about and len(about.split()) >= 10, f"{folder.name}/__init__.py says too little"


def test_a_name_is_a_module_or_a_function_and_never_both() -> None:
    stems = {name.rpartition(".")[2] for name in MODULES}
    functions = {
        (node.name, module)
        for module, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    shared = {f"{name} in {module}" for name, module in functions if name in stems}
    # `run` and `main` are what every command and every program has.
    assert not {each for each in shared if each.split()[0] not in ("run", "main")}
