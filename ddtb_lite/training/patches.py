"""Random training patches, cut on the device from images that live there, or on the host one batch ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import images

PLACEMENTS = ("auto", "device", "host")
# The training set may take this share of a device's free memory: networks and activations need the rest.
SHARE = 0.5


class PatchSampler:
    """Random crops of low- and high-resolution image pairs, flipped and transposed at random.

    All images lie one after the other in two uint8 buffers. A batch is one gather from each: the position of a
    pixel is linear in its row and column, so a flip is a negative stride and a transpose an exchange of
    strides. Nothing waits for the device. Each image is as likely as any other.

    With `placement` "device" the buffers lie on `device`. With "host" they stay in the host's memory, where a
    thread cuts each batch while the one before is in use, and only patches travel. "auto" is "device" unless they
    take more than half of its free memory. The same `seed` gives the same patches everywhere.

    `high_resolution` holds uint8 images H×W×3; the low-resolution ones are made from them (MATLAB's
    bicubic, section 8). `patch_size` is the side of the high-resolution patch in pixels. Raises `ValueError`
    if it is no multiple of the scale, for images of another kind, or if none is as large as a patch; smaller ones
    are left out and counted in `left_out`.
    """

    def __init__(
        self,
        high_resolution: Sequence[np.ndarray],
        scale: int,
        patch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        placement: str = "auto",
    ) -> None:
        if patch_size < scale or patch_size % scale:
            raise ValueError(f"patch_size is {patch_size}, expected a multiple of the scale, {scale}.")
        for image in high_resolution:
            if images.check(image).ndim != 3:
                raise ValueError(f"A training image has shape {image.shape}, expected H×W×3.")
        large = [
            images.crop_to_multiple(image, scale)
            for image in high_resolution
            if min(image.shape[:2]) // scale * scale >= patch_size
        ]
        if not large:
            raise ValueError(
                f"None of the {len(high_resolution)} training images is {patch_size}×{patch_size} pixels or "
                "larger; choose a smaller patch_size or larger images."
            )
        self.left_out = len(high_resolution) - len(large)
        self.scale = scale
        self.patch_size = patch_size
        self.device = torch.device(device)
        small = [images.lower_resolution(image, scale) for image in large]
        self._heights, self._widths = torch.tensor([image.shape[:2] for image in small]).unbind(1)
        self.placement = _chosen(placement, sum(image.nbytes for image in large + small), self.device)
        self._low, self._high = _pack(small), _pack(large)
        if self.placement == "device":
            self._low, self._high = self._low.to(self.device), self._high.to(self.device)
        # One thread, so that batches come in order; it ends with the sampler.
        self._thread = ThreadPoolExecutor(1, "patches") if self.placement == "host" else None
        self._ahead: _Ahead | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._heights)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` pairs: low resolution count×3×p×p and high resolution count×3×P×P, float32, 0…255.

        Raises what has gone wrong in the thread, if there is one.
        """
        if self._thread is None:
            return self.cut(self._send(_pin(self.draw(count), self.device)))
        if self._ahead is None or self._ahead.count != count:
            self.set_state(self.state())
            self._ahead = self._start(count)
        low, high = self._ahead.batch.result()
        self._ahead = self._start(count)
        return _as_images(self._send(low)), _as_images(self._send(high))

    def draw(self, count: int) -> Tensor:
        """Where the next `count` pairs lie and how: 2×3×count whole numbers, on the CPU.

        For the low and the high resolution: the patch's first pixel in the buffer, the steps from a pixel to the one
        below and to the one on the right. A `RuntimeError` inside a CUDA graph, which would repeat the same numbers.
        """
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "The host draws patches: before each replay copy draw() into the tensor that the graph's cut() reads."
            )
        side = self.patch_size // self.scale

        def uniform() -> Tensor:
            return torch.rand(count, generator=self._generator)

        image = _whole_numbers(uniform(), torch.tensor(len(self)))
        top = _whole_numbers(uniform(), self._heights[image] - side + 1)
        left = _whole_numbers(uniform(), self._widths[image] - side + 1)
        flip_rows, flip_columns, transpose = uniform() < 0.5, uniform() < 0.5, uniform() < 0.5
        pixels = self._heights * self._widths
        before = (pixels.cumsum(0) - pixels)[image]
        places = []
        for factor in (1, self.scale):
            size, width = side * factor, self._widths[image] * factor
            start = before * factor**2 + top * factor * width + left * factor
            start = start + flip_rows * (size - 1) * width + flip_columns * (size - 1)
            down, right = torch.where(flip_rows, -width, width), torch.where(flip_columns, -1, 1)
            exchanged = torch.where(transpose, right, down), torch.where(transpose, down, right)
            places.append(torch.stack([start, *exchanged]))
        return torch.stack(places)

    def cut(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The patches at `places`, as `sample` returns them; all of it happens where buffers and `places` lie."""
        low, high = self._gather(places)
        return _as_images(low), _as_images(high)

    def _gather(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels as they lie in the buffers: uint8, count×p×p×3 and count×P×P×3."""
        side = self.patch_size // self.scale
        patches = []
        for buffer, size, place in zip((self._low, self._high), (side, self.patch_size), places, strict=True):
            start, down, right = place[..., None, None]
            along = torch.arange(size, device=buffer.device)
            patches.append(buffer[start + along[:, None] * down + along * right])
        return patches[0], patches[1]

    def _start(self, count: int) -> _Ahead:
        """Draw a batch and let the thread cut it."""
        assert self._thread is not None
        state = self._generator.get_state()
        places = self.draw(count)
        return _Ahead(count, state, self._thread.submit(self._gather_for_sending, places))

    def _gather_for_sending(self, places: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._gather(places)
        return _pin(low, self.device), _pin(high, self.device)

    def _send(self, pinned: Tensor) -> Tensor:
        return pinned.to(self.device, non_blocking=True)

    def state(self) -> Tensor:
        """The random generator's state, a uint8 tensor on the CPU; batches cut ahead are still to come."""
        return self._generator.get_state() if self._ahead is None else self._ahead.state

    def set_state(self, state: Tensor) -> None:
        """Go on drawing from where `state` was taken."""
        self._ahead = None
        self._generator.set_state(state)


@dataclass(frozen=True)
class _Ahead:
    """A batch that a thread is cutting, and the generator's state before it was drawn."""

    count: int
    state: Tensor
    batch: Future[tuple[Tensor, Tensor]]


def _pack(all_images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in all_images]))


def _whole_numbers(uniform: Tensor, count: Tensor) -> Tensor:
    return (uniform * count).long().clamp(max=count - 1)


def _as_images(pixels: Tensor) -> Tensor:
    """uint8 N×H×W×3 as float32 N×3×H×W, channels-last as it lies."""
    return pixels.permute(0, 3, 1, 2).float()


def _chosen(placement: str, size: int, device: torch.device) -> str:
    """ "device" or "host" for a training set of `size` bytes."""
    if placement not in PLACEMENTS:
        raise ValueError(f"placement is {placement!r}, expected one of {', '.join(PLACEMENTS)}.")
    if placement != "auto":
        return placement
    return "device" if size <= SHARE * _free_memory(device) else "host"


def _free_memory(device: torch.device) -> float:
    """Bytes; endless on a CPU, where the images are in memory already."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def _pin(x: Tensor, device: torch.device) -> Tensor:
    """In memory from which a GPU can read by itself."""
    return x.pin_memory() if device.type == "cuda" else x
