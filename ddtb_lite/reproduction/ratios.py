"""How fast and how large: every number is a ratio to a peer measured in the same process."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import datasets, images, uniform
from ..conversion import quantize
from ..evaluation import evaluate
from ..networks import SuperResolutionNetwork, build
from ..support import devices
from ..training.cuda_graph import EAGER_STEPS
from ..training.recipe import Recipe
from ..training.run import Run
from .naive import naive_quantizer

BATCH_SIZE, LOW_RESOLUTION_PATCH, SCALE = 16, 48, 4
REPEATS = 3
# Where Linux tells a process how much memory it has.
PROCESS_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Ratio:
    """Ours divided by the peer's, and what was compared."""

    value: float
    about: str


def benchmark(device: str = "cpu", batch_size: int = BATCH_SIZE) -> dict[str, Ratio]:
    """Time of training steps and of the quantizer, and peak memory, as ratios (less than 1 is better).

    The network is EDSR ×4 at 2 bits with 30 % gates, on 48×48 patches. The peer of a step is a plain float32 step of
    the full-precision network as PyTorch does it by default; that of the quantizer is `relu`; that of the
    memory is the same student with the quantizer written in single operations that autograd records; that of
    scoring a full-precision network on the embedded photographs is a loop that only runs it on them. Memory is left out
    where it cannot be measured, on a CPU without Linux.
    """
    place = devices.current(device)
    plain = _plain_step(place, batch_size)
    with_teacher, without_teacher = (_run(place, batch_size, teacher) for teacher in (True, False))
    with uniform.compiled():
        times = median_seconds([plain, with_teacher.advance, without_teacher.advance], place)
        quantizer, relu = median_seconds(_elementwise(place, batch_size), place, repeats=15)
    scoring, running = median_seconds(_evaluation(place), place)
    size = f"batch {batch_size}, 48×48 patches"
    precision = with_teacher.precision if with_teacher.precision != "fp32" else "fp32, no bf16 instructions here"
    ratios = {
        "step_vs_fp32": Ratio(times[1] / times[0], f"2-bit DDTB step with teacher ({precision}), {size}"),
        "step_vs_fp32_without_teacher": Ratio(times[2] / times[0], f"the same without teacher ({precision})"),
        "fake_quantize_vs_relu": Ratio(quantizer / relu, f"forward and backward of {batch_size}×64×48×48"),
        "evaluation_vs_forward": Ratio(scoring / running, "shrinking, running and scoring four photographs"),
    }
    if place.type == "cuda" or PROCESS_STATUS.exists():
        about = "peak memory of the step, against recorded operations"
        ratios["peak_memory_vs_naive"] = Ratio(_memory_ratio(device), about)
    return ratios


def _plain_step(device: torch.device, batch_size: int) -> Callable[[], None]:
    network = build("edsr", SCALE).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    low = torch.rand(batch_size, 3, LOW_RESOLUTION_PATCH, LOW_RESOLUTION_PATCH, device=device) * 255
    high = F.interpolate(low, scale_factor=SCALE)

    def step() -> None:
        optimizer.zero_grad()
        F.l1_loss(network(low), high).backward()
        optimizer.step()

    return step


def student_run(
    network: SuperResolutionNetwork,
    low_resolution_patch: int,
    batch_size: int,
    device: torch.device,
    teacher: bool = True,
) -> Run:
    """A run by the paper's recipe of a network's 2-bit student, initialized, its gates live, on an image of noise."""
    student = quantize(network, "ddtb", 2)
    side = network.scale * low_resolution_patch
    recipe = Recipe.preset("paper", student).override(
        patch_size=side,
        batch_size=batch_size,
        calibration_batches=1,
        warmup_steps=0,
        validation_images=0,
    )
    noise = np.random.default_rng(0).integers(0, 256, (2 * side, 2 * side, 3), dtype=np.uint8)
    run = Run(student, network if teacher else None, recipe, [("noise", noise)], 0, device)
    run.begin()
    return run


def _run(device: torch.device, batch_size: int, teacher: bool) -> Run:
    torch.manual_seed(0)
    return student_run(build("edsr", SCALE), LOW_RESOLUTION_PATCH, batch_size, device, teacher)


