"""How fast the engine in the page is, beside its own full precision and beside ONNX Runtime; prints JSON.

    npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz
    pip install onnx
    python tests/measure_engine.py package/dist

One browser, one thread each, the same network on the same picture, interleaved. Machines do other things at the same
time, so what counts is the processor time of the tab's process, the median of several runs; the body's part of it is
its part of the time that went by.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

import ddtb_lite as ddtb
from ddtb_lite.checkpoints import shipped
from ddtb_lite.support.provenance import environment

sys.path.append(str(Path(__file__).resolve().parent / "engine"))
from in_browser import Tab, picture, write_page  # noqa: E402

NETWORKS = ("edsr_x4_ddtb_2bit", "edsr_x4_ddtb_3bit", "edsr_x4_ddtb_4bit", "edsr_x4")
RUNTIME = "onnxruntime-web"
PREPARE = """async () => {
    const script = Object.assign(document.createElement("script"), { src: "runtime/ort.wasm.min.js" });
    await new Promise((onload, onerror) => document.head.append(Object.assign(script, { onload, onerror })));
    ort.env.wasm.numThreads = 1;
    globalThis.session = await ort.InferenceSession.create("network.onnx");
}"""
RUN_RUNTIME = """async (size) => {
    const x = new ort.Tensor("float32", new Float32Array(3 * size * size).fill(100), [1, 3, size, size]);
    const started = performance.now();
    await session.run({ x });
    return [performance.now() - started, 0];
}"""
RUN_ENGINE = """async (name, image) => {
    const one = await network(name);
    await one.upscale(picture(image));
    return [one.milliseconds, one.bodyMilliseconds];
}"""


def export(path: Path) -> None:
    """EDSR ×4 in full precision as an ONNX graph, without the mean color, which costs nothing."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    network = ddtb.load(shipped("edsr_x4"))
    nodes, weights = [], []

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    def convolution(x: str, module: str) -> str:
        for kind in ("weight", "bias"):
            values = network.get_parameter(f"{module}.{kind}").detach().numpy()
            weights.append(numpy_helper.from_array(values, f"{module}.{kind}"))
        return node("Conv", x, f"{module}.weight", f"{module}.bias", pads=[1, 1, 1, 1])

    x = shallow = convolution("x", "head.0")
    for block in network.block_names():
        hidden = node("Relu", convolution(x, f"{block}.body.0"))
        x = node("Add", x, convolution(hidden, f"{block}.body.2"))
    x = node("Add", convolution(x, f"body.{len(network.block_names())}"), shallow)
    for stage in ("tail.0.0", "tail.0.2"):
        x = node("DepthToSpace", convolution(x, stage), blocksize=2, mode="CRD")
    convolution(x, "tail.1")
    shape = [1, 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "edsr",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"t{len(nodes) - 1}", TensorProto.FLOAT, [1, 3, "high", "wide"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Meter:
    """Processor time of all tabs, in milliseconds, as the browser itself counts it."""

    def __init__(self, browser: Any) -> None:
        self.session = browser.new_browser_cdp_session()

    def __call__(self) -> float:
        processes = self.session.send("SystemInfo.getProcessInfo")["processInfo"]
        return 1000 * sum(process["cpuTime"] for process in processes if process["type"] == "renderer")


def measure(tab: Tab, meter: Meter, size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds and ratios at size × size input pixels."""
    _, photo = ddtb.datasets.load("photos")[0]
    image = picture(np.ascontiguousarray(photo[:size, :size]))
    elapsed: dict[str, list[float]] = {name: [] for name in (*NETWORKS, RUNTIME)}
    whole: dict[str, list[float]] = {name: [] for name in elapsed}
    body: dict[str, list[float]] = {name: [] for name in elapsed}
    for repeat in range(repeats + 1):
        for name in elapsed:
            before = meter()
            total, part = tab.run(RUN_RUNTIME, size) if name == RUNTIME else tab.run(RUN_ENGINE, name, image)
            used = meter() - before
            if repeat:  # in the first one, browsers compile
                elapsed[name].append(total)
                whole[name].append(used)
                body[name].append(used * part / total)
    time, inside = ({name: statistics.median(all_) for name, all_ in times.items()} for times in (whole, body))
    return {
        "fastest, milliseconds": {name: round(min(all_), 1) for name, all_ in elapsed.items()},
        "processor, milliseconds": {name: round(value, 1) for name, value in time.items()},
        "body, processor": {name: round(inside[name], 1) for name in NETWORKS},
        "body, times as fast as full precision's": {name: ratio(inside["edsr_x4"], inside[name]) for name in NETWORKS},
        f"whole, times as fast as {RUNTIME}": {name: ratio(time[RUNTIME], time[name]) for name in NETWORKS},
    }


def ratio(reference: float, value: float) -> float:
    return round(reference / value, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", type=Path, help="the folder `dist` of the package onnxruntime-web")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels of the square picture")
    parser.add_argument("--browser", default=shutil.which("chromium"))
    parser.add_argument("--out", type=Path, help="also write it to this file, with versions, device and commit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder)
        write_page(root, {name: shipped(name).read_bytes() for name in NETWORKS})
        export(root / "network.onnx")
        (root / "runtime").symlink_to(options.runtime.resolve())
        handler = functools.partial(Quiet, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox", "--disable-gpu"])
        tab = Tab(browser, f"http://127.0.0.1:{server.server_port}/index.html")
        meter = Meter(browser)
        tab.run(PREPARE)
        found = {f"{size}×{size}": measure(tab, meter, size, options.repeats) for size in options.sizes}
        package = json.loads((options.runtime.parent / "package.json").read_text(encoding="utf-8"))
        versions = {"browser": browser.version, RUNTIME: package["version"]}
        facts = {**found, "versions": versions, "environment": environment("cpu")}
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        print(text)
        if options.out:
            options.out.write_text(f"{text}\n", encoding="utf-8")
        browser.close()
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


if __name__ == "__main__":
    main()
