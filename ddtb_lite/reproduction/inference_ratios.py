"""What few bits buy when a network runs: time, memory and bytes, as ratios to full precision in the same process.

Beside each time stands what the count of bit operations promises. One thread is timed by the processor's clock, several
by the wall's. What else the machine does can only add to a time, so that the fastest run counts.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoints, datasets, uniform
from ..cost import complexity
from ..deploy import IntegerActivation, IntegerConv2d, export, to_integer
from ..evaluation import evaluate
from ..networks import SuperResolutionNetwork
from ..networks.onnx_network import OnnxNetwork
from .results import environment

SIDE = 128
REPEATS = 5
FULL, STUDENT, FULLY = "edsr_x{}", "edsr_x{}_ddtb_2bit", "edsr_x{}_ddtb_4bit_fully"
# Each scored on Set5 as it is, on integers and by ONNX Runtime.
SCORED = ("edsr_x4", "edsr_x4_ddtb_2bit", "edsr_x4_ddtb_4bit", "edsr_x4_fqsr_4bit_fully")
RUNTIMES = ("onnxruntime", "openvino")
# Where Linux tells a process the most memory that it ever had, and what it has now.
PROCESS_STATUS = Path("/proc/self/status")

Run = Callable[[], Any]


def measure(scales: tuple[int, ...] = (4, 2), repeats: int = REPEATS) -> dict[str, Any]:
    """Everything, as one object for a result file: one row for each network, part, version and number of threads.

    A row's `time` is the fastest of `repeats` runs divided by that of the same part in float32, `promised` the same
    ratio in bit operations. `shares` says what of the time of the body on integers goes where, in the same unit. The
    versions take turns, so that what else the machine does meets all of them. `memory` is
    the peak beyond the loaded network while one picture is enlarged, `bytes` the size of each file, `set5` the PSNR
    in dB, None where the data set is not there. The picture is 128×128. bf16 is left out where it is emulated,
    OpenVINO where `runtimes` has no version of it.
    """
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    try:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            for scale in scales:
                rows += _rows(scale, count, repeats)
    finally:
        torch.set_num_threads(threads)
    return {
        "rows": rows,
        "shares": _shares(scales[0], repeats),
        "memory": {version: _memory(version) for version in ("fp32", "fake quantization", "integers")},
        "bytes": {str(scale): _bytes(scale) for scale in scales},
        "set5": _scores(),
        "runtimes": {name: _version(name) for name in RUNTIMES},
        "instructions": _instructions(),
        "environment": environment("cpu"),
    }


def _rows(scale: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    full, student, fully = (checkpoints.pretrained(name.format(scale)) for name in (FULL, STUDENT, FULLY))
    fast, fast_fully = to_integer(student), to_integer(fully)
    picture, features = (_random(channels) for channels in (3, 64))
    blocks: dict[str, Run] = {
        "fp32": lambda: _through_blocks(full, features),
        "fake quantization": lambda: _through_blocks(student, features),
        "integers": lambda: _through_blocks(fast, features),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {"full": full, "student": student}
        for name, network in files.items():
            export(network, f"{folder}/{name}.onnx")
        runtime = {name: OnnxNetwork(f"{folder}/{name}.onnx") for name in files}
        whole: dict[str, Run] = {
            "fp32": lambda: full(picture),
            "fake quantization": lambda: student(picture),
            "integers": lambda: fast(picture),
            "integers, fully quantized": lambda: fast_fully(picture),
            "ONNX Runtime, fp32": lambda: runtime["full"](picture),
            "ONNX Runtime, 2 bits": lambda: runtime["student"](picture),
        }
        if _version("openvino"):
            whole["OpenVINO, fp32"] = _openvino(f"{folder}/full.onnx", picture, threads)
            whole["OpenVINO, 2 bits"] = _openvino(f"{folder}/student.onnx", picture, threads)
        if torch.cpu._is_avx512_bf16_supported():
            bf16 = torch.autocast("cpu", torch.bfloat16)
            blocks["bf16"] = lambda: _in(bf16, _through_blocks, full, features)
            whole["bf16"] = lambda: _in(bf16, full, picture)
            whole["integers, the rest in bf16"] = lambda: _in(bf16, fast, picture)
        # The whole first: it leaves the process memory enough that the body's runs need not ask for any.
        times = {"whole": _fastest(whole, threads, repeats), "body": _fastest(blocks, threads, repeats)}
    promised = _promised(full, student, fully)
    return [
        {
            "scale": scale,
            "part": part,
            "version": version,
            "threads": threads,
            "time": round(seconds / measured["fp32"], 3),
            "promised": round(promised[part].get(version, 1.0), 4),
        }
        for part, measured in times.items()
        for version, seconds in measured.items()
    ]


def _promised(full: SuperResolutionNetwork, *students: SuperResolutionNetwork) -> dict[str, dict[str, float]]:
    bops = [complexity(network, (SIDE * network.scale,) * 2).bops for network in (full, *students)]
    names = ("fake quantization", "integers", "ONNX Runtime, 2 bits", "OpenVINO, 2 bits")
    two_bits, half, body = bops[1] / bops[0], (16 / 32) ** 2, (2 / 32) ** 2
    rest = (two_bits - body) / (1 - body)  # what is left in full precision, as a share of all
    return {
        "body": {**dict.fromkeys(names, body), "bf16": half},
        "whole": {
            **dict.fromkeys(names, two_bits),
            "bf16": half,
            "integers, the rest in bf16": (1 - rest) * body + rest * half,
            "integers, fully quantized": bops[2] / bops[0],
        },
    }


def _random(channels: int) -> Tensor:
    noise = torch.rand(1, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 255
    return noise.contiguous(memory_format=torch.channels_last)


def _through_blocks(network: SuperResolutionNetwork, x: Tensor) -> Tensor:
    for name in network.block_names():
        x = network.get_submodule(name)(x)
    return x


def _in(context: AbstractContextManager[Any], function: Callable[..., Any], *arguments: Any) -> Any:
    with context:
        return function(*arguments)


def _fastest(versions: dict[str, Run], threads: int, repeats: int) -> dict[str, float]:
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    with torch.inference_mode(), uniform.compiled():
        for run in versions.values():
            run()
        for _ in range(repeats):
            for name, run in versions.items():
                start = clock()
                run()
                seconds[name].append(clock() - start)
    return {name: min(each) for name, each in seconds.items()}


def _shares(scale: int, repeats: int) -> dict[str, float]:
    """The body on integers by kind of layer, on one thread, in units of the whole body's time in full precision."""
    full, fast = (checkpoints.pretrained(name.format(scale)) for name in (FULL, STUDENT))
    fast, features = to_integer(fast), _random(64)
    spent: dict[str, list[float]] = {}

    def clocked(kind: str, run: Run) -> Run:
        def clock(*given: Any) -> Any:
            start = time.process_time()
            result = run(*given)
            spent[kind][-1] += time.process_time() - start
            return result

        return clock

    for module in fast.modules():
        kind = _kind(module)
        if kind:
            spent[kind] = []
            module.forward = clocked(kind, module.forward)

    def one_more() -> None:
        for each in spent.values():
            each.append(0.0)
        _through_blocks(fast, features)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = _fastest({"fp32": lambda: _through_blocks(full, features), "integers": one_more}, 1, repeats)
    torch.set_num_threads(threads)
    shares = {kind: round(min(each) / times["fp32"], 3) for kind, each in spent.items()}
    return {**shares, "sums and the rest": round(times["integers"] / times["fp32"] - sum(shares.values()), 3)}


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, IntegerConv2d):
        return "convolutions"
    if isinstance(module, IntegerActivation):
        return "quantizers" if module.quantizer is None else "quantizers with a gate"
    return None


