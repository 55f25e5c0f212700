"""What the tests of training share."""

from __future__ import annotations

import pytest
from small_runs import DATA, PLAIN, RECIPE, Outcomes, facts, full_precision, state_of, student

from ddtb_lite import train


@pytest.fixture(scope="session")
def uninterrupted() -> Outcomes:
    """How runs end that nothing disturbed."""
    results: Outcomes = {}
    for kind, network in (("student", student()), ("full precision", full_precision())):
        teacher = full_precision() if kind == "student" else None
        recipe = RECIPE if kind == "student" else PLAIN
        history = train(network, DATA, recipe, teacher=teacher, progress=False, device="cpu")
        results[kind] = (state_of(network), facts(history))
    return results
