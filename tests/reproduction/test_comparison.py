"""The comparison of methods: one recipe for all, a table that says what it shows, and runs that continue."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ddtb_lite as ddtb
from ddtb_lite import images
from ddtb_lite.evaluation import Scores
from ddtb_lite.reproduction import comparison
from ddtb_lite.reproduction.comparison import Comparison, compare, table
from ddtb_lite.training.run import Run

torch.set_num_threads(1)

CHANGES = {
    "steps": 4,
    "batch_size": 2,
    "patch_size": 24,
    "falling_bits": ((4, 1), (3, 1)),
    "warmup_steps": 1,
    "save_every": 1,
}


def picture(seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    return images.resize(pixels, 4)


@pytest.fixture
def network() -> ddtb.networks.SuperResolutionNetwork:
    torch.manual_seed(0)
    return ddtb.build("edsr", 2, n_blocks=2, n_feats=8)


@pytest.fixture
def test_set(tmp_path: Path) -> str:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(2):
        images.write(folder / f"{seed}.png", picture(10 + seed))
    return str(folder)


def run(network, test_set, **options) -> list[Comparison]:
    training = [picture(seed) for seed in range(4)]
    return compare(network, training, [test_set], changes=CHANGES, device="cpu", progress=False, **options)


def facts(rows: list[Comparison]) -> list[dict]:
    """All but the time."""
    return [{name: value for name, value in vars(row).items() if name != "seconds"} for row in rows]


def test_every_method_is_trained_and_scored_alike(network, test_set, monkeypatch) -> None:
    seen = []
    train = comparison.train

    def watched(student, data, recipe, **options):
        seen.append((student.quantization.method, recipe))
        return train(student, data, recipe, **options)

    monkeypatch.setattr(comparison, "train", watched)
    rows = run(network, test_set)
    methods = list(ddtb.quantizers.METHODS)
    assert [method for method, _ in seen] == methods
    recipes = {method: recipe for method, recipe in seen}
    assert recipes["reactnet"].falling_bits == (), "it knows 1 bit only"
    del recipes["reactnet"]
    assert len({str(recipe) for recipe in recipes.values()}) == 1
    assert recipes["ddtb"].falling_bits == CHANGES["falling_bits"]

    by_name = {row.method: row for row in rows}
    assert by_name.keys() == {*methods, "full precision", "bicubic"}
    assert {name: row.bits for name, row in by_name.items() if row.bits != 2} == {
        "full precision": 32,
        "bicubic": None,
        "reactnet": 1,
    }
    psnr = [row.scores[test_set].psnr for row in rows]
    assert psnr == sorted(psnr, reverse=True)
    assert by_name["full precision"].scores[test_set] == ddtb.evaluate(network, test_set, progress=False)
    for name in methods:
        row = by_name[name]
        errors = [*row.initial_errors.values(), *row.final_errors.values()]
        points = 4 if name == "daq" else 6  # DAQ leaves the shortcuts of both blocks alone
        assert len(errors) == 2 * points and all(0 < error < math.inf for error in errors)
        assert (row.initial_errors != row.final_errors) == (name != "daq"), "DAQ trains no bound"
        assert 0 < row.feature_error < math.inf and row.seconds > 0
    assert len(table(rows).splitlines()) > 11


def test_a_comparison_that_was_cut_off_goes_on(network, test_set, tmp_path, monkeypatch) -> None:
    methods = ["pams", "ddtb", "lsq"]
    expected = facts(run(network, test_set, methods=methods))
    advance, steps = Run.advance, []

    def stopping(self: Run) -> None:
        if len(steps) == 6:  # in the second method's third step
            raise KeyboardInterrupt
        steps.append(self)
        advance(self)

    monkeypatch.setattr(Run, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(network, test_set, methods=methods, out=tmp_path / "runs")
    steps.clear()
    assert facts(run(network, test_set, methods=methods, out=tmp_path / "runs")) == expected
    assert len(steps) == 6, "of 3 × 4 steps, 6 were done"
    with pytest.raises(ValueError, match="another run"):
        run(network, test_set, methods=methods, out=tmp_path / "runs", seed=1)


def test_what_cannot_work_is_refused_before_anything_runs(network, test_set, monkeypatch) -> None:
    monkeypatch.setattr(comparison, "train", lambda *_, **__: pytest.fail("something was trained"))
    monkeypatch.setattr(comparison, "evaluate", lambda *_, **__: pytest.fail("something was scored"))
    with pytest.raises(ValueError, match="bits is 32"):
        run(network, test_set, bits=32)
    with pytest.raises(ValueError, match="methods are dtb, expected some of ddtb, "):
        run(network, test_set, methods=["pams", "dtb"])
    with pytest.raises(ValueError, match="methods are none"):
        run(network, test_set, methods=[])
    with pytest.raises(FileNotFoundError, match="no folder and no data set"):
        run(network, "no such folder")
    with pytest.raises(ValueError, match="no test set"):
        comparison.compare(network, [picture(0)], [])


def test_a_method_that_diverges_is_a_row_without_scores(network, test_set, monkeypatch) -> None:
    advance = Run.advance

    def spoiling(self: Run) -> None:
        advance(self)
        if self.network.quantization is not None and self.network.quantization.method == "pams":
            self.network.head[0].weight.data.fill_(math.nan)  # type: ignore[index, operator, union-attr]

    monkeypatch.setattr(Run, "advance", spoiling)
    rows = run(network, test_set, methods=["pams", "lsq"])
    assert [row.method for row in rows][-1] == "pams" and not rows[-1].scores and rows[-1].diverged_at
    assert {row.method for row in rows if row.scores} == {"full precision", "bicubic", "lsq"}
    assert f"diverged, step {rows[-1].diverged_at}" in table(rows)


def row(method: str, bits: int | None, psnr: float, *inside) -> Comparison:
    scores = {name: Scores(name, 4, "y", 4, [{"name": "a", "psnr": psnr, "ssim": 0.8}]) for name in ("A", "Set5")}
    return Comparison(method, bits, scores, *inside)


def test_the_table_letter_by_letter() -> None:
    rows = [
        row("full precision", 32, 29),
        row("pams", 2, 28.123, {"x": 0.3, "y": 0.1, "z": 0.5}, {"x": 0.1, "y": 0.1, "z": 0.1}, 0.456, 1234.4),
        row("ddtb", 2, 28, {"x": 0.2, "y": 0.2, "z": 0.2}, {"x": 0.15, "y": 0.15, "z": 0.05}, 0.4, 60.0),
        row("bicubic", None, 26),
        row("reactnet", 1, 9.5, {"x": 0.7, "y": 0.7, "z": 0.9}, {"x": 1.0, "y": 1.0, "z": 12.25}, 10.0, 7.0),
    ]
    assert table(rows).splitlines() == [
        "method          bits   A PSNR/SSIM  Set5 PSNR/SSIM  error before  < ddtb  after  < ddtb  features    time",
        "full precision    32  29.00/0.8000    29.00/0.8000             –       –      –       –         –       –",
        "pams               2  28.12/0.8000    28.12/0.8000         0.300       1  0.100       2      0.46  1234 s",
        "ddtb               2  28.00/0.8000    28.00/0.8000         0.200       –  0.150       –      0.40    60 s",
        "bicubic            –  26.00/0.8000    26.00/0.8000             –       –      –       –         –       –",
        "reactnet           1   9.50/0.8000     9.50/0.8000         0.700       0  1.000       0     10.00     7 s",
        "",
        "error: squared error of the activation quantizers on the full-precision network's activations,",
        "  before and after training, the median over layers; 1 is as much as an activation varies",
        "< ddtb: the layers, of 3, in which this error is lower than DDTB's",
        "features: distance of the blocks' outputs from the full-precision network's; 0 is none",
        "bits: the nearest width that the method knows, where it does not know the one asked for",
    ]
    without = table([each for each in rows if each.method in ("pams", "bicubic")]).splitlines()
    assert without[1].split() == [
        "pams",
        "2",
        *["28.12/0.8000"] * 2,
        "0.300",
        "–",
        "0.100",
        "–",
        "0.46",
        "1234",
        "s",
    ]
    assert not any(line.startswith(("< ddtb", "bits")) for line in without)
