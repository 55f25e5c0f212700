"""What training minimizes (section 8), and how far a student's features are from its teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import SuperResolutionNetwork
from ..quantizers import METHODS, DualBound, Quantizer
from ..support import distributed
from ..support.devices import DTYPES
from ..support.hooks import outputs_watched
from .adversarial import Adversary
from .recipe import Recipe


def attention(features: Tensor) -> Tensor:
    """N×C×H×W to N×(H·W): mean over channels of the squares, of unit length."""
    return F.normalize(features.float().pow(2).mean(dim=1).flatten(1), dim=1)


def structured_knowledge_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two features' attention maps (section 8, L_SKT)."""
    return (attention(student) - attention(teacher)).pow(2).mean()


def gate_regularization(network: SuperResolutionNetwork) -> Tensor:
    """Mean over gates of the squared logits of the last forward pass: pulls every β to 1 (section 6b).

    Raises `ValueError` if no gate has run.
    """
    squares = [
        module.gate.logits.pow(2).mean()
        for module in network.modules()
        if isinstance(module, DualBound) and module.gate is not None and module.gate.logits is not None
    ]
    if not squares:
        raise ValueError("No gate has run in this network; warm-up needs gates (gate_ratio > 0).")
    return torch.stack(squares).mean()


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """‖student − teacher‖² / ‖teacher‖², a 0-d tensor: 0 is a perfect copy, 1 as good as nothing.

    Where processes share a batch, the teacher's norm is that of the whole batch, so that the mean over processes is
    the batch's error.
    """
    teacher = teacher.float()
    return (student.float() - teacher).pow(2).sum() / distributed.mean(teacher.pow(2).sum()).clamp(min=1e-12)


def feature_error(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Mean of the blocks' relative errors: what the short preset matches and what every run reports."""
    return torch.stack([relative_error(s, t) for s, t in zip(student, teacher, strict=True)]).mean()


def quantization_error(network: SuperResolutionNetwork) -> Tensor:
    """The sum of what quantizers say of their last forward pass in training, a 0-d tensor."""
    errors = [each.quantization_error for each in network.modules() if isinstance(each, Quantizer)]
    return torch.stack([error for error in errors if error is not None]).sum()


def agreeing(gradient: Tensor, other: Tensor) -> Tensor:
    """`other` times ½(1 + cos) of its angle to `gradient`: all where they agree, half across, nothing against (ODM)."""
    cosine = F.cosine_similarity(gradient.flatten(), other.flatten(), dim=0)
    return (1 + cosine) / 2 * other


@contextmanager
def block_outputs(network: SuperResolutionNetwork, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Inside this context the list fills with the blocks' outputs, in order, at each forward pass.

    It stays empty, and nothing is kept alive, if they are not `wanted`.
    """
    outputs: list[Tensor] = []
    blocks = {name: network.get_submodule(name) for name in (network.block_names() if wanted else ())}
    with outputs_watched(blocks, lambda _path, _input, output: outputs.append(output)):
        yield outputs


class Objective(nn.Module):
    """What one training step minimizes, as a module: a batch in, the loss and its parts out.

    A full-precision network minimizes L1. A student with a `teacher` adds structured knowledge transfer and, if
    the recipe asks for it, the blocks' relative errors; gates in warm-up add their regularization, some methods a
    quantization loss, and an `adversary` what its discriminator says. `sr` keeps the last output for it. A method with
    cooperative gradients has a part "mismatch" that is not in the sum: a step adds its gradient.
    """

    def __init__(
        self,
        network: SuperResolutionNetwork,
        teacher: SuperResolutionNetwork | None,
        recipe: Recipe,
        precision: str = "fp32",
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        self.network, self.teacher, self.recipe, self.adversary = network, teacher, recipe, adversary
        self.dtype = DTYPES[precision]
        method = None if network.quantization is None else METHODS[network.quantization.method]
        self.quantization_loss_weight = 0.0 if method is None else method.quantization_loss_weight
        self.mismatch_weight = 0.0 if method is None else method.cooperative_loss_weight(network.name)

    def forward(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Patches N×3×h×w and N×3×H×W to the weighted sum "loss" and its parts unweighted, in float32."""
        network, teacher = self.network, self.teacher
        matching = self.recipe.feature_weight > 0
        with self._autocast(low), block_outputs(network, wanted=matching) as student_blocks:
            features = network.features(low)
            sr = network.upsample(features)
        losses = {"l1": F.l1_loss(sr.float(), high)}
        loss = losses["l1"]
        if teacher is not None:
            with (
                torch.no_grad(),
                self._autocast(low),
                block_outputs(teacher, wanted=matching) as teacher_blocks,
            ):
                teacher_features = teacher.features(low)
            losses["skt"] = structured_knowledge_transfer(features, teacher_features)
            loss = loss + self.recipe.skt_weight * losses["skt"]
            if matching:
                losses["features"] = feature_error(student_blocks, teacher_blocks)
                loss = loss + self.recipe.feature_weight * losses["features"]
        if network.phase == "warm-up":
            losses["gates"] = gate_regularization(network)
            loss = loss + losses["gates"]
        if self.quantization_loss_weight:
            losses["quantization"] = quantization_error(network)
            loss = loss + self.quantization_loss_weight * losses["quantization"]
        if self.mismatch_weight:
            losses["mismatch"] = quantization_error(network)
        if self.adversary is not None:
            self.sr = sr.detach()
            losses["adversarial"] = self.adversary.generator_loss(sr)
            loss = loss + self.recipe.adversarial_weight * losses["adversarial"]
        return {"loss": loss, **losses}

    def idle_parameters(self) -> list[nn.Parameter]:
        """Those that get no gradient in the network's present phase: the teacher's, and what rests in gates."""
        idle = [] if self.teacher is None else list(self.teacher.parameters())
        for module in self.network.modules():
            if isinstance(module, DualBound) and module.gate is not None:
                if module.gate_phase == "bypassed":
                    idle += module.gate.parameters()
                elif module.gate.variant == "official":  # no gradient passes its inner quantizers
                    idle += [*module.gate.reduce.parameters(), *module.gate.norm.parameters()]
        return idle

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)
