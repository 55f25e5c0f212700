"""A student is a torch module like any other: state dicts, copies, other types, compiled, exported."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_networks import small
from torch import Tensor, nn

from ddtb_lite import checkpoints
from ddtb_lite.conversion import (
    EXTRA_STATE,
    activation_quantizers,
    attach_gates,
    gated_paths,
    quantize,
    set_bits,
    set_phase,
    state_of,
)
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import NETWORKS
from ddtb_lite.quantizers import METHODS
from ddtb_lite.quantizers.packed import is_packed


def pictures(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return 255 * torch.rand(count, 3, 9, 8, generator=generator)


def student(method: str = "ddtb", name: str = "edsr", bits: int | None = None, **options: Any) -> Any:
    """Initialized; DDTB's with live gates that are no identity."""
    quantized = quantize(small(name), method, bits or 2, **options)
    initialize(quantized, pictures(3))
    if method == "ddtb":
        set_phase(quantized, "live")
    torch.manual_seed(1)
    for parameter in quantized.parameters():
        parameter.data.mul_(1 + 0.1 * torch.rand(()))
    return quantized.eval()


def output(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(pictures())


# -------------------------------------------------------------------------------------------- state dicts


@pytest.mark.parametrize("name", NETWORKS)
def test_full_precision_state_dicts_hold_tensors_alone(name: str) -> None:
    network = small(name)
    own = {name for name, _ in [*network.named_parameters(), *network.named_buffers()]} - {"mean"}
    assert set(network.state_dict()) == own


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].highest_bits > 1])
def test_a_state_dict_holds_all_of_a_student(method: str) -> None:
    trained = student(method, bits=3, gate_ratio=0.5)
    other = quantize(small(), method, 2)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(output(other.eval()), output(trained))
    assert state_of(other) == state_of(trained)
    assert other.quantization == trained.quantization and other.phase == trained.phase
    assert other.dynamic_intensity == trained.dynamic_intensity
    assert gated_paths(other) == gated_paths(trained)
    for path, quantizer in activation_quantizers(other).items():
        theirs = vars(trained.get_submodule(path))
        assert quantizer.bits == 3 and vars(quantizer).get("gate_phase") == theirs.get("gate_phase")


def test_a_fully_quantized_students_shortcuts_stay_at_8_bits() -> None:
    trained, other = student(bits=4, fully=True), quantize(small(), bits=2, fully=True)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(output(other.eval()), output(trained))
    assert {quantizer.bits for quantizer in activation_quantizers(other).values()} == {4, 8}


def test_gates_come_and_go_with_the_state() -> None:
    gated, plain = student(gate_ratio=1.0), student(gate_ratio=0.0)
    first, second = output(gated), output(plain)
    before = {name: value.clone() for name, value in gated.state_dict().items()}
    gated.load_state_dict(plain.state_dict())
    assert torch.equal(output(gated), second) and not gated_paths(gated)
    plain.load_state_dict(before)
    assert torch.equal(output(plain), first) and len(gated_paths(plain)) == 6


def test_gates_that_are_there_already_stay_the_same_objects() -> None:
    """An optimizer holds on to their parameters."""
    trained = student(gate_ratio=1.0)
    parameters = dict(trained.named_parameters())
    trained.load_state_dict({name: value.clone() for name, value in trained.state_dict().items()})
    assert all(parameters[name] is parameter for name, parameter in trained.named_parameters())


def test_a_state_without_it_loads_as_ever() -> None:
    trained, other = student(gate_ratio=0.5), quantize(small(), bits=2)
    attach_gates(other, gated_paths(trained))
    state = {name: value for name, value in trained.state_dict().items() if name != EXTRA_STATE}
    other.load_state_dict(state)
    assert other.phase == "new"
    set_phase(other, "live")
    assert torch.equal(output(other.eval()), output(trained))
    assert trained.load_state_dict(state).missing_keys == [] and trained.phase == "live"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("pams", {}, "method='ddtb', the network has method='pams'.*method='ddtb', bits=3"),
        ("ddtb", {"variant": "convolutions"}, "variant='paper'.*variant='convolutions'"),
        ("ddtb", {"fully": True}, "fully=False.*fully=True"),
    ],
)
def test_the_state_of_another_kind_of_student_is_refused(method: str, options: dict, message: str) -> None:
    other = quantize(small(), method, 2, **options)
    before = state_of(other)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(student(bits=3).state_dict())
    assert state_of(other) == before


