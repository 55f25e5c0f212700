"""The networks that come with the package, by name, such as "edsr_x4_ddtb_2bit"."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..networks import SuperResolutionNetwork
from ..support import resources
from . import foreign
from .storage import load

# What the book recommends today (data/comparisons): DDTB where it costs least, at the convolutions' inputs.
RECOMMENDED = "edsr_x4_ddtb_2bit_convolutions"


def pretrained(name: str = RECOMMENDED, device: torch.device | str | None = None) -> SuperResolutionNetwork:
    """A network that this project trained and carries with it, in eval mode, on the CPU or the given `device`.

    Without a name it is EDSR ×4 at 2 bits as the book recommends it. Raises `FileNotFoundError` that lists the names
    there are.
    """
    return load(shipped(name), device)


def shipped(name: str) -> Path:
    """The file of a network that comes with the package; `FileNotFoundError` lists the names there are."""
    known = {path.stem: path for path in sorted(resources.data("checkpoints").glob("*.safetensors"))}
    if name not in known:
        raise FileNotFoundError(f"No network {name!r} is shipped; there are: {', '.join(known) or 'none'}.")
    return known[name]


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The checkpoint file that is meant: the path itself if it is a file, else the shipped network of that name.

    Raises `FileNotFoundError`: for what looks like a path (a folder or a suffix in it) that says that it is not
    there, otherwise with the names of the shipped networks.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".safetensors", *foreign.SUFFIXES) or len(path.parts) != 1:
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    return shipped(str(name_or_path))
