"""The run's folder: what it holds, which run it takes for its own, and what a full disk leaves of it."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_runs import (
    DATA,
    PLAIN,
    RECIPE,
    Outcomes,
    PowerCut,
    Scripted,
    after_each_step,
    cut_off,
    equal,
    facts,
    full_precision,
    start,
    state_of,
    student,
)

from ddtb_lite import quantize, train
from ddtb_lite.support import files
from ddtb_lite.training import validation
from ddtb_lite.training.run import Run
from ddtb_lite.training.run_folder import RunFolder, RunState


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    cut_off(tmp_path, 4)
    before = (tmp_path / "state.safetensors").read_bytes()
    network, teacher = student(), full_precision()
    others: list[tuple[str, Callable[[], object]]] = [
        ("seed", lambda: train(network, DATA, RECIPE, teacher=teacher, out=tmp_path, seed=1, progress=False)),
        ("recipe", lambda: train(network, DATA, RECIPE.override(steps=11), teacher=teacher, out=tmp_path)),
        ("data", lambda: train(network, DATA[1:], RECIPE, teacher=teacher, out=tmp_path)),
        ("teacher", lambda: train(network, DATA, RECIPE, out=tmp_path)),
        ("quantization", lambda: train(quantize(teacher, "pams", 2), DATA, RECIPE, teacher=teacher, out=tmp_path)),
        ("quantization, recipe, teacher", lambda: train(full_precision(), DATA, PLAIN, out=tmp_path)),
    ]
    for what, other in others:
        with pytest.raises(ValueError, match=rf"\(different {what}\).* another folder"):
            other()
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_what_leaves_the_result_alone_may_change_on_the_way(tmp_path: Path, uninterrupted: Outcomes) -> None:
    for number, changes in enumerate([{"checkpointing": True}, {"placement": "host"}, {"save_every": 2}]):
        cut_off(tmp_path / str(number), 4)
        network, history = start(tmp_path / str(number), recipe=RECIPE.override(**changes))
        assert equal(state_of(network), uninterrupted["student"][0])
        assert facts(history) == uninterrupted["student"][1]


def rewrite_facts(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a run's folder says of its run."""
    path = folder / "state.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        run = json.loads(file.metadata()["run"])
    change(run)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"run": json.dumps(run)})


def test_the_folder_of_an_older_version_goes_on(tmp_path: Path, uninterrupted: Outcomes) -> None:
    """It may know fields of the recipe that do not count, and lack later ones; the others must agree."""

    def older(run: dict[str, Any]) -> None:
        recipe = run["identity"]["recipe"]
        recipe |= {"checkpointing": True, "placement": "device", "save_every": 7, "momentum": 0.9}
        del recipe["fixed_bounds"], run["history"]["data"]

    cut_off(tmp_path, 4)
    rewrite_facts(tmp_path, older)
    network, history = start(tmp_path)
    assert equal(state_of(network), uninterrupted["student"][0])
    assert facts(history) == uninterrupted["student"][1]
    rewrite_facts(tmp_path, lambda run: run["identity"]["recipe"].update(batch_size=3))
    with pytest.raises(ValueError, match=r"different recipe\)"):
        start(tmp_path)


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_other_weights_are_another_run(which: str, tmp_path: Path) -> None:
    """The same folder with another teacher, or another start, must not go on as if nothing had happened."""
    cut_off(tmp_path, 4)
    network, teacher = student(), full_precision()
    with torch.no_grad():
        changed = teacher if which == "teacher" else network
        changed.head[0].weight.add_(0.1)  # type: ignore[index, operator, union-attr]
    with pytest.raises(ValueError, match="another folder"):
        train(network, DATA, RECIPE, teacher=teacher, out=tmp_path, progress=False, device="cpu")


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "foreign"])
def test_a_damaged_state(damage: str, tmp_path: Path) -> None:
    cut_off(tmp_path, 4)
    path = tmp_path / "state.safetensors"
    content = path.read_bytes()
    foreign = safetensors.torch.save({"x": torch.zeros(1)})
    path.write_bytes({"cut": content[:-100], "empty": b"", "noise": b"noise" * 99, "foreign": foreign}[damage])
    with pytest.raises(RuntimeError, match=r"state\.safetensors .*delete it"):
        start(tmp_path)
    path.unlink()
    start(tmp_path)  # as the message says


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 6])
def test_a_full_disk_keeps_the_last_state(
    call: str,
    nth: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Outcomes,
) -> None:
    """Whichever file it meets; with space again, the run goes on."""
    real, count = getattr(os, call), 0

    def full(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, call, full)
        with pytest.raises(RuntimeError, match="No space left.*free space"):
            start(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    network, history = start(tmp_path)
    assert equal(state_of(network), uninterrupted["student"][0])
    assert facts(history) == uninterrupted["student"][1]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + len(history.rows)


def test_a_resumed_log_has_the_same_columns(tmp_path: Path) -> None:
    """Also where the state was saved between two rows."""
    start(tmp_path / "quiet")
    cut_off(tmp_path / "disturbed", 4)
    start(tmp_path / "disturbed")
    quiet, disturbed = ((tmp_path / name / "log.csv").read_text() for name in ("quiet", "disturbed"))
    assert disturbed == quiet


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    """Kill -9 in the middle of a save leaves its temporary file, as large as the state; nobody else would remove it."""
    cut_off(tmp_path, 4)
    remains = tmp_path / ".state.safetensors.0123456789abcdef0123456789abcdef.tmp"
    remains.write_bytes(b"half a state")
    os.utime(remains, (0, 0))
    others = tmp_path / ".log.csv.fedcba9876543210fedcba9876543210.tmp"
    others.write_text("a second process, on the same folder by mistake, is about to rename this")
    start(tmp_path)
    assert not remains.exists() and others.exists()
    others.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "best.safetensors", "log.csv"}


