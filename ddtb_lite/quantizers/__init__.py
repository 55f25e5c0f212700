"""The quantizers, one file a paper. A method is one entry of `METHODS`."""

from __future__ import annotations

from . import dorefa, dual_bound, fqsr, lsq, minmax, pact, pams, reactnet
from .base import ActivationQuantizer, Method, Quantizer, WeightQuantizer
from .dual_bound import DualBound, PercentileWeight

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD for module in (dual_bound, minmax, dorefa, pact, pams, lsq, fqsr, reactnet)
}

__all__ = [
    "METHODS",
    "ActivationQuantizer",
    "DualBound",
    "Method",
    "PercentileWeight",
    "Quantizer",
    "WeightQuantizer",
]
