"""The command that writes a network as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import checkpoints
from ..deploy import export
from . import arguments


def add(choices: arguments.Choices) -> None:
    """Its options."""
    each = arguments.command(choices, "export", "Write a network as an ONNX file, for programs other than this.", run)
    each.add_argument("network", metavar="NETWORK", help=arguments.CHECKPOINT)
    each.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file (.onnx)")
    each.add_argument("--opset", type=int, help="version of the operators; by default the first that suits the weights")


def run(options: argparse.Namespace) -> None:
    """Export, and say how large the file is."""
    export(checkpoints.load(checkpoints.find(options.network)), options.out, opset=options.opset)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")
