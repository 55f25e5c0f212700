"""What the notebooks draw, in one visual language. Drawing only: the data come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Okabe and Ito's palette, which colour-blind readers can tell apart; one colour for each thing, all through the book.
COLORS = {
    "upper": "#D55E00",
    "lower": "#0072B2",
    "levels": "#009E73",
    "data": "#7F8790",
    "ddtb": "#D55E00",
    "pams": "#0072B2",
    "bicubic": "#7F8790",
    "full precision": "#222222",
    "other": "#CC79A7",
}

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#55595F",
    "axes.grid": True,
    "grid.color": "#E3E6EA",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222"]),
}


@contextmanager
def style() -> Iterator[None]:
    """The book's look, inside this context."""
    with plt.rc_context(STYLE):
        yield


def pictures(images: Mapping[str, np.ndarray], *, width: float = 2.6, columns: int | None = None) -> Figure:
    """Images of one size side by side, each below its caption, pixel for pixel without smoothing."""
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    height, across = next(iter(images.values())).shape[:2]
    with style():
        figure, axes = plt.subplots(
            rows, columns, figsize=(width * columns, rows * (width * height / across + 0.45)), squeeze=False
        )
        for place in axes.flat:
            place.set_axis_off()
        for place, (caption, image) in zip(axes.flat, images.items(), strict=False):
            place.imshow(image, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
            place.set_title(caption)
    return figure


def photo_with_crops(photo: np.ndarray, box: tuple[int, int, int], versions: Mapping[str, np.ndarray]) -> Figure:
    """A photo with a frame round a square (top, left, side), and that square from each version beside it."""
    top, left, side = box
    with style():
        columns = (len(versions) + 1) // 2
        figure = plt.figure(figsize=(3.6 + 2.1 * columns, 4.7))
        grid = figure.add_gridspec(2, 1 + columns, width_ratios=[1.75, *[1] * columns])
        whole = figure.add_subplot(grid[:, 0])
        whole.imshow(photo)
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=COLORS["upper"], linewidth=2))
        whole.set_title("the photo, and where to look")
        whole.set_axis_off()
        for index, (caption, image) in enumerate(versions.items()):
            place = figure.add_subplot(grid[index // columns, 1 + index % columns])
            place.imshow(image[top : top + side, left : left + side], interpolation="nearest")
            place.set_title(caption)
            place.set_axis_off()
    return figure


def activation_histogram(
    place: Axes,
    values: np.ndarray,
    lower: float | None = None,
    upper: float | None = None,
    levels: Sequence[float] = (),
) -> None:
    """A histogram of activations on a logarithmic scale, with bounds and quantization levels if there are any."""
    place.hist(values.ravel(), bins=120, color=COLORS["data"], log=True)
    for level in levels:
        place.axvline(level, color=COLORS["levels"], linewidth=1.2, linestyle=":")
    for name, bound in (("lower", lower), ("upper", upper)):
        if bound is not None:
            place.axvline(bound, color=COLORS[name], linewidth=2, label=f"{name} bound {bound:.1f}")
    place.set_ylabel("count")
