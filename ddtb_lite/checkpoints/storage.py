"""Saving and loading networks as safetensors, quantized weights at their bit-width.

The file's header holds one JSON object under the key "ddtb_lite": what the network is, what it has been
through, and a SHA-256 of that and all tensors. The weight of a quantized convolution, a gate's own included, is two
tensors, `….weight.codebook` and `….weight.packed` (see `packing`). Single numbers, such as bounds, share one tensor
for each type, `scalars.float32`, because a name of their own would take twenty times their space; the header lists
them. Everything else keeps its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..conversion import EXTRA_STATE, activation_quantizers, quantize, quantized_convolutions, state_of, take_state
from ..gate import DynamicGate
from ..networks import SuperResolutionNetwork, build
from ..quantizers import Quantizer
from ..quantizers.packed import is_packed
from ..support.files import atomic_write
from ..support.provenance import VERSION, without_paths
from . import foreign
from .packing import pack, unpack

# Read as well are format 1, which had the gates' weights in full precision, and 2, which had all students packed.
FORMAT = 3
FULL_PRECISION: dict[str, Any] = {"quantization": None, "phase": "new", "gated": [], "dynamic_intensity": None}
_HEADER = "ddtb_lite"
_CODEBOOK, _PACKED, _SCALARS = ".codebook", ".packed", "scalars."


def save(
    network: SuperResolutionNetwork,
    path: str | os.PathLike[str],
    *,
    packed: bool = True,
    half: bool = False,
    metadata: dict[str, object] | None = None,
) -> None:
    """Write a network to a `.safetensors` file, a student's quantized weights packed to their bit-width.

    A student from such a file can be run, but not trained on; `packed=False` keeps the full-precision weights under
    its quantizers, which takes the space of the full-precision network. `metadata` (recipe, data, commit, …) is
    whatever JSON can hold, machine paths cut down as in a result file; `load` gives it back. `half` stores everything
    but quantized weights, quantizers and batch norm in float16. The file appears whole or not at all.

    Raises `ValueError` for another suffix, for metadata that JSON cannot hold, for weights that cannot be stored, and
    for `packed=False` where full-precision weights are gone or would be rounded, `FileNotFoundError` for a missing
    folder, `RuntimeError` if the folder or the disk refuses the file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"A checkpoint's name ends in .safetensors, got {path}.")
    student = network.quantization is not None
    if student:
        activation_quantizers(network)  # raises for a network that runs on integers
    if student and not packed:
        if is_packed(network):
            raise ValueError("This student was loaded bit-packed: it has no full-precision weights to keep.")
        if half:
            raise ValueError("half=True would round the weights that training is to go on from; leave it out.")
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "network": network.name,
        "scale": network.scale,
        "architecture": network.architecture,
        **(state_of(network) if student else FULL_PRECISION),
        "packed": student and packed,
        "metadata": without_paths(metadata),
    }
    try:
        header = json.loads(json.dumps(header, allow_nan=False))  # as `load` will see it
    except (TypeError, ValueError) as error:
        raise ValueError(f"The metadata cannot be stored as JSON: {error}.") from error
    tensors, header["scalars"] = _join_scalars(_tensors(network, header["packed"], half))
    text = json.dumps({**header, "sha256": _digest(header, tensors)}, separators=(",", ":"))
    atomic_write(path, safetensors.torch.save(tensors, {_HEADER: text}))


def load(path: str | os.PathLike[str], device: torch.device | str | None = None) -> SuperResolutionNetwork:
    """The network that `save` wrote, in eval mode, on the CPU unless another `device` is given.

    A student's outputs are bit-identical to the ones of the student that was saved, in the same memory format (if
    `half` was not asked for). `network.metadata` is what `save` was given. A `.pt` or `.pth` file is taken for a
    full-precision checkpoint of another program (`foreign.load_foreign`).

    Raises `FileNotFoundError` for a missing file, and `ValueError` for one that is damaged, of a newer
    format, or not a checkpoint of a network of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    with torch.random.fork_rng(devices=[]):  # building draws random weights, which concerns nobody
        network = foreign.load_foreign(path) if path.suffix in foreign.SUFFIXES else _load(path)
    return network.to(device or "cpu").eval()


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file that `save` wrote says of its network, without building it; raises as `load`."""
    return _read(Path(path))[0]


