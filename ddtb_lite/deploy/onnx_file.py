"""Networks as ONNX files, for whatever runs those: standard operators, any size of image, gates live.

The quantized convolutions get whole numbers, as in `to_integer`, but as floats: their sums are exact as long as they
stay below 2^24, which those of 2 to 4 bits do. The operators that are given integers would be exact too, and several
times slower in ONNX Runtime (`ConvInteger`), or round their result to 8 bits (`QLinearConv`), which is wrong before a
sum. The weights lie in the file as integers of 2, 4 or 8 bits.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..networks import SuperResolutionNetwork
from ..networks.onnx_network import METADATA, needed
from ..support.files import atomic_write
from ..support.provenance import VERSION, without_paths
from . import onnx_layers
from .integer import IntegerActivation, IntegerConv2d, to_integer
from .onnx_layers import Integers
from .onnx_values import Graph, Value
from .recording import Step, record

OPERATORS = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}


def export(network: SuperResolutionNetwork, path: str | os.PathLike[str], *, opset: int | None = None) -> None:
    """Write a network to an `.onnx` file: input `image` and output `enlarged`, float N×3×H×W with pixels of 0…255.

    A full-precision network or a student; N, H and W are free. The file says where it comes from under the key
    "ddtb_lite" of its metadata, and appears whole or not at all. `opset` is by default 18 in full precision and 21 for
    a student, which stores weights of up to 4 bits in 4. From 25 on 2-bit weights take 2 bits, which not every runtime
    reads yet; 18 makes a larger file for older ones.

    Raises `ValueError` for another suffix, for an opset that does not fit or that the installed `onnx` does not know,
    and for what `to_integer` refuses; `RuntimeError` without `onnx`.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"The name of an ONNX file ends in .onnx, got {path}.")
    onnx = needed("onnx")
    if network.quantization is not None and not any(isinstance(each, IntegerConv2d) for each in network.modules()):
        network = to_integer(network)
    opset = _opset(network, opset, onnx.defs.onnx_opset_version())
    graph, result = _graph(network, opset)
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    picture = helper.make_tensor_value_info("image", floats, ["images", 3, "height", "width"])
    enlarged = helper.make_tensor_value_info("enlarged", floats, ["images", 3, "new_height", "new_width"])
    graph.nodes.append(helper.make_node("Identity", [result.name], ["enlarged"]))
    whole = helper.make_graph(graph.nodes, network.name, [picture], [enlarged], list(graph.constants.values()))
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(whole, opset_imports=opsets, producer_name="ddtb_lite", producer_version=VERSION)
    model.ir_version = helper.find_min_ir_version_for(opsets)
    helper.set_model_props(model, {METADATA: json.dumps(_provenance(network))})
    onnx.checker.check_model(model, full_check=True)
    atomic_write(path, model.SerializeToString())


def _opset(network: SuperResolutionNetwork, wanted: int | None, newest: int) -> int:
    first = onnx_layers.FIRST_OPSET
    opset = first[8 if network.quantization is None else 4] if wanted is None else wanted
    if isinstance(opset, bool) or not isinstance(opset, int) or not first[8] <= opset <= newest:
        raise ValueError(f"opset is {opset!r}, expected one from {first[8]} to {newest}, the newest of this onnx.")
    return opset


def _provenance(network: SuperResolutionNetwork) -> dict[str, Any]:
    return {
        "version": VERSION,
        "network": network.name,
        "scale": network.scale,
        "architecture": network.architecture,
        "quantization": asdict(network.quantization) if network.quantization else None,
        "metadata": without_paths(network.metadata),
    }


def _graph(network: SuperResolutionNetwork, opset: int) -> tuple[Graph, Value]:
    graph = Graph()
    made: dict[int, Value | Integers] = {0: Value(graph, "image")}
    steps = record(network)
    for step in steps:
        made[step.result] = _translated(step, made, graph, opset)
    result = made[steps[-1].result]
    return graph, result.real() if isinstance(result, Integers) else result


def _translated(step: Step, made: dict[int, Value | Integers], graph: Graph, opset: int) -> Value | Integers:
    """One step in ONNX operators."""
    if isinstance(step.what, IntegerConv2d):
        [number] = step.operands
        return onnx_layers.integer_convolution(made[number], step.what, opset)  # type: ignore[index]
    operands = [_real(each, made, graph) for each in step.operands]
    match step.what:
        case IntegerActivation() as layer:
            return onnx_layers.activation(operands[0], layer)
        case nn.Conv2d() as layer:
            return onnx_layers.float_convolution(operands[0], layer)
        case nn.BatchNorm2d() as layer:
            return onnx_layers.batch_norm(operands[0], layer)
        case nn.PReLU() as layer:
            return onnx_layers.prelu(operands[0], layer)
        case nn.PixelShuffle() as layer:
            return onnx_layers.pixel_shuffle(operands[0], layer)
        case nn.ReLU():
            return operands[0].apply("Relu")
        case "cat":
            return graph.apply("Concat", *operands, axis=1)
        case "rsub":
            return operands[1] - operands[0]
        case str() as operation:
            return graph.apply(OPERATORS[operation], *operands)
    raise NotImplementedError(f"{type(step.what).__name__} has no place in a standard file yet.")


def _real(operand: int | Tensor | float, made: dict[int, Value | Integers], graph: Graph) -> Value:
    if isinstance(operand, Tensor):
        return graph.constant(onnx_layers.array(operand))
    if isinstance(operand, float):
        return graph.constant(np.float32(operand))
    value = made[operand]
    return value.real() if isinstance(value, Integers) else value
