"""Which tensors of a network are quantized, by which method, and to how many bits (section 7). Data only.

Nothing is listed by hand: a tiny picture runs through the network, and every module that it passes reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..conversion import QuantizedConv2d, full_precision, quantize, require_quantization
from ..cost import FULL_BITS
from ..networks import SuperResolutionNetwork
from ..quantizers import ActivationQuantizer
from ..support.hooks import eval_mode, inputs_watched

FUNCTIONS = (nn.ReLU, nn.PReLU, nn.BatchNorm2d)


@dataclass(frozen=True)
class Stage:
    """One module that a picture passes.

    `kind` is "activation" for a quantizer of activations, "weight" for a convolution, and "function" for a ReLU,
    a PReLU or batch norm. `shape` is (channels,) of the activation, or out×in×h×w of the weight; a function has
    none. `bits` is 32 for what stays in full precision, and `method` then "". `rule` is the class that computes: a
    quantizer, or the function itself. `gated` says whether a dynamic gate moves the bounds; which layers get
    one is known only once `initialize` has seen data.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    method: str
    rule: str
    gated: bool = False


def stages(network: SuperResolutionNetwork, **how: Any) -> list[Stage]:
    """Everything that a picture passes, in the order in which it does; additions and pixel shuffles left out.

    A quantized network is described as it is. A full-precision one is described as `quantize(network, **how)`
    would make it, by default DDTB at 2 bits, and stays as it is. Raises `ValueError` like `quantize`, also for a
    quantized network with `how`.
    """
    student = quantize(network, **how) if how or network.quantization is None else network
    quantization = require_quantization(student)
    channels = {point.path: point.channels for point in student.points.activations}

    def describe(path: str, module: nn.Module) -> Stage:
        if isinstance(module, ActivationQuantizer):
            gated = getattr(module, "gate", None) is not None
            rule = type(module).__name__
            return Stage(path, "activation", (channels[path],), module.bits, quantization.method, rule, gated)
        if isinstance(module, QuantizedConv2d):
            quantizer, shape = module.weight_quantizer, tuple(module.weight.shape)
            return Stage(path, "weight", shape, quantizer.bits, quantization.method, type(quantizer).__name__)
        if isinstance(module, nn.Conv2d):
            return Stage(path, "weight", tuple(module.weight.shape), FULL_BITS, "", "")
        return Stage(path, "function", (), FULL_BITS, "", type(module).__name__)

    return [describe(path, module) for path, module in _passed(student)]


def quantization_table(network: SuperResolutionNetwork, **how: Any) -> list[Stage]:
    """The quantized tensors alone, activations and weights, in the order of `stages`; arguments as there."""
    return [stage for stage in stages(network, **how) if stage.bits < FULL_BITS]


def _passed(student: SuperResolutionNetwork) -> list[tuple[str, nn.Module]]:
    """(path, module) of the stages, in the order in which a picture of 4×4 pixels passes them."""
    kinds = (ActivationQuantizer, nn.Conv2d, *FUNCTIONS)
    modules = {path: module for path, module in student.named_modules() if isinstance(module, kinds)}
    passed: list[str] = []
    picture = next(student.parameters()).new_zeros(1, 3, 4, 4)
    # A quantizer that passes its input on needs no bounds, and its gate does not run.
    with torch.no_grad(), eval_mode(student), full_precision(student):
        with inputs_watched(modules, lambda path, _: passed.append(path)):
            student(picture)
    return [(path, modules[path]) for path in passed]
