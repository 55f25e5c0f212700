"""What the notebooks draw, in one visual language. Drawing only: the data come from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from .points import Stage

# One colour for each thing, all through the book: bounds and levels in Okabe and Ito's, methods in Tol's muted colours,
# so that a method is never taken for a bound. Colour-blind readers can tell all of them apart.
COLORS = {
    "upper": "#D55E00",
    "lower": "#0072B2",
    "levels": "#009E73",
    "data": "#7F8790",
    "ddtb": "#882255",
    "pams": "#88833A",
    "bicubic": "#7F8790",
    "full precision": "#222222",
    "other": "#E69F00",
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
    "axes.prop_cycle": cycler(color=["#E69F00", "#44AA99", "#222222", "#AA4499", "#56B4E9", "#88833A"]),
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


def dots(values: Mapping[str, float], unit: str) -> Figure:
    """One number a line, in the order given: a dot, its name on the left and the number beside it.

    DDTB's and PAMS's are in their colors, bicubic and full precision in theirs.
    """
    with style():
        figure, place = plt.subplots(figsize=(6.2, 0.34 * len(values) + 0.7))
        for height, (name, value) in enumerate(reversed(list(values.items()))):
            own = (COLORS[each] for each in ("ddtb", "pams", "bicubic", "full precision") if each in name.lower())
            color = next(own, COLORS["other"])
            place.plot(value, height, "o", color=color, markersize=8)
            place.annotate(f"{value:.2f}", (value, height), (9, 0), textcoords="offset points", va="center")
        place.set_yticks(range(len(values)), list(values)[::-1])
        place.set_xlabel(unit)
        place.margins(x=0.16)
        place.set_ylim(-0.6, len(values) - 0.4)
        place.grid(axis="x", visible=False)
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
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=COLORS["other"], linewidth=2))
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


def scores(rows: Mapping[str, Mapping[str, tuple[float, float | None]]]) -> Figure:
    """PSNR of runs, a row each: `rows` maps a run to its data sets, and these to (ours, printed), dB.

    Ours is a dot, wine-red for DDTB, the printed one a ring, and the line between them is what is missing, or gained.
    Each data set has a scale of its own; a printed score of None is left out.
    """
    sets = list(dict.fromkeys(dataset for found in rows.values() for dataset in found)) or [""]
    with style():
        figure, axes = plt.subplots(
            1, len(sets), figsize=(1.8 + 2.3 * len(sets), 0.9 + 0.36 * len(rows)), sharey=True, squeeze=False
        )
        for place, dataset in zip(axes.flat, sets, strict=True):
            for row, (name, found) in enumerate(rows.items()):
                ours, printed = found.get(dataset, (np.nan, None))
                if printed is not None:
                    place.plot([ours, printed], [row, row], color=COLORS["data"], zorder=1)
                    place.plot(printed, row, "o", markerfacecolor="white", color=COLORS["full precision"], zorder=2)
                place.plot(ours, row, "o", color=COLORS["ddtb" if "ddtb" in name else "pams"])
            place.set_title(dataset)
            place.set_xlabel("PSNR [dB]")
            place.margins(x=0.15)
        axes[0, 0].set_yticks(range(len(rows)), rows)
        axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


@dataclass(frozen=True)
class Row:
    """A row of a forest plot: the value of every run, their colour, and the printed value, None where there is none."""

    label: str
    values: Sequence[float]
    color: str = COLORS["ddtb"]
    printed: float | None = None


def forest(place: Axes, groups: Mapping[str, Sequence[Row]], limit: float = math.inf) -> None:
    """Rows in groups, the first on top: every run a dot, mean ± standard deviation a bar, a printed value a diamond.

    A row whose mean lies beyond `limit`, which is then the axis' right end, is written there as a number.
    """
    labels: dict[float, str] = {}
    y = 0.0
    for title, rows in groups.items():
        if title:
            place.annotate(
                title, (0, y), (6, 0), ("axes fraction", "data"), "offset points", va="center", weight="bold"
            )
            y += 1
        for row in rows:
            labels[y] = row.label
            _forest_row(place, y, row, limit)
            y += 1
        y += 0.4 * bool(title)
    place.set_yticks(list(labels), list(labels.values()))
    place.set_ylim(y - 0.4, -0.6)
    place.grid(axis="y", visible=False)
    if math.isfinite(limit):
        place.set_xlim(right=limit)


def _forest_row(place: Axes, y: float, row: Row, limit: float) -> None:
    mean = fmean(row.values) if row.values else math.nan
    if mean > limit:
        place.annotate(f"{mean:.1f} →", (limit, y), (-4, 0), textcoords="offset points", ha="right", va="center")
    else:
        if len(row.values) > 1:
            deviation = stdev(row.values)
            place.plot([mean - deviation, mean + deviation], [y, y], color=row.color, linewidth=6, alpha=0.3)
            place.plot(mean, y, "|", color=row.color, markersize=13, markeredgewidth=2)
        place.plot(row.values, [y] * len(row.values), "o", color=row.color, markersize=6, alpha=0.85)
    if row.printed is not None:
        place.plot(row.printed, y, "D", color=COLORS["full precision"], fillstyle="none", markersize=7)


# The fewer the bits of a number, the deeper its yellow.
WIDTHS = {1: "#CDBB5A", 2: "#DDCC77", 3: "#E8DC9F", 4: "#F1EAC4", 8: "#F8F5E4", 32: "#FFFFFF"}


def residual_block(stages: Sequence[Stage], block: str) -> Figure:
    """A block of a network: its convolutions as boxes, its quantized activations as circles, both with their bits.

    `stages` are those of `points.stages`, `block` is one of the network's `block_names`. A block's `input` lies
    before the fork and its `skip` on the shortcut: all networks name them so. A thick ring is a gate. A long
    block takes several lines. Raises `ValueError` for a block that is not there.
    """
    own = {stage.path.removeprefix(f"{block}."): stage for stage in stages if stage.path.startswith(f"{block}.")}
    if not own:
        raise ValueError(f"There are no stages of a block {block!r}; a network's block_names() lists its blocks.")
    skip = own.pop("skip", None)
    room = {"activation": 0.85, "weight": 1.5, "function": 1.1}
    figure = plt.figure()
    place = figure.add_axes((0, 0, 1, 1), aspect="equal", frame_on=False, xticks=[], yticks=[])
    x, y, right = 0.2, 0.0, 0.0
    fork = x + room["activation"] if "input" in own else x
    for name, stage in own.items():
        if x > 9.5 and stage.kind == "activation":
            _line(place, (0, y), (x, y), (x, y - 0.7), (0, y - 0.7), (0, y - 1.8))
            right, x, y = max(right, x + 0.3), 0.2, y - 1.8
        if (x, y) == (fork, 0):
            x += 0.45
        _draw_stage(place, x + room[stage.kind] / 2, y, name, stage)
        x += room[stage.kind]
    end = x + 0.35
    right = max(right, end)
    _line(place, (0, y), (end + 0.6, y))
    _line(place, (fork, 0), (fork, 0.9), (right, 0.9), (right, y + 0.75), (end, y + 0.75), (end, y))
    place.plot(fork, 0, "o", color="#222222", markersize=4)
    if skip is not None:
        _draw_stage(place, (fork + right) / 2, 0.9, "skip", skip)
    place.add_patch(Circle((end, y), 0.2, facecolor="white", edgecolor="#222222"))
    place.text(end, y, "+", ha="center", va="center")
    arrow = {"arrowstyle": "->", "color": "#222222", "shrinkA": 0}
    place.annotate("", (end + 0.9, y), (end + 0.6, y), arrowprops=arrow)
    place.set(xlim=(-0.3, max(right, end + 0.9) + 0.2), ylim=(y - 0.75, 1.65))
    figure.set_size_inches(0.85 * np.ptp(place.get_xlim()), 0.85 * np.ptp(place.get_ylim()))
    return figure


def _line(place: Axes, *points: tuple[float, float]) -> None:
    place.plot(*zip(*points, strict=True), color="#222222", linewidth=1, zorder=0)


def _draw_stage(place: Axes, x: float, y: float, name: str, stage: Stage) -> None:
    color = WIDTHS.get(stage.bits, WIDTHS[8])
    if stage.kind == "activation":
        edge, width = (COLORS["ddtb"], 3) if stage.gated else ("#55595F", 1)
        place.add_patch(Circle((x, y), 0.3, facecolor=color, edgecolor=edge, linewidth=width))
        place.text(x, y, str(stage.bits), ha="center", va="center", fontsize=9, weight="bold")
        # Names stand outside the loop that line and shortcut make.
        if y > 0:
            place.text(x, y + 0.42, name, ha="center", va="bottom", fontsize=7.5)
        else:
            place.text(x, y - 0.42, name, ha="center", va="top", fontsize=7.5)
        return
    across, text = 0.8, stage.rule.removesuffix("2d").replace("BatchNorm", "batch\nnorm")
    if stage.kind == "weight":
        out_channels, in_channels, height, width = stage.shape
        across, text = 1.2, f"{height}×{width} conv\n{in_channels} → {out_channels}\n{stage.bits} bits"
    box = FancyBboxPatch((x - across / 2, y - 0.4), across, 0.8, boxstyle="round,pad=0.02")
    box.set(facecolor=color if stage.kind == "weight" else "white", edgecolor="#55595F")
    place.add_patch(box)
    place.text(x, y, text, ha="center", va="center", fontsize=7.5)
