"""What notebooks repeat: the line by which one notices that a result has changed, and live controls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import ipywidgets

# Seconds; longer than a client takes to store a picture.
REST = 0.5


def check(name: str, got: float, want: float = True, tolerance: float = 0.0) -> None:
    """Print one constant line if `got` is within `tolerance` of `want`; raise `AssertionError` otherwise.

    The line does not contain `got`, so that a notebook's output stays the same as long as the result holds. With
    two arguments `got` is a condition, which must be true.
    """
    is_condition = want is True
    # Six digits would round a large count.
    wanted = f"{want:,.0f}" if abs(want) >= 1e6 and float(want).is_integer() else f"{want:g}"
    line = f"check {name}" if is_condition else f"check {name}: {wanted} ± {tolerance:g}"
    got = float(got)
    if not math.isfinite(got) or not abs(got - want) <= tolerance:
        raise AssertionError(f"{line}, but {'it does not hold' if is_condition else f'got {got:g}'}")
    print(f"✓ {line}")


def interact(function: Callable[..., object], **controls: Any) -> None:
    """`ipywidgets.interact`, followed by a short rest.

    nbclient and papermill tell the kernel of each picture that they store for a widget. If the cell's reply comes
    at that very moment, they miss it and wait for ever. So the cell ends a little later than its picture comes.
    """
    ipywidgets.interact(function, **controls)
    time.sleep(REST)
