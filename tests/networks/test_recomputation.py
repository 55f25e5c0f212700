"""Gradient checkpointing: the same gradients and statistics, to the bit, for less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ddtb_lite.conversion import quantize, set_phase
from ddtb_lite.gate import DynamicGate
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import SuperResolutionNetwork, build
from ddtb_lite.quantizers import Quantizer
from ddtb_lite.training.losses import block_outputs, gate_regularization

SMALL = {
    "edsr": {"n_blocks": 2, "n_feats": 8},
    "rdn": {"D": 2, "C": 3, "G": 8},
    "srresnet": {"n_blocks": 2, "n_feats": 8},
}
# What a forward pass leaves in modules: running ranges (minmax), an error that the loss adds up (fqsr), logits (ddtb).
METHODS = [(None, "new"), ("minmax", "live"), ("fqsr", "live"), ("ddtb", "warm-up"), ("ddtb", "live")]


def network_in(phase: str, name: str, method: str | None) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    network = build(name, 2, **SMALL[name])
    if method is not None:
        network = quantize(network, method, 4, gate_ratio=1.0)
        initialize(network, 255 * torch.rand(4, 3, 8, 8))
        set_phase(network, phase)
    return network.train()


def loss_of(network: SuperResolutionNetwork, x: Tensor) -> Tensor:
    """Everything that a training step can look at."""
    with block_outputs(network) as outputs:
        loss = network(x).float().square().mean()
    loss = loss + torch.stack([output.float().mean() for output in outputs]).sum()
    if network.phase == "warm-up":
        loss = loss + gate_regularization(network)
    errors = [each.quantization_error for each in network.modules() if isinstance(each, Quantizer)]
    return loss + sum(error for error in errors if error is not None)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("method", "phase"), METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_two_steps_end_alike_to_the_bit(name: str, method: str | None, phase: str, autocast: bool) -> None:
    """Losses, gradients, statistics of batch norm and running ranges; with two passes before one backward, too."""
    plain = network_in(phase, name, method)
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    batches = 255 * torch.rand(3, 3, 3, 7, 6)
    losses = []
    for network in (plain, saving):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            first = loss_of(network, batches[0])
            first.backward()
            second, third = loss_of(network, batches[1]), loss_of(network, batches[2])
        (second + third).backward()
        losses.append([float(loss.detach()) for loss in (first, second, third)])
    assert losses[0] == losses[1]
    for (name, value), other in zip(plain.state_dict().items(), saving.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    for (name, parameter), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), name
        assert parameter.grad is None or torch.equal(parameter.grad, other.grad), name


def test_recomputation_leaves_no_trace() -> None:
    network = network_in("live", "edsr", "ddtb")
    network.checkpointing = True
    loss = loss_of(network, 255 * torch.rand(2, 3, 8, 8))
    gates = [module for module in network.modules() if isinstance(module, DynamicGate)]
    logits, buffers = [gate.logits for gate in gates], list(network.buffers())
    loss.backward(retain_graph=True)
    loss.backward()
    assert all(gate.logits is before for gate, before in zip(gates, logits, strict=True))
    assert all(own is before for own, before in zip(network.buffers(), buffers, strict=True))


def test_hooks_see_each_block_once_even_while_gradients_are_computed() -> None:
    network = network_in("new", "srresnet", None)
    network.checkpointing = True
    with block_outputs(network) as outputs:
        network(torch.rand(2, 3, 8, 8)).mean().backward()
    assert len(outputs) == 2


def kept_for_backward(network: nn.Module, x: Tensor) -> int:
    """Bytes in all memory that stays allocated for the backward pass."""
    pieces: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        pieces[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = network.features(x)  # alive, so that no memory is used twice
    assert kept.requires_grad
    return sum(pieces.values())


@pytest.mark.parametrize("method", [None, "ddtb"])
@pytest.mark.parametrize("name", SMALL)
def test_less_is_kept(name: str, method: str | None) -> None:
    network, x = network_in("live", name, method), torch.rand(2, 3, 24, 24)
    before = kept_for_backward(network, x)
    network.checkpointing = True
    assert kept_for_backward(network, x) < 0.7 * before


def test_it_can_be_switched_and_survives_copies() -> None:
    network = network_in("new", "edsr", None)
    assert not network.checkpointing
    network.checkpointing = True
    student = quantize(network, "minmax", 4)
    initialize(student, torch.rand(2, 3, 8, 8))
    assert student.checkpointing
    student(torch.rand(2, 3, 8, 8)).mean().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    network.checkpointing = False
    assert not network.checkpointing and student.checkpointing
