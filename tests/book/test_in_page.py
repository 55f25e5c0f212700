"""Components that run a network in the page, here with a stand-in for it: what they ask for, show, and survive."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_components import CHECKS, desk, drag, layout, show  # noqa: F401

import ddtb_lite as ddtb
from ddtb_lite import diagnostics, images
from ddtb_lite.book.explorers import data_url
from ddtb_lite.book.in_page import hero, inside, upscaler

UI = Path(__file__).resolve().parents[2] / "book" / "engine" / "ui"
STUB = f"<script>{Path(__file__).with_name('engine_stub.js').read_text(encoding='utf-8')}</script>"
NETWORKS = {"2 bits": "student", "full precision": "teacher"}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    return encoded(Image.fromarray(image), "PNG")


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def enlarged(image: np.ndarray) -> np.ndarray:
    """What the stand-in makes of an image."""
    return image.repeat(4, axis=0).repeat(4, axis=1)


def pixels(page: Any, canvas: str) -> np.ndarray:
    """The pixels of a canvas, which must be opaque."""
    width, height, data = page.evaluate("components.pixels", canvas)
    found = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
    assert (found[..., 3] == 255).all()
    return found[..., :3]


def result(page: Any) -> np.ndarray:
    return pixels(page, "canvas[data-live=result]")


@pytest.fixture(scope="module")
def scripts(browser: Any) -> Any:
    """A page with the functions that components share."""
    page = browser.new_page()
    for script in (CHECKS, UI / "bicubic.js", UI / "engine.js", UI / "file-head.js"):
        page.add_script_tag(path=script)
    yield page
    page.close()


# ---------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 2), (13, 9)])
@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_in_the_page_is_that_of_python(scripts: Any, size: tuple[int, int], scale: int) -> None:
    image = noise(*size)
    data = np.dstack([image, np.full(size, 255, np.uint8)]).ravel().tolist()
    got = scripts.evaluate(
        """([data, width, height, scale]) =>
        [...bicubic(new ImageData(Uint8ClampedArray.from(data), width, height), scale).data]""",
        [data, size[1], size[0], scale],
    )
    expected = images.resize(image, scale)
    assert np.array_equal(np.array(got).reshape(*expected.shape[:2], 4)[..., :3], expected)


def test_psnr_in_the_page_is_that_of_python(scripts: Any) -> None:
    a, b = noise(20, 24), noise(20, 24, 1)
    sources = [data_url(each, exact=True) for each in (a, b)]
    got = scripts.evaluate("async sources => psnr(...await Promise.all(sources.map(pixels)), 4)", sources)
    assert got == pytest.approx(ddtb.metrics.psnr(a, b, border=4), abs=1e-9)


def test_the_head_of_a_file(scripts: Any) -> None:
    photo = Image.fromarray(noise(30, 40))
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(noise(30, 40, 1))]}
    deep = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40))
    files = {
        "PNG": (encoded(photo, "PNG"), 0),
        "animated PNG": (encoded(photo, "PNG", **frames), "animated"),
        "16-bit PNG": (encoded(deep, "PNG"), "16 bits"),
        "JPEG": (encoded(photo, "JPEG"), 0),
        "progressive JPEG": (encoded(photo, "JPEG", progressive=True), 0),
        "print JPEG": (encoded(photo.convert("CMYK"), "JPEG"), "CMYK"),
        "GIF": (encoded(photo, "GIF"), 0),
        "animated GIF": (encoded(photo, "GIF", **frames), "animated"),
        "animated WebP": (encoded(photo, "WEBP", **frames), "animated"),
    }
    for name, (data, note) in files.items():
        head = scripts.evaluate("bytes => fileHead(Uint8Array.from(bytes))", list(data))
        assert (head["width"], head["height"]) == (40, 30), name
        assert len(head["notes"]) == bool(note) and (not note or note in head["notes"][0]), name
    for nothing in (b"", b"hello", b"\xff\xd8", b"\x89PNG", bytes(100)):
        assert "notes" in scripts.evaluate("bytes => fileHead(Uint8Array.from(bytes))", list(nothing))


# ---------------------------------------------------------------------------------------------- hero


@pytest.fixture(scope="module")
def student() -> Any:
    return ddtb.pretrained("edsr_x4_ddtb_2bit")


@pytest.fixture(scope="module")
def hero_figure(student: Any) -> str:
    photo = dict(ddtb.datasets.load("photos"))["coffee"][96:144, 240:320]
    teacher = ddtb.pretrained("edsr_x4")
    return STUB + hero("hero", "student", student, teacher, photo, "body.8.hidden", "Move the bounds.").data


def asked(page: Any) -> dict[str, Any]:
    """What the engine was asked last, when it has answered."""
    page.wait_for_timeout(100)
    page.wait_for_function("document.querySelector('[data-part=status]').textContent.startsWith('computed here')")
    return page.evaluate("stub.asked.at(-1)")


def test_the_hero_answers_both_bounds(show: Any, hero_figure: str, student: Any) -> None:  # noqa: F811
    page = show("<p>above</p>" + hero_figure)
    first = asked(page)
    trained = {f"body.{at // 2}.{('input', 'hidden')[at % 2]}": at for at in range(4)}
    assert first["gates"] is False and (first["width"], first["height"]) == (20, 12)
    assert first["bounds"] == {path: [-1 - at, 2 + at] for path, at in trained.items()}
    before = layout(page)
    lower, upper = diagnostics.bounds(student)["body.8.hidden"]
    for finger in {False, page.evaluate("navigator.maxTouchPoints > 0")}:
        page.click("[data-bounds=two]")
        for name, way in (("upper", -1), ("lower", -1)):
            old, error = asked(page)["bounds"], page.inner_text("[data-part=error]")
            drag(page, page.query_selector(f".bound.{name}"), (0.5, 0.6), (0.5 + way * 0.9, 0.6), finger)
            new = asked(page)["bounds"]
            side = ("lower", "upper").index(name)
            shares = {round((new[path][side] - old[path][side]) / (3 + 2 * at), 9) for path, at in trained.items()}
            assert len(shares) == 1 and way * shares.pop() > 0
            assert page.inner_text("[data-part=error]") != error
        assert float(page.get_attribute(".bound.lower", "aria-valuenow")) < lower
        assert float(page.get_attribute(".bound.upper", "aria-valuenow")) < upper
    assert layout(page) == before


def test_the_hero_shows_what_one_bound_wastes(show: Any, hero_figure: str) -> None:  # noqa: F811
    page = show(hero_figure)
    asked(page)
    assert page.inner_text("[data-part=levels]") == "4 of 4"
    before = layout(page)
    page.click("[data-bounds=one]")
    bounds = asked(page)["bounds"]
    assert all(lower == -upper for lower, upper in bounds.values())
    assert bounds["body.1.hidden"] == [-5, 5]  # the larger of its own two
    assert page.inner_text("[data-part=levels]") == "2 of 4"  # behind a ReLU
    page.focus(".bound.upper")
    page.keyboard.press("ArrowRight")
    assert asked(page)["bounds"]["body.1.hidden"][1] > 5
    now = [float(page.get_attribute(f".bound.{name}", "aria-valuenow")) for name in ("lower", "upper")]
    assert now[0] == -now[1]
    page.click("[data-bounds=two]")
    assert asked(page)["bounds"]["body.0.input"] == [-1, 2]
    assert layout(page) == before


def test_moves_do_not_queue_up(desk: Any, hero_figure: str) -> None:  # noqa: F811
    page = desk(hero_figure)
    asked(page)
    page.evaluate("stub.delay = 400; stub.asked.length = 0")
    page.focus(".bound.upper")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("stub.asked.length > 1")
    page.wait_for_timeout(1000)
    requests = page.evaluate("stub.asked.map(each => each.bounds['body.1.hidden'][1])")
    assert 2 <= len(requests) < 12 and requests == sorted(requests, reverse=True)


def test_without_the_engine_the_stored_picture_stays(desk: Any, hero_figure: str) -> None:  # noqa: F811
    page = desk(hero_figure.removeprefix(STUB))
    page.wait_for_function("document.querySelector('[data-part=status]').textContent.includes('stored')")
    assert page.is_visible(".stage img.after") and page.inner_text("[data-part=quality]").endswith("dB")


# -------------------------------------------------------------------------------------------- upscaler


@pytest.fixture(scope="module")
def upscaler_figure() -> str:
    photos = {"first": noise(12, 20), "second": noise(16, 16, 1)}
    return STUB + upscaler("own", photos, NETWORKS, enlarged(photos["first"]), 4, "Your own.").data


def choose(page: Any, data: bytes, name: str = "photo.png") -> None:
    page.set_input_files("input[data-live]", {"name": name, "mimeType": "image/png", "buffer": data})


def finished(page: Any) -> str:
    """What the page says in the end."""
    page.wait_for_timeout(50)
    page.wait_for_function("document.querySelector('.upscaler').getAttribute('aria-busy') !== 'true'")
    return page.inner_text("[data-part=message]")


def test_a_chosen_picture_is_enlarged(show: Any, upscaler_figure: str) -> None:  # noqa: F811
    page = show(upscaler_figure)
    before, image = layout(page), noise(11, 17, 5)
    choose(page, png(image))
    page.wait_for_function("document.querySelector('[data-live=result]').width === 68")
    assert "17×11" in finished(page) and np.array_equal(result(page), enlarged(image))
    assert page.inner_text("[data-part=time]") == "0.02 s" and page.inner_text("[data-part=operations]") == "0.19 T"
    assert page.locator(".stage .tag").all_inner_texts() == ["bicubic", "2 bits"]
    page.click("[data-kind='full precision']")
    finished(page)
    assert page.is_disabled("[data-part=gates]")
    page.click("[data-kind='2 bits']")
    page.uncheck("[data-part=gates]")
    finished(page)
    assert page.evaluate("stub.asked.map(each => [each.name, each.gates])") == [
        ["student", True], ["teacher", True], ["student", False],
    ]  # fmt: skip
    there = page.locator("[data-part=other] option").all_inner_texts()
    assert there == ["bicubic", "2 bits", "full precision", "2 bits, gates off"]
    with page.expect_download() as download:
        page.click("[data-part=download]")
    assert download.value.suggested_filename == "photo, 2 bits, gates off.png"
    assert np.array_equal(np.asarray(Image.open(download.value.path()).convert("RGB")), enlarged(image))
    assert layout(page)[0] == before[0]  # the page has kept its height


def test_pictures_are_dropped_pasted_and_ours(desk: Any, upscaler_figure: str) -> None:  # noqa: F811
    page = desk(upscaler_figure)
    give = """([kind, bytes]) => {
      const data = new DataTransfer(), target = kind === "paste" ? document : document.querySelector(".upscaler");
      data.items.add(new File([Uint8Array.from(bytes)], "given.png", { type: "image/png" }));
      const dropped = { dataTransfer: data, bubbles: true, cancelable: true };
      const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data }) : new DragEvent(kind, dropped);
      target.dispatchEvent(event);
    }"""
    for kind, image in (("drop", noise(5, 6, 6)), ("paste", noise(7, 8, 7))):
        page.evaluate(give, [kind, list(png(image))])
        page.wait_for_function(f"document.querySelector('[data-live=result]').width === {4 * image.shape[1]}")
        assert np.array_equal(result(page), enlarged(image))
    page.click("[data-photo='1']")
    page.wait_for_function("document.querySelector('[data-live=result]').width === 64")
    assert np.array_equal(result(page), enlarged(noise(16, 16, 1)))


def test_odd_pictures(desk: Any, upscaler_figure: str, tmp_path: Path) -> None:  # noqa: F811
    """Each is what Python reads, where Python reads it, and says what was done to it."""
    page = desk(upscaler_figure)
    photo = noise(6, 9)
    alpha = np.tile(np.linspace(0, 255, 9).astype(np.uint8), (6, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(noise(6, 9, 1))]}
    deep = Image.fromarray((np.arange(54, dtype=np.uint16) * 1200).reshape(6, 9))
    smooth = Image.fromarray(np.full((16, 24, 3), (200, 120, 40), np.uint8))
    odd = {
        "one.png": (png(photo[:1, :1]), ""),
        "clear.png": (png(np.dstack([photo, alpha])), "over white"),
        "deep.png": (encoded(deep, "PNG"), "16 bits"),
        "turned.jpg": (encoded(smooth, "JPEG", exif=turned), ""),
        "print.jpg": (encoded(smooth.convert("CMYK"), "JPEG"), "CMYK"),
        "moving.gif": (encoded(Image.fromarray(photo), "GIF", **frames), "animated"),
    }
    for name, (data, note) in odd.items():
        page.evaluate("document.querySelector('[data-live=result]').width = 0")
        choose(page, data, name)
        page.wait_for_function("document.querySelector('[data-live=result]').width > 1")
        assert note in finished(page), name
        if not name.endswith((".gif", "print.jpg")):
            (tmp_path / name).write_bytes(data)
            read = enlarged(images.read(tmp_path / name)).astype(int)
            assert np.abs(result(page) - read).max() <= (1 if note else 0), name


def test_what_is_no_picture_is_said_and_the_page_goes_on(desk: Any, upscaler_figure: str) -> None:  # noqa: F811
    page = desk(upscaler_figure)
    huge = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    nothing = (b"hello", b"", png(noise(9, 9))[:40])
    for data, words in ((huge, "20000×20000"), *((each, "not a picture") for each in nothing)):
        choose(page, data)
        page.wait_for_function(f"document.querySelector('[data-part=message]').textContent.includes('{words}')")
    page.evaluate("stub.error = 'The memory is full.'")
    choose(page, png(noise(4, 4)))
    page.wait_for_function("document.querySelector('[data-part=message]').textContent === 'The memory is full.'")
    page.evaluate("stub.error = null")
    choose(page, png(noise(5, 5)))
    page.wait_for_function("document.querySelector('[data-live=result]').width === 20")
    assert np.array_equal(result(page), enlarged(noise(5, 5)))


def test_large_ones_ask_and_a_run_is_cancelled(desk: Any, upscaler_figure: str) -> None:  # noqa: F811
    page = desk(upscaler_figure)
    large = noise(140, 150)
    choose(page, png(large))
    page.wait_for_selector("[data-part=middle]")
    assert "600×560" in page.inner_text("[data-part=message]") and not page.evaluate("stub.asked.length")
    page.click("[data-part=middle]")
    page.wait_for_function("document.querySelector('[data-live=result]').width === 512")
    assert np.array_equal(result(page), enlarged(large[6:134, 11:139]))
    page.evaluate("stub.delay = 100_000")
    choose(page, png(noise(8, 8)))
    page.wait_for_function("stub.asked.length === 2")
    page.click("[data-part=cancel]")
    page.evaluate("stub.delay = 20")
    choose(page, png(noise(7, 7)))
    page.wait_for_function("document.querySelector('[data-live=result]').width === 28")
    assert "7×7" in finished(page)


def test_the_lens_follows_pointer_and_keys(desk: Any, upscaler_figure: str) -> None:  # noqa: F811
    page = desk(upscaler_figure)
    choose(page, png(noise(20, 30)))
    page.wait_for_function("document.querySelector('[data-live=result]').width === 120")
    box = page.query_selector(".stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "20×20 pixels from 50, 30" in page.get_attribute("[data-part=lens]", "aria-label")
    page.focus("[data-part=lens]")
    page.keyboard.press("ArrowLeft")
    assert "from 46, 30" in page.get_attribute("[data-part=lens]", "aria-label")
    shown = pixels(page, "[data-part=lens] div:last-child canvas")
    assert np.array_equal(shown, enlarged(noise(20, 30))[30:50, 46:66])


# ---------------------------------------------------------------------------------------------- inside


def test_a_look_inside(show: Any, student: Any) -> None:  # noqa: F811
    page = show(STUB + inside("inside", student, ("student", "teacher"), noise(8, 10), "A look inside.").data)
    before = layout(page)
    page.click("[data-block='body.1']")
    page.click("[data-point=hidden]")
    page.wait_for_function("document.querySelector('[data-part=place]').textContent === 'block 2, hidden'")
    assert page.inner_text("[data-part=bounds]") == "−1.50 … 3.00"
    assert page.inner_text("[data-part=gate]") == "none here"
    assert page.locator("[data-part=legend] span").all_inner_texts() == ["−1.5: 0 %", "0: 0 %", "1.5: 0 %", "3: 100 %"]
    page.click("[data-block='body.0']")
    page.click("[data-point=input]")
    page.wait_for_function("document.querySelector('[data-part=place]').textContent === 'block 1, input'")
    assert page.inner_text("[data-part=gate]") == "0.50, 1.25"
    first = pixels(page, ".pictures div:last-child canvas")
    assert first.shape == (8, 10, 3) and len(np.unique(first.reshape(-1, 3), axis=0)) == 2  # codes 0 and 2
    page.focus("[data-part=channel]")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("[data-part=number]") == "2 of 2"
    assert not np.array_equal(pixels(page, ".pictures div:last-child canvas"), first)
    page.evaluate("document.dispatchEvent(new CustomEvent('ddtb:photo', { detail: new ImageData(6, 5) }))")
    page.wait_for_function("document.querySelector('canvas').width === 6")
    assert layout(page)[0] == before[0]