def _tensors(network: SuperResolutionNetwork, packed: bool, half: bool) -> dict[str, Tensor]:
    """Everything to be stored, by name."""
    exact: tuple[type[nn.Module], ...] = (Quantizer, _BatchNorm)
    kept = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, exact))
    tensors = {}
    state = network.state_dict()
    state.pop(EXTRA_STATE, None)  # the header says it
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        if value.is_floating_point():
            short = half and not name.startswith(kept)
            stored = value.to(torch.float16 if short else torch.float32)
            if not torch.equal(stored.isfinite(), value.isfinite()):
                raise ValueError(f"{name} has values beyond the range of {stored.dtype}; save with half=False.")
            value = stored
        tensors[name] = value
    for name, (weight, bits) in (_quantized_weights(network) if packed else {}).items():
        try:
            codebook, indices = pack(weight, bits)
        except ValueError as error:
            raise ValueError(f"{name} cannot be packed: {error}.") from error
        for other in [name, *(each for each in tensors if each.startswith(f"{name}_quantizer."))]:
            del tensors[other]
        tensors[f"{name}{_CODEBOOK}"], tensors[f"{name}{_PACKED}"] = codebook, indices
    return tensors


@torch.no_grad()
def _quantized_weights(network: SuperResolutionNetwork) -> dict[str, tuple[Tensor, int]]:
    """(quantized weight, bits) by the weight's name, of convolutions and of the gates' own."""
    weights = {}
    for path, convolution in quantized_convolutions(network).items():
        quantizer = convolution.weight_quantizer
        weights[f"{path}.weight"] = quantizer.quantize(convolution.weight), quantizer.bits
    for path, gate in network.named_modules():
        if isinstance(gate, DynamicGate):
            weights[f"{path}.reduce.weight"] = gate.quantized_weight(gate.reduce), gate.bits
            weights[f"{path}.expand.weight"] = gate.quantized_weight(gate.expand), gate.bits
    return weights


def _join_scalars(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Put the tensors without dimensions into one for each type, and list their names by type."""
    joined = {name: value for name, value in tensors.items() if value.dim()}
    names: dict[str, list[str]] = {}
    for name, value in tensors.items():
        if not value.dim():
            names.setdefault(str(value.dtype).removeprefix("torch."), []).append(name)
    for dtype, group in names.items():
        joined[f"{_SCALARS}{dtype}"] = torch.stack([tensors[name] for name in group])
    return joined, names


def _split_scalars(tensors: dict[str, Tensor], names: dict[str, list[str]]) -> dict[str, Tensor]:
    """Undo `_join_scalars`."""
    split = {name: value for name, value in tensors.items() if not name.startswith(_SCALARS)}
    for dtype, group in names.items():
        split.update(zip(group, tensors[f"{_SCALARS}{dtype}"].unbind(), strict=True))
    return split


def _load(path: Path) -> SuperResolutionNetwork:
    header, tensors = _read(path)
    try:
        network = build(header["network"], header["scale"], **header["architecture"])
        if header["quantization"] is not None:
            network = quantize(network, **header["quantization"])
            take_state(network, {"packed": True, **header})
        network.metadata = header["metadata"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} describes a network that this version cannot build: {error}.") from error
    try:
        tensors = _split_scalars(tensors, header["scalars"])
        state = {name: value for name, value in tensors.items() if not name.endswith((_CODEBOOK, _PACKED))}
        for name, parameter in network.named_parameters():
            if f"{name}{_CODEBOOK}" in tensors:
                packed = tensors[f"{name}{_PACKED}"]
                state[name] = unpack(tensors[f"{name}{_CODEBOOK}"], packed, parameter.shape)
        network.load_state_dict(state)
    except KeyError as error:
        raise ValueError(f"{path} is the checkpoint of another network: it has no {error}.") from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is the checkpoint of another network: {foreign.one_line(error)}.") from error
    return network


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file, verified."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged, cut short, or not a safetensors file: {error}.") from error
    if text is None:
        raise ValueError(f"{path} was not made by this package: it holds tensors, but says nothing about a network.")
    try:
        header = json.loads(text)
        version, digest = header["format"], header.pop("sha256")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read.") from error
    if version not in range(1, FORMAT + 1):
        raise ValueError(f"{path} has format {version!r}, this version reads formats up to {FORMAT}; update ddtb_lite.")
    if digest != _digest(header, tensors):
        raise ValueError(f"{path} is damaged: its content does not have the checksum that was stored with it.")
    return header, tensors


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the header and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
