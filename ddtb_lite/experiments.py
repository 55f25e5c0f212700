"""Every run of the reproduction: its name, what it is for, the command that repeats it, and what it costs.

`python -m ddtb_lite.experiments` lists them: done, under way, missing. The workflow and the book's tables read the
same list.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import results
from .conversion import quantize
from .cost import complexity
from .networks import SuperResolutionNetwork, build
from .recipe import Recipe

TRAINING_DATA = {
    "smoke": ("photos_train",),
    "short": ("BSD200_train", "BSD200_test", "T91"),
    "paper": ("DIV2K",),
}
PEERS = ("minmax", "dorefa", "pact", "pams", "lsq", "fqsr")
SMALL_RDN = {"D": 4, "C": 4}

# Each ablation of 2-bit EDSR ×4 by the end of its name: the options that differ from the base run.
ABLATIONS = {
    "no_gate": ("--gate-ratio", "0"),
    "no_warmup": ("--set", "warmup_steps=0"),
    "minmax_start": ("--percentile", "100"),
    "fixed_start": ("--set", "fixed_bounds=10"),
    "official": ("--variant", "official"),
    "percentile_95": ("--percentile", "95"),
    "percentile_99.9": ("--percentile", "99.9"),
    "all_gates": ("--gate-ratio", "1"),
}


@dataclass(frozen=True)
class Experiment:
    """One training run; `name` is that of its folder, its checkpoint and its result file.

    `teacher` and `start` name the experiments whose networks it needs, `architecture` gives depth and width where
    they are not the paper's, `options` are further options of `python -m ddtb_lite train`.
    """

    name: str
    purpose: str
    model: str
    scale: int
    bits: int | None = None
    method: str = "ddtb"
    teacher: str | None = None
    start: str | None = None
    fully: bool = False
    seed: int = 0
    architecture: tuple[tuple[str, int], ...] = ()
    options: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The experiments that come before this one."""
        return tuple(name for name in (self.teacher, self.start) if name)

    def arguments(self, preset: str, folder: str = "runs") -> list[str]:
        """What follows `python -m ddtb_lite` to run it with a preset; all runs lie in `folder`."""

        def checkpoint(name: str) -> str:
            return f"{folder}/{name}/{name}.safetensors"

        words = ["train", "--model", self.model, "--scale", str(self.scale)]
        if self.bits is not None:
            words += ["--bits", str(self.bits), "--method", self.method]
        elif self.architecture:
            words += ["--architecture", *(f"{name}={value}" for name, value in self.architecture)]
        words += ["--fully"] if self.fully else []
        words += ["--teacher", checkpoint(self.teacher)] if self.teacher else []
        words += ["--start", checkpoint(self.start)] if self.start else []
        words += ["--preset", preset, *self.options, "--data", *TRAINING_DATA[preset], "--seed", str(self.seed)]
        return [*words, "--out", f"{folder}/{self.name}"]

    def command(self, preset: str) -> str:
        """The whole command line."""
        return f"python -m ddtb_lite {' '.join(self.arguments(preset))}"

    def recipe(self, preset: str) -> Recipe:
        """The recipe of a preset for this network; the `options` can change fields of it, but not its length."""
        return Recipe.preset(preset, self._network())

    def operations(self, preset: str) -> float:
        """Multiplications and additions of the whole run, by arithmetic.

        A step takes three forward passes' worth for the network and one for the features of its teacher.
        """
        recipe = self.recipe(preset)
        macs = _macs(self.model, self.scale, self.architecture, recipe.patch_size)
        return (4 if self.bits else 3) * 2 * macs * recipe.batch_size * recipe.steps

    def _network(self) -> SuperResolutionNetwork:
        with torch.device("meta"):
            network = build(self.model, self.scale, **dict(self.architecture))
        return network if self.bits is None else quantize(network, self.method, self.bits, fully=self.fully)


@functools.cache
def _macs(model: str, scale: int, architecture: tuple[tuple[str, int], ...], patch_size: int) -> int:
    with torch.device("meta"):
        network = build(model, scale, **dict(architecture))
    return complexity(network, (patch_size, patch_size)).macs


def experiments() -> dict[str, Experiment]:
    """All runs by name, each after those that it needs."""
    return {each.name: each for each in _all()}


