"""Networks in files: `save` writes one, quantized weights at their true size, `load` and `pretrained` read one, and
`describe` what one says of itself.

`storage` is our own format, safetensors with a header, `packing` the bits of a quantized weight, `foreign` the
checkpoints of other programs, `catalogue` the networks that come with the package. Nothing is unpickled.
"""

from __future__ import annotations

from .catalogue import find, pretrained, shipped
from .storage import describe, load, save

__all__ = ["describe", "find", "load", "pretrained", "save", "shipped"]