def _openvino(file: str, picture: Tensor, threads: int) -> Run:
    openvino = importlib.import_module("openvino")
    # On processors with bf16 its own choice would be that, with other sums.
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    network, numbers = openvino.Core().compile_model(file, "CPU", settings), picture.contiguous().numpy()
    return lambda: network([numbers])


def _version(module: str) -> str | None:
    """None if it is not installed."""
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return None


def _instructions() -> str:
    """What the processor has for vectors, for bytes (VNNI) and for bf16."""
    found = {"VNNI": torch.cpu._is_vnni_supported(), "bf16": torch.cpu._is_avx512_bf16_supported()}
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(name for name, there in found.items() if there)])


def _scores() -> dict[str, dict[str, float]] | None:
    """PSNR on Set5 of some shipped networks, however they run: it should not matter."""
    try:
        datasets.paths("Set5")
    except FileNotFoundError:
        return None
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SCORED:
            network = checkpoints.pretrained(name)
            export(network, f"{folder}/network.onnx")
            ways = {"as it is": network, "ONNX Runtime": OnnxNetwork(f"{folder}/network.onnx")}
            if network.quantization:
                ways["integers"] = to_integer(network)
            scores[name] = {way: round(evaluate(each, "Set5", progress=False).psnr, 4) for way, each in ways.items()}
    return scores


# -------------------------------------------------------------------------------------- bytes and memory


def _bytes(scale: int) -> dict[str, int]:
    """The sizes of the files of a network: ours and ONNX, in full precision and with 2 bits."""
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for version, name in (("full precision", FULL), ("2 bits", STUDENT), ("4 bits, fully quantized", FULLY)):
            file = checkpoints.shipped(name.format(scale))
            export(checkpoints.load(file), f"{folder}/network.onnx")
            sizes[version] = file.stat().st_size
            sizes[f"{version}, ONNX"] = Path(folder, "network.onnx").stat().st_size
    return sizes


def _memory(version: str) -> int | None:
    """Bytes at the peak, in a process of its own; None where the system does not tell."""
    if not PROCESS_STATUS.exists():
        return None
    command = [sys.executable, "-W", "ignore", "-m", "ddtb_lite.reproduction.inference_ratios", version]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_memory(version: str) -> int:
    """Bytes that enlarging one picture needs beyond the loaded network. Run it in a fresh process."""
    network = checkpoints.pretrained((FULL if version == "fp32" else STUDENT).format(4))
    network = to_integer(network) if version == "integers" else network
    small = _random(3)[..., :16, :16]
    with torch.inference_mode():
        network(small)
        before = _process_bytes("VmRSS")
        network(_random(3))
    return _process_bytes("VmHWM") - before


def _process_bytes(quantity: str) -> int:
    lines = PROCESS_STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{quantity}:"))


if __name__ == "__main__":
    print(json.dumps(peak_memory(sys.argv[1])))
