"""The book as a browser shows it: built without a warning, complete offline, legible, alive."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import os
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml
from conftest import PATIENCE, pages
from PIL import Image

import ddtb_lite as ddtb

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CHECKS = Path(__file__).with_name("page_checks.js")
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def toc_files(entry: Any) -> Iterator[str]:
    if isinstance(entry, dict):
        yield from (value for key, value in entry.items() if key in ("file", "root"))
        for value in entry.values():
            yield from toc_files(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from toc_files(value)


def test_every_page_of_the_contents_is_built(built: Path) -> None:
    contents = set(toc_files(yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))))
    assert {f"{name}.html" for name in contents} <= set(pages(built))
    sources = [path.relative_to(BOOK) for pattern in ("*.md", "*.ipynb") for path in BOOK.rglob(pattern)]
    no_pages = {".ipynb_checkpoints", "engine"}
    on_disk = {str(path.with_suffix("")) for path in sources if not no_pages & set(path.parts)}
    assert on_disk == contents, "pages that the contents do not list"


class Links(HTMLParser):
    """What a page links to, and the places in it that a link can lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "a" and (target := values.get("href")) and not re.match(r"[a-z]+:|//", target):
            self.targets.add(target)


def test_every_link_leads_somewhere(built: Path) -> None:
    """Also those of the pages that show the package's code, back to where the API describes it."""
    links = {name: Links(built / name) for name in pages(built)}
    dead = []
    for name, page in links.items():
        for target in page.targets:
            path, _, place = unquote(target).partition("#")
            file = os.path.relpath(built.joinpath(name).parent / path, built) if path else name
            known = links[file].places if file in links else None
            if not (built / file).exists() or (place and known is not None and place not in known):
                dead.append(f"{name}: {target}")
    assert not dead, "\n".join(dead)


def test_a_result_that_is_tagged_first_opens_its_page(built: Path) -> None:
    text = (built / "beyond/official-code.html").read_text(encoding="utf-8")
    strip, table, heading = (text.index(part) for part in ("page-strip", "tag_first", "<h3>1. Where the bounds start"))
    assert strip < table < heading and text.count("tag_first") == 1


