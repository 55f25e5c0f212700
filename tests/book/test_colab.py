"""Notebooks as on Colab: the package installed from git, an empty folder, and nothing but the notebook."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = (
    "start/quickstart.ipynb",
    "foundations/measuring.ipynb",
    "reference/claims.ipynb",
    "beyond/reproduce.ipynb",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the last commit; torch and the rest are the environment's."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a checkout, because Colab installs from one")
    target = tmp_path_factory.mktemp("installed")
    source = f"git+{ROOT.as_uri()}"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    return target


def test_the_installation_carries_its_data(installed: Path) -> None:
    data = installed / "ddtb_lite" / "_data"
    assert (data / "datasets.toml").is_file()
    for kind, suffix in (("paper", "csv"), ("checkpoints", "safetensors"), ("results", "json")):
        assert {path.name for path in (data / kind).glob(f"*.{suffix}")} == {
            Path(name).name for name in _committed(f"data/{kind}/*.{suffix}")
        }


def test_the_installation_reads_its_data(installed: Path, tmp_path: Path) -> None:
    """Every result and every shipped network, with nothing but the installed package."""
    question = (
        "from ddtb_lite.reproduction import claims, progress, results; runs = results.all_results(); "
        "print(results.__file__, len(runs), len(progress.shipped(runs)), len(claims.summary(claims.ledger())))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    answer = subprocess.run(
        [sys.executable, "-c", question], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    place, runs, shipped, statuses = answer.stdout.split()
    assert place.startswith(str(installed))
    assert int(runs) == len(_committed("data/results/*.json")) > 0
    assert int(shipped) == len(_committed("data/checkpoints/*.safetensors")) > 0
    assert int(statuses) > 1, "some claims are filled"


def _committed(pattern: str) -> list[str]:
    listing = ["git", "ls-tree", "-r", "--name-only", "HEAD", "--", str(Path(pattern).parent) + "/"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if Path(name).match(pattern)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_alone(name: str, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "book" / name, tmp_path)
    notebook = nbformat.read(tmp_path / Path(name).name, as_version=4)
    where = "import ddtb_lite\nprint(ddtb_lite.__file__)"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(where))
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.delenv("DDTB_DATA", raising=False)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    assert notebook.cells[0].outputs[0].text.startswith(str(installed) + os.sep)
    assert os.listdir(tmp_path) == [Path(name).name], "the notebook left files behind"
