"""Losses against slow loops in numpy, and values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddtb_lite.conversion import activation_quantizers, attach_gates, gated_paths, quantize, set_phase
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import SuperResolutionNetwork, build
from ddtb_lite.quantizers import DualBound
from ddtb_lite.training.losses import (
    attention,
    block_outputs,
    feature_error,
    gate_regularization,
    relative_error,
    structured_knowledge_transfer,
)

torch.set_num_threads(1)


def small(**options: int) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    return build("edsr", 2, **{"n_blocks": 2, "n_feats": 8, **options})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 30


def slow_attention(features: np.ndarray) -> np.ndarray:
    """A(F) = flatten(mean over c of F²) / its length, for each image, pixel by pixel."""
    count, channels, height, width = features.shape
    maps = np.zeros((count, height * width))
    for n in range(count):
        for y in range(height):
            for x in range(width):
                maps[n, y * width + x] = sum(float(features[n, c, y, x]) ** 2 for c in range(channels)) / channels
        maps[n] /= math.sqrt(sum(value**2 for value in maps[n]))
    return maps


def test_attention_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[1.0, -2.0]]], [[[0.0, 5.0]], [[0.0, 0.0]]]])
    # Means of squares: (1, 4) of length √17, and (0, 12.5).
    expected = torch.tensor([[1 / math.sqrt(17), 4 / math.sqrt(17)], [0.0, 1.0]])
    torch.testing.assert_close(attention(features), expected)


@pytest.mark.parametrize("channels", [(8, 8), (8, 3)])
def test_structured_knowledge_transfer_against_loops(channels: tuple[int, int]) -> None:
    """Student and teacher may differ in width, since only the maps are compared."""
    student, teacher = (random(3, each, 4, 5, seed=each + index) for index, each in enumerate(channels))
    expected = np.mean((slow_attention(student.numpy()) - slow_attention(teacher.numpy())) ** 2)
    assert expected > 1e-3
    assert structured_knowledge_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert structured_knowledge_transfer(student, -3 * student).item() == pytest.approx(0, abs=1e-12)


def test_attention_stays_finite() -> None:
    """Features of zero have no direction; half precision cannot hold the squares of 300."""
    zero = torch.zeros(1, 4, 3, 3, requires_grad=True)
    loss = structured_knowledge_transfer(zero, random(1, 4, 3, 3))
    loss.backward()
    assert loss.item() == pytest.approx(1 / 9)  # the mean square of a map of unit length
    assert zero.grad is not None and not zero.grad.any()
    assert attention(torch.full((1, 2, 2, 2), 300.0, dtype=torch.float16)).tolist() == [[0.5] * 4]


def test_the_gradient_of_structured_knowledge_transfer() -> None:
    teacher = random(2, 3, 3, 2, seed=1)
    student = random(2, 3, 3, 2).requires_grad_()
    structured_knowledge_transfer(student, teacher).backward()
    assert student.grad is not None
    target, step = slow_attention(teacher.numpy()), 1e-3
    for place in [(0, 0, 0, 0), (0, 2, 1, 1), (1, 1, 2, 0)]:
        values = []
        for sign in (1, -1):
            moved = student.detach().double().numpy().copy()
            moved[place] += sign * step
            values.append(np.mean((slow_attention(moved) - target) ** 2))
        assert student.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-9)


def test_gate_regularization_by_hand() -> None:
    student = quantize(small(), "ddtb", 2, gate_ratio=0)
    paths = list(activation_quantizers(student))[:3]
    attach_gates(student, paths)
    quantizers = [student.get_submodule(path) for path in paths]
    assert all(isinstance(quantizer, DualBound) and quantizer.gate is not None for quantizer in quantizers)
    quantizers[0].gate.logits = torch.tensor([[1.0, -3.0]])  # mean of squares 5
    quantizers[1].gate.logits = torch.tensor([[0.0, 2.0], [2.0, 0.0]])  # 2; the third gate has not run
    assert gate_regularization(student).item() == pytest.approx(3.5)


def test_gate_regularization_pulls_each_gate_to_one() -> None:
    student = quantize(small(), "ddtb", 2, gate_ratio=0.5)
    initialize(student, torch.rand(4, 3, 12, 12) * 255)
    set_phase(student, "warm-up")
    student.train()
    student(torch.rand(4, 3, 12, 12) * 255)
    loss = gate_regularization(student)
    logits = [activation_quantizers(student)[path].gate.logits for path in gated_paths(student)]  # type: ignore[union-attr]
    assert len(logits) == 3 and all(each.shape == (4, 2) for each in logits)
    means = [np.mean([value**2 for value in each.flatten().tolist()]) for each in logits]
    assert loss.item() == pytest.approx(np.mean(means), rel=1e-5) and loss.item() > 0
    loss.backward()
    for path in gated_paths(student):
        gate = activation_quantizers(student)[path].gate  # type: ignore[union-attr]
        assert gate.expand.weight.grad.any() and gate.reduce.weight.grad.any()
    assert student.head[0].weight.grad is None  # the gate's input is detached


def test_without_gates_there_is_nothing_to_regularize() -> None:
    for network in (small(), quantize(small(), "ddtb", 2, gate_ratio=0), quantize(small(), "pams", 2)):
        with pytest.raises(ValueError, match="No gate has run in this network; warm-up needs gates"):
            gate_regularization(network)


def test_relative_error_by_hand() -> None:
    teacher = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 5.0]), teacher).item() == pytest.approx(1 / 25)
    assert relative_error(teacher, teacher).item() == 0
    assert relative_error(torch.zeros(2), teacher).item() == 1
    assert relative_error(torch.ones(2), torch.zeros(2)).item() == pytest.approx(2e12)
    # In half precision the squares would overflow.
    large = torch.tensor([300.0, 400.0], dtype=torch.float16)
    assert relative_error(large * 0.5, large).item() == pytest.approx(0.25)


def test_feature_error_is_the_mean_over_blocks() -> None:
    teacher = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 10.0])]
    student = [torch.tensor([0.0, 0.0]), torch.tensor([0.0, 5.0])]
    assert feature_error(student, teacher).item() == pytest.approx((1 + 0.25) / 2)
    with pytest.raises(ValueError):
        feature_error(student[:1], teacher)


@pytest.mark.parametrize(
    ("name", "architecture", "blocks"),
    [
        ("edsr", {"n_blocks": 3, "n_feats": 8}, 3),
        ("srresnet", {"n_blocks": 2, "n_feats": 8}, 2),
        ("rdn", {"D": 2, "C": 2, "G": 8}, 2),
    ],
)
def test_block_outputs(name: str, architecture: dict[str, int], blocks: int) -> None:
    torch.manual_seed(0)
    network = build(name, 2, **architecture).eval()
    picture = torch.rand(1, 3, 9, 7) * 255
    with block_outputs(network) as outputs, torch.no_grad():
        network(picture)
        assert len(outputs) == blocks
        # Each output is what the block makes of the one before it.
        for index in range(1, blocks):
            block = network.get_submodule(network.block_names()[index])
            del outputs[blocks:]
            torch.testing.assert_close(block(outputs[index - 1]), outputs[index])
    seen = len(outputs)
    network(picture)
    assert len(outputs) == seen  # the hooks are gone


def test_block_outputs_that_nobody_wants_and_errors_inside() -> None:
    network = small()
    with block_outputs(network, wanted=False) as outputs:
        network(torch.zeros(1, 3, 8, 8))
    assert outputs == []
    with pytest.raises(RuntimeError, match="inside"), block_outputs(network) as outputs:
        raise RuntimeError("inside")
    network(torch.zeros(1, 3, 8, 8))
    assert outputs == []
