"""A network in an ONNX file that this package has written, run by ONNX Runtime."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .base import SuperResolutionNetwork

# The key under which the file says what it holds.
METADATA = "ddtb_lite"


def needed(module: str) -> Any:
    """`onnx` or `onnxruntime`, imported; `RuntimeError` that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeError(f'{module} is not installed: pip install "ddtb-lite[onnx]"') from error


class OnnxNetwork(SuperResolutionNetwork):
    """The network of an `.onnx` file: `evaluate` and `upscale` take it like any other; it runs on the CPU.

    `provenance` is what the file says about itself. Images are never cut into tiles. Raises `FileNotFoundError` for a
    missing file, `ValueError` for one that is damaged, that another program has written, or whose opset the installed
    ONNX Runtime does not know, `RuntimeError` without `onnxruntime`.
    """

    name = "onnx"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        session = _session(path)
        text = session.get_modelmeta().custom_metadata_map.get(METADATA)
        if text is None:
            raise ValueError(
                f"{path} was not made by this package, so that nobody knows what its numbers mean: write one with "
                "ddtb_lite.export(network, path), or run it in a program of its own."
            )
        try:
            provenance: dict[str, Any] = json.loads(text)
            super().__init__(provenance["scale"], **provenance["architecture"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged: what it says about itself cannot be read.") from error
        self.session, self.provenance = session, provenance
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        image = x.detach().cpu().float().contiguous().numpy()
        return torch.from_numpy(self.session.run(None, {"image": image})[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return self  # nothing in it changes

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def block_names(self) -> list[str]:
        return []


def _session(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors come as exceptions
    try:
        return runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, one for each thing that can be wrong with a file
        reason = " ".join(str(error).split())
        advice = "; export it with an older opset, or update onnxruntime" if "opset" in reason.lower() else ""
        raise ValueError(f"ONNX Runtime {runtime.__version__} cannot run {path}: {reason}{advice}.") from error
