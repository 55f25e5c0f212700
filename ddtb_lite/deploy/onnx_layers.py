"""Every layer in standard ONNX operators: the quantizers' grids, gates, and convolutions of whole numbers."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from ..gate import DynamicGate
from ..quantizers import DualBound
from ..uniform import MINIMUM_RELATIVE_WIDTH, MINIMUM_WIDTH
from .grids import weight_codes
from .integer import IntegerActivation, IntegerConv2d
from .onnx_values import Graph, Value

# The first opset whose DequantizeLinear reads integers of so many bits; those before 18 lack operators of the gates.
FIRST_OPSET = {8: 18, 4: 21, 2: 25}
CHANNELS = (1, -1, 1, 1)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def float_convolution(x: Value, layer: nn.Conv2d) -> Value:
    """A convolution in full precision."""
    parameters = [x.graph.constant(array(each)) for each in (layer.weight, layer.bias) if each is not None]
    return x.graph.apply("Conv", x, *parameters, pads=[int(each) for each in layer.padding] * 2)


def batch_norm(x: Value, layer: nn.BatchNorm2d) -> Value:
    """Batch norm with what training has left it."""
    numbers = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    constants = [x.graph.constant(array(each)) for each in numbers if each is not None]
    return x.graph.apply("BatchNormalization", x, *constants, epsilon=layer.eps)


def prelu(x: Value, layer: nn.PReLU) -> Value:
    """One slope for all channels, or one each."""
    return x.apply("PRelu", x.graph.constant(array(layer.weight).reshape(-1, 1, 1)))


def pixel_shuffle(x: Value, layer: nn.PixelShuffle) -> Value:
    """Channels to pixels, in PyTorch's order."""
    return x.apply("DepthToSpace", blocksize=layer.upscale_factor, mode="CRD")


# ------------------------------------------------------------------------------------------- quantizers


class Integers:
    """What a quantizer yields: values that are `integers` (whole numbers, as floats) times `step`, plus `offset`."""

    def __init__(self, integers: Value, step: Value, offset: float = 0.0) -> None:
        self.integers, self.step, self.offset = integers, step, offset
        self._real: Value | None = None

    def real(self) -> Value:
        """The real values, computed where somebody asks for them, and once."""
        if self._real is None:
            scaled = self.integers * self.step
            self._real = scaled + self.offset if self.offset else scaled
        return self._real


def activation(x: Value, layer: IntegerActivation) -> Integers:
    """The quantizer's grid, see `grids`: fixed numbers, or the gate's, computed for each image."""
    if layer.quantizer is not None:
        assert isinstance(layer.quantizer, DualBound)
        return _gated(x, layer.quantizer)
    numbers = {name: float(value) for name, value in layer.named_buffers(recurse=False)}
    shifted = x + numbers["shift"] if "shift" in numbers else x
    level = (shifted * numbers["inverse_step"]).round()
    level = level.apply("Clip", numbers["lowest"], numbers["highest"])
    # From the level to code − zero = stride · (level − lowest) − zero: nothing to do where zero is a level.
    difference = -layer.stride * numbers["lowest"] - numbers["zero"]
    level = level * layer.stride if layer.stride != 1 else level
    step = x.graph.constant(np.float32(numbers["step"]))
    return Integers(level + difference if difference else level, step, numbers.get("offset", 0.0))


def _gated(x: Value, quantizer: DualBound) -> Integers:
    lower, upper = (x.graph.constant(array(each).reshape(1, 1, 1, 1)) for each in (quantizer.lower, quantizer.upper))
    if quantizer.gate_phase == "live":
        assert quantizer.gate is not None
        beta_lower, beta_upper = _gate(x, quantizer.gate)
        lower, upper = beta_lower * lower, beta_upper * upper
    return _between(x, lower, upper, 2**quantizer.bits - 1, quantizer.variant != "official")


def _between(x: Value, lower: Value, upper: Value, steps: int, clamp: bool) -> Integers:
    """`grids.multiples`, `uniform.separate` included, with bounds that are computed."""
    magnitude = lower.apply("Abs").maximum(upper.apply("Abs"))
    missing = magnitude * MINIMUM_RELATIVE_WIDTH + MINIMUM_WIDTH - (upper - lower)
    half = missing.maximum(0.0) * 0.5
    lower, upper = lower - half, upper + half
    width = upper - lower
    inverse_step = x.graph.constant(np.float32(steps)) / width
    lowest, highest = (inverse_step * lower).round(), (inverse_step * upper).round()
    if clamp:
        highest = highest.minimum(lowest + steps)
    level = (x * inverse_step).round().maximum(lowest).minimum(highest)
    return Integers(level, width / steps)


