"""DDTB in small: super-resolution networks quantized to 2, 3 and 4 bits with dynamic dual trainable bounds.

Zhong et al., "Dynamic Dual Trainable Bounds for Ultra-low Precision Super-Resolution Networks", ECCV 2022,
https://arxiv.org/abs/2203.03844. Sections that docstrings name are
those of "The method in numbers", `book/reference/method.md`.
"""

from . import datasets, deploy, diagnostics, gate, images, metrics, networks, quantizers, uniform
from .checkpoints import load, pretrained, save
from .conversion import quantize
from .cost import complexity
from .deploy import export, to_integer
from .evaluation import evaluate
from .inference import upscale
from .initializer import initialize
from .networks import build
from .reproduction import results
from .support.provenance import VERSION as __version__
from .training import Recipe, train

__all__ = [
    "Recipe",
    "__version__",
    "build",
    "complexity",
    "datasets",
    "deploy",
    "diagnostics",
    "evaluate",
    "export",
    "gate",
    "images",
    "initialize",
    "load",
    "metrics",
    "networks",
    "pretrained",
    "quantize",
    "quantizers",
    "results",
    "save",
    "to_integer",
    "train",
    "uniform",
    "upscale",
]
