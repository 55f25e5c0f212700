"""Random training patches, cut on the device from images that live there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import images


class PatchSampler:
    """Random crops of low- and high-resolution image pairs, flipped and transposed at random.

    All images lie one after the other in two uint8 buffers on `device`. A batch is one gather from each: the
    position of a pixel is linear in its row and column, so a flip is a negative stride and a transpose an
    exchange of strides. Nothing waits for the host. Each image is as likely as any other.

    `high_resolution` holds uint8 images H×W×3; the low-resolution ones are made from them (MATLAB's
    bicubic, section 8). `patch_size` is the side of the high-resolution patch in pixels. Raises `ValueError`
    if it is no multiple of the scale or if no image is as large as a patch; smaller images are left out
    and counted in `left_out`.
    """

    def __init__(
        self,
        high_resolution: Sequence[np.ndarray],
        scale: int,
        patch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if patch_size < scale or patch_size % scale:
            raise ValueError(f"patch_size is {patch_size}, expected a multiple of the scale, {scale}.")
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
        self._high, self._high_offsets = self._pack(large)
        self._low, self._low_offsets = self._pack(small)
        sizes = torch.tensor([image.shape[:2] for image in small], device=self.device)
        self._heights, self._widths = sizes.unbind(1)
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def __len__(self) -> int:
        return len(self._heights)

    def _pack(self, all_images: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        buffer = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in all_images]))
        pixels = [0, *(image.shape[0] * image.shape[1] for image in all_images[:-1])]
        return buffer.to(self.device), torch.tensor(pixels, device=self.device).cumsum(0)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` pairs: low resolution count×3×p×p and high resolution count×3×P×P, float32, 0…255."""
        side = self.patch_size // self.scale

        def draw() -> Tensor:
            return torch.rand(count, generator=self._generator, device=self.device)

        image = self._uniform_integers(draw(), len(self))
        top = self._uniform_integers(draw(), self._heights[image] - side + 1)
        left = self._uniform_integers(draw(), self._widths[image] - side + 1)
        flip_rows, flip_columns, transpose = draw() < 0.5, draw() < 0.5, draw() < 0.5
        batches = []
        resolutions = ((self._low, self._low_offsets, 1), (self._high, self._high_offsets, self.scale))
        for buffer, offsets, factor in resolutions:
            size = side * factor
            width = self._widths[image] * factor
            start = offsets[image] + top * factor * width + left * factor
            start = start + torch.where(flip_rows, (size - 1) * width, 0) + torch.where(flip_columns, size - 1, 0)
            row_step = torch.where(flip_rows, -width, width)
            column_step = torch.where(flip_columns, -torch.ones_like(width), torch.ones_like(width))
            down = torch.where(transpose, column_step, row_step).view(-1, 1, 1)
            right = torch.where(transpose, row_step, column_step).view(-1, 1, 1)
            along = torch.arange(size, device=self.device)
            index = start.view(-1, 1, 1) + along.view(1, -1, 1) * down + along.view(1, 1, -1) * right
            # Pixels lie H×W×3, so the permuted view is channels-last already.
            batches.append(buffer[index].permute(0, 3, 1, 2).float())
        return batches[0], batches[1]

    @staticmethod
    def _uniform_integers(uniform: Tensor, count: Tensor | int) -> Tensor:
        return (uniform * count).long().clamp(max=count - 1)

    def state(self) -> Tensor:
        """The random generator's state, a uint8 tensor on the CPU."""
        return self._generator.get_state()

    def set_state(self, state: Tensor) -> None:
        """Go on drawing from where `state` was taken."""
        self._generator.set_state(state)
