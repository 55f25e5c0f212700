"""How much of a page is code, how soon there is something to see or to touch, and that nothing is cut or jumps.

`tests/measure_pages.py` measures, here are the limits. A page that does not meet one is named below with what it
measures now: it may get better, not worse, and whoever makes it better takes its number down, or out.
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

STILL: dict[str, dict[str, float]] = {
    "beyond/your-data": {"widest": 357},
    "beyond/your-images": {"widest": 128},
    "foundations/measuring": {"widest": 95, "code": 0.254},
    "foundations/quantization": {"widest": 115},
    "foundations/super-resolution": {"widest": 91},
}


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
        if value is None or value > STILL.get(name, {}).get(what, LIMITS[what]) + SLACK[what]:
            worse[name] = value
    assert not worse, f"{what}: {worse}"


def test_the_list_of_exceptions_is_of_pages_that_need_it(measured: dict[str, dict[str, Any]]) -> None:
    """So that it gets shorter: what meets the limit by now is to be taken out."""
    needless = {
        (name, what): measured[f"{name}.html"][what]
        for name, exceptions in STILL.items()
        for what in exceptions
        if (value := measured[f"{name}.html"][what]) is not None and value <= LIMITS[what]
    }
    assert not needless, needless


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
