"""When a step is called, recorded and replayed; what only a CUDA device can do stands behind a recorder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ddtb_lite import Recipe, build, quantize, train, uniform
from ddtb_lite.training import step
from ddtb_lite.training.cuda_graph import EAGER_STEPS, Outputs, StepGraph, recorder_for
from ddtb_lite.training.losses import Objective
from ddtb_lite.training.patches import PatchSampler


class FakeRecorder:
    """Like a CUDA graph: recording runs nothing on the device, a replay writes into the recorded outputs."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.recorded = self.eager = 0

    def eagerly(self, step: Callable[[], Outputs]) -> Outputs:
        self.eager += 1
        return step()

    def record(self, step: Callable[[], Outputs]) -> tuple[Callable[[], Any], Outputs]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        self.recorded += 1
        outputs: Outputs = {}

        def replay() -> None:
            for name, value in step().items():
                outputs.setdefault(name, torch.zeros_like(value)).copy_(value)

        return replay, outputs


class Counter:
    def __init__(self) -> None:
        self.steps = 0

    def step(self) -> Outputs:
        self.steps += 1
        return {"loss": torch.tensor(float(self.steps))}


@pytest.mark.parametrize("recorder", [None, FakeRecorder(), FakeRecorder(fails=True)])
def test_every_call_is_one_step(recorder: FakeRecorder | None) -> None:
    graph, counter = StepGraph(recorder), Counter()
    seen = [graph(counter.step, "warm-up")["loss"].item() for _ in range(6)]
    seen += [graph(counter.step, "live")["loss"].item() for _ in range(6)]
    assert seen == list(range(1, 13)) and counter.steps == 12


def test_each_situation_is_recorded_once_after_a_few_eager_steps() -> None:
    recorder, counter = FakeRecorder(), Counter()
    graph = StepGraph(recorder)
    for situation in ("warm-up", "live"):
        for _ in range(EAGER_STEPS + 4):
            graph(counter.step, situation)
    assert (recorder.recorded, recorder.eager) == (2, 2 * EAGER_STEPS)


def test_a_step_that_cannot_be_recorded_is_logged_once_and_called(caplog: pytest.LogCaptureFixture) -> None:
    graph, counter = StepGraph(FakeRecorder(fails=True)), Counter()
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            graph(counter.step, "live")
    assert counter.steps == 10
    assert [record.getMessage() for record in caplog.records] == [
        "The training step runs without a CUDA graph: operation not permitted when stream is capturing"
    ]


def test_a_new_optimizer_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it lies in memory as the one before did; the graph of that one would move nothing."""
    monkeypatch.setattr(step, "id", lambda _: 0, raising=False)
    recorder = FakeRecorder()
    monkeypatch.setattr(step, "recorder_for", lambda _: recorder)
    pictures = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(2)]
    objective = Objective(build("edsr", 2, n_blocks=1, n_feats=8), None, Recipe("test", steps=9))
    training = step.TrainingStep(objective, PatchSampler(pictures, 2, 32), 2, torch.device("cpu"))
    for _ in range(2):
        training.reset_optimizer()
        for _ in range(EAGER_STEPS + 2):
            training((1e-3, 1e-3), "live")
    assert recorder.recorded == 2


def test_a_cpu_records_nothing() -> None:
    assert recorder_for(torch.device("cpu")) is None


def test_eager_compiled_and_recorded_steps_train_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and scores of a whole run, through falling bits, warm-up and live gates."""
    pictures = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(4)]
    recipe = Recipe(
        "test",
        steps=15,
        batch_size=2,
        patch_size=32,
        halve_every=None,
        calibration_batches=1,
        warmup_steps=5,
        falling_bits=((4, 5),),
        validation_images=1,
        validate_every=5,
        precision="fp32",
    )
    monkeypatch.setattr(uniform, "SMALLEST_COMPILED", 1)
    recorder = FakeRecorder()
    trajectories = {}
    for way in ("eager", "compiled", "recorded"):
        torch.manual_seed(0)
        teacher = build("edsr", 2, n_blocks=1, n_feats=8)
        monkeypatch.setattr(step, "recorder_for", lambda device, way=way: recorder if way == "recorded" else None)
        student = quantize(teacher, "ddtb", 3, gate_ratio=1)
        changed = recipe.override(compile=way == "compiled")
        history = train(student, pictures, changed, teacher=teacher, progress=False, device="cpu")
        trajectories[way] = [[row[name] for name in ("loss", "psnr", "feature_error")] for row in history.rows]
    assert recorder.recorded == 3, "one graph for each phase"
    assert len(trajectories["eager"]) == 3
    np.testing.assert_allclose(trajectories["recorded"], trajectories["eager"], rtol=1e-6)
    # The compiled quantizer rounds as the eager one does; a sum may run in another order.
    np.testing.assert_allclose(trajectories["compiled"], trajectories["eager"], rtol=1e-3)
