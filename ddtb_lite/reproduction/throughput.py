"""How long a training step takes, how near that is to what the device can do, and how often it waits for the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from .. import uniform
from ..conversion import quantize, set_phase
from ..initializer import initialize
from ..networks import SuperResolutionNetwork, build
from ..support import devices
from ..training.losses import structured_knowledge_transfer
from ..training.run import Run
from .naive import naive_quantizer
from .ratios import median_seconds, student_run

# What a profiler calls the moments in which the host stands still until the device has answered.
WAITING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Throughput:
    """A training step of one network on one device.

    `arithmetic` and `memory` are the seconds that the step's multiplications and its reading and writing of
    activations would take at the speed that a matrix product and a copy reach in the same process: no step can be
    faster than the longer of them. `official` are the seconds of the same step as the released code does it.
    `waits` counts the times the host waits for the device within a step.
    """

    network: str
    precision: str
    seconds: float
    official: float
    arithmetic: float
    memory: float
    waits: int

    def __str__(self) -> str:
        floor = max(self.arithmetic, self.memory)
        return (
            f"{self.network}, {self.precision}: {1000 * self.seconds:.2f} ms a step, "
            f"{self.official / self.seconds:.1f} times as fast as in official order; "
            f"arithmetic alone {1000 * self.arithmetic:.2f} ms, memory alone {1000 * self.memory:.2f} ms, "
            f"{100 * floor / self.seconds:.0f} % of what is possible; {self.waits} waits for the host"
        )


def measure(
    model: str,
    device: torch.device | str | None = None,
    *,
    scale: int = 4,
    low_resolution_patch: int = 48,
    batch_size: int = 16,
    repeats: int = 20,
    architecture: dict[str, int] | None = None,
) -> Throughput:
    """Measure the step of a 2-bit DDTB student with teacher and live gates (the paper's recipe).

    Defaults are the paper's EDSR ×4; RDN ×4 takes `low_resolution_patch=24`.
    """
    place = devices.current(device)
    torch.manual_seed(0)
    network = build(model, scale, **(architecture or {}))
    run = student_run(network, low_resolution_patch, batch_size, place)
    low, _ = run.sampler.sample(batch_size)
    with uniform.compiled():
        for _ in range(5):  # compiling, choosing algorithms, recording
            run.advance()
        (seconds,) = median_seconds([run.advance], place, repeats)
        waits = count_waits(run.advance, place)
        # The counter sees single operations only.
        with FlopCounterMode(display=False) as counter, uniform.compiled(False):
            run.train_step.objective(*run.sampler.sample(batch_size))["loss"].backward()
    official = official_step(network, low_resolution_patch, batch_size, place)
    (official_seconds,) = median_seconds([official], place, max(3, repeats // 5))
    dtype = devices.DTYPES[run.precision] or torch.float32
    return Throughput(
        f"{model.upper()} ×{scale}, batch {batch_size}, {low_resolution_patch}×{low_resolution_patch}",
        run.precision,
        seconds,
        official_seconds,
        counter.get_total_flops() / operations_per_second(place, dtype),
        activation_bytes(run, low, dtype) / bytes_per_second(place),
        waits,
    )


def paper_steps(device: torch.device | str | None = None) -> list[Throughput]:
    """The steps of the paper's recipe for its two most different networks, some minutes on a GPU."""
    return [measure("edsr", device), measure("rdn", device, low_resolution_patch=24)]


def official_step(
    network: SuperResolutionNetwork, patch: int, batch_size: int, device: torch.device
) -> Callable[[], None]:
    """The same step in the released code's order: float32, each formula of the quantizer one recorded operation, the
    teacher with its upsampler, and the loss read by the host after each step.
    """
    teacher = network.to(device=device, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    student = quantize(network, "ddtb", 2).train()
    low = torch.rand(batch_size, 3, patch, patch, device=device) * 255
    high = F.interpolate(low, scale_factor=network.scale)
    initialize(student, low)
    set_phase(student, "live")
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4, foreach=False)

    def step() -> None:
        with naive_quantizer(), uniform.compiled(False):
            features = student.features(low)
            sr = student.upsample(features)
            with torch.no_grad():
                teacher_features = teacher.features(low)
                teacher.upsample(teacher_features)
            loss = F.l1_loss(sr, high) + 1000 * structured_knowledge_transfer(features, teacher_features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return step


def count_waits(step: Callable[[], object], device: torch.device) -> int:
    """How many times the host waits for the device within one step; on a CPU there is nothing to wait for."""
    if device.type != "cuda":
        return 0

    def seen(function: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            function()
        return sum(event.count for event in profiler.key_averages() if event.key in WAITING)

    return seen(step) - seen(lambda: None)  # the profiler waits itself, before it ends


def operations_per_second(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Multiplications and additions a second of a large square matrix product."""
    side = side or (8192 if device.type == "cuda" else 1024)
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    (seconds,) = median_seconds([lambda: matrix @ matrix], device, 5)
    return 2 * side**3 / seconds


def bytes_per_second(device: torch.device, size: int | None = None) -> float:
    """Bytes a second of a copy on the device, those read and those written."""
    size = size or (2**30 if device.type == "cuda" else 2**26)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    (seconds,) = median_seconds([lambda: target.copy_(source)], device, 5)
    return 2 * size / seconds


def activation_bytes(run: Run, low: Tensor, dtype: torch.dtype) -> int:
    """Bytes of activations that a step must at least read and write.

    Each convolution and each quantizer reads its input and writes its output once, and in the backward pass of the
    student twice as much; weights are small beside them.
    """
    elements = 0

    def count(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elements
        elements += inputs[0].numel() + output.numel()

    def of(network: SuperResolutionNetwork, pass_through: Callable[[Tensor], object]) -> int:
        nonlocal elements
        elements = 0
        modules = [each for each in network.modules() if isinstance(each, nn.Conv2d) or hasattr(each, "quantize")]
        handles = [each.register_forward_hook(count) for each in modules]
        with torch.no_grad():
            pass_through(low)
        for handle in handles:
            handle.remove()
        return elements

    assert run.teacher is not None
    run.network.eval()
    student, teacher = of(run.network, run.network), of(run.teacher, run.teacher.features)
    return (3 * student + teacher) * torch.empty(0, dtype=dtype).element_size()
