"""Measure the built pages: height, share of code, pixels to the first figure or control, words, check lines, and more.

    python tests/measure_pages.py _build/html [--json FILE]

Not collected by pytest; `tests/book/test_layout.py` holds the limits.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1280, 900
SWITCHES = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"

MEASURE = """
() => {
  const article = document.querySelector('article.bd-article');
  const shown = element => element.checkVisibility() && element.getBoundingClientRect().height > 0;
  const height = article.getBoundingClientRect().height;
  const top = article.getBoundingClientRect().top;
  const code = [...article.querySelectorAll('.cell_input, .cell_output pre, div.highlight')]
    .filter(element => shown(element) && !element.parentElement.closest('.cell_input, .cell_output pre, div.highlight'))
    .reduce((sum, element) => sum + element.getBoundingClientRect().height, 0);
  const figures = [...article.querySelectorAll('figure, img, svg, canvas, input, [role=slider]')]
    .filter(element => shown(element))
    .filter(element => element.getBoundingClientRect().height > 60 || element.matches('input'))
    .map(element => element.getBoundingClientRect().top - top);
  const checks = [...article.querySelectorAll('.cell_output pre')].filter(shown)
    .reduce((sum, element) => sum + (element.innerText.match(/^✓/gm) || []).length, 0);
  const listings = [...article.querySelectorAll('pre')].filter(shown).map(element => element.textContent.split('\\n'));
  const widest = Math.max(0, ...listings.flat().map(line => line.length));
  // A listing whose every line is indented was cut out of something and not dedented.
  const indented = [...article.querySelectorAll('.cell_input pre, div.highlight-python pre')].filter(shown)
    .map(element => element.textContent.split('\\n').filter(line => line.trim()))
    .filter(lines => lines.length && lines.every(line => /^\\s/.test(line))).length;
  const silent = [...article.querySelectorAll('img')].filter(shown).filter(element =>
    !element.alt.trim() && !element.closest('figure')?.querySelector('figcaption')?.innerText.trim()).length;
  const figure = figures.length ? Math.round(Math.min(...figures)) : null;
  return {height: Math.round(height), code: +(code / height).toFixed(3), figure,
          words: article.innerText.split(/\\s+/).length, checks, widest,
          indented, silent};
}
"""


def measure(folder: Path, browser: Any) -> dict[str, dict[str, Any]]:
    """What each page of a built book measures at desktop width, by its path."""
    found = {}
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
    for path in sorted(folder.rglob("*.html")):
        name = str(path.relative_to(folder))
        if "_static" in path.parts or "_modules" in path.parts or "/" not in name:
            continue
        page.goto(path.as_uri(), wait_until="load")
        page.evaluate("globalThis.MathJax?.startup?.promise.then(() => null)")
        found[name] = page.evaluate(MEASURE)
    page.close()
    return found


def main() -> None:
    """Print a table; with --json write a file as well."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES.split())
        found = measure(given.folder.resolve(), browser)
        browser.close()
    print(f"{'page':42s} {'height':>7s} {'code':>6s} {'figure':>7s} {'words':>6s} {'checks':>6s} {'widest':>6s}")
    for name, row in found.items():
        figure = "" if row["figure"] is None else str(row["figure"])
        numbers = f"{row['height']:7d} {row['code']:6.0%} {figure:>7s} {row['words']:6d}"
        print(f"{name:42s} {numbers} {row['checks']:6d} {row['widest']:6d}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
