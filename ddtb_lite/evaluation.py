"""Scoring a network on a data set.

Low-resolution images are made here, from the high-resolution ones, as every benchmark does it (section 9).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import datasets, images, metrics
from .inference import prepared, super_resolve, upscale
from .networks import SuperResolutionNetwork

__all__ = ["Scores", "evaluate", "smallest_side", "upscale"]

# Images of one size run together as long as they have no more low-resolution pixels than this. A CPU gains nothing.
TOGETHER = {"cuda": 256 * 256}


@dataclass(frozen=True)
class Scores:
    """What `evaluate` measured: one row for each image, {"name", "psnr" in dB, "ssim"}, and their means."""

    dataset: str
    scale: int
    protocol: str
    border: int
    images: list[dict[str, Any]]

    @property
    def psnr(self) -> float:
        return sum(row["psnr"] for row in self.images) / len(self.images)

    @property
    def ssim(self) -> float:
        return sum(row["ssim"] for row in self.images) / len(self.images)

    def __str__(self) -> str:
        rows = [*self.images, {"name": "mean", "psnr": self.psnr, "ssim": self.ssim}]
        width = max(len("image"), *(len(row["name"]) for row in rows))
        lines = [
            f"{self.dataset} ×{self.scale}, protocol {self.protocol}, border {self.border}",
            f"{'image':<{width}}  {'PSNR':>6}  {'SSIM':>6}",
            *(f"{row['name']:<{width}}  {row['psnr']:6.2f}  {row['ssim']:6.4f}" for row in rows),
        ]
        return "\n".join(lines)


def evaluate(
    network: SuperResolutionNetwork | str,
    dataset: datasets.Data,
    *,
    scale: int | None = None,
    protocol: str = "y",
    border: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Scores:
    """PSNR and SSIM of a network on high-resolution images, by the paper's protocol (section 9).

    `network` runs in eval mode and is left as it was; on a GPU small images of one size run together, unless they
    would change each other (gates in variant "official"). "bicubic" with a `scale` scores MATLAB's bicubic
    upscaling instead. `dataset` is a data set's name, a folder, or a list of uint8 H×W×3 images. `protocol` and
    `border` (by default the scale) are those of `metrics.psnr`. `device` is by default where the network lies, or
    the GPU if it lies on the CPU and there is one. `dtype` other than float32 means autocast.

    Raises `ValueError` for an argument it does not know, for an image that is too small, and for a quantized
    network that has no bounds yet, `FileNotFoundError` for missing data, `RuntimeError` if the network's output is
    not finite.
    """
    scale = _check_scale(network, scale)
    border = scale if border is None else border
    metrics.check_protocol(protocol, border)
    pairs = datasets.load(dataset)
    name_of_set = Path(os.fspath(dataset)).name if isinstance(dataset, str | os.PathLike) else "images"
    smallest = smallest_side(scale, border)
    for name, image in pairs:
        if min(image.shape[:2]) < smallest:
            size = f"{image.shape[0]}×{image.shape[1]}"
            raise ValueError(
                f"Image {name} of {name_of_set} is {size} pixels, expected at least {smallest} each way "
                f"to be scored at ×{scale} with a border of {border}."
            )
    # tqdm's own default: no bar where nobody sees it.
    hidden = True if not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0") else None
    rows: list[dict[str, Any]] = [{"name": name} for name, _ in pairs]
    ready: SuperResolutionNetwork | None
    with (
        nullcontext() if isinstance(network, str) else prepared(network, device, dtype) as ready,
        tqdm(total=len(pairs), desc=name_of_set, disable=hidden) as bar,
    ):
        for batch in _batches([image.shape[:2] for _, image in pairs], scale, ready):
            lr = [images.lower_resolution(pairs[index][1], scale) for index in batch]
            if ready is None:
                sr = _pixels([images.resize(each, scale) for each in lr])
            else:
                sr = super_resolve(ready, lr, None, [pairs[index][0] for index in batch])
            hr = _pixels([images.crop_to_multiple(pairs[index][1], scale) for index in batch]).to(sr.device)
            for name, score in (("psnr", metrics.psnr_tensor), ("ssim", metrics.ssim_tensor)):
                for index, value in zip(batch, score(sr, hr, border, protocol).tolist(), strict=True):
                    rows[index][name] = value
            bar.update(len(batch))
    return Scores(name_of_set, scale, protocol, border, rows)


def smallest_side(scale: int, border: int) -> int:
    """How many pixels high and wide an image must be at least, to be scored."""
    return math.ceil((metrics.WINDOW + 2 * border) / scale) * scale


def _check_scale(network: SuperResolutionNetwork | str, scale: int | None) -> int:
    if isinstance(network, SuperResolutionNetwork):
        if scale not in (None, network.scale):
            raise ValueError(f"scale is {scale!r}, but this network's is {network.scale}: leave it out.")
        return network.scale
    if network != "bicubic":
        raise ValueError(f'network is {network!r}, expected a super-resolution network or "bicubic".')
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f'scale is {scale!r}, but "bicubic" needs one, a whole number such as 2, 3 or 4.')
    return scale


def _batches(sizes: list[tuple[int, int]], scale: int, network: SuperResolutionNetwork | None) -> Iterator[list[int]]:
    """Indices of images whose low-resolution versions have the same size, as many as may run together."""
    limit = 0
    # The gates of the released code look at the whole batch.
    if network is not None and (network.quantization is None or network.quantization.variant != "official"):
        limit = TOGETHER.get(network.device.type, 0)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (height, width) in enumerate(sizes):
        groups.setdefault((height // scale, width // scale), []).append(index)
    for (height, width), group in groups.items():
        count = max(1, limit // (height * width))
        for start in range(0, len(group), count):
            yield group[start : start + count]


def _pixels(batch: list[np.ndarray]) -> Tensor:
    """uint8 images H×W×3 as one uint8 tensor N×3×H×W."""
    return torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
