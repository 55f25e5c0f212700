"""Interruption: a run that is cut off anywhere ends as if it had never been."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small_runs import (
    DATA,
    PLAIN,
    RECIPE,
    Outcomes,
    PowerCut,
    after_each_step,
    cut_off,
    equal,
    facts,
    full_precision,
    start,
    state_of,
    student,
)
from torch import Tensor

from ddtb_lite import datasets, images, load, save, train
from ddtb_lite.cli import main
from ddtb_lite.quantizers import METHODS
from ddtb_lite.training.run import History, Run


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 6, 8, 9, 10])
def test_an_interrupted_run_ends_bit_identical(steps: int, tmp_path: Path, uninterrupted: Outcomes) -> None:
    """Cut off before the first save, in each phase, between saves and at the very end."""
    cut_off(tmp_path, steps)
    network, history = start(tmp_path)
    weights, expected = uninterrupted["student"]
    assert equal(state_of(network), weights)
    assert facts(history) == expected


def test_a_run_that_is_cut_off_again_and_again(tmp_path: Path, uninterrupted: Outcomes) -> None:
    for kind in ("student", "full precision"):
        out = tmp_path / kind
        for steps in (2, 4, 7, 8, 10):
            cut_off(out, steps, kind)
        network, history = start(out, kind)
        assert equal(state_of(network), uninterrupted[kind][0])
        assert facts(history) == uninterrupted[kind][1]
        # Once more: the run is finished, and stays so.
        network, again = start(out, kind)
        assert equal(state_of(network), uninterrupted[kind][0]) and facts(again) == uninterrupted[kind][1]
        rows = list(csv.DictReader((out / "log.csv").open()))
        assert [int(row["step"]) for row in rows] == [row["step"] for row in history.rows]


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("ddtb", "reactnet")])
def test_every_methods_state_is_complete(method: str, tmp_path: Path) -> None:
    """Moving averages, steps and clips are part of the state; the cut is just before the bit-width changes."""

    def stop(*_: object, **__: object) -> None:
        raise PowerCut

    results = []
    for cut in (False, True):
        out = tmp_path / str(cut)
        if cut:  # at step 4; the last state is of step 3
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Run, "log", stop)
                with pytest.raises(PowerCut):
                    train(student(method), DATA, RECIPE, out=out, progress=False, device="cpu")
        network = student(method)
        history = train(network, DATA, RECIPE, out=out, progress=False, device="cpu")
        results.append((state_of(network), facts(history)))
    assert equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_finishes_the_step_and_saves(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Outcomes
) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        after_each_step(patched, lambda run: os.kill(os.getpid(), number) if run.step == 5 else None)
        with pytest.raises(KeyboardInterrupt, match=f"step 5.* continues from {tmp_path}"):
            start(tmp_path)
    assert signal.getsignal(number) == before
    with safetensors.safe_open(tmp_path / "state.safetensors", "pt") as file:
        assert json.loads(file.metadata()["run"])["step"] == 5  # the step that was under way, not the last multiple
    network, history = start(tmp_path)
    assert equal(state_of(network), uninterrupted["student"][0])
    assert facts(history) == uninterrupted["student"][1]


def command(out: Path, folder: Path) -> list[str]:
    recipe = {
        "steps": 60,
        "batch_size": 2,
        "patch_size": 32,
        "calibration_batches": 2,
        "warmup_steps": 10,
        "falling_bits": "[[4,10],[3,10]]",
        "validation_images": 1,
        "validate_every": 7,
        "save_every": 3,
        "precision": "fp32",
    }
    return [
        "train", "--scale", "2", "--bits", "2", "--gate-ratio", "0.5", "--teacher", f"{folder}/teacher.safetensors",
        "--preset", "smoke", "--data", f"{folder}/images", "--device", "cpu", "--test", "--out", str(out),
        "--set", *(f"{name}={value}" for name, value in recipe.items()),
    ]  # fmt: skip


def test_kill_and_terminate_real_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9, then SIGTERM, then to the end: the same weights and the same log as without."""
    (tmp_path / "images").mkdir()
    for name, image in DATA[:4]:
        images.write(tmp_path / "images" / f"{name}.png", image)
    save(full_precision(), tmp_path / "teacher.safetensors")
    out = tmp_path / "disturbed" / "run"
    state = out / "state.safetensors"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def process() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ddtb_lite", *command(out, tmp_path)],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_a_new_state(running: subprocess.Popen[str], old: int) -> None:
        while running.poll() is None and (not state.exists() or state.stat().st_mtime_ns == old):
            time.sleep(0.002)

    def saved_step() -> int:
        with safetensors.safe_open(state, "pt") as file:
            return json.loads(file.metadata()["run"])["step"]

    running = process()
    wait_for_a_new_state(running, 0)
    running.kill()
    _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors
    killed_at = saved_step()
    assert killed_at < 60

    running = process()
    wait_for_a_new_state(running, state.stat().st_mtime_ns)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate()
    assert running.returncode == 130, errors
    stopped_at = saved_step()
    assert killed_at < stopped_at < 60
    assert errors.splitlines() == [f"Training was stopped after step {stopped_at}. The same call continues from {out}."]
    assert output == ""

    running = process()
    output, errors = running.communicate()
    assert running.returncode == 0 and errors == "", errors

    reference = tmp_path / "quiet" / "run"
    assert main(command(reference, tmp_path)) == 0
    logs = [list(csv.DictReader((folder / "log.csv").open())) for folder in (out, reference)]
    assert logs[0] == logs[1] and len(logs[0]) == 10
    assert (out / "best.safetensors").read_bytes() == (reference / "best.safetensors").read_bytes()
    states = [safetensors.torch.load_file(folder / "state.safetensors") for folder in (out, reference)]
    assert equal(*states)
    checkpoints = [load(folder / "run.safetensors").state_dict() for folder in (out, reference)]
    assert equal(*checkpoints)


