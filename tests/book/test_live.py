"""Widgets for readers who have a kernel."""

from __future__ import annotations

import time

import pytest

from ddtb_lite.book import notebook


def test_interact_calls_with_the_controls_values_and_then_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[object] = []
    monkeypatch.setattr(time, "sleep", happened.append)
    notebook.interact(lambda bits, name: happened.append((bits, name)), bits=(2, 8), name=["ddtb", "pams"])
    assert happened == [(5, "ddtb"), notebook.REST]
