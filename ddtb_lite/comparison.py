"""Every method on one network, with one recipe, on the same data: the comparison that the paper argues with."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .conversion import quantize
from .diagnostics import quantization_errors, quantizer_inputs
from .evaluation import Scores, evaluate
from .initializer import initialize
from .networks import SuperResolutionNetwork
from .patches import PatchSampler
from .quantizers import METHODS
from .recipe import Recipe
from .training import train, training_images


@dataclass(frozen=True)
class Comparison:
    """One method's row: scores by data set, and what happened inside.

    `initial_error` and `final_error` are the median over layers of the activation quantizers' relative mean squared
    error on the full-precision network's own activations, before and after training; `feature_error` is how
    far the blocks' outputs are from the teacher's (0: equal, 1: as good as nothing).
    """

    method: str
    bits: int
    scores: dict[str, Scores]
    initial_error: float
    final_error: float
    feature_error: float
    seconds: float


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
    """Quantize, initialize, train and score one student for each method.

    All get the same recipe, which `changes` may alter, unless `own_rates` gives each its paper's learning rates. A
    method that does not work at `bits` (ReActNet: 1 only) gets the nearest width that it knows. With `out`,
    each method has a run folder below it and an interrupted comparison continues.
    """
    images = training_images(data)
    rows = []
    for name in methods:
        rule = METHODS[name]
        width = min(max(bits, rule.lowest_bits), rule.highest_bits)
        student = quantize(teacher, name, width)
        recipe = Recipe.preset(preset, student, own_rates=own_rates).override(**(changes or {}))
        sampler = PatchSampler([image for _, image in images], teacher.scale, recipe.patch_size, seed=seed)
        batches = [sampler.sample(recipe.batch_size)[0] for _ in range(20)]
        activations = quantizer_inputs(teacher, batches[0])
        trial = quantize(teacher, name, width)
        initialize(trial, batches)
        initial = statistics.median(quantization_errors(trial, activations).values())
        history = train(
            student,
            data,
            recipe,
            teacher=teacher,
            out=None if out is None else Path(out) / name,
            seed=seed,
            device=device,
            progress=progress,
        )
        rows.append(
            Comparison(
                name,
                width,
                {test: evaluate(student, test, device=device, progress=progress) for test in test_sets},
                initial,
                statistics.median(quantization_errors(student, activations).values()),
                history.rows[-1]["feature_error"],
                history.seconds,
            )
        )
    return rows


def table(rows: Sequence[Comparison]) -> str:
    """The rows as text, best first on the first data set."""
    tests = list(rows[0].scores)
    heads = [*(f"{test} [dB]" for test in tests), "error, initial", "error, trained", "features", "time"]
    lines = [f"{'method':10s} bits  " + "  ".join(f"{head:>14s}" for head in heads)]
    for row in sorted(rows, key=lambda row: -row.scores[tests[0]].psnr):
        cells = [
            *(f"{row.scores[test].psnr:.2f}" for test in tests),
            f"{row.initial_error:.3f}",
            f"{row.final_error:.3f}",
            f"{row.feature_error:.2f}",
            f"{row.seconds:.0f} s",
        ]
        lines.append(f"{row.method:10s} {row.bits:4d}  " + "  ".join(f"{cell:>14s}" for cell in cells))
    return "\n".join(lines)
