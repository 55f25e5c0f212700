"""What a network costs: 32-bit-equivalent parameters and bit operations (section 11).

Everything is counted from the modules that are there. A network runs once on the meta device, where tensors
have shapes but no values, and each convolution reports its output size and the width of its input.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .conversion import QuantizedConv2d, activation_quantizers, full_precision
from .gate import DynamicGate
from .networks import SuperResolutionNetwork

FULL_BITS = 32
IMAGE_BITS = 8


@dataclass(frozen=True)
class Convolution:
    """One convolution outside the gates: what it stores, what it multiplies, and at which widths.

    `high_level` marks the high-level feature extraction, the part that the paper quantizes.
    """

    weights: int
    biases: int
    macs: int
    weight_bits: int
    activation_bits: int
    high_level: bool

    @property
    def params(self) -> float:
        """32-bit-equivalent parameters; the paper does not count a quantized layer's biases."""
        return self.weights + self.biases if self.weight_bits == FULL_BITS else self.packed_weights

    @property
    def packed_weights(self) -> float:
        """The weights alone, in units of 32 bits."""
        return self.weights * self.weight_bits / FULL_BITS

    @property
    def bops(self) -> int:
        """Bit operations: 2 · MACs · weight bits · activation bits."""
        return 2 * self.macs * self.weight_bits * self.activation_bits


@dataclass(frozen=True)
class Complexity:
    """A network's cost (section 11), parameters in units of 32 bits and operations for one output image.

    `params` is everything that is counted: weights at their width, biases of full-precision convolutions, and
    the gates. Not counted, as in the paper: biases of quantized layers, batch norm outside the gates,
    PReLU, bounds. `hlfe_params` is the part of it in the high-level feature extraction (its convolutions'
    weights and the gates; the bracket of Table S1), `gate_params` that in the gates alone. `bops` are the
    bit operations of all convolutions, those in the gates (`gate_bops`) included; pooling, additions and the
    quantizers' own arithmetic are not counted. `macs` are the multiply-accumulates behind them.
    """

    params: float
    hlfe_params: float
    gate_params: float
    bops: int
    gate_bops: int
    macs: int


def complexity(network: SuperResolutionNetwork, output_size: tuple[int, int] = (1920, 1080)) -> Complexity:
    """Count a network's parameters and its bit operations for an output image of (width, height) pixels.

    Works for any network, in full precision or quantized in any way, on any device. Gates count as soon as
    they exist, bypassed or live: call `initialize` before, which attaches them. Raises `ValueError` for an
    output size that is no multiple of the network's scale.
    """
    layers = convolutions(network, output_size).values()
    gates = _gates(network)
    gate_params = sum(map(gate_cost, gates))
    # After the pooling a gate is 1×1: each weight is multiplied once, by an activation of the same width.
    gate_bops = sum(2 * _gate_weights(gate) * gate.bits**2 for gate in gates)
    return Complexity(
        params=sum(layer.params for layer in layers) + gate_params,
        hlfe_params=sum(layer.packed_weights for layer in layers if layer.high_level) + gate_params,
        gate_params=gate_params,
        bops=sum(layer.bops for layer in layers) + gate_bops,
        gate_bops=gate_bops,
        macs=sum(layer.macs for layer in layers) + sum(map(_gate_weights, gates)),
    )


def convolutions(
    network: SuperResolutionNetwork, output_size: tuple[int, int] = (1920, 1080)
) -> dict[str, Convolution]:
    """Each convolution outside the gates by path, in the order in which they run.

    A layer's activation bits are those of the quantizer whose output it convolves, 32 where there is none (in
    variant "official" EDSR's first convolution of each block has none). The image that a fully quantized
    network starts from has 8 bits. Raises `ValueError` like `complexity`.
    """
    width, height = output_size
    scale = network.scale
    if min(width, height) < 1 or width % scale or height % scale:
        raise ValueError(f"output_size is {width}×{height}, expected multiples of the scale {scale}.")
    fully = network.quantization is not None and network.quantization.fully
    high_level = set(network.quantization_points().weights)
    found: dict[str, Convolution] = {}
    quantized: dict[Tensor, int] = {}

    def mark(quantizer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        marked = torch.empty_like(output)  # a new tensor, because others may go on using the unquantized one
        quantized[marked] = quantizer.bits
        return marked

    def count(path: str, convolution: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        weight_bits = FULL_BITS
        if isinstance(convolution, QuantizedConv2d):
            weight_bits = convolution.weight_quantizer.bits
        found[path] = Convolution(
            weights=convolution.weight.numel(),
            biases=0 if convolution.bias is None else convolution.bias.numel(),
            macs=convolution.weight.numel() * output.shape[2:].numel(),
            weight_bits=weight_bits,
            activation_bits=quantized.get(inputs[0], IMAGE_BITS if fully else FULL_BITS),
            high_level=path in high_level,
        )

    hooks: list[Any] = []
    if network.quantization is not None:
        hooks += [each.register_forward_hook(mark) for each in activation_quantizers(network).values()]
    in_gates = {part for gate in _gates(network) for part in gate.modules()}
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module not in in_gates:
            hooks.append(module.register_forward_hook(partial(count, path)))
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    dtype = next(network.parameters()).dtype
    image = torch.empty(1, 3, height // scale, width // scale, dtype=dtype, device="meta")
    try:
        with torch.no_grad(), full_precision(network):
            functional_call(network, shapes, (image,))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _gates(network: SuperResolutionNetwork) -> list[DynamicGate]:
    return [module for module in network.modules() if isinstance(module, DynamicGate)]


def _gate_weights(gate: DynamicGate) -> int:
    return gate.reduce.weight.numel() + gate.expand.weight.numel()


def gate_cost(gate: DynamicGate) -> float:
    norm = sum(parameter.numel() for parameter in gate.norm.parameters())
    return _gate_weights(gate) * gate.bits / FULL_BITS + norm
