"""Scoring a network on a data set, and super-resolving one image of any size.

Low-resolution images are made here, from the high-resolution ones, as every benchmark does it (section 9).
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import datasets, devices, images, metrics
from .hooks import eval_mode, inputs_watched
from .networks import SuperResolutionNetwork

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Above this many low-resolution pixels the upsampler runs tile by tile, TILE pixels wide and high.
WHOLE = 512 * 512
TILE = 256
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
        nullcontext() if isinstance(network, str) else _inference(network, device, dtype) as ready,
        tqdm(total=len(pairs), desc=name_of_set, disable=hidden) as bar,
    ):
        for batch in _batches([image.shape[:2] for _, image in pairs], scale, ready):
            lr = [images.lower_resolution(pairs[index][1], scale) for index in batch]
            if ready is None:
                sr = _pixels([images.resize(each, scale) for each in lr])
            else:
                sr = _super_resolve(ready, lr, None, [pairs[index][0] for index in batch])
            hr = _pixels([images.crop_to_multiple(pairs[index][1], scale) for index in batch]).to(sr.device)
            for name, score in (("psnr", metrics.psnr_tensor), ("ssim", metrics.ssim_tensor)):
                for index, value in zip(batch, score(sr, hr, border, protocol).tolist(), strict=True):
                    rows[index][name] = value
            bar.update(len(batch))
    return Scores(name_of_set, scale, protocol, border, rows)


def smallest_side(scale: int, border: int) -> int:
    """How many pixels high and wide an image must be at least, to be scored."""
    return math.ceil((metrics.WINDOW + 2 * border) / scale) * scale


def upscale(
    network: SuperResolutionNetwork,
    image: np.ndarray,
    *,
    tile: int | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """One image, super-resolved: uint8 H×W×3 in, uint8 (scale·H)×(scale·W)×3 out.

    `features` sees the whole image, so that a dynamic gate decides once for the whole picture; only the
    upsampler, which needs most of the memory, runs in tiles of `tile`×`tile` low-resolution pixels (by
    default 256, for images of more than 512×512). They overlap by its receptive field and thus equal the
    whole, up to floating-point noise. A network with a gate inside its upsampler is never tiled.

    `device` as for `evaluate`. Raises `ValueError` for another kind of image, for a `tile` below 1, and for a
    quantized network that has no bounds yet, `RuntimeError` if the network's output is not finite.
    """
    if not isinstance(network, SuperResolutionNetwork):
        raise ValueError(f"network is {network!r}, expected a super-resolution network of this package.")
    if tile is not None and (not isinstance(tile, int) or tile < 1):
        raise ValueError(f"tile is {tile!r}, expected a number of low-resolution pixels, 1 or more.")
    with _inference(network, device, torch.float32) as ready:
        sr = _super_resolve(ready, [image], tile, ["the image"])
    return np.ascontiguousarray(sr[0].permute(1, 2, 0).cpu().numpy())


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
    if network is not None and (network.quantization is None or network.quantization.variant == "paper"):
        limit = TOGETHER.get(network.device.type, 0)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (height, width) in enumerate(sizes):
        groups.setdefault((height // scale, width // scale), []).append(index)
    for (height, width), group in groups.items():
        count = max(1, limit // (height * width))
        for start in range(0, len(group), count):
            yield group[start : start + count]


# ------------------------------------------------------------------------------------------ inference


@contextmanager
def _inference(
    network: SuperResolutionNetwork, device: torch.device | str | None, dtype: torch.dtype
) -> Iterator[SuperResolutionNetwork]:
    """Inside: the network in eval mode, on the device, without gradients, with arithmetic in `dtype`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(map(str, DTYPES))}.")
    if network.quantization is not None and network.phase == "new":
        raise ValueError(
            "This quantized network has no bounds yet: call ddtb_lite.initialize(student, batches), or train it."
        )
    target = _target(network, device)
    if target != network.device:
        network = copy.deepcopy(network).to(target)  # the caller's stays where it is
    reduced = dtype != torch.float32
    autocast = torch.autocast(target.type, dtype if reduced else None, enabled=reduced)
    exact = _true_float32() if target.type == "cuda" else nullcontext()
    with eval_mode(network), torch.inference_mode(), autocast, exact:
        yield network


