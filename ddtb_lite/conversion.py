"""From a full-precision network to its quantized copy."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from .gate import DynamicGate
from .networks import NETWORKS, Quantization, SuperResolutionNetwork
from .networks.base import check_variant
from .quantizers import METHODS, ActivationQuantizer, DualBound, Quantizer
from .quantizers.convolution import QuantizedConv2d
from .quantizers.packed import PackedWeight, is_packed
from .uniform import check_bits

# Fully quantized networks keep the shortcut of an addition at 8 bits (section 7).
SKIP_BITS = 8
PHASES = ("new", "initialized", "warm-up", "live")
# In a state dict, PyTorch's own name for what a module stores besides parameters and buffers.
EXTRA_STATE = "_extra_state"


# The paper's settings by architecture: gate_ratio, percentile and weight_percentile (sections 3, 5 and 6).
DEFAULTS = NETWORKS


def quantize(
    network: SuperResolutionNetwork,
    method: str = "ddtb",
    bits: int = 2,
    *,
    variant: str | None = None,
    gate_ratio: float | None = None,
    percentile: float | None = None,
    fully: bool = False,
) -> SuperResolutionNetwork:
    """A quantized copy of a full-precision network; the original stays as it is.

    `method` is a key of `quantizers.METHODS`, `bits` the width of weights and activations alike. `variant` chooses
    the quantization points and, for DDTB, whether to behave like the paper or like the released code; by default it is
    the method's own, "paper" for all that the paper compares. `student.quantization` holds its name. `gate_ratio`
    (the fraction P of quantizers that get a gate) and `percentile` (M, of the initializer) default to the paper's for
    the architecture; methods without gates or percentiles ignore them. `fully` quantizes first, last and upsampling
    layers too, with the shortcuts of additions at 8 bits.

    The copy's bounds are meaningless until `initialize` has seen data. Raises `ValueError` for anything it does
    not know, and for a network that is quantized already.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}; the known ones are {', '.join(METHODS)}.")
    if network.quantization is not None:
        raise ValueError("This network is quantized already; quantize the full-precision network it came from.")
    rule = METHODS[method]
    check_bits(bits, rule.lowest_bits, rule.highest_bits)
    variant = rule.default_variant if variant is None else variant
    check_variant(variant)
    if fully and not rule.quantizes_shortcuts:
        raise ValueError(f"{rule.title} does not quantize the shortcuts of additions; leave fully=False.")
    gate_ratio = network.gate_ratio if gate_ratio is None else gate_ratio
    if not 0 <= gate_ratio <= 1:
        raise ValueError(f"gate_ratio is {gate_ratio!r}, expected 0 to 1.")
    percentile = network.percentile if percentile is None else percentile
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile is {percentile!r}, expected more than 50 and at most 100.")

    student = copy.deepcopy(network)
    points = student.quantization_points(variant, fully)
    for point in points.activations:
        width = SKIP_BITS if point.skip else bits
        student.set_submodule(point.path, rule.activation(width, point, variant).to(student.device))
    for path in points.weights:
        convolution = student.get_submodule(path)
        assert isinstance(convolution, nn.Conv2d)
        weight_quantizer = rule.weight(bits, network.weight_percentile).to(student.device)
        student.set_submodule(path, QuantizedConv2d.from_float(convolution, weight_quantizer))
    student.quantization = Quantization(method, bits, variant, gate_ratio if rule.gated else 0.0, percentile, fully)
    student.phase = "new"
    student.metadata = None
    student.register_state_dict_post_hook(_add_state)
    student.register_load_state_dict_pre_hook(_take_state)
    student.train(network.training)
    return student


def require_quantization(network: SuperResolutionNetwork) -> Quantization:
    """The network's `Quantization`; raises `ValueError` for a full-precision network."""
    if network.quantization is None:
        raise ValueError("This network is in full precision; call ddtb_lite.quantize(network, …) first.")
    return network.quantization


def activation_quantizers(student: SuperResolutionNetwork) -> dict[str, ActivationQuantizer]:
    """The activation quantizers by path, in the order of `quantization_points`."""
    require_quantization(student)
    return {point.path: _activation_quantizer(student, point.path) for point in student.points.activations}


def _activation_quantizer(student: SuperResolutionNetwork, path: str) -> ActivationQuantizer:
    quantizer = student.get_submodule(path)
    if not isinstance(quantizer, ActivationQuantizer):
        raise ValueError("This network runs on integers and has no quantizers left: use the student it was made from.")
    return quantizer


def quantized_convolutions(student: SuperResolutionNetwork) -> dict[str, QuantizedConv2d]:
    """The quantized convolutions by path."""
    return {name: module for name, module in student.named_modules() if isinstance(module, QuantizedConv2d)}


def attach_gates(student: SuperResolutionNetwork, paths: Iterable[str]) -> None:
    """Give the quantizers at `paths` a freshly initialized dynamic gate each, and take away all others'."""
    quantization = require_quantization(student)
    chosen = set(paths)
    unknown = chosen - {point.path for point in student.points.activations}
    if unknown:
        raise ValueError(f"No quantizer at {', '.join(sorted(unknown))}.")
    if chosen and not METHODS[quantization.method].gated:
        raise ValueError(f"Method {quantization.method} has no gates, but {', '.join(sorted(chosen))} is to get one.")
    for point in student.points.activations:
        quantizer = _activation_quantizer(student, point.path)
        if isinstance(quantizer, DualBound):
            quantizer.gate = None
            if point.path in chosen:
                gate = DynamicGate(point.channels, variant=quantization.variant)
                own = next(student.parameters())
                quantizer.gate = gate.to(own.device, own.dtype).train(student.training)


