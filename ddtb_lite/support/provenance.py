"""Where a number comes from: versions, device, commit, and text without the paths of one machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import resources

# Of the package; the project file reads it here.
VERSION = "0.1.0"

# An absolute path up to its last component: a slash (or a drive) that does not continue a word or an address.
_FOLDERS = re.compile(r"(?<![\w.:/~$\\-])(?:/|[A-Za-z]:[/\\])(?:[^\s'\"=,:/\\]+[/\\]+)*(?=[^\s'\"=,:/\\])")


def environment(device: torch.device | str | None = None, precision: str = "fp32") -> dict[str, Any]:
    """What a result depends on besides its configuration.

    "versions" of package, python, torch and numpy; "device" as a phrase like "CPU, 2 threads, fp32" (by
    default the GPU if there is one); "commit" of the checkout, or None outside of one or without git;
    "dirty", whether the package differs from that commit.
    """
    commit, dirty = _commit()
    return {
        "versions": {
            "ddtb_lite": VERSION,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "device": f"{_device_name(device)}, {precision}",
        "commit": commit,
        "dirty": dirty,
    }


def _device_name(device: torch.device | str | None) -> str:
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {threads} thread{'s' if threads > 1 else ''}"


def _commit() -> tuple[str | None, bool | None]:
    checkout = resources.repository()
    if checkout is None or not (checkout / ".git").exists():
        return None, None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        # Only what computes: a result or a checkpoint that is being written does not count.
        return commit, bool(_git(checkout, "status", "--porcelain", "--", resources.PACKAGE.name))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(checkout: Path, *arguments: str) -> str:
    process = subprocess.run(["git", *arguments], cwd=checkout, check=True, capture_output=True, text=True)
    return process.stdout.strip()


def without_paths(value: Any) -> Any:
    """`value` (of JSON's types) with each string free of machine paths.

    Paths in the repository become relative to it, those of the data folder start with $DDTB_DATA, and of any
    other absolute path only the last component is left. Raises `ValueError` if that makes two keys equal.
    """
    if isinstance(value, dict):
        cut = {without_paths(key): without_paths(item) for key, item in value.items()}
        if len(cut) < len(value):
            raise ValueError(f"Without their folders two of these have the same name, rename one: {', '.join(value)}.")
        return cut
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    if data := os.environ.get("DDTB_DATA"):
        value = re.sub(rf"{re.escape(os.path.abspath(data))}(?=[\s'\",/\\]|$)", "$DDTB_DATA", value)
    if checkout := resources.repository():
        value = re.sub(rf"(?<![\w./]){re.escape(f'{checkout}{os.sep}')}", "", value)
    return _FOLDERS.sub("", value)