def test_the_best_weights_in_the_folder_are_those_of_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be killed between the two; where machines round otherwise, the better score does not come again."""
    recipe = PLAIN.override(validate_every=3, save_every=3)
    monkeypatch.setattr(validation, "evaluate", Scripted([20, 30]))
    with monkeypatch.context() as patched:
        write_state = RunFolder.write_state

        def killed(folder: RunFolder, state: RunState) -> None:
            if state.facts["step"] == 6:
                raise PowerCut
            write_state(folder, state)

        patched.setattr(RunFolder, "write_state", killed)
        with pytest.raises(PowerCut):
            train(full_precision(), DATA, recipe, out=tmp_path, progress=False, device="cpu")
    monkeypatch.setattr(validation, "evaluate", Scripted([10, 10, 10]))
    network = full_precision()
    history = train(network, DATA, recipe, out=tmp_path, progress=False, device="cpu")
    assert (history.best_step, history.best_psnr) == (3, 20)
    assert equal(safetensors.torch.load_file(tmp_path / "best.safetensors"), state_of(network))


def test_a_finished_run_has_its_whole_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last two files that it writes."""
    for name in ("write_state", "write_log"):
        out = tmp_path / name
        real = getattr(RunFolder, name)

        def killed(folder: Any, content: Any, real: Any = real, name: str = name) -> None:
            if (len(content) == 3) if name == "write_log" else (content.facts["step"] == 10):
                raise PowerCut
            real(folder, content)

        with monkeypatch.context() as patched:
            patched.setattr(RunFolder, name, killed)
            with pytest.raises(PowerCut):
                start(out)
        _, history = start(out)
        assert [int(row["step"]) for row in csv.DictReader((out / "log.csv").open())] == [4, 8, 10]
        assert len(history.rows) == 3


def test_a_state_that_has_diverged_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says to start again from the last saved state, so that state must be sound."""

    def spoil(run: Run) -> None:
        if run.step == 2:
            run.network.head[0].weight.data.fill_(math.nan)  # type: ignore[index, operator, union-attr]

    after_each_step(monkeypatch, spoil)
    with pytest.raises(RuntimeError, match=r"at step \d"):
        train(full_precision(), DATA, PLAIN.override(save_every=1), out=tmp_path, progress=False, device="cpu")
    saved = safetensors.torch.load_file(tmp_path / "state.safetensors")
    assert all(value.isfinite().all() for value in saved.values() if value.is_floating_point())


def test_an_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="file"):
            train(full_precision(), DATA, PLAIN, out=out, progress=False)
    assert (tmp_path / "file").read_text() == "mine"
