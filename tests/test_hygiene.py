"""What the repository promises about itself: one version, one address, a package that installs light and whole."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import ddtb_lite as ddtb

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place() -> None:
    source = PROJECT["tool"]["hatch"]["version"]
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    found = re.findall(source["pattern"], (ROOT / source["path"]).read_text(encoding="utf-8"))
    assert found == [ddtb.__version__]


def test_the_package_alone_pulls_little() -> None:
    names = {re.match(r"[\w-]+", each)[0] for each in PROJECT["project"]["dependencies"]}  # type: ignore[index]
    assert names == {"torch", "numpy", "pillow", "scikit-image", "safetensors", "tqdm"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_links_and_cells_name_one_repository(tmp_path: Path) -> None:
    """And one command moves all of them, tried on a copy."""
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", "--depth", "1", ROOT.as_uri(), str(copy)], check=True)
    move = ["python3", "book/address.py", "somebody/elsewhere"]
    subprocess.run(move, cwd=copy, check=True, capture_output=True)
    left = subprocess.run(
        ["git", "grep", "-lIE", r"github\.com/[Dd]dtb-lite/"], cwd=copy, capture_output=True, text=True
    )
    assert not left.stdout, f"still the old address: {left.stdout}"
    moved = subprocess.run(["git", "grep", "-lIF", "somebody/elsewhere"], cwd=copy, capture_output=True, text=True)
    assert {"_config.yml", "README.md", "CITATION.cff", "book/start/quickstart.ipynb"} <= set(moved.stdout.split())
    refused = subprocess.run(["python3", "book/address.py", "no-owner"], cwd=copy, capture_output=True, text=True)
    assert refused.returncode == 1 and "OWNER/NAME" in refused.stderr
