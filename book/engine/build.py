"""Compiles kernels.c to kernels.wasm with the C compiler of the wheel `ziglang` (extra `engine`)."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILER = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding"]
CODE = ["-O3", "-msimd128", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
# No library and no entry point; memory is the program's to lay out, from `__heap_base` on.
LINK = ["-nostdlib", "-Wl,--no-entry", "-Wl,--export=__heap_base", "-Wl,--strip-all", "-Wl,-z,stack-size=65536"]


def build(out: Path) -> None:
    """Write the WebAssembly module that kernels.c describes to `out`."""
    subprocess.run([*COMPILER, *CODE, *LINK, "-o", out, "kernels.c"], cwd=HERE, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "kernels.wasm")
    build(parser.parse_args().out)
