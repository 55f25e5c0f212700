"""Bounds that learn, step by step: where the quantizer's gradient pushes them, and what becomes of the levels.

As in the lab, the page rounds by itself; what comes from Python are the numbers, the path, and the pushes on it.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import torch
from IPython.display import HTML
from torch import Tensor

from .. import uniform
from . import figures
from .explorers import component, data_url, template
from .lab import Path, descend, some


def push(values: Tensor, lower: float, upper: float, bits: int) -> tuple[float, float]:
    """What moves the (lower, upper) bound: minus the quantizer's own gradient of the mean squared error."""
    lowest, highest = (torch.tensor(bound, requires_grad=True) for bound in (lower, upper))
    error = uniform.fake_quantize(values, lowest, highest, bits) - values
    to_lower, to_upper = torch.autograd.grad(-error.pow(2).mean(), (lowest, highest))
    return to_lower.item(), to_upper.item()


def trembling(identifier: str, x: Tensor, bits: int, caption: str, steps: int = 160) -> HTML:
    """A figure that plays `descend` on some of the values of `x`; `identifier` is unique on its page.

    It shows bounds and levels on the histogram, the pushes, and the lower bound in steps. It starts by itself when it
    is seen, unless readers ask for less motion; without scripts it is a picture of the end.
    """
    path, values = descend(x, bits, steps, every=1), some(x)
    rows = [(*map(_short, (lower, upper)), *map(_short, push(values, lower, upper, bits))) for _, lower, upper in path]
    lowest, highest = min(row[0] for row in rows), max(row[1] for row in rows)
    margin = (highest - lowest) / 5
    data = {
        "values": base64.b64encode(values.numpy().astype("<f4").tobytes()).decode(),
        "domain": [lowest - margin, highest + margin],
        "steps": 2**bits - 1,
        "path": rows,
    }
    body = template(
        "trembling",
        picture=data_url(picture(values, path, bits), exact=True),
        alternative=html.escape(
            "A histogram with bounds and levels; below it the lower bound in steps, over training."
        ),
        last=steps,
    )
    return component(("quantizer", "histogram", "trembling"), identifier, body, caption, data)


def _short(number: float) -> float:
    """Six digits, of what is drawn."""
    return float(f"{number:.6g}")


def picture(values: Tensor, path: Path, bits: int) -> figures.Figure:
    """The end of a path on the histogram, and below it the lower bound in steps all along."""
    _, lower, upper = path[-1]
    levels: Sequence[float] = (
        uniform.fake_quantize(values, torch.tensor(lower), torch.tensor(upper), bits).unique().tolist()
    )
    with figures.style():
        figure, (place, below) = figures.plt.subplots(2, 1, figsize=(7, 4), height_ratios=[2, 1])
        figures.activation_histogram(place, values.numpy(), lower, upper, levels)
        below.plot([(2**bits - 1) * low / (high - low) for _, low, high in path], color=figures.COLORS["lower"])
        below.set_ylabel("lower bound,\nin steps")
        below.set_xlabel("step of training")
    return figure
