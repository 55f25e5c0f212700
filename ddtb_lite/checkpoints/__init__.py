"""Networks in files: `save` writes one, quantized weights at their true size, `load` and `pretrained` read one.

`storage` is our own format, safetensors with a header, `packing` the bits of a quantized weight, `foreign` the
checkpoints of other programs. Nothing is unpickled.
"""

from __future__ import annotations

from .storage import load, save, shipped

__all__ = ["load", "save", "shipped"]
