"""The committed kernels are what the pinned compiler makes of their source."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "book" / "engine"


def test_kernels_are_built_from_their_source(tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="the compiler is not installed: pip install '.[engine]'")
    sys.path.append(str(ENGINE))
    import build

    build.build(tmp_path / "kernels.wasm")
    fresh, committed = (folder / "kernels.wasm" for folder in (tmp_path, ENGINE))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (fresh, committed)]
    assert digests[0] == digests[1], "kernels.wasm is stale: run make engine"


def test_kernels_are_small() -> None:
    assert (ENGINE / "kernels.wasm").stat().st_size < 20_000
