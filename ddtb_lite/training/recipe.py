"""How a network is trained: every number of section 8, and three shorter presets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..networks import SuperResolutionNetwork
from ..quantizers import METHODS
from ..support.devices import DTYPES
from ..uniform import check_bits
from .adversarial import LOSSES
from .patches import PLACEMENTS

# From the shortest to the longest.
PRESETS = ("smoke", "short", "long", "paper")
PRECISIONS = ("auto", *DTYPES)
# What leaves a run's result as it is, to the last bit: it may change when the run goes on.
WITHOUT_TRACE = {"checkpointing", "placement", "save_every"}
# How a step is computed and a run is watched, not what it learns.
TECHNICAL = WITHOUT_TRACE | {"validate_every", "precision", "compile", "channels_last"}
# SRGAN's own balance of pixels and discriminator, see `adversarial.Adversary`.
SRGAN_WEIGHT = 1.0


@dataclass(frozen=True)
class Recipe:
    """All that decides a training run besides network, data and seed; `Recipe.preset` gives sensible ones.

    Steps count optimizer steps. `patch_size` is the side of the high-resolution patch in pixels. The learning
    rate is either halved every `halve_every` steps or, if that is None, falls along a cosine to zero; so does
    `bound_learning_rate`, which is for what activation quantizers train, their gates excepted. `falling_bits`
    lists (bits, steps) that come before the student's own bit-width. `skt_weight` is for the structured
    knowledge transfer loss, `feature_weight` for matching each block's output. Bounds come from
    `calibration_batches`; gates warm up for `warmup_steps`, then they are live. `fixed_bounds` starts DDTB's bounds at
    ± a value instead, whatever the data, to see what the initializer is worth. `adversarial_weight` adds a
    discriminator that trains along, by `adversarial_loss`, "bce" or "least_squares". `precision` is what
    convolutions compute in, "auto" the fastest that the device has; `placement` says where the training images
    lie, see `patches.PatchSampler`. `checkpointing` computes blocks twice to save memory.
    """

    preset_name: str
    steps: int
    batch_size: int = 16
    patch_size: int = 192
    learning_rate: float = 1e-4
    bound_learning_rate: float = 1e-2
    halve_every: int | None = 10_000
    calibration_batches: int = 1000
    warmup_steps: int = 4000
    falling_bits: tuple[tuple[int, int], ...] = ()
    fixed_bounds: float | None = None
    skt_weight: float = 1000.0
    feature_weight: float = 0.0
    adversarial_weight: float = 0.0
    adversarial_loss: str = "bce"
    checkpointing: bool = False
    validation_images: int = 8
    validate_every: int = 1000
    save_every: int = 1000
    precision: str = "auto"
    placement: str = "auto"
    compile: bool = True
    channels_last: bool = True

    def __post_init__(self) -> None:
        counts = {"steps": 1, "batch_size": 1, "patch_size": 1, "validate_every": 1, "save_every": 1}
        counts |= {"calibration_batches": 0, "warmup_steps": 0, "validation_images": 0}
        if self.halve_every is not None:
            counts["halve_every"] = 1
        for name, least in counts.items():
            if not _is_count(getattr(self, name), least):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a whole number, at least {least}.")
        limits = {
            "learning_rate": 1.0,
            "bound_learning_rate": 1.0,
            "skt_weight": math.inf,
            "feature_weight": math.inf,
            "adversarial_weight": math.inf,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            bottom = "more than 0" if name.endswith("rate") else "at least 0"
            if not _is_number(value) or not (0 < value < limit or (value == 0 and name.endswith("weight"))):
                raise ValueError(f"{name} is {value!r}, expected {bottom} and less than {limit:g}.")
        if self.fixed_bounds is not None and not (_is_number(self.fixed_bounds) and 0 < self.fixed_bounds < math.inf):
            raise ValueError(f"fixed_bounds is {self.fixed_bounds!r}, expected a number above 0, or none.")
        for name, choices in {"precision": PRECISIONS, "placement": PLACEMENTS}.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is {value!r}, expected {', '.join(choices[:-1])} or {choices[-1]}.")
        if self.adversarial_loss not in LOSSES:
            raise ValueError(f"adversarial_loss is {self.adversarial_loss!r}, expected {' or '.join(LOSSES)}.")
        for name in ("compile", "channels_last", "checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected true or false.")
        self._check_falling_bits()

    def _check_falling_bits(self) -> None:
        stages = self.falling_bits
        if not isinstance(stages, tuple | list) or not all(
            isinstance(stage, tuple | list) and len(stage) == 2 and _is_count(stage[1], 1) for stage in stages
        ):
            raise ValueError(f"falling_bits is {stages!r}, expected pairs of bits and steps, such as ((4, 200),).")
        for bits, _ in stages:
            check_bits(bits)
        if stages and not self.calibration_batches:
            raise ValueError(
                "calibration_batches is 0, but with falling_bits bounds start again from data; give it at least 1."
            )
        if sum(steps for _, steps in stages) >= self.steps:
            raise ValueError("falling_bits takes up all of the steps; leave some for the student's own bit-width.")

    @classmethod
    def preset(cls, name: str, network: SuperResolutionNetwork, own_rates: bool = False) -> Recipe:
        """A network's recipe "smoke" (seconds), "short" (for a CPU), "long" or "paper" (section 8).

        "long" gives a student four times the steps of "short", in bf16 where the device has it; in full precision it is
        "short" under another name. A quantized network gets the recipe of quantization-aware training, a full-precision
        one that of its baseline, SRGAN's against a discriminator. Every method gets DDTB's learning rates, so that
        methods can be compared, unless `own_rates` asks for those of its paper. Raises `ValueError` for another name.
        """
        recipe = cls._preset(name, network)
        if network.quantization is None:
            return recipe._against_a_discriminator(network.scale) if network.name == "srgan" else recipe
        if own_rates:
            method = METHODS[network.quantization.method]
            recipe = replace(
                recipe,
                learning_rate=method.learning_rate or recipe.learning_rate,
                bound_learning_rate=method.bound_learning_rate or recipe.bound_learning_rate,
            )
        return recipe

    @classmethod
    def _preset(cls, name: str, network: SuperResolutionNetwork) -> Recipe:
        quantized = network.quantization is not None
        if name == "paper":
            return cls._paper(network, quantized)
        if name == "short":
            return cls._short(network, quantized)
        if name == "long":
            short = cls._short(network, quantized)
            if not quantized:
                return replace(short, preset_name="long")
            # About half an hour on one core that has bf16.
            stages = tuple((bits, 300) for bits, _ in short.falling_bits)
            return replace(short, preset_name="long", steps=3200, falling_bits=stages, precision="auto")
        if name == "smoke":
            short = cls._short(network, quantized)
            return replace(
                short,
                preset_name="smoke",
                steps=12,
                batch_size=4,
                bound_learning_rate=3e-2,
                calibration_batches=2,
                warmup_steps=2,
                falling_bits=tuple((bits, 3) for bits, _ in short.falling_bits),
                validation_images=1,
                validate_every=6,
                save_every=6,
                compile=False,
            )
        raise ValueError(f"Unknown preset {name!r}; the known ones are {', '.join(PRESETS)}.")

    @classmethod
    def _paper(cls, network: SuperResolutionNetwork, quantized: bool) -> Recipe:
        patch_size = network.paper_patch_size[network.scale]
        if quantized:
            # 60 epochs of 1000 steps, the first of which only watches ranges.
            return cls("paper", steps=59_000, patch_size=patch_size)
        steps = network.paper_epochs * 1000
        return cls("paper", steps=steps, patch_size=patch_size, halve_every=200_000, calibration_batches=0)

    @classmethod
    def _short(cls, network: SuperResolutionNetwork, quantized: bool) -> Recipe:
        # About 90 minutes on one core. SRResNet goes on from EDSR's weights, carefully, and SRGAN from SRResNet's.
        steps = {"srresnet": 300, "srgan": 200}.get(network.name, 10_000 if network.scale == 2 else 8000)
        baseline = cls(
            "short",
            steps=steps,
            patch_size=24 * network.scale,
            learning_rate=1e-4 if network.name == "srresnet" else 4e-4,
            halve_every=None,
            calibration_batches=0,
            validate_every=200,
            save_every=100,
        )
        if not quantized:
            return baseline
        assert network.quantization is not None
        highest = METHODS[network.quantization.method].highest_bits
        # What counts is the bounds' rate on the scale of activations, most networks' being that of pixels. Judged with
        # DDTB on held-out training images, the same for every method.
        return replace(
            baseline,
            steps=800,
            batch_size=8,
            learning_rate=5e-4,
            bound_learning_rate=0.5 if network.on_pixel_scale else 1e-2,
            calibration_batches=20,
            warmup_steps=100,
            falling_bits=tuple((bits, 100) for bits in (4, 3) if network.quantization.bits < bits <= highest),
            feature_weight=10.0,
            # Students of different machines are compared, and what is fastest differs from one to the next.
            precision="fp32",
        )

    def _against_a_discriminator(self, scale: int) -> Recipe:
        # A discriminator takes patches of whole multiples of 16 pixels.
        unit = math.lcm(16, scale)
        patch_size = math.ceil(self.patch_size / unit) * unit
        return replace(self, patch_size=patch_size, learning_rate=1e-4, adversarial_weight=SRGAN_WEIGHT)

    def agrees_with(self, stored: Mapping[str, Any]) -> bool:
        """Whether the recipe in a result file, which may be older than some fields, trains as this one does."""
        mine = json.loads(json.dumps(vars(self)))
        return all(mine.get(name) == value for name, value in stored.items() if name not in TECHNICAL)

    def bits_at(self, step: int, bits: int) -> int:
        """The bit-width at a step of a student whose own is `bits`."""
        for falling, steps in self.falling_bits:
            if step < steps:
                return falling
            step -= steps
        return bits

    def learning_rates_at(self, step: int) -> tuple[float, float]:
        """(weights, bounds) at a step."""
        if self.halve_every:
            # The paper's epochs count the one that only calibrates.
            factor = 0.5 ** ((step + self.calibration_batches) // self.halve_every)
        else:
            factor = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * factor, self.bound_learning_rate * factor

    def override(self, /, **changes: object) -> Recipe:
        """A copy with some fields changed; `ValueError` names one that does not exist. The preset keeps its name."""
        known = {field.name for field in fields(self)} - {"preset_name"}
        unknown = set(changes) - known
        if unknown:
            raise ValueError(f"A recipe has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}.")
        return replace(self, **changes)  # type: ignore[arg-type]


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