def _elementwise(device: torch.device, batch_size: int) -> list[Callable[[], None]]:
    """The quantizer and `relu` on the same tensor, forward and backward."""
    x = torch.randn(batch_size, 64, LOW_RESOLUTION_PATCH, LOW_RESOLUTION_PATCH, device=device)
    gradient = torch.randn_like(x)
    x.requires_grad_()
    lower = torch.tensor(-1.5, device=device, requires_grad=True)
    upper = torch.tensor(2.5, device=device, requires_grad=True)

    def forward_and_backward(function: Callable[[Tensor], Tensor]) -> None:
        x.grad = None
        function(x).backward(gradient)

    return [
        lambda: forward_and_backward(lambda each: uniform.fake_quantize(each, lower, upper, 2)),
        lambda: forward_and_backward(torch.relu),
    ]


def _evaluation(device: torch.device) -> list[Callable[[], object]]:
    """Scoring EDSR ×4 on the embedded photographs, and the plain loop that only runs the network."""
    network = build("edsr", SCALE).to(device).eval()
    photos = [images.crop_to_multiple(photo, SCALE) for _, photo in datasets.load("photos")]
    inputs = [
        torch.from_numpy(images.lower_resolution(photo, SCALE)).permute(2, 0, 1)[None].float().to(device)
        for photo in photos
    ]

    def loop() -> None:
        with torch.no_grad():
            for x in inputs:
                network(x.contiguous(memory_format=torch.channels_last))

    return [lambda: evaluate(network, photos, device=device, progress=False), loop]


def median_seconds(
    functions: Sequence[Callable[[], object]], device: torch.device, repeats: int = REPEATS
) -> list[float]:
    """Median time of each, taken in turns, so that a slow spell of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        for _ in range(EAGER_STEPS + 1 if device.type == "cuda" else 1):  # a training step is recorded by then
            function()
    for _ in range(repeats):
        for own, function in zip(times, functions, strict=True):
            _synchronize(device)
            started = time.perf_counter()
            function()
            _synchronize(device)
            own.append(time.perf_counter() - started)
    return [statistics.median(own) for own in times]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Memory. On a CPU only the operating system knows the peak of a process, so each version gets a process of its own.


def _memory_ratio(device: str) -> float:
    ours, naive = (_in_a_process(device, version) for version in ("ours", "naive"))
    return ours / naive


def _in_a_process(device: str, version: str) -> int:
    command = [sys.executable, "-m", "ddtb_lite.reproduction.ratios", device, version]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise RuntimeError(f"The memory of a step could not be measured: {reason}")
    return json.loads(process.stdout)


def step_memory(device: str, version: str, batch_size: int = 4) -> int:
    """Peak bytes that the second step of a student needs beyond what lay in memory before the first.

    `version` is "ours" or "naive". Run it in a fresh process.
    """
    place = torch.device(device)
    run = _run(place, batch_size, teacher=True)
    with uniform.compiled(version == "ours"), naive_quantizer() if version == "naive" else contextlib.nullcontext():
        if place.type == "cuda":
            run.advance()
            torch.cuda.reset_peak_memory_stats(place)
            before = torch.cuda.memory_allocated(place)
            run.advance()
            return torch.cuda.max_memory_allocated(place) - before
        # Compiling takes memory too: let it happen on a small tensor first.
        small = torch.zeros(2, 64, 32, 32, requires_grad=True)
        for shape in ((), (2, 1, 1, 1)):
            bounds = [torch.full(shape, value, requires_grad=True) for value in (-1.0, 1.0)]
            uniform.fake_quantize(small, bounds[0], bounds[1], 2).sum().backward()
        before = _process_bytes("VmRSS")
        run.advance()
        return _process_bytes("VmHWM") - before


def _process_bytes(quantity: str) -> int:
    """VmRSS, what lies in memory now, or VmHWM, the most that ever did; a new process starts both afresh."""
    lines = PROCESS_STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{quantity}:"))


if __name__ == "__main__":
    print(json.dumps(step_memory(sys.argv[1], sys.argv[2])))
