"""What several test files share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 180_000  # milliseconds, for machines that do other things at the same time


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; DDTB_BROWSER names another program than the usual ones."""
    named = os.environ.get("DDTB_BROWSER")
    candidates = [named] if named else ["chromium", "chromium-browser", "google-chrome", "chrome"]
    program = next(filter(None, map(shutil.which, candidates)), None)
    if program is None:
        reason = f"no browser: none of {', '.join(candidates)} is installed"
        if os.environ.get("DDTB_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    switches = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    switches += " --disable-component-update --disable-sync"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=switches.split(), timeout=PATIENCE)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the HTML pages, built anew from the stored outputs, warnings being errors.

    Built once: workers that run side by side share it, the first one builds and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "book"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            _build(folder)
            (folder / "complete").touch()
    return folder / "_build" / "html"


def _build(folder: Path) -> None:
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT / "book")]
    command += ["--path-output", str(folder), "-W", "-n", "--keep-going"]
    environment = {**os.environ, "NO_COLOR": "1"}
    build = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    report = build.stdout + build.stderr
    warnings = [line for line in report.splitlines() if re.search(r"\b(?:WARNING|ERROR|CRITICAL)\b", line)]
    assert not warnings, "\n".join(warnings)
    assert build.returncode == 0, report[-3000:]


def pages(built: Path) -> list[str]:
    """Every page, by its path below the built folder; index.html only leads to the first one."""
    return sorted(
        str(path.relative_to(built))
        for path in built.rglob("*.html")
        if "_static" not in path.parts and path != built / "index.html"
    )