def test_a_full_precision_network_refuses_a_students_state() -> None:
    with pytest.raises(RuntimeError, match=EXTRA_STATE):
        small().load_state_dict(student().state_dict())


def test_it_is_a_tensor_like_the_others(tmp_path: Path) -> None:
    trained, other = student(gate_ratio=0.5), quantize(small(), bits=4)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "x.safetensors")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "x.safetensors"))
    assert torch.equal(output(other.eval()), output(trained))
    torch.save(trained.state_dict(), tmp_path / "x.pt")
    third = quantize(small(), bits=3)
    third.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True))
    assert torch.equal(output(third.eval()), output(trained))
    assert json.loads(bytes(trained.state_dict()[EXTRA_STATE].tolist())) == state_of(trained)


def test_inside_of_another_module() -> None:
    trained, other = nn.Sequential(student(gate_ratio=0.5)), nn.Sequential(quantize(small(), bits=4))
    assert f"0.{EXTRA_STATE}" in trained.state_dict()
    other.load_state_dict(trained.state_dict())
    assert torch.equal(output(other.eval()), output(trained))


@pytest.mark.parametrize("method", ["ddtb", "lsq"])
def test_packed_weights_are_taken_for_what_they_are(method: str, tmp_path: Path) -> None:
    """Quantized once more they would be others."""
    trained = student(method)
    checkpoints.save(trained, tmp_path / "x.safetensors")
    packed, other = checkpoints.load(tmp_path / "x.safetensors"), quantize(small(), method, 3)
    other.load_state_dict(packed.state_dict())
    assert is_packed(other) and torch.equal(output(other.eval()), output(trained))
    other.load_state_dict(trained.state_dict())
    assert not is_packed(other) and torch.equal(output(other), output(trained))
    set_bits(other, 4)


# ------------------------------------------------------------------------------------------- files to train on


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].highest_bits > 1])
def test_an_unpacked_file_is_the_student_itself(method: str, tmp_path: Path) -> None:
    trained = student(method, gate_ratio=0.5)
    checkpoints.save(trained, tmp_path / "x.safetensors", packed=False)
    again = checkpoints.load(tmp_path / "x.safetensors")
    assert state_of(again) == state_of(trained) and not is_packed(again)
    assert torch.equal(output(again), output(trained))
    for name, value in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    again.train()(pictures()).mean().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_what_is_gone_cannot_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="half=True would round"):
        checkpoints.save(student(), path, packed=False, half=True)
    checkpoints.save(student(), path)
    with pytest.raises(ValueError, match="no full-precision weights"):
        checkpoints.save(checkpoints.load(path), path, packed=False)
    checkpoints.save(small(), path, packed=False)
    assert torch.equal(output(checkpoints.load(path)), output(small().eval()))


# ------------------------------------------------------------------------------- copies, types, compiled, exported


@pytest.mark.parametrize("name", ["edsr", "srresnet"])
def test_copies_and_other_types(name: str) -> None:
    trained = student(name=name, gate_ratio=0.5)
    expected = output(trained)
    twin = copy.deepcopy(trained)
    assert torch.equal(output(twin), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    set_phase(twin, "new")
    assert torch.equal(output(trained), expected) and trained.phase == "live"
    twin.load_state_dict(trained.state_dict())
    assert torch.equal(output(twin), expected) and twin.phase == "live"
    wide = copy.deepcopy(trained).to(torch.float64)
    with torch.no_grad():
        assert wide(pictures().double()).dtype == torch.float64
    back = wide.to(torch.float32)
    assert torch.equal(output(back), expected)
    assert torch.equal(output(trained.to("cpu", memory_format=torch.contiguous_format)), expected)


@pytest.mark.parametrize(("name", "backend"), [("edsr", "aot_eager"), ("rdn", "eager")])
def test_compiled_for_inference(name: str, backend: str) -> None:
    trained = student(name=name, gate_ratio=0.5)
    torch._dynamo.reset()
    compiled = torch.compile(trained, backend=backend, fullgraph=True)
    torch.testing.assert_close(output(compiled), output(trained), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("method", "name"), [("ddtb", "edsr"), ("ddtb", "rdn"), ("ddtb", "srresnet"), ("lsq", "edsr")])
def test_exported_without_gates(method: str, name: str) -> None:
    trained = student(method, name, gate_ratio=0.0)
    program = torch.export.export(trained, (pictures(),), strict=False)
    torch.testing.assert_close(output(program.module()), output(trained), rtol=0, atol=1e-4)
