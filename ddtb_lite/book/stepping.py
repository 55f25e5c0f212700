"""Small sums to step through: numbers that are read, their weights, and the number that they become."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from IPython.display import HTML

from .explorers import component, template

Place = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """Cells (row, column) that are read in each grid, in order, cells of the result that come of them, and a sentence.

    Where `weights` are given, there is one for each cell that is read.
    """

    read: Mapping[str, Sequence[Place]]
    made: Sequence[Place]
    text: str
    weights: Sequence[float] = ()


def weighted_sum(values: Sequence[float], weights: Sequence[float], divisor: int = 1) -> str:
    """The products and their sum as one writes them by hand, such as "−1·3 + 2·5 = 7", over a divisor if there is one.

    An inexact quotient gets two digits.
    """
    terms = [f"{_number(weight)}·{_number(value)}" for value, weight in zip(values, weights, strict=True)]
    products = terms[0] + "".join(f" − {term[1:]}" if term[0] == "−" else f" + {term}" for term in terms[1:])
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    if divisor == 1:
        return f"{products} = {_number(total)}"
    return f"({products}) / {divisor} = {_number(round(total / divisor, 2))}"


def stepper(
    identifier: str,
    grids: Mapping[str, np.ndarray],
    result: tuple[str, np.ndarray],
    steps: Sequence[Step],
    caption: str,
) -> HTML:
    """A figure that goes through `steps`: from the `grids` of numbers, H×W by title, to the `result`, cell by cell.

    Without scripts the whole result is there, and the first step is marked. ValueError where a step reads or makes a
    cell that does not exist, or has not as many weights as cells.
    """
    titles = list(grids)
    rows = [
        [
            [[titles.index(title), _index(grids[title], cell)] for title, cells in step.read.items() for cell in cells],
            [_number(weight) for weight in step.weights],
            [_index(result[1], cell) for cell in step.made],
            step.text,
        ]
        for step in steps
    ]
    for step in steps:
        count = sum(map(len, step.read.values()))
        if len(step.weights) not in (0, count):
            raise ValueError(f"{len(step.weights)} weights for {count} cells that are read, in the step {step.text!r}.")
    body = template(
        "stepper",
        grids="".join(_grid(title, numbers) for title, numbers in grids.items()),
        result=_grid(*result),
        text=html.escape(steps[0].text),
        texts="".join(f"<span>{html.escape(step.text)}</span>" for step in steps),
        last=len(steps) - 1,
    )
    return component(("stepper",), identifier, body, caption, rows)


def _grid(title: str, numbers: np.ndarray) -> str:
    cells = "".join(f"<i><span>{_number(value)}</span></i>" for value in numbers.flat)
    said = html.escape(f"{title}: {'; '.join(' '.join(map(_number, row)) for row in numbers)}")
    return (
        f'<div class="grid" role="img" aria-label="{said}"><b>{html.escape(title)}</b>'
        f'<div style="--columns:{numbers.shape[1]}">{cells}</div></div>'
    )


def _index(numbers: np.ndarray, cell: Place) -> int:
    height, width = numbers.shape
    if not (0 <= cell[0] < height and 0 <= cell[1] < width):
        raise ValueError(f"There is no cell {cell} in {height}×{width} numbers.")
    return cell[0] * width + cell[1]


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")
