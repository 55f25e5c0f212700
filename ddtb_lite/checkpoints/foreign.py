"""Full-precision checkpoints that other programs made: PyTorch state dicts in the field's parameter names."""

from __future__ import annotations

import math
import pickle
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks import NETWORKS, SuperResolutionNetwork

SUFFIXES = (".pt", ".pth")

# Where training frameworks put the state dict; the averaged weights come first, because they score better.
_NESTED = ("params_ema", "params", "state_dict", "model")


def load_foreign(path: Path) -> SuperResolutionNetwork:
    """The network of a `.pt` or `.pth` file; its architecture and scale are read off names and shapes.

    EDSR-PyTorch's names for EDSR and RDN, and this package's for SRResNet, plain or under "state_dict",
    "params", "params_ema" or "model". Raises `ValueError` for anything else.
    """
    state = _state_dict(path)
    kind = next((each for each in NETWORKS.values() if each.first_weight in state), None)
    if kind is None:
        raise ValueError(f"{path} has the parameter names of none of {', '.join(NETWORKS)}.")
    try:
        network = kind(_scale(kind.upsampler_prefix, state), **kind.architecture_of(state))
        network.load_state_dict(state)
    except (ValueError, RuntimeError, TypeError) as error:  # a first weight of no dimensions has no length
        raise ValueError(f"{path} does not hold an {kind.name} as this package knows it: {one_line(error)}.") from error
    return network


def one_line(error: Exception) -> str:
    """The last line of a message, shortened: the first of `load_state_dict` only says that it failed."""
    return textwrap.shorten(str(error).strip().splitlines()[-1], 200, placeholder=" …").rstrip(".")


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged or holds Python objects besides tensors, which are never run; "
            "save its state dict alone."
        ) from error
    except Exception as error:  # a damaged archive raises anything at all
        raise ValueError(f"{path} is damaged, or not a PyTorch checkpoint.") from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict, that is, no dictionary of tensors.")
    # DataParallel puts "module." in front of each name.
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _scale(upsampler_prefix: str, state: dict[str, Tensor]) -> int:
    """The product of what the upsampler's convolutions make of their channels, for pixel shuffles."""
    scale = 1
    for name, value in state.items():
        if name.startswith(upsampler_prefix) and value.dim() == 4 and value.shape[0] > value.shape[1]:
            scale *= math.isqrt(value.shape[0] // value.shape[1])
    return scale
