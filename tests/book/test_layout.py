"""How much of a page is code, how soon there is something to see or to touch, and that nothing is cut or jumps.

`tests/measure_pages.py` measures, here are the limits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE
from measure_pages import measure

LIMITS = {"widest": 88, "code": 0.25, "figure": 700, "indented": 0, "silent": 0}
# Rounding, and fonts of another machine.
SLACK = {"widest": 0, "code": 0.01, "figure": 40, "indented": 0, "silent": 0}
# Pages that are looked things up in, and need neither pictures nor controls.
REFERENCE = ("reference/", "beyond/limits")
# Pixels of the first edition's pages. Together they are to stay a third shorter, and none is to grow back.
FIRST_EDITION = {
    "beyond/official-code": 19327,
    "beyond/your-data": 10901,
    "beyond/your-images": 12181,
    "foundations/activations": 7963,
    "foundations/measuring": 10170,
    "foundations/quantization": 11324,
    "foundations/super-resolution": 12489,
    "method/dual_bounds": 16649,
    "method/gate": 8066,
    "method/initializer": 11921,
    "method/points": 12410,
    "method/training": 14684,
    "peers/fully-quantized": 12893,
    "peers/lsq-and-reactnet": 15921,
    "peers/methods": 17647,
    "start/introduction": 5838,
    "start/quickstart": 6142,
    "tables/ablations": 11081,
    "tables/complexity": 13405,
    "tables/figure-s1": 9557,
    "tables/fully-quantized": 10321,
    "tables/main-results": 14903,
    "tables/rdn-stability": 7834,
}
SHORTER, NONE_ABOVE = 2 / 3, 0.83


@pytest.fixture(scope="module")
def measured(built: Path, browser: Any) -> dict[str, dict[str, Any]]:
    """What each page of the built book measures, by its path; `browser` skips where there is none."""
    return measure(built, browser)


@pytest.mark.parametrize("what", LIMITS)
def test_pages_keep_the_limits(measured: dict[str, dict[str, Any]], what: str) -> None:
    worse = {}
    for page, found in measured.items():
        name = page.removesuffix(".html")
        if what == "figure" and name.startswith(REFERENCE):
            continue
        value = found[what]
        if value is None or value > LIMITS[what] + SLACK[what]:
            worse[name] = value
    assert not worse, f"{what}: {worse}"


def test_pages_are_a_third_shorter_than_the_first_edition(measured: dict[str, dict[str, Any]]) -> None:
    shares = {name: measured[f"{name}.html"]["height"] / height for name, height in FIRST_EDITION.items()}
    fonts = 1.02
    assert {name: share for name, share in shares.items() if share > NONE_ABOVE * fonts} == {}
    together = sum(share * FIRST_EDITION[name] for name, share in shares.items())
    assert together <= SHORTER * fonts * sum(FIRST_EDITION.values())


def test_sliders_never_move_the_page(built: Path, browser: Any) -> None:
    """From one end to the other, the height of the page stays what it was."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    jumping = []
    for path in sorted(built.rglob("*.html")):
        if 'type="range"' not in path.read_text(encoding="utf-8"):
            continue
        tab.goto(path.as_uri(), wait_until="load")
        tab.evaluate("globalThis.MathJax?.startup?.promise.then(() => null)")
        found = tab.evaluate(
            """async () => {
              const jumping = [];
              for (const input of document.querySelectorAll("figure.ddtb input[type=range]")) {
                if (!input.checkVisibility()) continue;
                const figure = input.closest("figure"), heights = new Set();
                for (const value of [input.min, input.max, (Number(input.min) + Number(input.max)) / 2]) {
                  input.value = value;
                  input.dispatchEvent(new Event("input", { bubbles: true }));
                  await new Promise(requestAnimationFrame);
                  heights.add(Math.round(figure.getBoundingClientRect().height));
                }
                if (Math.max(...heights) - Math.min(...heights) > 1) jumping.push(`${figure.id} ${[...heights]}`);
              }
              return jumping;
            }"""
        )
        jumping += [f"{path.parent.name}/{path.stem}: {each}" for each in found]
    context.close()
    assert not jumping, "\n".join(jumping)
