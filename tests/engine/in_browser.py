"""The engine in a tab: a page opened from a folder, and numpy arrays in and out of it."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ENGINE = Path(__file__).resolve().parents[2] / "book" / "engine"
sys.path.append(str(ENGINE))
import book_engine  # noqa: E402

# Arrays travel as text: {type, text}.
HELPERS = """
var pack = array => {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return { type: array.constructor.name, text: btoa(text) };
};
var unpack = ({ type, text }) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  return new globalThis[type](bytes.buffer);
};
var picture = ({ text, width, height }) => new ImageData(unpack({ type: "Uint8ClampedArray", text }), width, height);
var networks = {};
var network = async name => networks[name] ??= await ddtb.load(name);
"""
TYPES = {"Float32Array": np.float32, "Uint8Array": np.uint8, "Int32Array": np.int32, "Uint8ClampedArray": np.uint8}


def packed(array: np.ndarray) -> dict[str, str]:
    names = {np.dtype(np.float32): "Float32Array", np.dtype(np.uint8): "Uint8Array", np.dtype(np.int32): "Int32Array"}
    data = np.ascontiguousarray(array)
    return {"type": names[data.dtype], "text": base64.b64encode(data.tobytes()).decode()}


def unpacked(answer: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(answer["text"]), TYPES[answer["type"]])


def picture(image: np.ndarray) -> dict[str, Any]:
    """A uint8 image H×W×3 as the helpers take it."""
    height, width = image.shape[:2]
    opaque = np.dstack([image, np.full((height, width), 255, np.uint8)])
    return {**packed(opaque), "width": width, "height": height}


def write_page(folder: Path, checkpoints: Mapping[str, bytes]) -> str:
    """A page with the engine and these networks, named by their address."""
    book_engine.write(folder / "engine", ())
    (folder / "engine" / "engine.js").write_text(book_engine.engine_script(tuple(checkpoints)), encoding="utf-8")
    for name, checkpoint in checkpoints.items():
        script = book_engine.network_script(checkpoint, name)
        (folder / "engine" / "networks" / f"{name}.js").write_text(script, encoding="utf-8")
    page = '<!doctype html><meta charset="utf-8"><title>engine</title><script src="engine/engine.js" defer></script>'
    (folder / "index.html").write_text(f"{page}<script>{HELPERS}</script>", encoding="utf-8")
    return (folder / "index.html").as_uri()


class Tab:
    """One tab with the engine; `problems` collects what went wrong in it outside of calls."""

    def __init__(self, browser: Any, address: str, before: str = "") -> None:
        self.context = browser.new_context()
        self.context.set_default_timeout(180_000)
        if before:
            self.context.add_init_script(before)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(address)

    def run(self, function: str, *arguments: Any) -> Any:
        return self.page.evaluate(f"async arguments => (await ({function})(...arguments))", list(arguments))

    def upscale(self, name: str, image: np.ndarray, **options: Any) -> np.ndarray:
        function = """async (name, image, options) => {
            const result = await (await network(name)).upscale(picture(image), options);
            return [pack(result.data), result.height, result.width];
        }"""
        data, height, width = self.run(function, name, picture(image), options)
        return unpacked(data).reshape(height, width, 4)[..., :3]

    def array(self, function: str, *arguments: Any) -> np.ndarray:
        """What a function that returns a typed array returned."""
        return unpacked(self.run(f"async (...all) => pack(await ({function})(...all))", *arguments))

    def error(self, function: str, *arguments: Any) -> str:
        """Name and message of what a function rejected with."""
        settled = "then(() => 'nothing', error => error.name + ': ' + error.message)"
        return str(self.run(f"(...all) => ({function})(...all).{settled}", *arguments))
