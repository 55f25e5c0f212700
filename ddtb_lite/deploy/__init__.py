"""Students at work elsewhere: on whole numbers, and in a standard file.

`grids` says which whole numbers a quantizer's values are, `codes` carries them, `convolution` adds them up, `integer`
puts that together, `checksum` proves that it is the same everywhere.
"""

from __future__ import annotations

from .checksum import fingerprint
from .integer import IntegerActivation, IntegerConv2d, to_integer

__all__ = ["IntegerActivation", "IntegerConv2d", "fingerprint", "to_integer"]
