"""Sphinx extension: puts the engine and the networks that it runs into the built book.

Pages are read from folders too, where a script can fetch nothing: what the engine needs (the source of its workers,
its kernels, the checkpoints) therefore travels inside scripts. A page gets the engine where its HTML has `data-live` or
`data-ddtb`; a network's script is loaded when it is asked for.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parents[1] / "data" / "checkpoints"
NETWORKS = (
    "edsr_x4",
    "edsr_x4_ddtb_2bit",
    "edsr_x4_ddtb_2bit_convolutions",
    "edsr_x4_ddtb_3bit",
    "edsr_x4_ddtb_4bit",
)
WORKER = (
    "rounding.js",
    "codes.js",
    "checkpoint.js",
    "memory.js",
    "convolutions.js",
    "quantizers.js",
    "upsampler.js",
    "network.js",
    "worker.js",
)
PAGE = ("rounding.js", "codes.js", "engine.js")
NEEDS_ENGINE = re.compile(r"\sdata-(?:live|ddtb)\b")


def engine_script(networks: tuple[str, ...] = NETWORKS) -> str:
    """The one script that makes `window.ddtb`."""
    kernels = base64.b64encode((HERE / "kernels.wasm").read_bytes()).decode()
    constants = {"WORKER": f'"use strict";\n{_joined(WORKER)}', "KERNELS": kernels, "NETWORKS": networks}
    lines = [f"const {name} = {json.dumps(value)};" for name, value in constants.items()]
    return "\n".join(['"use strict";', "(() => {", *lines, _joined(PAGE), "})();", ""])


def network_script(checkpoint: bytes, name: str) -> str:
    """The script that hands a checkpoint to the engine."""
    return f"ddtb.receive({json.dumps(name)}, {json.dumps(base64.b64encode(checkpoint).decode())});\n"


def write(folder: Path, networks: tuple[str, ...] = NETWORKS) -> None:
    """Write `engine.js` and `networks/<name>.js` to `folder`."""
    (folder / "networks").mkdir(parents=True, exist_ok=True)
    (folder / "engine.js").write_text(engine_script(networks), encoding="utf-8")
    for name in networks:
        checkpoint = (CHECKPOINTS / f"{name}.safetensors").read_bytes()
        (folder / "networks" / f"{name}.js").write_text(network_script(checkpoint, name), encoding="utf-8")


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def _add_to_page(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    if NEEDS_ENGINE.search(context.get("body", "")):
        app.add_js_file("../engine/engine.js", loading_method="defer")


def _add_to_book(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write(Path(app.outdir) / "engine")


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", _add_to_page)
    app.connect("build-finished", _add_to_book)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
