"""Every run of the reproduction: its name, what it is for, the command that repeats it, and what it costs.

`python -m ddtb_lite.experiments` lists them: done, under way, missing. The workflow and the claims ledger read
the same list.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import estimates, progress, results
from .arguments import Collect
from .files import atomic_write
from .networks import Quantization, SuperResolutionNetwork
from .recipe import Recipe

# What each preset trains on.
TRAINING_DATA = {
    "smoke": ("photos_train",),
    "short": ("BSD200_train", "BSD200_test", "T91"),
    "paper": ("DIV2K",),
}
# What a preset scores on where that is not every benchmark at hand.
TEST_DATA = {"smoke": ("photos",)}

PEERS = ("minmax", "dorefa", "pact", "pams", "lsq", "fqsr")
# The architecture's own percentile clips the shortcuts of a fully quantized network, which carry the picture itself.
FULLY_PERCENTILE = 99.9
# SRGAN's own balance of pixels and discriminator, see `adversarial.Adversary`, without the VGG loss; and its rate.
ADVERSARIAL = ("--set", "adversarial_weight=1", "--set", "learning_rate=1e-4")
SMALL_RDN = (("D", 4), ("C", 4))
# The short preset's bounds learn faster than the paper's, which helps a start that is far off.
PAPER_RATE = ("--set", "bound_learning_rate=0.01")
# Each ablation of 2-bit EDSR ×4 by the end of its name: the options that differ from the base run.
ABLATIONS: dict[str, tuple[str, ...]] = {
    "no_gate": ("--gate-ratio", "0"),
    "no_warmup": ("--set", "warmup_steps=0"),
    "minmax_start": ("--percentile", "100"),
    "fixed_start": ("--set", "fixed_bounds=10"),
    "official": ("--variant", "official"),
    "percentile_95": ("--percentile", "95"),
    "percentile_95_no_gate": ("--percentile", "95", "--gate-ratio", "0"),
    "percentile_99.9": ("--percentile", "99.9"),
    "all_gates": ("--gate-ratio", "1"),
}
# At this percentile the bounds start closer than at the paper's 99th, which fits the four levels of 2 bits better, and
# seeds scatter less. That start is compared with LSQ, and what gates earn is best seen from it: both need more seeds.
CLOSER_START = "percentile_95"
# Where the paper's points cost, see data/comparisons: runs that quantize the convolutions' inputs alone.
CONVOLUTIONS = ("--variant", "convolutions")
# What a short 2-bit run says of DDTB and LSQ may be due to its shortness: both are run this many times as long too.
LONGER = 2


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
            f"data/checkpoints/{file}" if name in shipped else f"{folder}/{name}/{file}"
            for name, file in files.items()
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


@functools.cache
def experiments() -> dict[str, Experiment]:
    """All runs by name, each after those that it needs, full precision first."""
    every = sorted(_all(), key=lambda each: each.quantization is not None)
    return {each.name: each for each in every}


def _all() -> Iterator[Experiment]:
    for model in ("edsr", "rdn", "srresnet"):
        yield Experiment(f"{model}_x2", "full precision", model, 2)
        start = None if model == "srresnet" else f"{model}_x2"  # SRResNet's authors train ×4 from scratch
        yield Experiment(f"{model}_x4", "full precision", model, 4, start=start)
    for scale in (2, 4):
        # The generator is SRResNet, which goes on against a discriminator.
        name, start = f"srgan_x{scale}", f"srresnet_x{scale}"
        yield Experiment(name, "full precision", "srgan", scale, start=start, options=ADVERSARIAL)
    for model, scale, bits in itertools.product(("edsr", "rdn", "srresnet"), (4, 2), (2, 3, 4)):
        for method in ("ddtb", *PEERS):
            yield _student("main results", model, scale, bits, method)
    for bits, method, seed in itertools.product((2, 3), ("ddtb", "pams", "lsq"), (1, 2)):
        yield replace(_student("seeds", "edsr", 4, bits, method, f"seed{seed}"), seed=seed)
    for ending, options in ABLATIONS.items():
        yield replace(_student("ablations", "edsr", 4, 2, "ddtb", ending), options=options)
    for ending, seed in itertools.product((CLOSER_START, f"{CLOSER_START}_no_gate"), (1, 2)):  # 0 is above
        student = _student("ablations", "edsr", 4, 2, "ddtb", f"{ending}_seed{seed}")
        yield replace(student, seed=seed, options=ABLATIONS[ending])
    for method in ("ddtb", "lsq"):
        yield replace(_student("ablations", "edsr", 4, 2, method, "longer"), times=LONGER)
    for percentile in (95, 97, 99):
        ending = "convolutions" if percentile == 99 else f"convolutions_percentile_{percentile}"
        options = CONVOLUTIONS if percentile == 99 else (*CONVOLUTIONS, "--percentile", str(percentile))
        yield replace(_student("points", "edsr", 4, 2, "ddtb", ending), options=options)
    for seed in (0, 1, 2):
        ending = f"convolutions_seed{seed}" if seed else "convolutions"
        yield replace(_student("points", "edsr", 4, 2, "lsq", ending), seed=seed, options=CONVOLUTIONS)
    yield replace(_student("points", "edsr", 4, 2, "pams", "convolutions"), options=CONVOLUTIONS)
    for model, scale, method in itertools.product(("edsr", "srresnet", "srgan"), (4, 2), ("ddtb", "fqsr")):
        options = ("--percentile", str(FULLY_PERCENTILE)) if method == "ddtb" else ()
        student = replace(_student("fully quantized", model, scale, 4, method, "fully"), fully=True, options=options)
        yield student
        if (model, scale) == ("edsr", 4):  # a small lead says nothing without the scatter of seeds
            yield from (replace(student, name=f"{student.name}_seed{seed}", seed=seed) for seed in (1, 2))
    small = Experiment("rdn_d4c4_x4", "stability", "rdn", 4, architecture=SMALL_RDN)
    yield small
    for rate, seed in (("", 0), ("", 1), ("", 2), ("paper_rate", 0)):
        for start in ("", "fixed_start"):
            name = "_".join(filter(None, (small.name, "ddtb_3bit", start, rate, f"seed{seed}")))
            options = (*(ABLATIONS[start] if start else ()), *(PAPER_RATE if rate else ()))
            student = replace(small, name=name, bits=3, method="ddtb", teacher=small.name)
            yield replace(student, seed=seed, options=options)


def _student(purpose: str, model: str, scale: int, bits: int, method: str, ending: str = "") -> Experiment:
    teacher = f"{model}_x{scale}"
    name = "_".join(filter(None, (teacher, method, f"{bits}bit", ending)))
    return Experiment(name, purpose, model, scale, bits, method, teacher=teacher)


# How `select` and the command line choose: the option, and the field of an experiment that it is about.
SELECTION = {"purposes": "purpose", "models": "model", "scales": "scale", "bits": "bits", "methods": "method"}


def select(
    wanted: Mapping[str, Collection[Any]], done: Collection[str] = (), shipped: Collection[str] = ()
) -> list[Experiment]:
    """The experiments whose fields have one of the wanted values, and all that they need.

    A full-precision run has neither bits nor method. What is `done` needs nothing any more, unless its network
    is needed itself and not among the `shipped`. Raises `ValueError` if nothing fits.
    """
    known = experiments()
    chosen: set[str] = set()
    needed: set[str] = set()
    for each in reversed(known.values()):
        if each.name in needed or all(getattr(each, field) in values for field, values in wanted.items()):
            chosen.add(each.name)
            if each.name not in done or each.name in needed - set(shipped):
                needed |= set(each.needs)
    if not chosen:
        raise ValueError(f"No run has {', '.join(f'{field} {values}' for field, values in wanted.items())}.")
    return [each for each in known.values() if each.name in chosen]


def main(arguments: list[str] | None = None) -> int:
    """Print the list; for the workflow, its jobs as one JSON array, and the list beside them."""
    options = parser().parse_args(arguments)
    preset, folder = options.preset, options.folder
    wanted = {field: values for option, field in SELECTION.items() if (values := getattr(options, option))}
    try:
        published, own = results.all_results(), progress.results_in(folder)
        timed = list((own or published).values())  # this machine's runs tell more than others'
        if options.own:
            published = {}
        done = {name: run for name, run in progress.together(published, own).items() if progress.finished(run, preset)}
        elsewhere = {name for name, run in done.items() if run is not own.get(name)}
        shipped = progress.shipped(elsewhere)
        chosen = select(wanted, elsewhere, shipped)
        text = progress.listing(chosen, preset, folder, done, timed)
        if options.json:
            print(text, file=sys.stderr)
            text = json.dumps(progress.jobs(chosen, preset, folder, elsewhere, shipped, timed))
        print(text)
        if options.commands:
            print("\n".join(each.command(preset) for each in chosen if each.name not in done))
        if options.csv:
            atomic_write(options.csv, progress.as_csv(chosen, done).encode())
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the list."""
    top = argparse.ArgumentParser(
        prog="python -m ddtb_lite.experiments",
        description="Every run of the reproduction: done, under way, missing, and what it costs.",
    )
    top.add_argument("--preset", default="short", choices=progress.PRESETS, help="length of training")
    top.add_argument("--folder", default="runs", help="where the run folders lie")
    top.add_argument("--own", action="store_true", help="count this folder's results only, not data/results")
    for option, field in SELECTION.items():
        known = [value for each in experiments().values() if (value := getattr(each, field)) is not None]
        values = sorted(set(known))
        about = f"only these, and what they need: {', '.join(map(str, values))}"
        top.add_argument(
            f"--{option}",
            nargs="+",
            action=Collect,
            type=type(values[0]),
            choices=values,
            metavar=field.upper(),
            help=about,
        )
    top.add_argument("--commands", action="store_true", help="also print the commands of what is not done")
    top.add_argument("--csv", metavar="FILE", help="also write the scores")
    top.add_argument("--json", action="store_true", help="print the workflow's jobs, and the list to stderr")
    return top


if __name__ == "__main__":
    sys.exit(main())
