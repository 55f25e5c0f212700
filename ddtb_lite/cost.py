"""What a network costs: 32-bit-equivalent parameters and bit operations, and Table S1 (section 11).

Everything is counted from the modules that are there. A network runs once on the meta device, where tensors
have shapes but no values, and each convolution reports its output size and the width of its input.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from . import results
from .conversion import (
    DEFAULTS,
    QuantizedConv2d,
    activation_quantizers,
    attach_gates,
    full_precision,
    quantize,
    set_bits,
)
from .gate import DynamicGate
from .networks import SuperResolutionNetwork, build

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
    gate_params = sum(map(_gate_params, gates))
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


def _gate_params(gate: DynamicGate) -> float:
    norm = sum(parameter.numel() for parameter in gate.norm.parameters())
    return _gate_weights(gate) * gate.bits / FULL_BITS + norm


# ------------------------------------------------------------------------------------------- Table S1


APPROXIMATE_WITHIN = 0.025  # of the printed number


@dataclass(frozen=True)
class Cell:
    """One number of Table S1: by the formula, as the paper prints it ("" for nothing), and what lies between.

    `fitted` marks a value that follows from a choice made to fit the printed one, so that it reproduces nothing.
    """

    ours: float
    text: str
    fitted: bool = False

    @property
    def printed(self) -> float | None:
        """The printed number; None where the paper prints nothing."""
        return float(self.text) if self.text else None

    @property
    def difference(self) -> float | None:
        """Ours minus the printed one; None where the paper prints nothing."""
        return None if self.printed is None else self.ours - self.printed

    @property
    def status(self) -> str | None:
        """"reproduced", "approximate" or "contradicted"; None where the paper prints nothing.

        Reproduced is what lies less than one unit of the last printed digit away, since the authors sometimes
        round and sometimes cut.
        """
        if self.printed is None:
            return None
        difference = abs(self.ours - self.printed)
        decimals = len(self.text.partition(".")[2])
        if difference < 10.0**-decimals and not self.fitted:
            return "reproduced"
        near = difference <= APPROXIMATE_WITHIN * self.printed
        return "approximate" if self.fitted or near else "contradicted"


@dataclass(frozen=True)
class TableRow:
    """One row of Table S1.

    `cells` has the table's columns: `params_M` and `hlfe_params_M` in millions, `bops_T` in 10^12, and the
    gates' share of parameters and of bit operations, `gate_params_pct_of_params` and `gate_bops_pct`, in percent.
    `gate_params_range` are the least and the most that the row's gates can cost, in parameters, whichever
    layers they sit on.
    """

    model: str
    bits: int
    cells: dict[str, Cell]
    gate_params_range: tuple[float, float]


def table_s1(rdn_gated: Iterable[str] | None = None) -> list[TableRow]:
    """The twelve rows of Table S1, each cell by the formulas of section 11 beside the printed value.

    All networks are ×4 and of default size, the output is 1920×1080. Which layers have a gate matters for RDN
    only, and the paper does not tell: without `rdn_gated` (paths of activation quantizers, as `gated_paths`
    returns them) it is `rdn_stand_in`.
    """
    networks, ranges = {}, {}
    for name in ("edsr", "rdn", "srresnet"):
        with torch.device("meta"):
            full = build(name, scale=4)
        # The table counts gates by the released code's points: for RDN one less than the paper's variant.
        points = full.quantization_points("official").activations
        count = int(DEFAULTS[name].gate_ratio * len(points))
        costs = sorted(_gate_params(DynamicGate(point.channels)) for point in points)
        ranges[name] = sum(costs[:count]), sum(costs[-count:])
        student = quantize(full)
        gated = [point.path for point in student.quantization_points().activations][:count]
        if name == "rdn":
            gated = rdn_stand_in() if rdn_gated is None else list(rdn_gated)
        attach_gates(student, gated)
        networks[name] = full, student

    rows = []
    for printed in results.paper_tables()["table_s1_complexity"]:
        model, bits = printed["model"], int(printed["bits"])
        name = model.removesuffix("_DDTB").lower()
        network, student = networks[name]
        if bits < FULL_BITS:
            network = student
            set_bits(network, bits)
        cost = complexity(network)
        ours = {
            "params_M": cost.params / 1e6,
            "hlfe_params_M": cost.hlfe_params / 1e6,
            "gate_params_pct_of_params": 100 * cost.gate_params / cost.params,
            "bops_T": cost.bops / 1e12,
            "gate_bops_pct": 100 * cost.gate_bops / cost.bops,
        }
        least, most = ranges[name] if bits < FULL_BITS else (0.0, 0.0)
        fitted = {"gate_params_pct_of_params"} if least < most else set()
        cells = {column: Cell(value, printed[column], column in fitted) for column, value in ours.items()}
        rows.append(TableRow(model, bits, cells, (least, most)))
    return rows


def rdn_stand_in() -> list[str]:
    """72 layers of RDN whose gates cost what the printed ratios say, since the paper's are unknown.

    Seven whole dense blocks, and an eighth without its last dense convolution, for which a smaller one of the
    next block steps in. The gates' convolutions take 45.7 K parameters, with batch norm 50.3 K.
    """
    blocks = [
        [*(f"RDBs.{block}.convs.{index}.input" for index in range(8)), f"RDBs.{block}.fusion_input"]
        for block in range(8)
    ]
    replaced, replacement = "RDBs.7.convs.7.input", "RDBs.8.convs.2.input"
    return [replacement if path == replaced else path for block in blocks for path in block]
