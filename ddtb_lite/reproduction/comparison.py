"""Every method on one network, with one recipe, on the same data: the comparison the paper argues with."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from .. import datasets
from ..conversion import quantize
from ..diagnostics import quantization_errors, quantizer_inputs
from ..evaluation import Scores, evaluate
from ..initializer import initialize
from ..networks import SuperResolutionNetwork
from ..quantizers import METHODS
from ..support import devices
from ..training import train
from ..training.loop import training_images
from ..training.patches import PatchSampler
from ..training.recipe import Recipe
from ..training.run import Diverged
from ..uniform import check_bits

CALIBRATION_BATCHES = 20


@dataclass(frozen=True)
class Comparison:
    """One row: a method's scores by data set, and what happened inside.

    `initial_errors` and `final_errors` are the activation quantizers' relative mean squared errors on the
    full-precision network's own activations, by path, before and after training; `feature_error` is how far
    the blocks' outputs are from the teacher's (0: equal, 1: as good as nothing). Two rows are there to
    compare with, "full precision" and "bicubic": they have scores only. A method that diverged has none, but the
    step at which that was noticed, `diverged_at`.
    """

    method: str
    bits: int | None
    scores: dict[str, Scores]
    initial_errors: dict[str, float] = field(default_factory=dict)
    final_errors: dict[str, float] = field(default_factory=dict)
    feature_error: float | None = None
    seconds: float | None = None
    diverged_at: int | None = None


def compare(
    teacher: SuperResolutionNetwork,
    data: str | Path | Sequence,
    test_sets: Sequence[str],
    *,
    bits: int = 2,
    methods: Sequence[str] = tuple(METHODS),
    preset: str = "smoke",
    changes: dict[str, object] | None = None,
    own_rates: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> list[Comparison]:
    """Quantize, initialize, train and score one student for each method; best first on the first test set.

    All get the same recipe, which `changes` may alter, unless `own_rates` gives each its paper's learning
    rates. A method that does not work at `bits` (ReActNet: 1 only) gets the nearest width that it knows. With
    `out`, each method has a run folder below it and an interrupted comparison continues.

    Raises `ValueError` for unknown methods and widths, `FileNotFoundError` for a data set that is not there.
    """
    check_bits(bits, 1, 8)
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        given = ", ".join(unknown) or "none"
        raise ValueError(f"methods are {given}, expected some of {', '.join(METHODS)}.")
    if not test_sets:
        raise ValueError("There is no test set; name at least one to score on.")
    for test in test_sets:
        datasets.paths(test)  # a test set that is missing is better noticed now than after hours
    device = devices.resolve(device)
    teacher.to(device)
    images = [image for _, image in training_images(data)]

    def scores(network: SuperResolutionNetwork | str) -> dict[str, Scores]:
        return {
            test: evaluate(network, test, scale=teacher.scale, device=device, progress=progress) for test in test_sets
        }

    rows = [Comparison("full precision", 32, scores(teacher)), Comparison("bicubic", None, scores("bicubic"))]
    for index, name in enumerate(methods):
        rule = METHODS[name]
        width = min(max(bits, rule.lowest_bits), rule.highest_bits)
        if progress:
            tqdm.write(f"{index + 1} of {len(methods)}: {name}, {width}-bit", file=sys.stderr)
        student, trial = quantize(teacher, name, width), quantize(teacher, name, width)
        recipe = Recipe.preset(preset, student, own_rates=own_rates).override(**(changes or {}))
        # A binary method has no wider student to start from.
        known = tuple(stage for stage in recipe.falling_bits if stage[0] <= rule.highest_bits)
        recipe = recipe.override(falling_bits=known)
        sampler = PatchSampler(images, teacher.scale, recipe.patch_size, seed=seed)
        batches = [sampler.sample(recipe.batch_size)[0] for _ in range(CALIBRATION_BATCHES)]
        activations = quantizer_inputs(teacher, batches[0], points=student.points)
        initialize(trial, batches)
        initial_errors = quantization_errors(trial, activations)
        folder = None if out is None else Path(out) / name
        try:
            history = train(
                student, data, recipe, teacher=teacher, out=folder, seed=seed, device=device, progress=progress
            )
        except Diverged as error:
            if progress:
                tqdm.write(str(error), file=sys.stderr)
            rows.append(Comparison(name, width, {}, initial_errors, diverged_at=error.step))
            continue
        scored = history.best_step or recipe.steps
        rows.append(
            Comparison(
                name,
                width,
                scores(student),
                initial_errors,
                final_errors=quantization_errors(student, activations),
                feature_error=next(each["feature_error"] for each in history.rows if each["step"] == scored),
                seconds=history.seconds,
            )
        )
    return sorted(rows, key=lambda row: -row.scores[test_sets[0]].psnr if row.scores else math.inf)


def table(rows: Sequence[Comparison]) -> str:
    """The rows as text, with a legend.

    Where DDTB is among the methods, the columns "< ddtb" count the layers in which another method's error is
    the lower one: none, if DDTB's bounds are the better ones everywhere.
    """
    ddtb = next((row for row in rows if row.method == "ddtb"), None)
    initial, final = (ddtb.initial_errors, ddtb.final_errors) if ddtb else ({}, {})
    heads = ["method", "bits", *(f"{scores.dataset} PSNR/SSIM" for scores in rows[0].scores.values())]
    lines = [[*heads, "error before", "< ddtb", "after", "< ddtb", "features", "time"]]
    for row in rows:
        lines.append(
            [
                row.method,
                "–" if row.bits is None else str(row.bits),
                *(_score_cell(row, test) for test in rows[0].scores),
                *_error_cells(row.initial_errors, initial),
                *_error_cells(row.final_errors, final),
                "–" if row.feature_error is None else f"{row.feature_error:.2f}",
                "–" if row.seconds is None else f"{row.seconds:.0f} s",
            ]
        )
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    text = ["  ".join([cells[0].ljust(first), *map(str.rjust, cells[1:], others)]) for cells in lines]
    return "\n".join([*text, "", *_legend(rows)])


def _score_cell(row: Comparison, test: str) -> str:
    if row.diverged_at is not None:
        return f"diverged, step {row.diverged_at}"
    return f"{row.scores[test].psnr:.2f}/{row.scores[test].ssim:.4f}"


def _error_cells(errors: dict[str, float], ddtb: dict[str, float]) -> list[str]:
    """The median, and in how many layers that both quantize an error is lower than DDTB's."""
    if not errors:
        return ["–", "–"]
    shared = errors.keys() & ddtb.keys()
    lower = str(sum(errors[path] < ddtb[path] for path in shared)) if ddtb and ddtb is not errors else "–"
    return [f"{statistics.median(errors.values()):.3f}", lower]


def _legend(rows: Sequence[Comparison]) -> list[str]:
    methods = [row for row in rows if row.initial_errors]
    layers = max(len(row.initial_errors) for row in methods)
    lines = [
        "error: squared error of the activation quantizers on the full-precision network's activations,",
        "  before and after training, the median over layers; 1 is as much as an activation varies",
    ]
    if any(row.method == "ddtb" for row in methods):
        lines.append(f"< ddtb: the layers, of {layers}, in which this error is lower than DDTB's")
    lines.append("features: distance of the blocks' outputs from the full-precision network's; 0 is none")
    if len({row.bits for row in methods}) > 1:
        lines.append("bits: the nearest width that the method knows, where it does not know the one asked for")
    return lines
