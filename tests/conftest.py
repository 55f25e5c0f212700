"""What several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

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