def gated_paths(student: SuperResolutionNetwork) -> list[str]:
    """Paths of the quantizers that have a gate."""
    return [
        path
        for path, quantizer in activation_quantizers(student).items()
        if isinstance(quantizer, DualBound) and quantizer.gate is not None
    ]


def number_of_gates(student: SuperResolutionNetwork) -> int:
    """How many layers get a gate: the fraction P of all, rounded down (section 5)."""
    # 0.29 · 100 is a little less than 29 in floating point.
    return int(require_quantization(student).gate_ratio * len(activation_quantizers(student)) + 1e-9)


def set_phase(student: SuperResolutionNetwork, phase: str) -> None:
    """Tell a student what it has been through: "new", "initialized", "warm-up" or "live" (section 6).

    Gates are bypassed before warm-up; during it they run and learn, unused; then they are live.
    """
    if phase not in PHASES:
        raise ValueError(f"phase is {phase!r}, expected one of {', '.join(PHASES)}.")
    student.phase = phase
    for quantizer in activation_quantizers(student).values():
        if isinstance(quantizer, DualBound):
            quantizer.gate_phase = phase if phase in ("warm-up", "live") else "bypassed"


def set_bits(student: SuperResolutionNetwork, bits: int) -> None:
    """Change the bit-width of weights and activations in place; shortcuts at 8 bits stay there."""
    quantization = require_quantization(student)
    rule = METHODS[quantization.method]
    check_bits(bits, rule.lowest_bits, rule.highest_bits)
    if is_packed(student):
        raise ValueError("This student was loaded bit-packed: its weights cannot change their bit-width any more.")
    if bits == quantization.bits:
        return  # what the weights' quantizers have learned stays
    _set_activation_bits(student, bits)
    for convolution in quantized_convolutions(student).values():
        convolution.weight_quantizer.bits = bits
        convolution.weight_quantizer.initialize(convolution.weight.detach())
    student.quantization = replace(quantization, bits=bits)


def _set_activation_bits(student: SuperResolutionNetwork, bits: int) -> None:
    for point in student.points.activations:
        if not point.skip:
            _activation_quantizer(student, point.path).bits = bits


@contextmanager
def full_precision(student: SuperResolutionNetwork, weights: bool = True) -> Iterator[None]:
    """Inside this context all quantizers pass their input on; with `weights=False` only the activations' do."""
    before = {
        module: module.enabled
        for module in student.modules()
        if isinstance(module, Quantizer) and (weights or isinstance(module, ActivationQuantizer))
    }
    for quantizer in before:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer, enabled in before.items():
            quantizer.enabled = enabled


# ------------------------------------------------------------------------- all of a student in its state dict


def state_of(student: SuperResolutionNetwork) -> dict[str, Any]:
    """How a student was quantized and what it has been through, as JSON can hold it: all that is not a tensor."""
    quantizers = {path: module for path, module in student.named_modules() if isinstance(module, DualBound)}
    return {
        "quantization": asdict(require_quantization(student)),
        "phase": student.phase,
        "gated": [path for path, quantizer in quantizers.items() if quantizer.gate is not None],
        "dynamic_intensity": student.dynamic_intensity,
        "packed": is_packed(student),
    }


def take_state(student: SuperResolutionNetwork, state: dict[str, Any]) -> None:
    """Make a student what `state_of` another one says; gates that are new to it wait for their weights.

    Raises `ValueError` if the other one was quantized by another method or at other points.
    """
    if state == state_of(student):
        return
    own, other = require_quantization(student), Quantization(**state["quantization"])
    for name in ("method", "variant", "fully"):
        mine, theirs = getattr(own, name), getattr(other, name)
        if mine != theirs:
            raise ValueError(
                f"This is the state of a student with {name}={theirs!r}, the network has {name}={mine!r}: quantize the "
                f"full-precision network with method={other.method!r}, bits={other.bits}, variant={other.variant!r}, "
                f"fully={other.fully} to load it."
            )
    rule = METHODS[other.method]
    check_bits(other.bits, rule.lowest_bits, rule.highest_bits)
    _set_activation_bits(student, other.bits)
    for convolution in quantized_convolutions(student).values():
        if isinstance(convolution.weight_quantizer, PackedWeight) != state["packed"]:
            fresh = PackedWeight(other.bits) if state["packed"] else rule.weight(other.bits, student.weight_percentile)
            convolution.weight_quantizer = fresh.to(convolution.weight).train(student.training)
        convolution.weight_quantizer.bits = other.bits
    student.quantization = other
    if state["gated"] != gated_paths(student):
        attach_gates(student, state["gated"])
    set_phase(student, state["phase"])
    student.dynamic_intensity = state["dynamic_intensity"]


def _add_state(student: Any, state_dict: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """The state joins a state dict as a tensor, so that whatever stores tensors stores it too."""
    text = json.dumps(state_of(student), sort_keys=True).encode()
    state_dict[f"{prefix}{EXTRA_STATE}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _take_state(student: Any, state_dict: dict[str, Any], prefix: str, *_others: Any) -> None:
    """A state dict may lack the state: then the student keeps its own."""
    stored = state_dict.pop(f"{prefix}{EXTRA_STATE}", None)
    if stored is not None:
        take_state(student, json.loads(bytes(stored.tolist())))
