"""One run of the reproduction: its name, what it is for, the command that repeats it, and what it costs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..networks import Quantization, SuperResolutionNetwork
from ..quantizers import METHODS
from ..training import Recipe
from . import estimates

# What each preset trains on.
TRAINING_DATA = {
    "smoke": ("photos_train",),
    "short": ("BSD200_train", "BSD200_test", "T91"),
    "long": ("BSD200_train", "BSD200_test", "T91"),
    "paper": ("DIV2K",),
}
# What a preset scores on where that is not every benchmark at hand.
TEST_DATA = {"smoke": ("photos",)}


Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Change:
    """What a run does otherwise: arguments of `quantize`, and fields of the recipe, as pairs of name and value."""

    quantization: Pairs = ()
    recipe: Pairs = ()

    def __add__(self, other: Change) -> Change:
        return Change(self.quantization + other.quantization, self.recipe + other.recipe)

    @property
    def words(self) -> list[str]:
        """The options of `python -m ddtb_lite train` that say the same."""
        words = []
        for name, value in self.quantization:
            words += [f"--{name.replace('_', '-')}", _written(value)]
        for name, value in self.recipe:
            words += ["--set", f"{name}={_written(value)}"]
        return words


def _written(value: object) -> str:
    """A value as the command line reads it; of a small number's two forms, 0.0001 and 1e-4, the shorter."""
    if not isinstance(value, float):
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    digits, _, exponent = f"{value:e}".partition("e")
    scientific = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return min(f"{value:g}" if float(f"{value:g}") == value else repr(value), scientific, key=len)


@dataclass(frozen=True)
class Experiment:
    """One training run; `name` is that of its folder, its checkpoint and its result file.

    Without `bits` and `method` it is in full precision. `teacher` and `start` name the experiments whose
    networks it needs, `architecture` gives depth and width where they are not the paper's, `change` what else it
    does in its own way. It takes `times` as many steps as its preset says; a `long` one takes the preset "long" where
    others take "short".
    """

    name: str
    purpose: str
    model: str
    scale: int
    bits: int | None = None
    method: str | None = None
    teacher: str | None = None
    start: str | None = None
    fully: bool = False
    seed: int = 0
    architecture: tuple[tuple[str, int], ...] = ()
    change: Change = Change()
    times: int = 1
    long: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The experiments that come before this one."""
        return tuple(name for name in (self.teacher, self.start) if name)

    def inputs(self, folder: str = "runs", shipped: Collection[str] = ()) -> list[str]:
        """The files of the networks that it needs: those among `shipped` come with the package."""
        files = {name: f"{name}.safetensors" for name in self.needs}
        return [
            f"data/checkpoints/{file}" if name in shipped else f"{folder}/{name}/{file}" for name, file in files.items()
        ]

    def arguments(
        self,
        preset: str,
        folder: str = "runs",
        shipped: Collection[str] = (),
        data: Sequence[str] | None = None,
        tests: Sequence[str] | None = None,
    ) -> list[str]:
        """What follows `python -m ddtb_lite` to run it with a preset.

        All runs lie in `folder`; `inputs` says where the networks are that it needs. `data` and `tests` are the
        preset's unless they are given.
        """
        preset = self.preset(preset)
        tests = TEST_DATA.get(preset) if tests is None else tests
        words = ["train", "--model", self.model, "--scale", str(self.scale)]
        if self.quantization:
            words += ["--bits", str(self.bits), "--method", str(self.method)]
        elif self.architecture:  # a student has its teacher's
            words += ["--architecture", *(f"{name}={value}" for name, value in self.architecture)]
        words += ["--fully"] if self.fully else []
        words += ["--teacher"] if self.teacher else ["--start-from"] if self.start else []
        words += self.inputs(folder, shipped)
        words += ["--preset", preset, *self.change.words]
        words += ["--set", f"steps={self.steps(preset)}"] if self.times > 1 else []
        words += ["--data", *(TRAINING_DATA[preset] if data is None else data)]
        words += [] if tests is None else ["--test", *tests]
        return [*words, "--seed", str(self.seed), "--out", f"{folder}/{self.name}"]

    def command(self, preset: str, *how: Any) -> str:
        """The whole command line; further arguments as `arguments`."""
        return f"python -m ddtb_lite {shlex.join(self.arguments(preset, *how))}"

    @property
    def quantization(self) -> Quantization | None:
        """How the network is quantized, its `change` left aside."""
        if self.bits is None or self.method is None:
            return None
        return Quantization(self.method, self.bits, fully=self.fully)

    @property
    def variant(self) -> str | None:
        """Which of a network's points it quantizes, None in full precision."""
        usual = METHODS[self.method].default_variant if self.method else None
        return dict(self.change.quantization).get("variant", usual)

    @property
    def network(self) -> SuperResolutionNetwork:
        """Its network as an `estimates.outline`."""
        return estimates.outline(self.model, self.scale, dict(self.architecture), self.quantization)

    def preset(self, general: str) -> str:
        """The preset that it takes where runs in general take this one."""
        return "long" if self.long and general == "short" else general

    def recipe(self, preset: str) -> Recipe:
        """How it is trained with a preset."""
        recipe = Recipe.preset(self.preset(preset), self.network)
        return recipe.override(**{"steps": self.times * recipe.steps, **dict(self.change.recipe)})

    def steps(self, preset: str) -> int:
        """How many steps it takes."""
        return self.recipe(preset).steps

    def hours(self, preset: str, measured: Iterable[dict[str, Any]] = ()) -> float | None:
        """What it takes, as `estimates.hours`."""
        once = estimates.hours(self.network, self.preset(preset), measured)
        return once and self.times * once
