"""Saving and loading: packing against Python's integers, bit-identical outputs, damaged and foreign files."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ddtb_lite.checkpoints import load, packing, save, storage
from ddtb_lite.checkpoints.storage import _digest
from ddtb_lite.conversion import (
    activation_quantizers,
    attach_gates,
    gated_paths,
    quantize,
    quantized_convolutions,
    set_phase,
)
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import SuperResolutionNetwork, build
from ddtb_lite.networks.edsr import DIV2K_MEAN
from ddtb_lite.quantizers import METHODS, DualBound
from ddtb_lite.quantizers.packed import is_packed
from ddtb_lite.support import files

torch.set_num_threads(1)  # tiny networks: threads cost more than they bring

SMALL: dict[str, dict[str, int]] = {
    "edsr": {"n_blocks": 2, "n_feats": 8},
    "rdn": {"D": 2, "C": 2, "G": 8},
    "srresnet": {"n_blocks": 2, "n_feats": 8},
}


def small(name: str = "edsr", scale: int = 2) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    network = build(name, scale, **SMALL[name])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that differ from those of a fresh network
            module.running_mean.uniform_(-3, 3)
            module.running_var.uniform_(1, 9)
            module.num_batches_tracked += 7
    return network


def trained(name: str = "edsr", bits: int = 2, *, scale: int = 2, method: str = "ddtb", **options: Any) -> Any:
    """A student with bounds from data and, by DDTB, live gates that differ from the static quantizer."""
    student = quantize(small(name, scale), method, bits, **options)
    initialize(student, torch.rand(3, 3, 12, 12) * 255)
    if gated_paths(student):
        set_phase(student, "live")
    return student.eval()


def picture() -> Tensor:
    return torch.rand(2, 3, 10, 9, generator=torch.Generator().manual_seed(5)) * 255


def output(network: SuperResolutionNetwork) -> Tensor:
    with torch.no_grad():
        return network(picture())


# -------------------------------------------------------------------------------------------- packing


def slowly_packed(indices: list[int], width: int) -> bytes:
    stream = sum(index << (width * place) for place, index in enumerate(indices))
    return stream.to_bytes(math.ceil(len(indices) * width / 8), "little")


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 1000])
def test_packed_indices_are_one_little_endian_integer(width: int, count: int) -> None:
    indices = np.random.default_rng(width).integers(0, 2**width, count).astype(np.uint8)
    packed = packing.pack_indices(indices, width)
    assert packed.tobytes() == slowly_packed(indices.tolist(), width)
    assert np.array_equal(packing.unpack_indices(packed, width, count), indices)


def test_packing_by_hand() -> None:
    # 2, 0, 3, 1 and then 2: bits 10, 00, 11, 01 from the right, and 10.
    packed = packing.pack_indices(np.array([2, 0, 3, 1, 2], np.uint8), 2)
    assert packed.tolist() == [0b01110010, 0b10]


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_weight_survives_packing(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    values = torch.randn(2**bits, generator=generator)
    weight = values[torch.randint(2**bits, (16, 5, 3, 3), generator=generator)]
    codebook, packed = packing.pack(weight, bits)
    assert codebook.flatten().tolist() == sorted(set(weight.flatten().tolist()))
    assert len(packed) == math.ceil(weight.numel() * bits / 8)
    assert torch.equal(packing.unpack(codebook, packed, weight.shape), weight)


def test_each_channel_can_have_its_own_scale() -> None:
    torch.manual_seed(0)
    scale = torch.rand(6, 1, 1, 1) + 0.5
    weight = scale * torch.randint(-1, 2, (6, 4, 3, 3))
    weight[5] = 0.25  # a channel with one value only
    codebook, packed = packing.pack(weight, 2)
    assert codebook.shape == (6, 3)
    assert len(packed) == math.ceil(weight.numel() * 2 / 8)
    assert torch.equal(packing.unpack(codebook, packed, weight.shape), weight)


def test_a_weight_of_one_value_takes_one_bit() -> None:
    codebook, packed = packing.pack(torch.zeros(2, 2, 2, 2), 3)
    assert codebook.tolist() == [[0]] and packed.tolist() == [0, 0]
    assert torch.equal(packing.unpack(codebook, packed, torch.Size((2, 2, 2, 2))), torch.zeros(2, 2, 2, 2))


def test_minus_zero_is_zero() -> None:
    codebook, _ = packing.pack(torch.tensor([[-0.0, 0.0, 1.0]]), 1)
    assert codebook.tolist() == [[0.0, 1.0]] and math.copysign(1, codebook[0, 0].item()) == 1


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="has 5 values, expected at most 4"):
        packing.pack(torch.arange(5.0).reshape(1, 5), 2)
    with pytest.raises(ValueError, match="NaN"):
        packing.pack(torch.tensor([[math.nan, 1.0]]), 2)
    shape = torch.Size((2, 3))
    three = torch.tensor([[0.0, 1.0, 2.0]])
    for codebook, packed, message in (
        (three, [0], "expected uint8"),
        (three, [0, 0, 0], "expected uint8"),
        (three, [3, 0], "refers to value 3 of a codebook of 3"),
        (torch.zeros(3, 2), [0], "does not fit"),
        (torch.zeros(4), [0], "does not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            packing.unpack(codebook, torch.tensor(packed, dtype=torch.uint8), shape)


# ------------------------------------------------------------------------------------------ roundtrip


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_bit_identical(name: str, bits: int, fully: bool, tmp_path: Path) -> None:
    student = trained(name, bits, gate_ratio=0.5, fully=fully)
    assert gated_paths(student)
    save(student, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors")
    assert torch.equal(output(again), output(student))
    assert not again.training
    for attribute in ("name", "scale", "architecture", "quantization", "phase", "dynamic_intensity"):
        assert getattr(again, attribute) == getattr(student, attribute), attribute
    assert gated_paths(again) == gated_paths(student)
    for path, convolution in quantized_convolutions(again).items():
        assert len(convolution.weight.unique()) <= 2**bits
        assert convolution.weight_quantizer.bits == bits, path


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("gate_ratio", [0.0, 1.0])
def test_variants_and_gates(variant: str, gate_ratio: float, tmp_path: Path) -> None:
    student = trained("edsr", 3, variant=variant, gate_ratio=gate_ratio, scale=3)
    save(student, tmp_path / "x.safetensors")
    assert torch.equal(output(load(tmp_path / "x.safetensors")), output(student))


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, tmp_path: Path) -> None:
    for bits in {METHODS[method].lowest_bits, METHODS[method].highest_bits}:
        student = trained("edsr", bits, method=method)
        save(student, tmp_path / "x.safetensors")
        again = load(tmp_path / "x.safetensors")
        assert torch.equal(output(again), output(student))
        stored = safetensors.torch.load_file(tmp_path / "x.safetensors")
        convolution = student.get_submodule("body.0.body.0")
        assert len(stored["body.0.body.0.weight.packed"]) <= math.ceil(convolution.weight.numel() * bits / 8)


@pytest.mark.parametrize("phase", ["new", "initialized", "warm-up", "live"])
def test_the_phase_decides_what_gates_do(phase: str, tmp_path: Path) -> None:
    student = trained(gate_ratio=0.5)
    set_phase(student, phase)
    save(student, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors")
    assert again.phase == phase
    for path, quantizer in activation_quantizers(again).items():
        assert isinstance(quantizer, DualBound)
        assert quantizer.gate_phase == activation_quantizers(student)[path].gate_phase  # type: ignore[attr-defined]
    assert torch.equal(output(again), output(student))


def test_gates_stay_where_they_were_put(tmp_path: Path) -> None:
    student = trained(gate_ratio=0.0)
    attach_gates(student, ["body.1.hidden"])
    set_phase(student, "live")
    save(student, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors")
    assert gated_paths(again) == ["body.1.hidden"]
    assert torch.equal(output(again), output(student.eval()))


@pytest.mark.parametrize("name", SMALL)
def test_full_precision(name: str, tmp_path: Path) -> None:
    network = small(name, 4).eval()
    save(network, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors")
    assert again.quantization is None and not is_packed(again)
    assert again.state_dict().keys() == network.state_dict().keys()
    for key, value in again.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    assert torch.equal(output(again), output(network))


def test_packed_students_are_recognized_and_can_be_saved_again(tmp_path: Path) -> None:
    student = trained(gate_ratio=0.5)
    assert not is_packed(student)
    save(student, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert is_packed(again)
    assert "bits=2" in repr(quantized_convolutions(again)["body.0.body.0"].weight_quantizer)
    save(again, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_gates_are_packed_too_and_compute_the_same(tmp_path: Path) -> None:
    student = trained(gate_ratio=1.0)
    save(student, tmp_path / "x.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "x.safetensors")
    path = gated_paths(student)[0]
    weight = student.get_parameter(f"{path}.gate.reduce.weight")
    assert f"{path}.gate.reduce.weight" not in tensors
    assert len(tensors[f"{path}.gate.reduce.weight.packed"]) == weight.numel() * 2 // 8
    assert tensors[f"{path}.gate.expand.weight.codebook"].shape == (1, 3), "ternary"
    assert torch.equal(output(load(tmp_path / "x.safetensors")), output(student))


def test_format_1_had_gates_in_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = trained(gate_ratio=1.0)
    everything = storage._quantized_weights(student)
    convolutions_only = {name: each for name, each in everything.items() if ".gate." not in name}
    monkeypatch.setattr(storage, "_quantized_weights", lambda _: convolutions_only)
    monkeypatch.setattr(storage, "FORMAT", 1)
    save(student, tmp_path / "x.safetensors")
    assert f"{gated_paths(student)[0]}.gate.reduce.weight" in safetensors.torch.load_file(tmp_path / "x.safetensors")
    monkeypatch.undo()
    assert torch.equal(output(load(tmp_path / "x.safetensors")), output(student))


def test_saving_and_loading_leave_network_and_random_numbers_alone(tmp_path: Path) -> None:
    student = trained(gate_ratio=0.5)
    student.train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    save(student, tmp_path / "x.safetensors")
    load(tmp_path / "x.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training and not is_packed(student)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_weights_in_another_memory_format(tmp_path: Path) -> None:
    student = trained()
    student.to(memory_format=torch.channels_last)
    save(student, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.equal(output(again), output(student))


def test_half_keeps_bounds_statistics_and_gates(tmp_path: Path) -> None:
    student = trained("srresnet", gate_ratio=0.5)
    save(student, tmp_path / "full.safetensors")
    save(student, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "full.safetensors").stat().st_size
    full, half = (load(tmp_path / f"{name}.safetensors").state_dict() for name in ("full", "half"))
    shortened = {name for name in full if not torch.equal(full[name], half[name])}
    assert shortened == {"conv_input.weight", "conv_mid.weight", "upscale.0.weight", "conv_output.weight"}
    for name in shortened:
        assert torch.equal(full[name].half().float(), half[name])


@pytest.mark.parametrize("stored", [(-1.0, 1.0), (0.0, 255.0)])
def test_a_file_keeps_the_pixel_range(stored: tuple[float, float], tmp_path: Path) -> None:
    network = small("srresnet").eval()
    network.pixel_range.copy_(torch.tensor(stored))
    student = quantize(network, "pams", 4)
    initialize(student, torch.rand(2, 3, 12, 12) * 255)
    for each in (network, student.eval()):
        save(each, tmp_path / "x.safetensors")
        with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
            # A file of the older range is what it was before there was another one.
            assert ("pixel_range" in file.keys()) == (stored[0] == -1)
        again = load(tmp_path / "x.safetensors")
        assert again.pixel_range.tolist() == list(stored)
        assert torch.equal(output(again), output(each))


def test_a_file_with_an_unknown_pixel_range_is_refused(tmp_path: Path) -> None:
    network = small("srresnet")
    network.pixel_range.copy_(torch.tensor([0.0, 1.0]))
    save(network, tmp_path / "x.safetensors")
    torch.save(network.state_dict(), tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        with pytest.raises(ValueError, match=r"pixel_range is \[0.0, 1.0\], expected -1…1 or 0…255"):
            load(tmp_path / name)


def test_half_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    network = small()
    network.get_parameter("head.0.bias").data.fill_(1e5)
    with pytest.raises(ValueError, match="head.0.bias has values beyond the range of torch.float16"):
        save(network, tmp_path / "x.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_a_2_bit_edsr_is_small(tmp_path: Path) -> None:
    student = quantize(build("edsr", 4), bits=2)
    student.dynamic_intensity = dict.fromkeys(activation_quantizers(student), 1234.56789012345678)
    attach_gates(student, list(student.dynamic_intensity)[-14:])
    recipe = {f"option_{index}": 0.0001 for index in range(40)}
    metadata = {"recipe": recipe, "commit": "0" * 40, "data": ["0" * 64] * 3}
    save(student, tmp_path / "x.safetensors", metadata=metadata)
    assert (tmp_path / "x.safetensors").stat().st_size <= 1_800_000
    save(build("edsr", 4), tmp_path / "teacher.safetensors")
    assert (tmp_path / "teacher.safetensors").stat().st_size > 6_070_000


# ------------------------------------------------------------------------------------------- metadata


def test_metadata_comes_back(tmp_path: Path) -> None:
    given = {"recipe": {"steps": 3, "rate": 1e-4}, "data": ("a", "b"), "run": "größer", "1": {2: None}}
    save(trained(), tmp_path / "x.safetensors", metadata=given)
    assert load(tmp_path / "x.safetensors").metadata == {**given, "data": ["a", "b"], "1": {"2": None}}
    save(trained(), tmp_path / "x.safetensors", metadata={"command": "train --data /disk/Set5"})
    assert load(tmp_path / "x.safetensors").metadata == {"command": "train --data Set5"}
    save(trained(), tmp_path / "x.safetensors")
    assert load(tmp_path / "x.safetensors").metadata is None


def test_the_header_is_json_for_everyone(tmp_path: Path) -> None:
    save(trained(bits=3, gate_ratio=0.5), tmp_path / "x.safetensors", metadata={"run": "x"})
    data = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])["__metadata__"]
    assert list(outer) == ["ddtb_lite"] and isinstance(outer["ddtb_lite"], str)
    header = json.loads(outer["ddtb_lite"])
    assert header["format"] == 3 and header["network"] == "edsr" and header["scale"] == 2
    assert header["architecture"] == {"n_blocks": 2, "n_feats": 8}
    assert header["quantization"] == {
        "method": "ddtb", "bits": 3, "variant": "paper", "gate_ratio": 0.5, "percentile": 99, "fully": False
    }  # fmt: skip
    assert len(header["gated"]) == 3 and header["phase"] == "live" and header["metadata"] == {"run": "x"}
    assert set(header["dynamic_intensity"]) == set(activation_quantizers(trained(bits=3)))
    assert header["version"].count(".") >= 2


@pytest.mark.parametrize("value", [object(), math.nan, {1, 2}])
def test_metadata_must_be_json(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metadata cannot be stored"):
        save(small(), tmp_path / "x.safetensors", metadata={"key": value})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- damaged files


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = quantize(build("edsr", 2, n_blocks=1, n_feats=2), bits=2, gate_ratio=0.0)
    path = tmp_path / "x.safetensors"
    save(student, path)
    data = path.read_bytes()
    places = [*range(16), *range(16, len(data), 11), len(data) - 1]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged|not made by this package"):
            load(path)
            pytest.fail(f"byte {place} of {len(data)} was flipped and nobody noticed")


def test_truncated_and_lengthened_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save(small(), path)
    data = path.read_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged, cut short, or not a safetensors file"):
            load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        load(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint .*absent"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError):
        load(tmp_path)
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(path)
    safetensors.torch.save_file(small().state_dict(), path)
    with pytest.raises(ValueError, match="not made by this package"):
        load(path)
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save(small(), tmp_path / "x.pt")


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Rewrite a checkpoint with another content and a valid checksum."""
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["ddtb_lite"])
    tensors = safetensors.torch.load_file(path)
    del header["sha256"]
    change(header, tensors)
    header["sha256"] = _digest(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"ddtb_lite": json.dumps(header)}))


