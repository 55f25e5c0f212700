"""One training run: everything that changes while it lasts, and how one step changes it (section 8)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import datasets, uniform
from .conversion import activation_quantizers, attach_gates, gated_paths, set_bits, set_phase
from .devices import training_precision
from .diagnostics import bounds, explain_divergence
from .evaluation import evaluate
from .initializer import initialize, initialize_bounds
from .losses import block_outputs, feature_error, gate_regularization, structured_knowledge_transfer
from .networks import SuperResolutionNetwork
from .patches import PatchSampler
from .quantizers import METHODS, ActivationQuantizer, Quantizer
from .recipe import Recipe
from .run_folder import RunState

VALIDATION_PATCHES = 16


@dataclass
class History:
    """What a run leaves: a row of losses each 50 steps (with scores at each validation), the best, the time.

    `bounds` has an entry for each validation of a DDTB student: {"step", "bounds": {path: (lower, upper)}}.
    """

    rows: list[dict] = field(default_factory=list)
    bounds: list[dict] = field(default_factory=list)
    best_step: int | None = None
    best_psnr: float = -math.inf
    seconds: float = 0.0


class Run:
    """A network in training: `begin` or `restore`, then `advance` step by step, `log` now and then, `finish`.

    `identity` is what makes a run this run, for its folder to recognize. Arguments are those of `train`, with
    the images at hand as (name, uint8 H×W×3).
    """

    def __init__(
        self,
        network: SuperResolutionNetwork,
        teacher: SuperResolutionNetwork | None,
        recipe: Recipe,
        data: list[tuple[str, np.ndarray]],
        seed: int,
        device: torch.device,
    ) -> None:
        self.network, self.teacher, self.recipe, self.device = network, teacher, recipe, device
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        for each in (network, teacher):
            if each is not None:
                each.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if teacher is not None:
            kinds = [(each.name, each.scale, each.architecture) for each in (teacher, network)]
            if kinds[0] != kinds[1] or teacher.quantization is not None:
                width = "" if teacher.quantization is None else f" at {teacher.quantization.bits} bits"
                raise ValueError(
                    f"The teacher is {teacher.name} ×{teacher.scale} {teacher.architecture}{width}, the student "
                    f"{network.name} ×{network.scale} {network.architecture}; expected the full-precision network "
                    "that the student came from."
                )
            teacher.eval()
        held_out, kept = _split(data, recipe.validation_images)
        self.held_out = held_out
        self.sampler = PatchSampler(
            [image for _, image in kept], network.scale, recipe.patch_size, seed=seed, device=device
        )
        large = [image for _, image in held_out if min(image.shape[:2]) >= recipe.patch_size + network.scale]
        patches = PatchSampler(
            large or [image for _, image in kept], network.scale, recipe.patch_size, seed=0, device=device
        )
        self.validation_patches, _ = patches.sample(VALIDATION_PATCHES)
        self.bits, self.quantization_loss_weight = 32, 0.0
        if network.quantization is not None:
            self.bits = network.quantization.bits
            self.quantization_loss_weight = METHODS[network.quantization.method].quantization_loss_weight
        self.precision = training_precision(recipe.precision, device)
        self.identity = {
            "network": network.name,
            "scale": network.scale,
            "architecture": network.architecture,
            "quantization": None if network.quantization is None else vars(network.quantization),
            "weights": _digest(network),
            "teacher": None if teacher is None else _digest(teacher),
            "recipe": vars(recipe),
            "seed": seed,
            "data": datasets.fingerprint(data),
        }
        self.step = 0
        self.history = History()
        self.sums: dict[str, Tensor] = {}
        self.summed = 0
        self.best_weights: dict[str, Tensor] = {}
        torch.manual_seed(seed)

    # Beginning, interruption, end

    def begin(self) -> None:
        """Initialize a student that is new, and the optimizer."""
        if self.network.quantization is not None:
            set_bits(self.network, self.recipe.bits_at(0, self.bits))
            if self.network.phase == "new":
                initialize(self.network, self._calibration_batches(self.recipe.calibration_batches))
            elif self.network.quantization.bits != self.bits:
                self._reset_bounds()
        self._make_optimizer()

    def state(self) -> RunState:
        """A complete copy of the run: what `restore` needs to go on bit for bit."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        tensors |= {f"sum.{name}": value for name, value in self.sums.items()}
        tensors["generator.sampler"] = self.sampler.state()
        tensors["generator.torch"] = torch.get_rng_state()
        facts = {
            "step": self.step,
            "summed": self.summed,
            "sums": list(self.sums),
            "bits": self.network.quantization.bits if self.network.quantization else 32,
            "phase": self.network.phase,
            "gates": gated_paths(self.network) if self.network.quantization else [],
            "dynamic_intensity": self.network.dynamic_intensity,
            "history": vars(self.history),
        }
        return RunState(tensors, facts)

    def restore(self, state: RunState) -> None:
        """Go on from a saved state."""
        facts = state.facts
        if self.network.quantization is not None:
            set_bits(self.network, facts["bits"])
            attach_gates(self.network, facts["gates"])
            set_phase(self.network, facts["phase"])
            self.network.dynamic_intensity = facts["dynamic_intensity"]
        self.network.load_state_dict(state.group("network"))
        self._make_optimizer()
        optimizer = self.optimizer.state_dict()
        # Parameters that have had no gradient yet, such as those of bypassed gates, have no moments.
        for name, value in state.group("optimizer").items():
            index, _, moment = name.partition(".")
            optimizer["state"].setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict(optimizer)
        sums = state.group("sum")
        self.sums = {name: sums[name].to(self.device) for name in facts["sums"]}
        self.best_weights = state.group("best")
        self.sampler.set_state(state.tensors["generator.sampler"])
        torch.set_rng_state(state.tensors["generator.torch"])
        self.step, self.summed = facts["step"], facts["summed"]
        self.history = History(**facts["history"])

    def check(self) -> None:
        """Raise `RuntimeError` if a parameter has stopped being finite: such a state is not worth keeping."""
        finite = [torch.isfinite(parameter).all() for parameter in self.network.parameters()]
        if not torch.stack(finite).all():
            raise RuntimeError(explain_divergence(self.network, self.step))

    def finish(self) -> None:
        """Put the best weights into the network."""
        if self.best_weights:
            self.network.load_state_dict(self.best_weights)
        self.network.eval()

    # One step

    def advance(self) -> None:
        """One optimizer step; nothing in it waits for the device."""
        started = time.perf_counter()
        self._prepare()
        self.network.train()
        low, high = self.sampler.sample(self.recipe.batch_size)
        losses = self._losses(low, high)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.optimizer.step()
        with torch.no_grad():
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        self.summed += 1
        self.step += 1
        self.history.seconds += time.perf_counter() - started

    def _prepare(self) -> None:
        """Bit-width, phase and learning rates of this step."""
        weights, bounds = self.recipe.learning_rates_at(self.step)
        for group, rate in zip(self.optimizer.param_groups, (weights, bounds), strict=True):
            group["lr"] = rate
        if self.network.quantization is None:
            return
        bits = self.recipe.bits_at(self.step, self.bits)
        if bits != self.network.quantization.bits:
            set_bits(self.network, bits)
            self._reset_bounds()
        if bits == self.bits and gated_paths(self.network):
            since = self.step - sum(steps for _, steps in self.recipe.falling_bits)
            set_phase(self.network, "warm-up" if since < self.recipe.warmup_steps else "live")

    def _losses(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """The weighted sum under "loss", and its parts unweighted, all in float32."""
        recipe, network, teacher = self.recipe, self.network, self.teacher
        matching = recipe.feature_weight > 0
        with self._autocast():
            with block_outputs(network, wanted=matching) as student_blocks:
                features = network.features(low)
            sr = network.upsample(features)
        losses = {"l1": F.l1_loss(sr.float(), high)}
        loss = losses["l1"]
        if teacher is not None:
            with torch.no_grad(), self._autocast(), block_outputs(teacher, matching) as teacher_blocks:
                teacher_features = teacher.features(low)
            losses["skt"] = structured_knowledge_transfer(features, teacher_features)
            loss = loss + recipe.skt_weight * losses["skt"]
            if matching:
                losses["features"] = feature_error(student_blocks, teacher_blocks)
                loss = loss + recipe.feature_weight * losses["features"]
        if network.phase == "warm-up":
            losses["gates"] = gate_regularization(network)
            loss = loss + losses["gates"]
        if self.quantization_loss_weight:
            errors = [each.quantization_error for each in network.modules() if isinstance(each, Quantizer)]
            losses["quantization"] = torch.stack([error for error in errors if error is not None]).sum()
            loss = loss + self.quantization_loss_weight * losses["quantization"]
        return {"loss": loss, **losses}

    def log(self, validate: bool) -> bool:
        """Append a row to the history; returns whether a validation found a new best.

        Raises `RuntimeError` when a loss has stopped being finite.
        """
        quantization = self.network.quantization
        row: dict = {"step": self.step, "bits": quantization.bits if quantization else 32}
        row["phase"] = self.network.phase if quantization else "full precision"
        row |= {name: total.item() / self.summed for name, total in self.sums.items()}
        if not math.isfinite(row["loss"]):
            raise RuntimeError(explain_divergence(self.network, self.step))
        self.sums, self.summed = {}, 0
        self.history.rows.append(row)
        if not validate:
            return False
        started = time.perf_counter()
        if self.held_out:
            row["psnr"] = evaluate(self.network, self.held_out, device=self.device, progress=False).psnr
        if quantization is not None:
            self.history.bounds.append({"step": self.step, "bounds": bounds(self.network)})
        if self.teacher is not None:
            row["feature_error"] = self._validation_feature_error()
        self.history.seconds += time.perf_counter() - started
        # What is at another bit-width, or whose gates are not live yet, is not what was asked for.
        finished = quantization is None or (quantization.bits == self.bits and self.network.phase != "warm-up")
        if not finished or (self.held_out and row["psnr"] <= self.history.best_psnr):
            return False
        self.history.best_step, self.history.best_psnr = self.step, row.get("psnr", -math.inf)
        self.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        return True

    def summary(self) -> dict[str, str]:
        """What the progress bar shows."""
        row = self.history.rows[-1]
        shown = {"bits": str(row["bits"]), "loss": f"{row['loss']:.3f}"}
        if self.history.best_step is not None:
            shown["best"] = f"{self.history.best_psnr:.2f} dB"
        return shown

    def _validation_feature_error(self) -> float:
        assert self.teacher is not None
        self.network.eval()
        with torch.no_grad(), uniform.compiled(False):
            with block_outputs(self.network) as student_blocks:
                self.network.features(self.validation_patches)
            with block_outputs(self.teacher) as teacher_blocks:
                self.teacher.features(self.validation_patches)
        return feature_error(student_blocks, teacher_blocks).item()

    def _make_optimizer(self) -> None:
        own = activation_bounds(self.network)
        known = set(own)
        weights = [parameter for parameter in self.network.parameters() if parameter not in known]
        groups = [{"params": weights}, {"params": own}]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(groups, lr=self.recipe.learning_rate, fused=fused)

    def _reset_bounds(self) -> None:
        """Start the bounds again from the data, after a change of bit-width."""
        wanted = max(quantizer.calibration_batches for quantizer in activation_quantizers(self.network).values())
        self.network.eval()
        initialize_bounds(self.network, self._calibration_batches(min(wanted, self.recipe.calibration_batches)))

    def _calibration_batches(self, count: int) -> Iterator[Tensor]:
        for _ in range(count):
            yield self.sampler.sample(self.recipe.batch_size)[0]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def activation_bounds(network: SuperResolutionNetwork) -> list[nn.Parameter]:
    """What trains with the bounds' learning rate: all that activation quantizers own, their gates excepted."""
    return [
        parameter
        for quantizer in network.modules()
        if isinstance(quantizer, ActivationQuantizer)
        for name, parameter in quantizer.named_parameters()
        if not name.startswith("gate.")
    ]


def _split(
    data: list[tuple[str, np.ndarray]], count: int
) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
    """(held out, kept): `count` images at equal distances in the list, at most half of it."""
    count = min(count, len(data) // 2)
    chosen = {int((index + 0.5) * len(data) / count) for index in range(count)}
    held_out = [image for index, image in enumerate(data) if index in chosen]
    return held_out, [image for index, image in enumerate(data) if index not in chosen]


def _digest(network: SuperResolutionNetwork) -> str:
    """SHA-256 of all that a network's state dict holds."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