def test_the_training_images_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their fingerprint in the result file comes from the images at hand: a large set takes minutes to decode."""
    (tmp_path / "images").mkdir()
    for name, image in DATA:
        images.write(tmp_path / "images" / f"{name}.png", image)
    save(full_precision(), tmp_path / "teacher.safetensors")
    expected, read, real = datasets.fingerprint(tmp_path / "images"), [], images.read

    def watched(path: Path) -> np.ndarray:
        read.append(path.stem)
        return real(path)

    monkeypatch.setattr(images, "read", watched)
    out = tmp_path / "run"
    for _ in range(2):  # the second call finds the run finished
        read.clear()
        assert main(command(out, tmp_path)) == 0
        assert sorted(read) == [name for name, _ in DATA]
        assert json.loads((out / "run.json").read_text())["data"] == {"training": expected}


def test_a_discriminator_trains_along_and_resumes(tmp_path: Path) -> None:
    """Its losses are logged, and an interruption leaves no trace."""
    recipe = PLAIN.override(adversarial_weight=1e-3, adversarial_loss="least_squares")

    def run(out: Path | None) -> tuple[dict[str, Tensor], History]:
        network = full_precision()
        history = train(network, DATA, recipe, out=out, progress=False, device="cpu", seed=3)
        return state_of(network), history

    whole, history = run(tmp_path / "whole")
    assert {"adversarial", "discriminator"} <= set(history.rows[0])
    assert history.best_step == recipe.steps, "PSNR does not choose among networks that an adversary teaches"
    with pytest.MonkeyPatch.context() as patched:
        after_each_step(patched, _cut_at(4))
        with pytest.raises(PowerCut):
            run(tmp_path / "cut")
    resumed, _ = run(tmp_path / "cut")
    assert equal(whole, resumed)
    states = [safetensors.torch.load_file(tmp_path / name / "state.safetensors") for name in ("whole", "cut")]
    assert equal(*states) and any("adversary.discriminator" in name for name in states[0])


def _cut_at(step: int) -> Callable[[Run], None]:
    def see(run: Run) -> None:
        if run.step == step:
            raise PowerCut

    return see


@pytest.mark.parametrize(
    "refusal", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("[enforce fail] can't allocate memory: 9")]
)
def test_full_memory_says_what_to_do_and_keeps_the_last_state(
    refusal: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Outcomes
) -> None:
    def refuse(run: Run) -> None:
        if run.step == 7:
            raise refusal

    with monkeypatch.context() as patched:
        after_each_step(patched, refuse)
        with pytest.raises(RuntimeError, match=r"cpu is full at step 7.* checkpointing=true"):
            start(tmp_path)
    network, _ = start(tmp_path, recipe=RECIPE.override(checkpointing=True))  # as the message says
    assert equal(state_of(network), uninterrupted["student"][0])


def test_full_memory_does_not_advise_what_is_done_already(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Run) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    after_each_step(monkeypatch, refuse)
    with pytest.raises(RuntimeError, match=r"smaller batch_size \(2\) or patch_size \(32\)") as error:
        train(full_precision(), DATA, PLAIN.override(checkpointing=True), progress=False, device="cpu")
    assert "checkpointing" not in str(error.value)
