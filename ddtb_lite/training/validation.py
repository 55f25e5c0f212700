"""How a run watches itself: images held out of the training set, so that no test set decides anything."""

from __future__ import annotations

import numpy as np
import torch

from .. import uniform
from ..evaluation import evaluate
from ..networks import SuperResolutionNetwork
from .losses import block_outputs, feature_error
from .patches import PatchSampler

PATCHES = 16


def split(
    data: list[tuple[str, np.ndarray]], count: int, smallest: int, patch_size: int
) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
    """(held out, kept): `count` images at equal distances in the list, at most half of it.

    Only images of at least `smallest` pixels each way are held out, and never all that a patch fits into.
    """
    sides = [min(image.shape[:2]) for _, image in data]
    large = [index for index, side in enumerate(sides) if side >= smallest]
    count = min(count, len(data) // 2, len(large))
    chosen = {large[int((index + 0.5) * len(large) / count)] for index in range(count)}
    trainable = [index for index, side in enumerate(sides) if side >= patch_size]
    if chosen.issuperset(trainable):
        chosen -= set(trainable[:1])
    held_out = [image for index, image in enumerate(data) if index in chosen]
    return held_out, [image for index, image in enumerate(data) if index not in chosen]


class Validation:
    """Scores of a network in training on images `held_out`; the `kept` ones lend patches if those are too small.

    `patch_size` is the side of a high-resolution patch in pixels.
    """

    def __init__(
        self,
        held_out: list[tuple[str, np.ndarray]],
        kept: list[tuple[str, np.ndarray]],
        scale: int,
        patch_size: int,
        device: torch.device,
    ) -> None:
        self.held_out = held_out
        large = [image for _, image in held_out if min(image.shape[:2]) >= patch_size + scale]
        sampler = PatchSampler(large or [image for _, image in kept], scale, patch_size, seed=0, device=device)
        self.patches, _ = sampler.sample(PATCHES)

    def psnr(self, network: SuperResolutionNetwork) -> float | None:
        """Mean PSNR in dB of the images held out, None if there are none."""
        if not self.held_out:
            return None
        return evaluate(network, self.held_out, device=self.patches.device, progress=False).psnr

    def feature_error(self, network: SuperResolutionNetwork, teacher: SuperResolutionNetwork) -> float:
        """Mean over blocks of the relative error against the teacher's outputs (0: equal, 1: as good as nothing)."""
        network.eval()
        with torch.no_grad(), uniform.compiled(False):
            with block_outputs(network) as student_blocks:
                network.features(self.patches)
            with block_outputs(teacher) as teacher_blocks:
                teacher.features(self.patches)
        return feature_error(student_blocks, teacher_blocks).item()
