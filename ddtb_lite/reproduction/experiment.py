"""One run of the reproduction: its name, what it is for, the command that repeats it, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ..networks import Quantization, SuperResolutionNetwork
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


@dataclass(frozen=True)
class Experiment:
    """One training run; `name` is that of its folder, its checkpoint and its result file.

    Without `bits` and `method` it is in full precision. `teacher` and `start` name the experiments whose
    networks it needs, `architecture` gives depth and width where they are not the paper's, `options` are
    further options of `python -m ddtb_lite train`. It takes `times` as many steps as its preset says.
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
    options: tuple[str, ...] = ()
    times: int = 1

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

    def arguments(self, preset: str, folder: str = "runs", shipped: Collection[str] = ()) -> list[str]:
        """What follows `python -m ddtb_lite` to run it with a preset.

        All runs lie in `folder`; `inputs` says where the networks are that it needs.
        """
        words = ["train", "--model", self.model, "--scale", str(self.scale)]
        if self.quantization:
            words += ["--bits", str(self.bits), "--method", str(self.method)]
        elif self.architecture:  # a student has its teacher's
            words += ["--architecture", *(f"{name}={value}" for name, value in self.architecture)]
        words += ["--fully"] if self.fully else []
        words += ["--teacher"] if self.teacher else ["--start-from"] if self.start else []
        words += self.inputs(folder, shipped)
        words += ["--preset", preset, *self.options]
        words += ["--set", f"steps={self.steps(preset)}"] if self.times > 1 else []
        words += ["--data", *TRAINING_DATA[preset]]
        words += ["--test", *TEST_DATA[preset]] if preset in TEST_DATA else []
        return [*words, "--seed", str(self.seed), "--out", f"{folder}/{self.name}"]

    def command(self, preset: str) -> str:
        """The whole command line."""
        return f"python -m ddtb_lite {' '.join(self.arguments(preset))}"

    @property
    def quantization(self) -> Quantization | None:
        """How the network is quantized, `options` left aside."""
        if self.bits is None or self.method is None:
            return None
        return Quantization(self.method, self.bits, fully=self.fully)

    @property
    def network(self) -> SuperResolutionNetwork:
        """Its network as an `estimates.outline`."""
        return estimates.outline(self.model, self.scale, dict(self.architecture), self.quantization)

    def steps(self, preset: str) -> int:
        """How many steps it takes; no option changes their number."""
        return self.times * Recipe.preset(preset, self.network).steps

    def hours(self, preset: str, measured: Iterable[dict[str, Any]] = ()) -> float | None:
        """What it takes, as `estimates.hours`."""
        once = estimates.hours(self.network, preset, measured)
        return once and self.times * once