def _target(network: SuperResolutionNetwork, device: torch.device | str | None) -> torch.device:
    if device is None:
        on_idle_cpu = network.device.type == "cpu" and torch.cuda.is_available()
        device = "cuda" if on_idle_cpu else network.device
    return devices.resolve(device)


@contextmanager
def _true_float32() -> Iterator[None]:
    """Keep cuDNN from rounding the operands of float32 convolutions to TF32's 10 bits, its default."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)  # newer PyTorch switches operators singly
    owner, name, exact = (
        (torch.backends.cudnn, "allow_tf32", False)
        if convolutions is None
        else (convolutions, "fp32_precision", "ieee")
    )
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _super_resolve(network: SuperResolutionNetwork, lr: list[np.ndarray], tile: int | None, names: list[str]) -> Tensor:
    """N uint8 images H×W×3 to uint8 N×3×(scale·H)×(scale·W) on the network's device, whole or in tiles."""
    x = torch.cat([images.to_tensor(np.ascontiguousarray(image)) for image in lr])
    # Convolutions follow the memory format of their input, so the caller's weights can stay as they are:
    # converting them would give them new storage (under an optimizer or a CUDA graph) and gain nothing.
    x = x.to(network.device).contiguous(memory_format=torch.channels_last)
    height, width = x.shape[-2:]
    if tile is None:
        tile = TILE if height * width > WHOLE else max(height, width)
    if tile >= max(height, width) or _tail_has_gate(network):
        return _grey_levels(network(x), names)
    sr = x.new_empty((len(lr), 3, network.scale * height, network.scale * width), dtype=torch.uint8)
    for top, left, pixels in _tiles(network, network.features(x), tile):
        bottom, right = top + pixels.shape[-2], left + pixels.shape[-1]
        sr[..., top:bottom, left:right] = _grey_levels(pixels, names)
    return sr


def _grey_levels(sr: Tensor, names: list[str]) -> Tensor:
    finite = torch.isfinite(sr).flatten(1).all(dim=1).tolist()
    if not all(finite):
        raise RuntimeError(
            f"The network's output for {names[finite.index(False)]} holds NaN or infinite pixels: its training has "
            "diverged, or its weights are damaged."
        )
    return sr.clamp(0, 255).round().to(torch.uint8)


def _pixels(batch: list[np.ndarray]) -> Tensor:
    """uint8 images H×W×3 as one uint8 tensor N×3×H×W."""
    return torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------- tiles


def _tiles(network: SuperResolutionNetwork, features: Tensor, tile: int) -> Iterator[tuple[int, int, Tensor]]:
    """Upsample features N×C×H×W piece by piece: (top, left, pixels), positions in the high resolution."""
    scale, halo = network.scale, _halo(network, features)
    height, width = features.shape[-2:]
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, before = min(halo, top), min(halo, left)
            rows = slice(top - above, top + tile + halo)
            columns = slice(left - before, left + tile + halo)
            pixels = network.upsample(features[..., rows, columns])
            own_rows = slice(scale * above, scale * (above + min(tile, height - top)))
            own_columns = slice(scale * before, scale * (before + min(tile, width - left)))
            yield scale * top, scale * left, pixels[..., own_rows, own_columns]


def _halo(network: SuperResolutionNetwork, features: Tensor) -> int:
    """How many low-resolution pixels beyond its own a tile must see: the upsampler's receptive field.

    Each convolution reaches half its kernel, in pixels of the resolution at which it runs. A trial run on a
    small patch shows which convolutions run, and where.
    """
    patch = features[..., :8, :8]
    reach = 0.0

    def add(path: str, x: Tensor) -> None:
        nonlocal reach
        reach += max(convolutions[path].kernel_size) // 2 * patch.shape[-1] / x.shape[-1]

    convolutions = {path: module for path, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    with inputs_watched(convolutions, add):
        network.upsample(patch)
    return math.ceil(reach)


def _tail_has_gate(network: SuperResolutionNetwork) -> bool:
    """Whether an activation quantizer inside the upsampler reads statistics of the whole picture."""
    placeholders = getattr(network, "tail_inputs", nn.ModuleList())
    return any(getattr(module, "gate", None) is not None for module in placeholders.modules())
