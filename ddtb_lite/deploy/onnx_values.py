"""Writing an ONNX graph as one writes arithmetic: a `Value` is a tensor of the graph, operators make new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Number = float | int


class Graph:
    """The nodes and constants of a graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    def apply(self, operation: str, *inputs: Value | None, **attributes: Any) -> Value:
        """One node with one result."""
        from onnx import helper

        name = f"{operation.lower()}_{len(self.nodes)}"
        given = [each.name if each else "" for each in inputs]
        self.nodes.append(helper.make_node(operation, given, [name], **attributes))
        return Value(self, name)

    def constant(self, numbers: Any) -> Value:
        """A constant from numbers or an array: float32, or int64 if they are whole numbers of that type."""
        from onnx import numpy_helper

        array = np.asarray(numbers)
        array = np.ascontiguousarray(array.astype(np.int64 if array.dtype == np.int64 else np.float32))
        key = (str(array.dtype), np.shape(numbers), array.tobytes())
        if key not in self._known:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = numpy_helper.from_array(array.reshape(np.shape(numbers)), name)
            self._known[key] = Value(self, name)
        return self._known[key]

    def small_integers(self, codes: np.ndarray, width: int) -> Value:
        """A constant of signed integers of 2, 4 or 8 bits, packed in the file."""
        from onnx import TensorProto, helper

        kind = getattr(TensorProto, f"INT{width}")
        name = f"codes_{len(self.constants)}"
        # A negative number's lowest bits are its two's complement; the first number comes in the lowest bits.
        bits = np.unpackbits(
            codes.astype(np.int8).view(np.uint8).reshape(-1, 1), axis=1, count=width, bitorder="little"
        )
        packed = np.packbits(bits, bitorder="little").tobytes()
        self.constants[name] = helper.make_tensor(name, kind, codes.shape, packed, raw=True)
        return Value(self, name)


class Value:
    """A tensor of a graph by name; operators and methods append nodes."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def apply(self, operation: str, *others: Value | Number | Sequence[int], **attributes: Any) -> Value:
        """A node whose first input is this tensor."""
        inputs = [each if isinstance(each, Value) else self.graph.constant(_array(each)) for each in others]
        return self.graph.apply(operation, self, *inputs, **attributes)

    def __add__(self, other: Value | Number) -> Value:
        return self.apply("Add", other)

    def __sub__(self, other: Value | Number) -> Value:
        return self.apply("Sub", other)

    def __mul__(self, other: Value | Number) -> Value:
        return self.apply("Mul", other)

    def __truediv__(self, other: Value | Number) -> Value:
        return self.apply("Div", other)

    def __neg__(self) -> Value:
        return self.apply("Neg")

    def round(self) -> Value:
        """Halves to the even neighbor, like torch."""
        return self.apply("Round")

    def minimum(self, other: Value | Number) -> Value:
        return self.apply("Min", other)

    def maximum(self, other: Value | Number) -> Value:
        return self.apply("Max", other)


def _array(numbers: Number | Sequence[int]) -> np.ndarray:
    return np.asarray(numbers, np.int64 if isinstance(numbers, list) else np.float32)
