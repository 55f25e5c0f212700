"""Students at work elsewhere: on whole numbers, and in a standard file.

`grids` says which whole numbers a quantizer's values are, `codes` carries them, `convolution` adds them up, `integer`
puts that together.
"""

from __future__ import annotations

from .integer import IntegerActivation, IntegerConv2d, to_integer

__all__ = ["IntegerActivation", "IntegerConv2d", "to_integer"]