def _gate(x: Value, gate: DynamicGate) -> tuple[Value, Value]:
    """(β_lower, β_upper), N×1×1×1 each: `gate.DynamicGate`."""
    graph = x.graph
    hidden = _pointwise(_quantized(x.apply("GlobalAveragePool"), gate), gate, gate.reduce)
    hidden = _quantized(batch_norm(hidden, gate.norm).apply("Relu"), gate)
    beta = _pointwise(hidden, gate, gate.expand).apply("Sigmoid") * 2
    upper, lower = (beta.apply("Gather", graph.constant(np.array([i], np.int64)), axis=1) for i in (0, 1))
    return lower, upper


def _quantized(x: Value, gate: DynamicGate) -> Value:
    """The gate's own activations: between minimum and maximum, of the image or, as released, of the batch."""
    axes = [0, 1, 2, 3] if gate.variant == "official" else [1, 2, 3]
    lower, upper = (x.apply(kind, axes, keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
    return _between(x, lower, upper, 2**gate.bits - 1, gate.variant != "official").real()


def _pointwise(x: Value, gate: DynamicGate, layer: nn.Conv2d) -> Value:
    weight = gate.quantized_weight(layer)
    codes, step = weight_codes(weight, gate.bits)
    return x.graph.apply("Conv", x, weight_integers(x.graph, codes, 8)) * step


# -------------------------------------------------------------------------- convolutions of whole numbers


def integer_convolution(x: Integers | Value, layer: IntegerConv2d, opset: int) -> Value:
    """Whole numbers times whole numbers, exact in float32 below 2^24; then once the steps, and the bias."""
    numbers, step, offset = (x.integers, x.step, x.offset) if isinstance(x, Integers) else (x, None, 0.0)
    graph, pads = numbers.graph, list(layer.padding) * 2
    weight = weight_integers(graph, layer.codes, smallest_width(layer.codes, opset))
    sums = graph.apply("Conv", numbers, weight, pads=pads)
    scaled = sums * (step * float(layer.step) if step else float(layer.step))
    if offset:  # once for every weight that lies on the picture, as in `IntegerConv2d`
        ones = numbers.apply("ReduceMax", [1], keepdims=1) * 0.0 + 1.0
        on_picture = graph.apply("Conv", ones, graph.constant(array(layer.codes.sum(1, keepdim=True))), pads=pads)
        scaled = scaled + on_picture * (offset * float(layer.step))
    return scaled if layer.bias is None else scaled + graph.constant(array(layer.bias).reshape(CHANNELS))


def weight_integers(graph: Graph, codes: Tensor, width: int) -> Value:
    """int8 codes as floats in the graph, as integers of `width` bits in the file."""
    numbers = codes.cpu().numpy().astype(np.int64)
    lowest, spacing = int(numbers.min()), _spacing(numbers)
    lowest_stored = -(2 ** (width - 1))
    # code = spacing · (stored − zero) + rest
    stored = (numbers - lowest) // spacing + lowest_stored
    zero, rest = divmod(spacing * lowest_stored - lowest, spacing)
    zero = min(max(zero, lowest_stored), 2 ** (width - 1) - 1)
    rest = lowest - spacing * (lowest_stored - zero)
    zeros = graph.small_integers(np.array(zero), width)
    value = graph.small_integers(stored, width).apply("DequantizeLinear", float(spacing), zeros)
    return value + float(rest) if rest else value


def smallest_width(codes: Tensor, opset: int) -> int:
    """The fewest bits, of those that the opset knows, for all distinct codes."""
    numbers = codes.cpu().numpy().astype(np.int64)
    levels = (int(numbers.max()) - int(numbers.min())) // _spacing(numbers) + 1
    return min(width for width, first in FIRST_OPSET.items() if first <= opset and levels <= 2**width)


def _spacing(numbers: np.ndarray) -> int:
    """2 for codes that are all odd, the grids without a zero; otherwise 1."""
    return 2 if (numbers % 2 == 1).all() else 1
