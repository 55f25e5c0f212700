"""Result files, where their numbers come from, and what the paper prints."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddtb_lite.reproduction import results
from ddtb_lite.support import files, provenance, resources

ROOT = Path(__file__).resolve().parents[2]

SHA = "0123456789abcdef" * 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    steps: int = 800
    rates: tuple[float, float] = (1e-4, 1e-2)


@dataclasses.dataclass
class Scored:
    """As `evaluate` returns it: more attributes than a result file has, and means that are not rounded."""

    protocol: str
    images: list[dict[str, Any]]

    @property
    def psnr(self) -> float:
        return sum(row["psnr"] for row in self.images) / len(self.images)

    @property
    def ssim(self) -> float:
        return sum(row["ssim"] for row in self.images) / len(self.images)


SCORED = Scored(
    "y",
    [
        {"name": "baby", "psnr": 30.123456, "ssim": 0.87654321},
        {"name": "bird", "psnr": np.float64(32.98765), "ssim": 0.9},
        {"name": "head", "psnr": 31.0, "ssim": 0.8},
    ],
)


def arguments(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "run": "edsr_x4_2bit",
        "precision": "fp32",
        "config": Recipe(),
        "seed": 0,
        "data": {"BSD200_train": SHA},
        "curve": [{"step": 100, "loss": 3.25}, {"step": 200, "loss": 2.125}],
        "seconds": 12.3456,
        "checkpoint": "data/checkpoints/edsr_x4_2bit.safetensors",
        "scores": {"Set5": SCORED},
        "command": "python -m ddtb_lite train --bits 2",
    }
    return given | changes


# -------------------------------------------------------------------------------------- writing, reading


def test_the_file_is_exactly_what_was_agreed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    result = results.write(path, **arguments(), device="cpu")
    assert list(result) == [
        "run", "config", "seed", "data", "versions", "device", "commit", "seconds", "curve", "checkpoint",
        "scores", "command",
    ]  # fmt: skip
    here = results.environment("cpu")
    assert result["versions"] == here["versions"] and result["device"] == here["device"]
    for key in ("versions", "device", "commit"):
        del result[key]
    assert result == {
        "run": "edsr_x4_2bit",
        "config": {"steps": 800, "rates": [1e-4, 1e-2]},
        "seed": 0,
        "data": {"BSD200_train": SHA},
        "seconds": 12.3,
        "curve": [{"step": 100, "loss": 3.25}, {"step": 200, "loss": 2.125}],
        "checkpoint": "data/checkpoints/edsr_x4_2bit.safetensors",
        "scores": {
            "Set5": {
                "psnr": 31.3704,
                "ssim": 0.8588,
                "images": [
                    {"name": "baby", "psnr": 30.1235, "ssim": 0.8765},
                    {"name": "bird", "psnr": 32.9877, "ssim": 0.9},
                    {"name": "head", "psnr": 31.0, "ssim": 0.8},
                ],
            }
        },
        "command": "python -m ddtb_lite train --bits 2",
    }
    assert path.read_bytes().endswith(b"}\n")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    scores = {"Set5": {"psnr": 30.0, "ssim": 0.8, "images": [{"name": "größe", "psnr": 30.0, "ssim": 0.8}]}}
    written = results.write(tmp_path / "x.json", **arguments(config={"a": None}, scores=scores, checkpoint=None))
    assert results.read(tmp_path / "x.json") == written
    assert written["scores"] == scores and written["checkpoint"] is None


def test_scores_are_added_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results.resources, "published", lambda _name: tmp_path)
    before = results.write(tmp_path / "edsr_x4_2bit.json", **arguments())
    path = results.add_scores("edsr_x4_2bit", {"Urban100": SCORED}, {"Urban100": SHA}, seconds=260.04, device="cpu")
    after = results.read(path)
    assert after["scores"] == {"Set5": before["scores"]["Set5"], "Urban100": before["scores"]["Set5"]}
    assert after["data"] == before["data"] | {"Urban100": SHA}
    added = after.pop("added")
    assert list(added) == ["Urban100"] and added["Urban100"]["seconds"] == 260
    assert added["Urban100"]["versions"] == before["versions"] and "fp32" in added["Urban100"]["device"]
    assert {**after, "scores": 0, "data": 0} == {**before, "scores": 0, "data": 0}
    whole = path.read_text()
    with pytest.raises(ValueError, match="Urban100"):
        results.add_scores("edsr_x4_2bit", {"Urban100": SCORED}, {"Urban100": SHA}, seconds=1)
    assert path.read_text() == whole
    path.write_text(whole.replace('"added": {\n  "Urban100"', '"added": {\n  "BSD100"'))
    with pytest.raises(ValueError, match="says where scores came from that it does not have"):
        results.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": 3}, "'config'"),
        ({"seed": 1.5}, "'seed'"),
        ({"seed": True}, "'seed'"),
        ({"run": None}, "'run'"),
        ({"checkpoint": 3}, "'checkpoint'"),
        ({"curve": {}}, "'curve'"),
        ({"curve": [float("nan")]}, "cannot be stored as JSON"),
        ({"config": {"a": object()}}, "cannot be stored as JSON"),
        ({"data": {"Set5": "abc"}}, "'abc' as the checksum of Set5"),
        ({"scores": {"Set5": {"psnr": 1.0, "ssim": 1.0, "images": []}}}, "Set5 that have no rows"),
        ({"scores": {"Set5": Scored("y", [{"name": "a", "psnr": 1.0, "ssim": "x"}])}}, None),
        (
            {"scores": {"Set5": {"psnr": 2.0, "ssim": 1.0, "images": [{"psnr": 1.0, "ssim": 1.0}]}}},
            "not the mean",
        ),
        ({"scores": {"Set5": {"psnr": 1.0, "ssim": 1.0, "images": [{"psnr": 1.0}]}}}, "lack a finite ssim"),
        ({"scores": {"Set5": 31.0}}, "lack a finite|no rows"),
    ],
)
def test_nothing_wrong_is_written(change: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError) if message is None else ValueError, match=message):
        results.write(tmp_path / "x.json", **arguments(**change))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    before = results.write(path, **arguments())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RuntimeError, match="No space left"):
        results.write(path, **arguments(seed=1))
    assert list(tmp_path.iterdir()) == [path] and results.read(path) == before


def test_reading_checks(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError, match="no result file"):
        results.read(path)
    good = results.write(path, **arguments())
    for content, message in (
        (path.read_text()[:-20], "not a JSON file"),
        ("[]", "is a list"),
        (json.dumps({key: value for key, value in good.items() if key != "seed"}), "keys: seed"),
        (json.dumps(good | {"more": 1}), "keys: more"),
        (json.dumps(good | {"seconds": "12"}), "'seconds'"),
        (json.dumps(good).replace("31.3704", "31.4704"), "psnr of 31.4704, which is not the mean"),
        (json.dumps(good).replace("0.8588", "NaN"), "lack a finite ssim"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            results.read(path)


def test_all_results(tmp_path: Path) -> None:
    assert results.all_results(tmp_path) == {}
    for run in ("b", "a"):
        results.write(tmp_path / f"{run}.json", **arguments(run=run))
    (tmp_path / "notes.txt").write_text("no result")
    everything = results.all_results(tmp_path)
    assert list(everything) == ["a", "b"] and everything["b"]["run"] == "b"
    results.write(tmp_path / "c.json", **arguments(run="a"))
    with pytest.raises(ValueError, match="holds the run 'a'"):
        results.all_results(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of results"):
        results.all_results(tmp_path / "absent")


def test_the_results_that_came_with_the_package_are_valid() -> None:
    for run, result in results.all_results().items():
        assert result["run"] == run
        if result["checkpoint"]:
            assert (ROOT / result["checkpoint"]).is_file()


# ---------------------------------------------------------------------------------------------- provenance


def test_environment() -> None:
    here = results.environment("cpu", "bf16")
    assert here["versions"] == {
        "ddtb_lite": provenance.VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    threads = torch.get_num_threads()
    assert here["device"] == f"CPU, {threads} thread{'s' * (threads > 1)}, bf16"
    assert socket.gethostname() not in json.dumps(here) or len(socket.gethostname()) < 5
    json.dumps(here)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "ddtb_lite")
    (tmp_path / "pyproject.toml").write_text("[project]\nversion = '1.2.3'\n")
    assert results.environment()["commit"] is None and results.environment()["dirty"] is None
    git("init")
    assert results.environment()["commit"] is None  # a repository without a commit
    (tmp_path / "ddtb_lite").mkdir()
    source = tmp_path / "ddtb_lite" / "a.py"
    source.write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "a")
    head = git("rev-parse", "HEAD")
    (tmp_path / "result.json").write_text("outside of the package")
    assert results.environment()["commit"] == head and results.environment()["dirty"] is False
    assert results.write(tmp_path / "x.json", **arguments())["commit"] == head
    source.write_text("a = 2\n")
    assert results.environment()["dirty"] is True
    assert results.write(tmp_path / "x.json", **arguments())["commit"] == f"{head}-dirty"

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert results.environment()["commit"] is None


def test_paths_of_this_machine_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "repository", lambda: Path("/home/someone/ddtb"))
    monkeypatch.setenv("DDTB_DATA", "/disk/sets")
    for given, expected in (
        ("train --out runs/x --scale 4", "train --out runs/x --scale 4"),
        ("/home/someone/ddtb/data/checkpoints/x.safetensors", "data/checkpoints/x.safetensors"),
        ("python /home/someone/ddtb/a.py --data /disk/sets/DIV2K", "python a.py --data $DDTB_DATA/DIV2K"),
        ("/disk/sets,/disk/sets", "$DDTB_DATA,$DDTB_DATA"),
        ("--data=/disk/sets2/Set5 --out '/tmp/run 1'", "--data=Set5 --out 'run 1'"),
        ("/usr/bin/python3.11 -m ddtb_lite", "python3.11 -m ddtb_lite"),
        (r"C:\Users\me\data\Set5", "Set5"),
        ("https://arxiv.org/abs/2203.03844", "https://arxiv.org/abs/2203.03844"),
        ("1/4 and 3 / 4, ../x", "1/4 and 3 / 4, ../x"),
        (Path("/var/x/y.png"), "y.png"),
        ({"/a/b": ["/a/c", 1, None, True, 2.5]}, {"b": ["c", 1, None, True, 2.5]}),
    ):
        assert provenance.without_paths(given) == expected


def test_results_hold_no_paths(tmp_path: Path) -> None:
    checkpoint = resources.data("checkpoints") / "x.safetensors"
    command = f"train --out {tmp_path}"
    result = results.write(tmp_path / "x.json", **arguments(checkpoint=checkpoint, command=command))
    assert result["checkpoint"] == "data/checkpoints/x.safetensors"
    assert result["command"] == f"train --out {tmp_path.name}"
    text = (tmp_path / "x.json").read_text()
    assert str(tmp_path) not in text and str(ROOT) not in text


# --------------------------------------------------------------------------------------------- the paper


def test_paper_tables() -> None:
    tables = results.paper_tables()
    assert {name: len(rows) for name, rows in tables.items()} == {
        "hyperparameters": 23,
        "main_results": 94,
        "table_s1_complexity": 12,
        "table_s2_fully_quantized": 48,
        "later_methods": 39,
    }
    wanted = {"model": "EDSR", "scale": "4", "bits": "2", "method": "DDTB", "dataset": "Set5"}
    chosen = [row["psnr_db"] for row in tables["main_results"] if wanted.items() <= row.items()]
    assert chosen == ["30.97"]
    assert tables["table_s2_fully_quantized"][0]["ssim"] == "0.870"  # as printed, with its last zero
    assert tables["table_s1_complexity"][5]["hlfe_params_M"] == "1.42"
    assert all(row["source"] for rows in tables.values() for row in rows)