def _all() -> Iterator[Experiment]:
    for model in ("edsr", "rdn", "srresnet"):
        yield Experiment(f"{model}_x2", "full precision", model, 2)
        yield Experiment(f"{model}_x4", "full precision", model, 4, start=f"{model}_x2")
    for model, scale, bits in itertools.product(("edsr", "rdn", "srresnet"), (4, 2), (2, 3, 4)):
        yield _student("main results", model, scale, bits, "ddtb")
        for method in PEERS:
            yield _student("main results", model, scale, bits, method)
    for bits, method, seed in itertools.product((2, 3), ("ddtb", "pams", "lsq"), (1, 2)):
        yield replace(_student("seeds", "edsr", 4, bits, method, f"seed{seed}"), seed=seed)
    for ending, options in ABLATIONS.items():
        yield replace(_student("ablations", "edsr", 4, 2, "ddtb", ending), options=options)
    for model, scale, method in itertools.product(("edsr", "srresnet", "srgan"), (4, 2), ("ddtb", "fqsr")):
        if model == "srgan" and method == "ddtb":
            # The generator is SRResNet; training it for PSNR alone would repeat that run under another name.
            yield Experiment(f"srgan_x{scale}", "full precision", "srgan", scale, start=f"srresnet_x{scale}")
        yield replace(_student("fully quantized", model, scale, 4, method, "fully"), fully=True)
    architecture = tuple(SMALL_RDN.items())
    small = "rdn_d4c4_x4"
    yield Experiment(small, "stability", "rdn", 4, architecture=architecture)
    for start, seed in itertools.product(("", "fixed_start"), (0, 1, 2)):
        name = "_".join(filter(None, (small, "ddtb_3bit", start, f"seed{seed}")))
        options = ABLATIONS[start] if start else ()
        yield Experiment(
            name, "stability", "rdn", 4, 3, teacher=small, seed=seed, architecture=architecture, options=options
        )


def _student(purpose: str, model: str, scale: int, bits: int, method: str, ending: str = "") -> Experiment:
    teacher = f"{model}_x{scale}"
    name = "_".join(filter(None, (teacher, method, f"{bits}bit", ending)))
    return Experiment(name, purpose, model, scale, bits, method, teacher=teacher)


def operations_per_second(preset: str, measured: dict[str, dict[str, Any]]) -> float | None:
    """The median speed of the runs measured with this preset, None if there are none."""
    known = experiments()
    speeds = [
        known[name].operations(preset) / run["seconds"]
        for name, run in measured.items()
        if name in known and run["config"]["recipe"]["preset_name"] == preset
    ]
    return statistics.median(speeds) if speeds else None


def status(experiment: Experiment, measured: dict[str, dict[str, Any]], folder: Path) -> str:
    """ "done" with the preset and the score, how far a run in `folder` has come, or "missing"."""
    if run := measured.get(experiment.name):
        scores = ", ".join(f"{name} {score['psnr']:.2f}" for name, score in run["scores"].items())
        return f"done ({run['config']['recipe']['preset_name']}): {scores}"
    log = folder / experiment.name / "log.csv"
    if log.exists():
        return f"under way, at step {log.read_text().splitlines()[-1].split(',')[0]}"
    return "missing"


def main() -> None:
    """Print the list."""
    options = argparse.ArgumentParser(description="Every run of the reproduction: done, under way, missing.")
    options.add_argument("--preset", default="short", choices=list(TRAINING_DATA), help="length of training")
    options.add_argument("--commands", action="store_true", help="print each missing run's command")
    chosen = options.parse_args()
    measured = results.all_results()
    speed = operations_per_second(chosen.preset, measured)
    hours_left = 0.0
    for experiment in experiments().values():
        state = status(experiment, measured, Path("runs"))
        line = f"{experiment.purpose:16s} {experiment.name:36s} {state}"
        if not state.startswith("done") and speed:
            hours = experiment.operations(chosen.preset) / speed / 3600
            hours_left += hours
            line += f", about {hours:.1f} hours"
        print(line)
        if chosen.commands and state == "missing":
            print(f"    {experiment.command(chosen.preset)}")
    if speed:
        print(f"All that is not done: about {hours_left:.0f} hours at the speed of the runs that are.")


if __name__ == "__main__":
    main()
