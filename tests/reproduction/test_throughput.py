"""What a step costs on a device, and the least that it could; the same code for CPU and CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ddtb_lite import build, quantize
from ddtb_lite.cost import complexity
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.reproduction import throughput
from ddtb_lite.reproduction.ratios import student_run

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY = {"n_blocks": 1, "n_feats": 8}


@contextmanager
def eager(enabled: bool = True) -> Iterator[None]:
    yield


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput.uniform, "compiled", eager)
    monkeypatch.setattr(throughput, "operations_per_second", lambda device, dtype: 1e9)
    monkeypatch.setattr(throughput, "bytes_per_second", lambda device: 1e9)


def test_a_step_is_measured_beside_its_floors(small: None) -> None:
    result = throughput.measure("edsr", "cpu", low_resolution_patch=8, batch_size=2, repeats=3, architecture=TINY)
    assert 0 < result.seconds and 0 < result.official
    assert result.waits == 0
    # Student: forward, and backward twice as much; but no gradient flows into the image. Teacher: features only.
    network = build("edsr", 4, **TINY)
    all_macs = complexity(network, (32, 32)).macs
    pixels = 8 * 8
    head = 3 * 8 * 9 * pixels
    features = head + (2 + 1) * 8 * 8 * 9 * pixels
    expected = 2 * 2 * (3 * all_macs - head + features)
    assert result.arithmetic * 1e9 == pytest.approx(expected, rel=0.02)  # the gates, and the mean shifts
    assert "EDSR ×4, batch 2, 8×8" in str(result) and "0 waits" in str(result)


def test_the_bytes_of_a_step() -> None:
    """By hand: every convolution and quantizer reads and writes its tensors once, thrice with the backward pass."""
    network = build("edsr", 2, **TINY)
    run = student_run(network, 8, 2, CPU)
    low, _ = run.sampler.sample(2)
    values = 2 * 8 * 8
    head, body = (3 + 8) * values, 3 * (8 + 8) * values
    quantizers = 3 * (8 + 8) * values
    weights = 2 * 2 * 8 * 8 * 9  # weight quantizers see the weights
    tail = (8 + 32) * values + 4 * (8 + 3) * values
    student, teacher = head + body + quantizers + weights + tail, head + body
    assert throughput.activation_bytes(run, low, torch.float32) == 4 * (3 * student + teacher)
    assert throughput.activation_bytes(run, low, torch.bfloat16) == 2 * (3 * student + teacher)


def test_the_official_step_trains(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    students: list[SuperResolutionNetwork] = []

    def watched(*how: Any) -> SuperResolutionNetwork:
        students.append(quantize(*how, gate_ratio=1))
        return students[0]

    monkeypatch.setattr(throughput, "quantize", watched)
    network = build("edsr", 2, **TINY)
    before = [parameter.clone() for parameter in network.parameters()]
    step = throughput.official_step(network, 8, 2, CPU)
    step()
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)), "the teacher"
    gates = [parameter for name, parameter in students[0].named_parameters() if ".gate." in name]
    assert gates and all(parameter.grad is not None for parameter in gates), "gates are live"


def test_speeds_of_a_device_are_positive() -> None:
    assert throughput.operations_per_second(CPU, torch.float32, side=64) > 0
    assert throughput.bytes_per_second(CPU, size=2**16) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waits_are_counted_and_a_step_has_none() -> None:
    x = torch.ones(3, device="cuda")
    assert throughput.count_waits(lambda: [x.sum().item(), x.max().item()], x.device) == 2
    assert throughput.measure("edsr", "cuda", repeats=5).waits == 0