PACKED = "body.0.body.0.weight.packed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda header, tensors: header.update(format=4),
            "has format 4, this version reads formats up to 3; update",
        ),
        (lambda header, tensors: header.update(network="vdsr"), "cannot build: Unknown network 'vdsr'"),
        (lambda header, tensors: header.update(scale=5), "cannot build: scale is 5"),
        (lambda header, tensors: header["quantization"].update(bits=9), "cannot build: bits is 9"),
        (lambda header, tensors: header["quantization"].update(method="x"), "cannot build: Unknown method"),
        (lambda header, tensors: header.update(phase="x"), "cannot build: phase is 'x'"),
        (
            lambda header, tensors: header.update(gated=["body.9.hidden"]),
            "cannot build: No quantizer at body.9",
        ),
        (lambda header, tensors: header.pop("scale"), "cannot build: 'scale'"),
        (lambda header, tensors: header["architecture"].update(n_feats=16), "another network"),
        (lambda header, tensors: header["architecture"].update(n_blocks=3), "another network: .*body.2"),
        (lambda header, tensors: header.update(quantization=None), "another network"),
        (lambda header, tensors: header.update(scale=4), "another network"),
        (lambda header, tensors: header["scalars"]["float32"].pop(), "another network"),
        (lambda header, tensors: tensors.update({PACKED: tensors[PACKED][:-1]}), "expected uint8"),
        (lambda header, tensors: tensors.update({PACKED: tensors[PACKED].float()}), "expected uint8"),
        (lambda header, tensors: tensors.pop(PACKED), f"it has no '{PACKED}'"),
        (lambda header, tensors: tensors.pop("head.0.weight"), "head.0.weight"),
        (lambda header, tensors: tensors.update(more=torch.ones(2)), '"more"'),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    save(trained(), tmp_path / "x.safetensors")
    forge(tmp_path / "x.safetensors", change)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_broken_weight_quantizer_is_not_stored(tmp_path: Path) -> None:
    student = trained()
    student.get_parameter("body.0.body.0.weight").data.fill_(math.nan)
    with pytest.raises(ValueError, match="body.0.body.0.weight cannot be packed: the quantized weight holds NaN"):
        save(student, tmp_path / "x.safetensors")


