"""The README's lines do what it says: its Python runs, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ddtb_lite.cli import parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Lines of the shell blocks, those that a backslash continues joined."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_python_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for block in blocks("python"):
        finished = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        assert "PSNR" in finished.stdout or "dB" in finished.stdout
    assert (tmp_path / "runs/first/student.safetensors").stat().st_size > 10_000


@pytest.mark.parametrize("command", [each for each in commands() if " -m ddtb_lite " in each])
def test_the_command_line_knows_the_command(command: str) -> None:
    parser().parse_args(shlex.split(command.partition(" -m ddtb_lite ")[2], comments=True))


def test_make_knows_its_targets() -> None:
    targets = [shlex.split(each, comments=True)[1] for each in commands() if each.startswith("make ")]
    assert {"book", "test"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_every_place_of_the_map_is_there() -> None:
    table = README.partition("## What is where")[2].partition("\n\nNo data set")[0]
    named = [
        cell
        for row in table.splitlines()
        for cell in re.findall(r"`([\w./]+)`", row.split("|")[1] if "|" in row else "")
    ]
    folder = ROOT
    for name in named:
        # "`a/b.py`, `c.py`": the second lies beside the first.
        path = ROOT / name if (ROOT / name).exists() else folder / name
        assert path.exists(), name
        folder = path.parent
    rooms = {path.name for path in (ROOT / "ddtb_lite").iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= {Path(name).name for name in named}, "a room that the map lacks"
