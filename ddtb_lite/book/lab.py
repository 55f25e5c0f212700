"""The quantizer lab: real numbers, two bounds to drag, and where each method would put them.

The page computes what it shows itself, with the rounding of `uniform`, bit for bit; what comes from Python are the
numbers, the methods' bounds, and the paths that training took.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from IPython.display import HTML
from torch import Tensor

from .. import uniform
from ..networks import ActivationPoint
from ..quantizers import METHODS, DualBound
from ..quantizers.lsq import initial_step, integer_limits
from . import figures
from .explorers import buttons, component, data_url, template

Bounds = tuple[float, float, int]
Path = Sequence[tuple[int, float, float]]

# Values that a sample keeps: enough for a smooth histogram, few enough for a page.
KEPT = 4000


@dataclass(frozen=True)
class Sample:
    """Numbers to quantize, float32, each method's (lower, upper, steps), and paths of trained bounds.

    `bounds` goes from bits to method, the first of which is shown first; `paths` from bits and method to the
    (step, lower, upper) of a training. The bits of both are the same; a sample without a training has no `paths`.
    """

    label: str
    values: np.ndarray
    bounds: Mapping[int, Mapping[str, Bounds]]
    paths: Mapping[int, Mapping[str, Path]] = field(default_factory=dict)


def sample(label: str, x: Tensor, bits: Sequence[int] = (2, 3, 4, 8), nonnegative: bool = False) -> Sample:
    """A sample of an activation: methods' bounds for all of `x`, and a few thousand of its values.

    The path of DDTB's bounds is that of `descend`, and its button puts them where the path ends.
    """
    paths = {each: descend(x, each) for each in bits}
    bounds: dict[int, dict[str, Bounds]] = {}
    for each, path in paths.items():
        _, lower, upper = path[-1]
        bounds[each] = {**starting_bounds(x, each, nonnegative), "DDTB": (lower, upper, 2**each - 1)}
    return Sample(label, some(x).numpy(), bounds, {each: {"DDTB": path} for each, path in paths.items()})


def weight_sample(label: str, weight: Tensor, bits: Sequence[int] = (2, 3, 4, 8)) -> Sample:
    """A sample of a convolution's weight: the methods' bounds for all of it, and a few thousand of its values.

    DDTB takes two percentiles, again and again as the weights change; no bound is trained, so there is no path.
    """
    return Sample(label, some(weight).numpy(), {each: weight_bounds(weight, each) for each in bits})


def starting_bounds(x: Tensor, bits: int, nonnegative: bool = False) -> dict[str, Bounds]:
    """(lower, upper, steps) with which the methods start on an activation `x` of any shape, by title.

    Each method is a rule that yields two bounds and a number of steps. Those with one bound leave out a step, so that
    zero stays a level; behind a ReLU (`nonnegative`), PACT and LSQ begin at zero.
    """
    x = x.detach().float().reshape(1, 1, 1, -1)
    point = ActivationPoint("", 1, nonnegative=nonnegative)
    built = {name: METHODS[name].activation(bits, point, "paper") for name in ("pams", "pact", "lsq")}
    for quantizer in built.values():
        quantizer.initialize(x, 99)
    scale = {name: next(quantizer.parameters()).item() for name, quantizer in built.items()}
    lowest, highest = integer_limits(bits, nonnegative)
    steps = 2**bits - 1
    return {
        "min–max": (min(x.min().item(), 0), max(x.max().item(), 0), steps),
        "percentiles 1, 99": (uniform.percentile(x, 1).item(), uniform.percentile(x, 99).item(), steps),
        "PAMS": (-scale["pams"], scale["pams"], steps - 1),
        "PACT": (0.0, scale["pact"], steps) if nonnegative else (-scale["pact"], scale["pact"], steps - 1),
        "LSQ": (lowest * scale["lsq"], highest * scale["lsq"], steps),
    }


def weight_bounds(weight: Tensor, bits: int) -> dict[str, Bounds]:
    """(lower, upper, steps) between which the methods quantize a full-precision `weight` of any shape, by title.

    PACT is not among them: it presses the weights through tanh first.
    """
    weight = weight.detach().float()
    lowest, highest = integer_limits(bits, nonnegative=False)
    percentiles = uniform.percentile(weight, 1).item(), uniform.percentile(weight, 99).item()
    limit, step = weight.abs().max().item(), initial_step(weight, highest).item()
    steps = 2**bits - 1
    return {
        "min–max": (min(weight.min().item(), 0), max(weight.max().item(), 0), steps),
        "percentiles 1, 99": (*percentiles, steps),
        "PAMS": (-limit, limit, steps - 1),
        "LSQ": (lowest * step, highest * step, steps),
        "DDTB": (*percentiles, steps),
    }


def descend(x: Tensor, bits: int, steps: int = 400, every: int = 4) -> list[tuple[int, float, float]]:
    """The path (step, lower, upper) of DDTB's bounds from the percentiles of `x` down the squared error.

    Adam on both bounds with the quantizer's own gradient, on the values that a sample keeps; every `every`-th step is
    kept. The rate is a hundredth of the first range.
    """
    values = some(x).reshape(1, 1, 1, -1)
    quantizer = DualBound(bits)
    quantizer.initialize(x.detach().float(), 99)
    rate = max((quantizer.upper - quantizer.lower).item(), uniform.MINIMUM_WIDTH) / 100
    optimizer = torch.optim.Adam(quantizer.parameters(), rate)
    path = [(0, quantizer.lower.item(), quantizer.upper.item())]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (quantizer(values) - values).pow(2).mean().backward()
        optimizer.step()
        if step % every == 0:
            path.append((step, quantizer.lower.item(), quantizer.upper.item()))
    return path


def quantizer_lab(identifier: str, samples: Sequence[Sample], caption: str, error_map: bool = False) -> HTML:
    """A figure with a sample's histogram, on which two bounds are dragged; `identifier` is unique on its page.

    With `error_map` the error of all pairs of bounds, the lower one below zero and the upper one above, lies beside
    it, to walk on. A button rests where a sample has no bounds of its method. Without scripts the first sample is
    drawn with its first method's bounds.
    """
    first = samples[0]
    bits = list(first.bounds)
    methods = dict.fromkeys(method for each in samples for method in each.bounds[bits[0]])
    paths = dict.fromkeys(method for each in samples if each.paths for method in each.paths[bits[0]])
    options = "".join(f'<option value="{i}">{html.escape(each.label)}</option>' for i, each in enumerate(samples))
    select = f'<div class="bar"><select data-part="sample" aria-label="numbers to quantize">{options}</select></div>'
    shown = next(iter(first.bounds[bits[0]]))
    lower, upper, steps = first.bounds[bits[0]][shown]
    choice = buttons("path", {each: each for each in paths}, next(iter(paths))) if len(paths) > 1 else ""
    body = template(
        "lab",
        picture=data_url(histogram_picture(first, lower, upper, steps), exact=True),
        alternative=html.escape(f"{first.label}: histogram, {shown}, bounds {lower:.3g} and {upper:.3g}"),
        menu=select if len(samples) > 1 else "",
        map='<div data-part="map"></div>' if error_map else "",
        bits=buttons("bits", {each: str(each) for each in bits}),
        methods=buttons("method", {each: each for each in methods}),
        training=template("training", paths=choice) if paths else "",
    )
    parts = ("quantizer", "histogram", *(["error-map"] if error_map else []), "lab")
    return component(parts, identifier, body, caption, [_for_page(each) for each in samples])


def some(x: Tensor) -> Tensor:
    """A few thousand of the values of `x`, flat, float32: the extremes, and others drawn once and for all."""
    flat = x.detach().float().flatten()
    if flat.numel() <= KEPT:
        return flat
    drawn = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[: KEPT - 2]
    return torch.cat([flat[drawn], torch.stack(torch.aminmax(flat))])


def histogram_data(sample: Sample) -> dict[str, object]:
    """Values as a script reads them, and the range that the histogram shows: all of them and all bounds."""
    pairs = [(lower, upper) for methods in sample.bounds.values() for lower, upper, _ in methods.values()]
    lowest = min(sample.values.min().item(), *(lower for lower, _ in pairs))
    highest = max(sample.values.max().item(), *(upper for _, upper in pairs))
    margin = (highest - lowest) / 25
    return {
        "values": base64.b64encode(sample.values.astype("<f4").tobytes()).decode(),
        "domain": [lowest - margin, highest + margin],
    }


def _for_page(sample: Sample) -> dict[str, object]:
    """A sample as the lab's script reads it."""
    return {
        **histogram_data(sample),
        "bounds": {bits: dict(methods) for bits, methods in sample.bounds.items()},
        "paths": {
            bits: {method: [[step, *map(_short, bounds)] for step, *bounds in path] for method, path in trained.items()}
            for bits, trained in sample.paths.items()
        },
    }


def _short(bound: float) -> float:
    """A bound of a path with six digits: it is drawn, and the number beside it has three."""
    return float(f"{bound:.6g}")


def histogram_picture(sample: Sample, lower: float, upper: float, steps: int) -> figures.Figure:
    """The histogram as the page draws it, for a page without scripts."""
    values = torch.from_numpy(sample.values)
    levels = uniform.fake_quantize_steps(values, torch.tensor(lower), torch.tensor(upper), steps).unique()
    with figures.style():
        figure, place = figures.plt.subplots(figsize=(7, 2.6))
        figures.activation_histogram(place, sample.values, lower, upper, levels.tolist() if len(levels) <= 17 else ())
        place.legend(loc="upper right")
    return figure
