"""Time from moving a bound on the built book's first page to the new picture: the median of twenty moves, and all.

python tests/measure_hero.py _build/html
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGE = "start/introduction.html"
READY = "document.querySelector('figure.hero [data-part=status]').textContent.startsWith('computed')"
# From the key that moves the bound to the first frame in which the picture is another one.
MOVES = """async count => {
    const hero = document.querySelector("figure.hero"), bound = hero.querySelector(".bound.upper");
    const pictures = [...hero.querySelectorAll(".stage img")], shown = () => pictures.map(each => each.src).join();
    const pause = time => new Promise(done => setTimeout(done, time));
    const times = [];
    for (let move = 0; move < count; move++) {
        await pause(200);
        const before = shown(), started = performance.now();
        const key = move % 2 ? "ArrowRight" : "ArrowLeft";
        bound.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        while (shown() === before || !pictures.every(picture => picture.complete)) await pause(1);
        await new Promise(requestAnimationFrame);
        times.push(performance.now() - started);
    }
    return times;
}"""


def measure(folder: Path, moves: int = 20) -> list[float]:
    """Milliseconds of each move; the first ones, in which browsers compile, are left out."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((folder / PAGE).resolve().as_uri())
        page.wait_for_function(READY)
        times: list[float] = page.evaluate(MOVES, moves + 4)[4:]
        browser.close()
    return times


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    times = measure(options.parse_args().folder)
    print(f"median {statistics.median(times):.0f} ms of {', '.join(f'{time:.0f}' for time in sorted(times))}")


if __name__ == "__main__":
    main()
