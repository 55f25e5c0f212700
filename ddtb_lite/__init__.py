"""DDTB in small: super-resolution networks quantized to 2, 3 and 4 bits with dynamic dual trainable bounds.

Zhong et al., "Dynamic Dual Trainable Bounds for Ultra-low Precision Super-Resolution Networks", ECCV 2022,
https://arxiv.org/abs/2203.03844. Sections that docstrings name are
those of "The method in numbers", `book/reference/method.md`.
"""

from . import datasets, diagnostics, gate, images, metrics, networks, quantizers, results, uniform
from .checkpoints import load, save
from .conversion import quantize
from .cost import complexity
from .evaluation import evaluate
from .inference import upscale
from .initializer import initialize
from .networks import build
from .recipe import Recipe
from .training import train

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "build",
    "complexity",
    "datasets",
    "diagnostics",
    "evaluate",
    "gate",
    "images",
    "initialize",
    "load",
    "metrics",
    "networks",
    "quantize",
    "quantizers",
    "results",
    "save",
    "train",
    "uniform",
    "upscale",
]
