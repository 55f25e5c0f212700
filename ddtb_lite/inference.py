"""A network at work: images of any size super-resolved, whole or in tiles.

Scoring (`evaluation`) and upscaling pictures go through the same two functions, `inference` and `super_resolve`.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from . import images
from .networks import SuperResolutionNetwork
from .networks.onnx_network import OnnxNetwork
from .support import devices
from .support.hooks import eval_mode, inputs_watched

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Above this many low-resolution pixels the upsampler runs tile by tile, TILE pixels wide and high.
WHOLE = 512 * 512
TILE = 256


def upscale(
    network: SuperResolutionNetwork | str | os.PathLike[str],
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

    `network` may also be the name of an `.onnx` file that `export` wrote, which is never tiled and needs `onnxruntime`.

    `device` as for `evaluate`. Raises `ValueError` for another kind of image, for a `tile` below 1, and for a
    quantized network that has no bounds yet, `RuntimeError` if the network's output is not finite.
    """
    if isinstance(network, str | os.PathLike) and os.fspath(network).endswith(".onnx"):
        network = OnnxNetwork(network)
    if not isinstance(network, SuperResolutionNetwork):
        raise ValueError(f"network is {network!r}, expected a super-resolution network of this package.")
    if tile is not None and (not isinstance(tile, int) or tile < 1):
        raise ValueError(f"tile is {tile!r}, expected a number of low-resolution pixels, 1 or more.")
    with prepared(network, device, torch.float32) as ready:
        sr = super_resolve(ready, [image], tile, ["the image"])
    return np.ascontiguousarray(sr[0].permute(1, 2, 0).cpu().numpy())


@contextmanager
def prepared(
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
    exact = devices.true_float32() if target.type == "cuda" else nullcontext()
    with eval_mode(network), torch.inference_mode(), autocast, exact:
        yield network


def _target(network: SuperResolutionNetwork, device: torch.device | str | None) -> torch.device:
    if device is None:
        on_idle_cpu = network.device.type == "cpu" and torch.cuda.is_available()
        device = "cuda" if on_idle_cpu else network.device
    return devices.resolve(device)


def super_resolve(network: SuperResolutionNetwork, lr: list[np.ndarray], tile: int | None, names: list[str]) -> Tensor:
    """N uint8 images H×W×3 to uint8 N×3×(scale·H)×(scale·W) on the network's device, whole or in tiles."""
    x = torch.cat([images.to_tensor(np.ascontiguousarray(image)) for image in lr])
    # Convolutions follow the memory format of their input, so the caller's weights can stay as they are:
    # converting them would give them new storage (under an optimizer or a CUDA graph) and gain nothing.
    x = x.to(network.device).contiguous(memory_format=torch.channels_last)
    height, width = x.shape[-2:]
    if tile is None:
        tile = TILE if height * width > WHOLE else max(height, width)
    if tile >= max(height, width) or isinstance(network, OnnxNetwork) or _tail_has_gate(network):
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

    convolutions = {path: module for path, module in network.named_modules() if hasattr(module, "kernel_size")}
    with inputs_watched(convolutions, add):
        network.upsample(patch)
    return math.ceil(reach)


def _tail_has_gate(network: SuperResolutionNetwork) -> bool:
    """Whether an activation quantizer inside the upsampler reads statistics of the whole picture."""
    placeholders = getattr(network, "tail_inputs", nn.ModuleList())
    return any(getattr(module, "gate", None) is not None for module in placeholders.modules())
