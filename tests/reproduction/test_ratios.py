"""The benchmark: what it measures is finite, and its peer computes the same thing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddtb_lite import networks, uniform
from ddtb_lite.conversion import gated_paths
from ddtb_lite.quantizers import DualBound, dual_bound
from ddtb_lite.reproduction import ratios
from ddtb_lite.reproduction.naive import naive_quantizer
from ddtb_lite.reproduction.ratios import _memory_ratio, _run, median_seconds
from ddtb_lite.training.cuda_graph import EAGER_STEPS

torch.set_num_threads(1)


@contextmanager
def eager(enabled: bool = True) -> Iterator[None]:
    yield


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of 8 features, and nothing compiled."""
    monkeypatch.setattr(ratios, "build", lambda name, scale: networks.build(name, scale, n_blocks=2, n_feats=8))
    monkeypatch.setattr(ratios.uniform, "compiled", eager)


def test_the_ratios(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratios, "_memory_ratio", lambda device: 0.5)
    measured = ratios.benchmark("cpu", batch_size=2)
    assert list(measured) == [
        "step_vs_fp32",
        "step_vs_fp32_without_teacher",
        "fake_quantize_vs_relu",
        "evaluation_vs_forward",
        "peak_memory_vs_naive",
    ]
    for ratio in measured.values():
        assert math.isfinite(ratio.value) and ratio.value > 0 and ratio.about
    assert measured["peak_memory_vs_naive"].value == 0.5
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(ratios, "PROCESS_STATUS", Path("/nowhere"))
        assert "peak_memory_vs_naive" not in ratios.benchmark("cpu", batch_size=2), "only Linux can tell"
    # Without instructions for bf16 the benchmark says so.
    precision = _run(torch.device("cpu"), 2, teacher=False).precision
    assert ("bf16)" if precision == "bf16" else "fp32, no bf16 instructions here") in measured["step_vs_fp32"].about


def test_a_step_is_recorded_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratios, "_synchronize", lambda device: None)
    calls: list[int] = []
    for device, before in (("cpu", 1), ("cuda", EAGER_STEPS + 1)):
        calls.clear()
        median_seconds([lambda: calls.append(1)], torch.device(device), repeats=2)
        assert len(calls) == before + 2


def test_the_student_that_is_measured(tiny: None) -> None:
    """2 bits, 30 % of the layers with live gates, the teacher and the transfer loss: the paper's step."""
    run = _run(torch.device("cpu"), 2, teacher=True)
    run.advance()
    assert run.network.quantization is not None and run.network.quantization.bits == 2
    assert run.network.phase == "live"
    assert len(gated_paths(run.network)) == int(0.3 * 6)
    assert set(run.sums) == {"loss", "l1", "skt", "discarded"}
    assert run.recipe.skt_weight == 1000 and run.recipe.patch_size == 192
    run = _run(torch.device("cpu"), 2, teacher=False)
    run.advance()
    assert set(run.sums) == {"loss", "l1", "discarded"}


def test_medians_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def takes(name: str, seconds: list[float]) -> Any:
        def function() -> None:
            calls.append(name)
            clock[0] += seconds[calls.count(name) - 1]

        return function

    monkeypatch.setattr(ratios, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    # The first call of each, which may compile, does not count.
    functions = [takes("a", [100, 1, 9, 2]), takes("b", [200, 5, 5, 6])]
    assert median_seconds(functions, torch.device("cpu"), repeats=3) == [2, 5]
    assert "".join(calls) == "abababab"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(), (3, 1, 1, 1)])
def test_thenaive_quantizer_computes_the_same(bits: int, shape: tuple[int, ...]) -> None:
    """Values and all three gradients, with scalar bounds and with one pair for each image."""
    torch.manual_seed(bits)
    fused = dual_bound.fake_quantize
    for _ in range(5):
        x = torch.randn(3, 4, 6, 5, dtype=torch.float64) * 3
        lower = -0.5 - 2 * torch.rand(shape, dtype=torch.float64)
        upper = 0.5 + 2 * torch.rand(shape, dtype=torch.float64)
        weight = torch.randn_like(x)
        outcomes: list[list[Tensor]] = []
        with naive_quantizer():
            naive = dual_bound.fake_quantize
        for function in (fused, naive):
            leaves = [each.clone().requires_grad_() for each in (x, lower, upper)]
            result = function(*leaves, bits)
            (result * weight).sum().backward()
            outcomes.append([result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
        assert len(outcomes[0]) == 4
        for own, theirs in zip(*outcomes, strict=True):
            torch.testing.assert_close(own, theirs)
    assert naive is not fused and dual_bound.fake_quantize is fused is uniform.fake_quantize


def test_thenaive_quantizer_reaches_the_student() -> None:
    quantizer = DualBound(2)
    x = torch.randn(2, 3, 8, 8)
    quantizer.initialize(x, 99)
    expected = quantizer(x)
    with naive_quantizer():
        result = quantizer(x)
    torch.testing.assert_close(result, expected)
    names = [type(each.grad_fn).__name__ for each in (expected, result)]
    assert "FakeQuantize" in names[0] and "FakeQuantize" not in names[1]
    with pytest.raises(RuntimeError, match="inside"), naive_quantizer():
        raise RuntimeError("inside")
    assert dual_bound.fake_quantize is uniform.fake_quantize


def test_the_memory_ratio_is_ours_to_the_naive_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is measured in a process of its own."""
    commands = []

    def answer(command: list[str], **options: Any) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout=json.dumps({"ours": 300, "naive": 1200}[command[-1]]))

    monkeypatch.setattr(ratios.subprocess, "run", answer)
    assert _memory_ratio("cpu") == 0.25
    module = "ddtb_lite.reproduction.ratios"
    assert commands == [[sys.executable, "-m", module, "cpu", each] for each in ("ours", "naive")]


def test_a_memory_that_cannot_be_measured_says_why() -> None:
    with pytest.raises(RuntimeError, match="could not be measured: .*nowhere"):
        _memory_ratio("nowhere")


def test_memory_is_measured_in_a_real_process() -> None:
    """The naive version in small needs more than one quantizer's input and less than 200 MB (39 MB here).

    Whatever this process needed before must not count: Linux lets a new process inherit `ru_maxrss`.
    """
    ballast = bytearray(500_000_000)
    del ballast
    program = (
        "import torch; from ddtb_lite import networks; from ddtb_lite.reproduction import ratios;"
        "torch.set_num_threads(1);"
        "ratios.build = lambda name, scale: networks.build(name, scale, n_blocks=2, n_feats=16);"
        "print(ratios.step_memory('cpu', 'naive', batch_size=2))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert finished.returncode == 0, finished.stderr
    assert 4 * 2 * 16 * 48 * 48 < int(finished.stdout) < 200_000_000
