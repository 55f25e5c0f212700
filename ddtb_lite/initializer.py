"""The DDTB initializer: bounds from the data, and which layers get a gate (sections 5 and 6)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from .conversion import (
    activation_quantizers,
    attach_gates,
    full_precision,
    number_of_gates,
    require_quantization,
    set_phase,
)
from .networks import SuperResolutionNetwork
from .quantizers import METHODS
from .support import distributed
from .support.hooks import eval_mode, inputs_watched


def initialize(student: SuperResolutionNetwork, batches: Iterable[Tensor] | Tensor) -> None:
    """Set a quantized network's bounds from training images and choose the layers that get a dynamic gate.

    `batches` yields float tensors N×3×H×W, 0…255, and is iterated once; a single tensor is one batch. Ranges are
    recorded over all batches in full precision (dynamic intensity, section 5); bounds come from the first
    ones, layer after layer in one forward pass, so that each layer sees its input as already quantized
    (section 6a). The int(gate_ratio · L) layers of highest dynamic intensity get a gate, bypassed until training
    has warmed it up. `student.dynamic_intensity` keeps the intensities by path.

    Raises `ValueError` for a full-precision network, no batches, wrong shapes, NaN or infinite pixels, and for a single
    image where gates are to be chosen by what changes from image to image.
    """
    quantization = require_quantization(student)
    quantizers = activation_quantizers(student)
    stream = iter([batches] if isinstance(batches, Tensor) else batches)
    needed = max((quantizer.calibration_batches for quantizer in quantizers.values()), default=1)
    first = [_checked(batch, student) for batch in itertools.islice(stream, needed)]
    if not first:
        raise ValueError("initialize got no batches, expected at least one N×3×H×W tensor of training images.")

    chosen: list[str] = []
    with eval_mode(student):
        if METHODS[quantization.method].gated:
            everything: Iterable[Tensor] = itertools.chain(first, (_checked(batch, student) for batch in stream))
            if number_of_gates(student):
                everything = _several_images(everything)
            intensity = dynamic_intensity(student, everything)
            # Every process has seen all batches, but no two devices need round alike, and the choice must be one.
            agreed = distributed.mean(torch.tensor(list(intensity.values()), dtype=torch.float64))
            intensity = dict(zip(intensity, agreed.tolist(), strict=True))
            student.dynamic_intensity = intensity
            ranking = sorted(intensity, key=lambda path: -intensity[path])
            chosen = ranking[: number_of_gates(student)]
        set_phase(student, "new")  # until all bounds are there; gates are bypassed
        initialize_bounds(student, first)
    attach_gates(student, chosen)
    set_phase(student, "initialized")


def initialize_bounds(
    student: SuperResolutionNetwork,
    batches: Iterable[Tensor],
) -> None:
    """Set all bounds, each layer's from what the quantized layers before it hand on.

    Where the method `calibrates_in_full_precision`, nothing is quantized meanwhile.
    """
    quantization = require_quantization(student)
    percentile = quantization.percentile
    quantizers = activation_quantizers(student)
    unquantized = METHODS[quantization.method].calibrates_in_full_precision
    for quantizer in quantizers.values():
        quantizer.begin_calibration()
    with torch.no_grad(), full_precision(student) if unquantized else nullcontext():
        for index, batch in enumerate(batches):

            def from_input(path: str, x: Tensor, index: int = index) -> None:
                if index < quantizers[path].calibration_batches:
                    quantizers[path].initialize(x, percentile)

            with inputs_watched(quantizers, from_input):
                student(batch.to(student.device))


def dynamic_intensity(student: SuperResolutionNetwork, batches: Iterable[Tensor]) -> dict[str, float]:
    """Var(max) + Var(min) of each quantizer's full-precision input, by path (section 5).

    The population variance runs over the batches' extremes; with a single batch, over its images'.
    """
    quantization = require_quantization(student)
    quantizers = activation_quantizers(student)
    highest: dict[str, list[Tensor]] = {path: [] for path in quantizers}
    lowest: dict[str, list[Tensor]] = {path: [] for path in quantizers}

    def record(path: str, x: Tensor) -> None:
        highest[path].append(x.flatten(1).amax(1).double())
        lowest[path].append(x.flatten(1).amin(1).double())

    keeps_weights = quantization.variant == "official" and student.official_watches_quantized_weights
    with torch.no_grad(), full_precision(student, weights=not keeps_weights), inputs_watched(quantizers, record):
        for batch in batches:
            student(batch.to(student.device))

    def variance(extremes: list[Tensor], reduce: Callable[[Tensor], Tensor]) -> float:
        values = extremes[0] if len(extremes) == 1 else torch.stack([reduce(each) for each in extremes])
        return values.var(correction=0).item()

    return {path: variance(highest[path], torch.amax) + variance(lowest[path], torch.amin) for path in quantizers}


def _several_images(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same batches; raises `ValueError` at the end if they held a single image."""
    images = 0
    for batch in batches:
        images += len(batch)
        yield batch
    if images == 1:
        raise ValueError(
            "initialize got a single image, but gates go where the range changes from image to image: give it at least "
            "two, or quantize with gate_ratio=0."
        )


def _checked(batch: Tensor, student: SuperResolutionNetwork) -> Tensor:
    """The batch in the network's precision."""
    if not isinstance(batch, Tensor) or batch.dim() != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
        given = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise ValueError(f"A batch is {given}, expected a float tensor N×3×H×W with values 0…255.")
    if not batch.numel():
        raise ValueError(f"A batch is {tuple(batch.shape)}, expected at least one image with pixels.")
    if not torch.isfinite(batch).all():
        raise ValueError("A batch holds NaN or infinite pixels; bounds cannot be set from it.")
    return batch.to(next(student.parameters()).dtype)
