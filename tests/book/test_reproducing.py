"""What the page "Reproduce it yourself" shows: read from the folder of the runs, whatever state that is in."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import safetensors.torch
import torch

from ddtb_lite import datasets
from ddtb_lite.book import reproducing
from ddtb_lite.reproduction import plan, runner
from ddtb_lite.reproduction.experiment import TRAINING_DATA

matplotlib.use("Agg")

DONE, BEGUN, LATER, DIVERGED = (f"edsr_x4_{each}" for each in ("ddtb_2bit", "ddtb_3bit", "lsq_2bit", "pams_2bit"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four planned runs, each in another state."""
    minutes = dict.fromkeys((DONE, BEGUN, LATER, DIVERGED), 1.25)
    facts = plan.Plan(45.0, "short", (), TRAINING_DATA["short"], "cpu", {}, minutes, ("edsr_x4",))
    (tmp_path / plan.PLAN).write_text(json.dumps(asdict(facts)))
    write(tmp_path, DONE, {"Set5": score(30.02), "photos": score(28.0)})
    write(tmp_path, DIVERGED, {})
    (tmp_path / BEGUN).mkdir()
    state = json.dumps({"step": 100, "identity": {"recipe": {"preset_name": "short"}}})
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / BEGUN / "state.safetensors", {"run": state})
    return tmp_path


def score(psnr: float) -> dict[str, Any]:
    return {"psnr": psnr, "ssim": 0.8, "images": [{"name": "a", "psnr": psnr, "ssim": 0.8}]}


def write(folder: Path, name: str, scores: dict[str, Any]) -> None:
    (folder / name).mkdir()
    facts = {"run": name, "config": {}, "seed": 0, "data": {}, "versions": {}, "device": "CPU", "commit": None}
    facts |= {"seconds": 1.0, "curve": [], "checkpoint": None, "scores": scores, "command": "made up"}
    runner.result_of(folder / name).write_text(json.dumps(facts))


def test_the_table_says_how_far_each_run_is(folder: Path) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", reproducing.state(folder).data)[1:]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row.replace("<wbr>", "")) for row in rows]
    assert cells == [
        [DONE, "EDSR ×4, DDTB, 2 bits", "done", "Set5 30.02\u00a0dB", "30.97\u00a0dB"],
        [BEGUN, "EDSR ×4, DDTB, 3 bits", "step 100 of 800", "", ""],
        [LATER, "EDSR ×4, LSQ, 2 bits", "waits, about 1.2 minutes", "", ""],
        [DIVERGED, "EDSR ×4, PAMS, 2 bits", "diverged", "", ""],
    ]


def test_before_there_is_a_plan(tmp_path: Path) -> None:
    assert "Measuring" in reproducing.state(tmp_path).data and reproducing.finished(tmp_path) == {}


def test_the_picture_has_a_ring_where_a_score_is_printed(folder: Path) -> None:
    """Set5 has a line, a ring at the printed 30.97 and a dot at ours; for the photographs nothing is printed."""
    figure = reproducing.scores({DONE: reproducing.finished(folder)[DONE]})
    set5, photos = figure.axes
    assert (set5.get_title(), photos.get_title()) == ("Set5", "photos")
    assert [list(line.get_xdata()) for line in set5.lines] == [[30.02, 30.97], [30.97], [30.02]]
    assert [list(line.get_xdata()) for line in photos.lines] == [[28.0]]


def test_the_command_is_followed_and_its_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"error: budget is 'never', expected a time above 0"):
        reproducing.follow(tmp_path / "runs", ["--budget", "never", "--preset", "smoke"])


def test_where_runs_lie() -> None:
    assert reproducing.place("here") == Path("reproduce")
    with pytest.raises(ValueError, match="expected nowhere, here or drive"):
        reproducing.place("cloud")
    assert reproducing.place("nowhere").is_dir()


def test_what_is_not_at_hand_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched: list[str] = []
    monkeypatch.setenv("DDTB_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "download", fetched.append)
    reproducing.fetch("smoke")
    assert fetched == []
    reproducing.fetch("paper")
    assert fetched == ["DIV2K", *runner.BENCHMARKS]
