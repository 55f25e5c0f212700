"""One training run: everything that changes while it lasts, and how one step changes it (section 8)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..conversion import activation_quantizers, attach_gates, gated_paths, set_bits, set_phase
from ..diagnostics import bounds, explain_divergence
from ..evaluation import smallest_side
from ..initializer import initialize, initialize_bounds
from ..networks import SuperResolutionNetwork
from ..quantizers import DualBound
from ..support import distributed
from ..support.devices import training_precision
from .adversarial import Adversary
from .losses import Objective
from .patches import PatchSampler
from .preconditions import check_falling_bits, check_gates, check_teacher
from .recipe import Recipe
from .run_folder import RunState, identity
from .step import TrainingStep
from .validation import Validation, split

logger = logging.getLogger(__name__)


@dataclass
class History:
    """What a run leaves: a row of losses each 50 steps (with scores at each validation), the best, the time.

    `data` is the training images' `datasets.fingerprint`. `bounds` has an entry for each validation of a DDTB student:
    {"step", "bounds": {path: (lower, upper)}}.
    """

    data: str
    rows: list[dict] = field(default_factory=list)
    bounds: list[dict] = field(default_factory=list)
    best_step: int | None = None
    best_psnr: float = -math.inf
    seconds: float = 0.0


class Diverged(RuntimeError):
    """A loss, a gradient or a parameter is not finite any more; the message names the layers that went wrong.

    `step` is where it was noticed, `history` what the run had left until then.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(explain_divergence(run.network, run.step, run.validation.patches))
        self.step, self.history = run.step, run.history


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
        distributed.check_divisible(recipe.batch_size)
        self.network, self.teacher, self.recipe, self.device = network, teacher, recipe, device
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        for each in (network, teacher):
            if each is not None:
                each.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if teacher is not None:
            check_teacher(teacher, network)
            teacher.eval()
        network.checkpointing = recipe.checkpointing
        self.bits = 32 if network.quantization is None else network.quantization.bits
        check_falling_bits(self.bits, recipe)
        check_gates(network, recipe)
        smallest = smallest_side(network.scale, network.scale)
        held_out, kept = split(data, recipe.validation_images, smallest, recipe.patch_size)
        self.sampler = PatchSampler(
            [image for _, image in kept], network.scale, recipe.patch_size, seed, device, recipe.placement
        )
        if self.sampler.left_out:
            logger.warning(
                "%d of %d training images are smaller than a patch of %d×%d pixels and are left out.",
                *(self.sampler.left_out, len(kept), recipe.patch_size, recipe.patch_size),
            )
        self.validation = Validation(held_out, kept, network.scale, recipe.patch_size, device)
        self.precision = training_precision(recipe.precision, device)
        adversary = None
        if recipe.adversarial_weight:
            if distributed.world_size() > 1:
                raise ValueError(
                    "A discriminator is trained in one process only: start it without torchrun, or give "
                    "adversarial_weight=0 (--set adversarial_weight=0)."
                )
            adversary = Adversary(
                recipe.adversarial_loss,
                recipe.patch_size,
                learning_rate=recipe.learning_rate,
                seed=seed,
                device=device,
            )
        objective = Objective(network, teacher, recipe, self.precision, adversary)
        self.train_step = TrainingStep(objective, self.sampler, recipe.batch_size, device)
        self.identity = identity(network, teacher, recipe, data, seed)
        self.step = 0
        self.history = History(self.identity["data"])
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
            self._fix_bounds()
        self.train_step.reset_optimizer()

    def state(self) -> RunState:
        """The whole run, until its next step: what `restore` needs to go on bit for bit."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {f"step.{name}": value for name, value in self.train_step.state().items()}
        tensors |= {f"sum.{name}": value for name, value in self.sums.items()}
        tensors["generator.torch"] = torch.get_rng_state()
        facts = {
            "step": self.step,
            "summed": self.summed,
            "sums": list(self.sums),
            "bits": self.network.quantization.bits if self.network.quantization else 32,
            "phase": self.network.phase,
            "precision": self.precision,
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
        if (precision := facts.get("precision", self.precision)) != self.precision:
            logger.warning("This run began in %s and goes on in %s.", precision, self.precision)
        self.network.load_state_dict(state.group("network"))
        self.train_step.restore(state.group("step"))
        sums = state.group("sum")
        self.sums = {name: sums[name].to(self.device) for name in facts["sums"]}
        if precision != self.precision:
            self.sums.pop("discarded", None)  # what is usual in float16 would be an alarm in another precision
        self.best_weights = state.group("best")
        torch.set_rng_state(state.tensors["generator.torch"])
        self.step, self.summed = facts["step"], facts["summed"]
        self.history = History(**{**facts["history"], "data": self.identity["data"]})  # older states do without

    def check(self) -> None:
        """Raise `Diverged` if a loss, a gradient or a parameter is not finite: such a state is not worth keeping."""
        values = [*self.sums.values(), *self.network.parameters()]
        if not torch.stack([torch.isfinite(value).all() for value in values]).all():
            raise Diverged(self)
        loss_scale = self.train_step.loss_scale
        # In float16 discarded steps are how the loss scale finds its limit, but that lies above 1.
        if self.sums.get("discarded", 0) and (loss_scale is None or loss_scale.factor < 1):
            raise Diverged(self)

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
        rates = self.recipe.learning_rates_at(self.step)
        for name, value in self.train_step(rates, (self.network.quantization, self.network.phase)).items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value
        self.summed += 1
        self.step += 1
        self.history.seconds += time.perf_counter() - started

    def _prepare(self) -> None:
        """Bit-width and phase of this step."""
        if self.network.quantization is not None:
            bits = self.recipe.bits_at(self.step, self.bits)
            if bits != self.network.quantization.bits:
                self.check()
                set_bits(self.network, bits)
                self._reset_bounds()
                # The bounds are others now: what Adam remembers of the earlier ones' gradients says nothing about them.
                self.train_step.reset_optimizer()
            if bits == self.bits and gated_paths(self.network):
                since = self.step - sum(steps for _, steps in self.recipe.falling_bits)
                phase = "warm-up" if since < self.recipe.warmup_steps else "live"
                if phase != self.network.phase and self.network.phase != "live":  # they may be from the beginning
                    set_phase(self.network, phase)
                    self.train_step.parallelize()

    def log(self, validate: bool) -> bool:
        """Append a row to the history; returns whether a validation found a new best.

        Raises `Diverged` as `check` does.
        """
        started = time.perf_counter()
        self.check()  # here the host waits for the steps that it has launched
        quantization = self.network.quantization
        row: dict = {"step": self.step, "bits": quantization.bits if quantization else 32}
        row["phase"] = self.network.phase if quantization else "full precision"
        row |= {name: total.item() / self.summed for name, total in self.sums.items() if name != "discarded"}
        self.sums, self.summed = {}, 0
        self.history.rows.append(row)
        improved = validate and self._validate(row)
        self.history.seconds += time.perf_counter() - started
        return improved

    def _validate(self, row: dict) -> bool:
        """Add scores to a row of the history; returns whether these are the weights to keep."""
        quantization = self.network.quantization
        psnr = self.validation.psnr(self.network)
        if psnr is not None:
            row["psnr"] = psnr
        if quantization is not None:
            self.history.bounds.append({"step": self.step, "bounds": bounds(self.network)})
        if self.teacher is not None:
            row["feature_error"] = self.validation.feature_error(self.network, self.teacher)
        # What is at another bit-width, or whose gates are not live yet, is not what was asked for.
        finished = quantization is None or (quantization.bits == self.bits and self.network.phase != "warm-up")
        # PSNR sinks while an adversary teaches texture: the latest weights are the ones that have learned most from it.
        latest = self.recipe.adversarial_weight > 0
        if not finished or (psnr is not None and psnr <= self.history.best_psnr and not latest):
            return False
        self.history.best_step, self.history.best_psnr = self.step, -math.inf if psnr is None else psnr
        self.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        return True

    def summary(self) -> dict[str, str]:
        """What the progress bar shows."""
        row = self.history.rows[-1]
        shown = {"bits": str(row["bits"]), "loss": f"{row['loss']:.3f}"}
        if self.history.best_step is not None:
            shown["best"] = f"{self.history.best_psnr:.2f} dB"
        return shown

    def _reset_bounds(self) -> None:
        """Start the bounds again from the data, after a change of bit-width."""
        wanted = max(quantizer.calibration_batches for quantizer in activation_quantizers(self.network).values())
        self.network.eval()
        initialize_bounds(self.network, self._calibration_batches(min(wanted, self.recipe.calibration_batches)))
        self._fix_bounds()

    def _fix_bounds(self) -> None:
        """Start DDTB's bounds at a fixed value instead, if the recipe says so."""
        if self.recipe.fixed_bounds is not None:
            for quantizer in activation_quantizers(self.network).values():
                if isinstance(quantizer, DualBound):
                    quantizer.upper.data.fill_(self.recipe.fixed_bounds)
                    quantizer.lower.data.fill_(-self.recipe.fixed_bounds)

    def _calibration_batches(self, count: int) -> Iterator[Tensor]:
        for _ in range(count):
            yield self.sampler.sample(self.recipe.batch_size)[0]
