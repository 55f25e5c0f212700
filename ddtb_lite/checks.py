"""Checks in notebooks: a result that moves turns into an error, and what is printed stays the same."""

from __future__ import annotations

import math


def check(name: str, got: float, want: float, tolerance: float) -> None:
    """Print one constant line if `got` is within `tolerance` of `want`; raise `AssertionError` otherwise.

    The line does not contain `got`, so that a notebook's output stays the same as long as the result holds.
    """
    line = f"check {name}: {want:g} ± {tolerance:g}"
    if not math.isfinite(got) or not abs(got - want) <= tolerance:
        raise AssertionError(f"{line}, but got {got:g}")
    print(f"✓ {line}")