# --------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save(small(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(RuntimeError, match="cannot write .*x.safetensors: No space left.*free space"):
        save(trained(), path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_a_file_that_the_system_cuts_off(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits on file sizes here")
    path = tmp_path / "x"
    files.atomic_write(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RuntimeError, match="cannot write"):
            files.atomic_write(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    files.atomic_write(tmp_path / "x", b"old")
    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.atomic_write(tmp_path / "x", b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere, create it first"):
        save(small(), tmp_path / "nowhere" / "x.safetensors")
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(RuntimeError, match="cannot write"):
        save(small(), tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RuntimeError, match="cannot write .*permissions"):
        save(small(), tmp_path / "x.safetensors")


# -------------------------------------------------------------------------------------- foreign files


def mean_shift() -> dict[str, Tensor]:
    """The constant convolutions that EDSR-PyTorch stores beside its weights."""
    mean = torch.tensor([0.4488, 0.4371, 0.4040])
    return {
        "sub_mean.weight": torch.eye(3).view(3, 3, 1, 1), "sub_mean.bias": -255 * mean,
        "add_mean.weight": torch.eye(3).view(3, 3, 1, 1), "add_mean.bias": 255 * mean,
    }  # fmt: skip


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_foreign_architecture_and_scale_are_detected(name: str, scale: int, tmp_path: Path) -> None:
    network = small(name, scale).eval()
    state = network.state_dict() | (mean_shift() if name == "edsr" else {})
    torch.save(state, tmp_path / "x.pt")
    again = load(tmp_path / "x.pt")
    assert (again.name, again.scale, again.architecture) == (name, scale, SMALL[name])
    assert torch.equal(output(again), output(network))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params": {name: value * 0 for name, value in state.items()}, "params_ema": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
)
def test_foreign_wrappings(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    network = small().eval()
    torch.save(wrap(network.state_dict()), tmp_path / "x.pth")
    assert torch.equal(output(load(tmp_path / "x.pth")), output(network))


def test_foreign_half_precision(tmp_path: Path) -> None:
    network = small().eval()
    torch.save({name: value.half() for name, value in network.state_dict().items()}, tmp_path / "x.pt")
    again = load(tmp_path / "x.pt")
    assert next(again.parameters()).dtype == torch.float32
    assert torch.allclose(output(again), output(network), atol=1)


def test_foreign_files_that_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    without = {name: value for name, value in state.items() if name != "body.1.body.2.bias"}
    unit_range = mean_shift() | {"sub_mean.bias": -torch.tensor(DIV2K_MEAN)}
    scaled = mean_shift() | {"add_mean.weight": 2 * torch.eye(3).view(3, 3, 1, 1)}
    for content, message in (
        ({"conv_first.weight": torch.zeros(8, 3, 3, 3)}, "parameter names of none of edsr, rdn, srresnet"),
        (without, "does not hold an edsr .*body.1.body.2.bias"),
        ({**state, "tail.1.weight": torch.zeros(3, 9, 3, 3)}, "size mismatch for tail.1.weight"),
        ({"head.0.weight": torch.zeros(8, 3, 3, 3)}, "does not hold an edsr"),
        (state | unit_range, "sub_mean is not DIV2K's mean color in 0…255"),
        (state | scaled, "add_mean is not DIV2K"),
        (state | {"head.0.weight": torch.tensor(1.0)}, "does not hold an edsr"),
        ([1, 2], "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ({"model": Path("x")}, "Python objects besides tensors"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message) as caught:
            load(tmp_path / "x.pt")
        assert "\n" not in str(caught.value)


def test_the_large_edsr_is_refused(tmp_path: Path) -> None:
    blocks = {f"body.{index}.body.0.weight": torch.zeros(1) for index in range(32)}
    upsampler = {f"tail.0.{index}.weight": torch.zeros(()).expand(1024, 256, 3, 3) for index in (0, 2)}
    torch.save({"head.0.weight": torch.zeros(256, 3, 3, 3)} | blocks | upsampler, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="residuals are scaled by 0.1"):
        load(tmp_path / "x.pt")


def test_damaged_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(small().state_dict(), path)
    data = path.read_bytes()
    for content in (b"", data[: len(data) // 2], bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(50)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load(path)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        load(tmp_path / "absent.pth")
