"""The quantizers, one file a paper. A method is one entry of `METHODS`."""

from __future__ import annotations

from . import daq, dorefa, dual_bound, fqsr, lsq, minmax, odm, pact, pams, reactnet
from .base import ActivationQuantizer, Method, Quantizer, WeightQuantizer
from .dual_bound import DualBound, PercentileWeight

# What the first comparisons are about, and what joined after them: DAQ is older than DDTB, ODM younger.
EARLIER: dict[str, Method] = {
    module.METHOD.name: module.METHOD for module in (dual_bound, minmax, dorefa, pact, pams, lsq, fqsr, reactnet)
}
LATER: dict[str, Method] = {module.METHOD.name: module.METHOD for module in (daq, odm)}
METHODS = EARLIER | LATER

__all__ = [
    "EARLIER",
    "LATER",
    "METHODS",
    "ActivationQuantizer",
    "DualBound",
    "Method",
    "PercentileWeight",
    "Quantizer",
    "WeightQuantizer",
]
