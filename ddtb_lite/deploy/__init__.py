"""Students at work elsewhere: on whole numbers, and in a standard file.

`grids` says which whole numbers a quantizer's values are, `codes` carries them, `convolution` adds them up, `integer`
puts that together, `checksum` proves that it is the same everywhere. For a file, `recording` notes the steps of a
network, `onnx_layers` says each of them in ONNX operators by means of `onnx_values`, and `onnx_file` writes.
"""

from __future__ import annotations

from .checksum import fingerprint
from .integer import IntegerActivation, IntegerConv2d, to_integer
from .onnx_file import export

__all__ = ["IntegerActivation", "IntegerConv2d", "export", "fingerprint", "to_integer"]
