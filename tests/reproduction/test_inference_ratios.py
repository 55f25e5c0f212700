"""What was measured of running networks, against what is counted here."""

from __future__ import annotations

import json
from itertools import count

import pytest

import ddtb_lite as ddtb
from ddtb_lite.cli import main
from ddtb_lite.reproduction import inference_ratios
from ddtb_lite.support import resources


def test_the_stored_promises_are_the_counted_ones() -> None:
    facts = json.loads((resources.data("benchmarks") / "inference.json").read_text())
    full, student, fully = (
        ddtb.pretrained(name.format(4))
        for name in (inference_ratios.FULL, inference_ratios.STUDENT, inference_ratios.FULLY)
    )
    counted = inference_ratios._promised(full, student, fully)
    rows = [row for row in facts["rows"] if row["scale"] == 4]
    assert {row["part"] for row in rows} == {"body", "whole"}
    for row in rows:
        expected = counted[row["part"]].get(row["version"], 1.0)
        assert row["promised"] == pytest.approx(expected, abs=1e-4)
        assert row["time"] > 0
    for version, name in (("full precision", "edsr_x4"), ("2 bits", "edsr_x4_ddtb_2bit")):
        assert facts["bytes"]["4"][version] == ddtb.checkpoints.shipped(name).stat().st_size


def test_versions_take_turns_and_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    ticks = count()
    monkeypatch.setattr(inference_ratios.time, "process_time", lambda: float(next(ticks)) ** 2)
    versions = {name: lambda name=name: order.append(name) for name in "ab"}
    found = inference_ratios._fastest(versions, threads=1, repeats=3)
    assert order == list("ab" * 4)  # the first round warms up
    # The clock is read at 0², 1², 2² …: a takes 1, 9 and 17, b 5, 13 and 21.
    assert found == {"a": 1.0, "b": 5.0}


def test_only_a_cpu_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--inference", "--device", "cuda"]) == 1
    assert "--device" in capsys.readouterr().err
