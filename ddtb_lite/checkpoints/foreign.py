"""Full-precision checkpoints that other programs made: PyTorch state dicts in the field's parameter names."""

from __future__ import annotations

import math
import pickle
import re
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks import SuperResolutionNetwork, build

SUFFIXES = (".pt", ".pth")

# Where training frameworks put the state dict; the averaged weights come first, because they score better.
_NESTED = ("params_ema", "params", "state_dict", "model")
# The first convolution of each network, and what its upsampler's parameters start with.
_FIRST = {"edsr": "head.0.weight", "rdn": "SFENet1.weight", "srresnet": "conv_input.weight"}
_UPSAMPLER = {"edsr": "tail.0.", "rdn": "UPNet.", "srresnet": "upscale."}


def load_foreign(path: Path) -> SuperResolutionNetwork:
    """The network of a `.pt` or `.pth` file; its architecture and scale are read off names and shapes.

    EDSR-PyTorch's names for EDSR and RDN, and this package's for SRResNet, plain or under "state_dict",
    "params", "params_ema" or "model". Raises `ValueError` for anything else.
    """
    state = _state_dict(path)
    name = next((name for name, first in _FIRST.items() if first in state), None)
    if name is None:
        raise ValueError(f"{path} has the parameter names of none of {', '.join(_FIRST)}.")
    scale, architecture = _architecture(name, state)
    if name == "edsr" and architecture == {"n_blocks": 32, "n_feats": 256}:
        raise ValueError(
            f"{path} holds the large EDSR, whose residuals are scaled by 0.1; only unscaled ones are known."
        )
    try:
        network = build(name, scale, **architecture)
        network.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold an {name} as this package knows it: {one_line(error)}.") from error
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


def _architecture(name: str, state: dict[str, Tensor]) -> tuple[int, dict[str, int]]:
    features = len(state[_FIRST[name]])
    scale = 1
    for key, value in state.items():
        if key.startswith(_UPSAMPLER[name]) and value.dim() == 4 and value.shape[0] > value.shape[1]:
            scale *= math.isqrt(value.shape[0] // value.shape[1])
    if name == "rdn":
        blocks = _count(r"RDBs\.\d+\.LFF\.weight", state)
        return scale, {
            "D": blocks,
            "C": _count(r"RDBs\.0\.convs\.\d+\.conv\.0\.weight", state),
            "G": features,
        }
    block = r"body\.\d+\.body\.0\.weight" if name == "edsr" else r"residual\.\d+\.conv1\.weight"
    return scale, {"n_blocks": _count(block, state), "n_feats": features}


def _count(pattern: str, state: dict[str, Tensor]) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in state)
