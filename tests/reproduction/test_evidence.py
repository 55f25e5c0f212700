"""`workflow/evidence.sh`: what it runs, in pieces, whatever becomes of the parts. A stand-in plays the interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "workflow" / "evidence.sh"
# Writes down how it was called; the reproduction takes three calls, of which the first two are too slow.
STAND_IN = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
case "$*" in
    "-m pytest"*) echo "1 failed, 4 passed"; exit 1 ;;
    *" benchmark "*) echo '{}' > "${!#}" ;;
    *" reproduce "*) if [ "$(grep -c " reproduce " "$CALLS")" -lt 3 ]; then exec sleep 60; fi; exit "${LAST:-0}" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs the command timeout")


def call(folder: Path, **settings: str) -> tuple[int, list[str]]:
    """Exit status of one piece of three seconds, and all calls so far."""
    python = folder / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    own = {"PYTHON": str(python), "OUT": str(folder / "out"), "CALLS": str(folder / "calls"), "PIECE": "3"}
    environment = {name: value for name, value in os.environ.items() if name not in ("DDTB_DATA", "DATA")}
    status = subprocess.run([SCRIPT], env=environment | own | settings, capture_output=True).returncode
    return status, (folder / "calls").read_text().splitlines()


def test_the_same_call_goes_on_until_all_is_done(tmp_path: Path) -> None:
    """Tests, one of which fails, and the benchmark run once; the reproduction again in each piece."""
    assert call(tmp_path)[0] == 124
    assert call(tmp_path)[0] == 124
    status, calls = call(tmp_path)
    assert status == 0
    assert ["pytest" in calls[0], "benchmark" in calls[1]] == [True, True]
    assert len(calls) == 5 and len(set(calls[2:])) == 1
    assert "--preset paper --device cuda --data BSD200_train BSD200_test T91" in calls[2]
    assert (tmp_path / "out" / "gpu_tests.txt").read_text() == "1 failed, 4 passed\nexit status 1\n"


def test_an_error_is_not_the_end_of_a_piece(tmp_path: Path) -> None:
    (tmp_path / "calls").write_text(2 * "-m ddtb_lite reproduce again\n")
    assert call(tmp_path, LAST="1")[0] == 1


def test_the_paper_s_images_come_first(tmp_path: Path) -> None:
    (tmp_path / "data" / "DIV2K").mkdir(parents=True)
    (tmp_path / "calls").write_text(2 * "-m ddtb_lite reproduce again\n")
    status, calls = call(tmp_path, DDTB_DATA=str(tmp_path / "data"))
    assert status == 0 and "--data DIV2K --out" in calls[-1]
