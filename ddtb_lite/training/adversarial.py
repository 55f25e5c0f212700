"""Adversarial training, as SRGAN adds it to a network that is good already: generator against discriminator.

Photo-Realistic Single Image Super-Resolution Using a GAN (Ledig et al., CVPR 2017, section 2.2),
https://arxiv.org/abs/1609.04802; Least Squares GAN (Mao et al., ICCV 2017), https://arxiv.org/abs/1611.04076.
Any network of the package can be the generator, quantized or not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ..networks import Discriminator
from .optimizer import moments, restore_moments

REAL, FAKE = 1.0, 0.0


def bce(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy, the mean over the patches: −log D for `REAL`, −log(1 − D) for `FAKE`."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def least_squares(logits: Tensor, target: float) -> Tensor:
    """Half the mean squared distance from the target (LSGAN, equation 9)."""
    return (logits - target).square().mean() / 2


LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {"bce": bce, "least_squares": least_squares}


class Adversary:
    """A discriminator with its optimizer, and both sides' losses, for patches N×3×P×P of 0…255.

    A training loop adds `generator_loss(sr)`, times a weight, to the generator's loss, and calls
    `update(sr, hr)` once a step. `loss` is "bce", as in SRGAN, or "least_squares"; P is `patch_size`, a
    multiple of 16. The discriminator starts from `seed`, leaves PyTorch's own random numbers alone, and
    trains with Adam at a constant `learning_rate`. Everything is computed in
    float32, under autocast too. SRGAN weighs its loss with 10⁻³, beside a mean squared error of pixels from
    −1 to 1; beside L1 of 0…255 a weight of 1 pulls as hard (equal gradients at an error of 8 grey levels).

    SRGAN replaces the pixel loss by one of VGG features as well; that needs the weights of a classifier trained on
    ImageNet, which cannot be shipped, so here the pixel loss stays.

    Raises `ValueError` for an unknown loss, a wrong patch size, and patches of another shape.
    """

    def __init__(
        self,
        loss: str = "bce",
        patch_size: int = 96,
        *,
        learning_rate: float = 1e-4,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}, expected one of {', '.join(LOSSES)}.")
        self.loss, self.patch_size, self.device = LOSSES[loss], patch_size, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = Discriminator(patch_size).to(self.device)
        on_gpu = self.device.type == "cuda"  # where it may be part of a CUDA graph
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=learning_rate, fused=on_gpu, capturable=on_gpu
        )

    def generator_loss(self, sr: Tensor) -> Tensor:
        """How far the discriminator is from taking the generator's patches for real ones: a 0-d tensor.

        The gradient reaches `sr` and no parameter of the discriminator, which stays as it is.
        """
        self._check("sr", sr)
        parameters = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        # Batch norm updates its running statistics in place: on copies here.
        buffers = {name: value.clone() for name, value in self.discriminator.named_buffers()}
        return self.loss(self._logits(sr, parameters | buffers), REAL)

    def update(self, sr: Tensor, hr: Tensor) -> Tensor:
        """One step of the discriminator; returns its loss before the step, a 0-d tensor without a gradient.

        The loss is that of real patches `hr` plus that of the generator's `sr`. Each kind is a batch of its
        own to batch norm, as in `generator_loss`. Nothing here waits for the device.
        """
        self._check("sr", sr)
        self._check("hr", hr)
        # Autocast would turn the backward pass, too, into one in bf16.
        with torch.autocast(self.device.type, enabled=False):
            loss = self.loss(self._logits(hr.detach()), REAL) + self.loss(self._logits(sr.detach()), FAKE)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """A copy of all that changes, by dotted name: what `restore` needs to go on bit for bit."""
        tensors = {f"discriminator.{name}": value for name, value in self.discriminator.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in moments(self.optimizer).items()}
        return {name: value.detach().clone() for name, value in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned; the learning rate stays as it is here."""
        parts: dict[str, dict[str, Tensor]] = {"discriminator": {}, "optimizer": {}}
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = value
        self.discriminator.load_state_dict(parts["discriminator"])
        restore_moments(self.optimizer, parts["optimizer"])

    def _logits(self, patches: Tensor, tensors: dict[str, Tensor] | None = None) -> Tensor:
        """N logits for patches of 0…255, which the discriminator sees between −1 and 1."""
        with torch.autocast(patches.device.type, enabled=False):
            return functional_call(self.discriminator, tensors or {}, (patches.float() / 127.5 - 1,))

    def _check(self, name: str, patches: Tensor) -> None:
        expected = (3, self.patch_size, self.patch_size)
        if patches.dim() != 4 or not len(patches) or patches.shape[1:] != expected:
            given = "×".join(map(str, patches.shape))
            raise ValueError(f"{name} has shape {given}, expected N×{'×'.join(map(str, expected))}.")