def test_the_engine_and_its_networks_are_in_the_book(built: Path) -> None:
    engine = built / "engine"
    offered = re.findall(r'"(edsr_x4\w*)"\]', (built / "beyond" / "your-images.html").read_text(encoding="utf-8"))
    assert {"edsr_x4", "edsr_x4_ddtb_2bit", "edsr_x4_ddtb_2bit_convolutions"} <= set(offered)
    assert set(offered) <= {path.stem for path in (engine / "networks").iterdir()}
    assert sum(path.stat().st_size for path in engine.rglob("*.js")) < 12_000_000
    for name in pages(built):
        text = (built / name).read_text(encoding="utf-8")
        assert ("engine/engine.js" in text) == bool(re.search(r"\sdata-(live|ddtb)\b", text)), name


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    """Where the built book is served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(built)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class Visit:
    """A tab that notes everything that goes wrong in it."""

    def __init__(self, browser: Any, home: str, **options: Any) -> None:
        self.home = home
        self.problems: list[str] = []
        self.name = ""
        self.context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce", **options)
        self.context.set_default_timeout(PATIENCE)
        self.context.add_init_script(path=CHECKS)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: m.type == "error" and self.note(f"console: {m.text}"))
        self.page.on("pageerror", lambda e: self.note(f"script: {e}"))
        self.page.on("requestfailed", self.check_failure)
        self.page.on("response", lambda r: r.status >= 400 and self.note(f"{r.status}: {r.url}"))
        self.page.on("request", self.check_origin)

    def note(self, problem: str) -> None:
        self.problems.append(f"{self.name}: {problem}")

    def check_failure(self, request: Any) -> None:
        # A tab that moves on to the next page gives up what it was still fetching, which is nobody's fault.
        if request.failure != "net::ERR_ABORTED":
            self.note(f"failed: {request.url} {request.failure}")

    def check_origin(self, request: Any) -> None:
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.note(f"request to the outside: {request.url}")

    def open(self, name: str) -> Any:
        self.name = name
        self.page.goto(self.home + name, wait_until="load")
        self.page.evaluate("globalThis.MathJax?.startup?.promise.then(() => null)")
        self.page.evaluate("document.fonts.ready.then(() => null)")
        return self.page

    def check(self, function: str, problem: str) -> None:
        """Run one function of page_checks.js and note whatever it finds."""
        for found in self.page.evaluate(f"checks.{function}()"):
            self.note(f"{problem}: {found}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.close()


def test_every_page_over_http(built: Path, address: str, browser: Any) -> None:
    with Visit(browser, address) as visit:
        for name in pages(built):
            page = visit.open(name)
            visit.check("imagesWithoutText", "no text alternative")
            visit.check("imagesNotShown", "not shown")
            visit.check("rawMaths", "maths")
            visit.check("rawTables", "a table shown as text")
            for theme in ("light", "dark"):
                page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
                visit.check("illegible", f"illegible in the {theme} theme")
            page.set_viewport_size(PHONE)
            visit.check("overflow", "too wide for a phone")
            page.set_viewport_size(DESKTOP)
            visit.check("deadExplorers", "nothing changes when its slider moves")
        assert not visit.problems, "\n".join(visit.problems)


def test_every_page_from_the_disk(built: Path, browser: Any) -> None:
    with Visit(browser, built.as_uri() + "/") as visit:
        for name in pages(built):
            visit.open(name)
            visit.check("imagesNotShown", "not shown")
            visit.check("rawMaths", "maths")
        assert not visit.problems, "\n".join(visit.problems)


def test_explorers_show_a_picture_without_scripts(built: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in pages(built):
        if "<figure" not in (built / name).read_text(encoding="utf-8"):
            continue
        page.goto((built / name).as_uri())
        for figure in page.query_selector_all("figure.explorer, figure.swipe, figure.lab"):
            picture = figure.query_selector("img, svg")
            assert picture is not None and picture.bounding_box()["height"] > 10, name
    context.close()


@pytest.mark.parametrize("place", ["server", "folder"])
def test_search_finds_a_term_and_quotes_it(built: Path, address: str, browser: Any, place: str) -> None:
    with Visit(browser, address if place == "server" else built.as_uri() + "/") as visit:
        page = visit.open("search.html?q=quantizer")
        page.wait_for_selector("#search-results li a")
        page.wait_for_selector("#search-results p.context")
        assert "quantizer" in page.inner_text("#search-results p.context").lower()
        assert not visit.problems, "\n".join(visit.problems)


def test_punctuation_stays_with_its_formula_and_formulas_stack(built: Path, browser: Any) -> None:
    """On a phone no line begins with the comma after a formula, and none of those side by side is cut."""
    with Visit(browser, built.as_uri() + "/") as visit:
        visit.page.set_viewport_size(PHONE)
        for name in ("foundations/quantization.html", "peers/methods.html", "reference/method.html"):
            page = visit.open(name)
            loose = page.evaluate(
                """() => [...document.querySelectorAll("span.math")].filter(each => !each.closest(".whole"))
                  .map(each => each.nextSibling).filter(text => text?.nodeType === 3 && /^[,.;:!?)]/.test(text.data))
                  .map(text => text.data.slice(0, 20))"""
            )
            cut = page.evaluate(
                """() => [...document.querySelectorAll("div.formulas > .math")]
                  .filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.textContent)"""
            )
            assert not loose and not cut, name


def test_the_printed_address_leads_to_the_first_page(built: Path, browser: Any) -> None:
    first = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))["root"]
    with Visit(browser, built.as_uri() + "/") as visit:
        visit.page.goto(visit.home + "index.html")
        visit.page.wait_for_url(f"{visit.home}{first}.html")


def weight(addresses: set[str]) -> int:
    """The size in bytes of all files among the addresses."""
    files = {Path(unquote(urlsplit(address).path)) for address in addresses if address.startswith("file:")}
    return sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_the_first_screen_is_there_to_be_touched(built: Path, browser: Any, screen: dict[str, int]) -> None:
    first = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))["root"]
    loaded: set[str] = set()
    with Visit(browser, built.as_uri() + "/") as visit:
        visit.page.on("request", lambda request: loaded.add(request.url))
        visit.page.set_viewport_size(screen)
        page = visit.open(f"{first}.html")
        for part in (".stage", ".bound.lower b", ".bound.upper b"):
            box = page.query_selector(f"figure.hero {part}").bounding_box()
            assert box["y"] + box["height"] <= screen["height"], part
        computed = "document.querySelector('figure.hero [data-part=status]').textContent.startsWith('computed')"
        page.wait_for_function(computed)
        source, height = page.get_attribute("figure.hero img.after", "src"), page.evaluate("document.body.scrollHeight")
        page.focus("figure.hero .bound.upper")
        page.keyboard.press("PageDown")
        page.wait_for_function("old => document.querySelector('figure.hero img.after').src !== old", arg=source)
        assert page.evaluate("document.body.scrollHeight") == height
        assert not visit.problems, "\n".join(visit.problems)
    assert weight(loaded) < 3_000_000


def test_a_readers_photograph_becomes_what_python_makes_of_it(built: Path, browser: Any, tmp_path: Path) -> None:
    photo = ddtb.images.lower_resolution(dict(ddtb.datasets.load("photos"))["chelsea"][80:208, 120:280], 4)
    truth = dict(ddtb.datasets.load("photos"))["chelsea"][80:208, 120:280]
    ddtb.images.write(tmp_path / "photo.png", photo)
    with Visit(browser, built.as_uri() + "/") as visit:
        page = visit.open("beyond/your-images.html")
        page.set_input_files("input[type=file][data-live]", tmp_path / "photo.png")
        page.wait_for_function("document.querySelector('canvas[data-live=result]').width === 160")
        data = page.evaluate("document.querySelector('canvas[data-live=result]').toDataURL().split(',')[1]")
        assert not visit.problems, "\n".join(visit.problems)
    here = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    expected = ddtb.upscale(ddtb.pretrained("edsr_x4_ddtb_2bit"), photo)
    # Sums of floats in another order flip values that lie on a tie, and those flip others.
    assert ddtb.metrics.psnr(here, truth) == pytest.approx(ddtb.metrics.psnr(expected, truth), abs=0.15)


def test_pages_load_what_they_use(built: Path) -> None:
    texts = {name: (built / name).read_text(encoding="utf-8") for name in pages(built)}
    assert not any("fontawesome.js" in text for text in texts.values())
    assert all(("/mathjax/" in text) == ('class="math' in text) for text in texts.values())
    assert [name for name, text in texts.items() if "searchindex.js" in text] == ["search.html"]
