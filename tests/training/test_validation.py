"""Validation: which images watch a run, what its history says, and which weights are kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small_runs import DATA, PLAIN, RECIPE, Scripted, equal, full_precision, picture, state_of, student

from ddtb_lite import evaluate, train
from ddtb_lite.training import validation
from ddtb_lite.training.run import Run


def test_history_rows() -> None:
    always, started = {"step", "bits", "phase", "loss", "l1"}, time.perf_counter()
    history = train(full_precision(), DATA, PLAIN, progress=False, device="cpu")
    assert [set(row) for row in history.rows] == [always | {"psnr"}] * 3
    assert [(row["step"], row["bits"], row["phase"]) for row in history.rows] == [
        (4, 32, "full precision"),
        (8, 32, "full precision"),
        (10, 32, "full precision"),
    ]
    assert history.bounds == [] and 0 < history.seconds <= time.perf_counter() - started

    history = train(student(), DATA, RECIPE, teacher=full_precision(), progress=False, device="cpu")
    keys = always | {"skt", "features", "psnr", "feature_error"}
    assert [set(row) for row in history.rows] == [keys, keys | {"gates"}, keys]
    assert [(row["bits"], row["phase"]) for row in history.rows] == [(3, "initialized"), (2, "live"), (2, "live")]
    assert [entry["step"] for entry in history.bounds] == [4, 8, 10]
    assert set(history.bounds[0]["bounds"]) == {"body.0.input", "body.0.hidden", "body.0.output"}
    assert all(lower < upper for entry in history.bounds for lower, upper in entry["bounds"].values())


def test_a_row_of_losses_between_validations() -> None:
    recipe = PLAIN.override(steps=60, validate_every=1000, batch_size=1)
    history = train(full_precision(), DATA, recipe, progress=False, device="cpu")
    assert [(row["step"], "psnr" in row) for row in history.rows] == [(50, False), (60, True)]


def test_validation_images_are_not_trained_on() -> None:
    """Each image has one color of its own, so that a patch tells where it comes from."""
    data = [(str(index), np.full((40, 40, 3), 20 * index, np.uint8)) for index in range(10)]
    run = Run(full_precision(), None, PLAIN.override(validation_images=3), data, 0, torch.device("cpu"))
    held_out = {name for name, _ in run.validation.held_out}
    assert held_out == {"1", "5", "8"}  # at equal distances
    drawn = {str(int(value) // 20) for value in run.sampler.sample(400)[1].amax((1, 2, 3)).tolist()}
    assert drawn == {str(index) for index in range(10)} - held_out
    validated = {str(int(value) // 20) for value in run.validation.patches.amax((1, 2, 3)).round().tolist()}
    assert validated <= held_out


@pytest.mark.parametrize(("wanted", "got"), [(0, 0), (1, 1), (4, 4), (5, 5), (8, 5)])
def test_at_most_half_of_the_images_is_held_out(wanted: int, got: int) -> None:
    data = [(str(index), picture(index)) for index in range(10)]
    run = Run(full_precision(), None, PLAIN.override(validation_images=wanted), data, 0, torch.device("cpu"))
    assert len(run.validation.held_out) == got and len(run.sampler) == 10 - got


def test_a_single_image_trains_without_scores() -> None:
    network = full_precision()
    history = train(network, DATA[:1], PLAIN, progress=False, device="cpu")
    assert all("psnr" not in row for row in history.rows)
    assert history.best_step == 10


def test_the_best_weights_are_those_of_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted([20, 30, 25, 30, 10])
    monkeypatch.setattr(validation, "evaluate", script)
    network = full_precision()
    history = train(network, DATA, PLAIN.override(validate_every=2), out=tmp_path, progress=False, device="cpu")
    assert (history.best_step, history.best_psnr) == (4, 30)
    assert [row["psnr"] for row in history.rows] == [20, 30, 25, 30, 10]
    assert equal(state_of(network), script.states[1])
    assert equal(safetensors.torch.load_file(tmp_path / "best.safetensors"), script.states[1])


def test_only_a_finished_student_can_be_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 2 and 4 are at 4 and 3 bits, 6 is in warm-up; 8 and 10 are what was asked for."""
    script = Scripted([50, 40, 35, 21, 20])
    monkeypatch.setattr(validation, "evaluate", script)
    network = student()
    recipe = RECIPE.override(validate_every=2)
    history = train(network, DATA, recipe, teacher=full_precision(), progress=False, device="cpu")
    assert (history.best_step, history.best_psnr) == (8, 21)
    assert equal(state_of(network), script.states[3])


def test_the_network_that_comes_out_scores_what_the_history_says() -> None:
    network = student()
    history = train(network, DATA, RECIPE, teacher=full_precision(), progress=False, device="cpu")
    held_out = [DATA[1], DATA[4]]
    assert evaluate(network, held_out, progress=False).psnr == history.best_psnr
    assert history.best_psnr == max(row["psnr"] for row in history.rows if row["phase"] == "live")


def test_large_images_among_small_ones() -> None:
    """Only training patches need large images; which image is held out must not decide whether a run starts."""
    data = [picture(0), picture(1, 26, 26), picture(2), picture(3)]
    history = train(full_precision(), data, PLAIN.override(validation_images=1), progress=False, device="cpu")
    held_out_last = [picture(0), picture(1), picture(2, 26, 26), picture(3)]
    again = train(full_precision(), held_out_last, PLAIN.override(validation_images=1), progress=False, device="cpu")
    assert len(history.rows) == len(again.rows) == 3


@pytest.mark.parametrize("place", range(4))
def test_the_only_image_that_a_patch_fits_into_is_trained_on(place: int) -> None:
    data = [picture(index, 26, 26) if index != place else picture(index) for index in range(4)]
    pairs = [(str(index), image) for index, image in enumerate(data)]
    run = Run(full_precision(), None, PLAIN.override(validation_images=2), pairs, 0, torch.device("cpu"))
    assert len(run.sampler) == 1 and len(run.validation.held_out) == (1 if place in (1, 3) else 2)


def test_an_image_too_small_to_be_scored_is_not_held_out() -> None:
    data = [picture(0), picture(1), picture(2, 15, 40), picture(3)]  # of these the third would be held out
    pairs = [(str(index), image) for index, image in enumerate(data)]
    run = Run(full_precision(), None, PLAIN.override(validation_images=1), pairs, 0, torch.device("cpu"))
    assert [name for name, _ in run.validation.held_out] == ["1"], "the middle one of those that can be"


def test_images_that_are_left_out_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    data = [picture(0), picture(1, 26, 26), picture(2)]
    train(full_precision(), data, PLAIN.override(validation_images=0), progress=False, device="cpu")
    assert "1 of 3 training images are smaller than a patch of 32×32 pixels and are left out." in caplog.text
