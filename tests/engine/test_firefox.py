"""Another engine, from the disk: Firefox computes the same pictures as Chromium, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_browser import Tab, book_engine, picture, unpacked, write_page
from marionette import Firefox

import ddtb_lite as ddtb
from ddtb_lite.checkpoints import shipped

NAMES = book_engine.NETWORKS
UPSCALE = """async (name, image) => {
    const result = await (await network(name)).upscale(picture(image));
    return pack(result.data);
}"""


def test_firefox_computes_what_chromium_does(browser: Any, tmp_path: Path) -> None:
    program = shutil.which("firefox") or shutil.which("firefox-esr")
    if program is None:
        pytest.skip("Firefox is not installed")
    address = write_page(tmp_path, {name: shipped(name).read_bytes() for name in NAMES})
    _, photo = ddtb.datasets.load("photos")[0]
    image = picture(np.ascontiguousarray(photo[100:124, 100:133]))
    chromium, firefox = Tab(browser, address), Firefox(program, tmp_path / "profile")
    try:
        firefox.open(address)
        assert firefox.run("async () => ddtb.unsupported") == ""
        for name in NAMES:
            ours, theirs = (unpacked(each.run(UPSCALE, name, image)) for each in (chromium, firefox))
            np.testing.assert_array_equal(ours, theirs)
    finally:
        firefox.close()
    chromium.context.close()
