"""Which claims a budget of time buys on a device whose speed was measured, and the runs that buy them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import datasets, uniform
from ..evaluation import evaluate
from ..networks import build
from ..support import devices
from ..support.files import atomic_write
from ..training import Diverged, Recipe, training_images
from ..training.run import Run
from . import bundle, estimates, progress, results, runner
from .experiment import TEST_DATA, TRAINING_DATA
from .grid import experiments
from .ratios import median_seconds

# What of a budget is planned; the rest is for what nobody measured: starting, compiling, validating.
SHARE = 0.75
# The most telling first: students of one network after their teacher.
STUDENTS = ("ddtb_2bit", "ddtb_3bit", "ddtb_4bit", "lsq_2bit", "pams_2bit")
FULLY = ("ddtb_4bit_fully", "fqsr_4bit_fully")
ORDER = (
    *(name for network in ("edsr_x4", "edsr_x2") for name in (network, *(f"{network}_{each}" for each in STUDENTS))),
    *(f"{network}_{each}" for network in ("edsr_x4", "edsr_x2") for each in FULLY),
    *(
        name
        for network in ("srresnet_x4", "rdn_x4", "srresnet_x2", "rdn_x2")
        for name in (network, *(f"{network}_{each}" for each in STUDENTS))
    ),
    *(f"srresnet_x{scale}_{each}" for scale in (4, 2) for each in FULLY),
    *(name for scale in (4, 2) for name in (f"srgan_x{scale}", *(f"srgan_x{scale}_{each}" for each in FULLY))),
)
PLAN = "plan.json"
# The speed of scoring is measured on the middle of the embedded photographs, so many pixels wide and high.
MIDDLE = 192


@dataclass(frozen=True)
class Plan:
    """What was asked for, the speed that was measured, and the runs that were chosen, each with its minutes.

    `speed` is in operations a second, of "training" and of "scoring"; `shipped` are the networks that students take
    from the package, because the budget buys no teacher.
    """

    budget_minutes: float
    preset: str
    claims: tuple[str, ...]
    data: tuple[str, ...]
    device: str
    speed: dict[str, float]
    minutes: dict[str, float]
    shipped: tuple[str, ...]

    @property
    def asked(self) -> str:
        """The options that make it this plan and no other."""
        claims = f" --claims {' '.join(self.claims)}" if self.claims else ""
        budget = f"--budget {self.budget_minutes:g}m --preset {self.preset}{claims}"
        return f"{budget} --data {' '.join(self.data)} --device {self.device}"

    def __str__(self) -> str:
        lines = [f"{name:36s} {minutes:8.1f} minutes" for name, minutes in self.minutes.items()]
        total = sum(self.minutes.values())
        lines.append(f"together {total:.1f} of {self.budget_minutes:g} minutes; the rest is for starts and validation")
        lines += [f"students start from the package's {name}: the budget buys no teacher" for name in self.shipped]
        return "\n".join(lines)


def minutes_of(budget: str) -> float:
    """Minutes of a budget such as "90s", "45m", "2h"; `ValueError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
    if not found or float(found[1]) == 0:
        raise ValueError(f"budget is {budget!r}, expected a time above 0 such as 90s, 45m or 2h.")
    return float(found[1]) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[found[2]]


def choose(
    minutes: float, claims: Collection[str], prices: Mapping[str, float], shipped: Collection[str]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """(minutes by run, networks taken from the package): the first of `ORDER` that fit, each after what it needs.

    `claims` are beginnings of names, none for all; `prices` minutes of training and scoring. A teacher that leaves no
    time for a student is left out, and students start from the `shipped` one. Raises `ValueError` for a claim that
    there is not, and for a budget that buys nothing.
    """
    for claim in claims:
        if not any(name.startswith(claim) for name in ORDER):
            raise ValueError(f"There is no claim {claim!r}; name some of, or beginnings of: {', '.join(ORDER)}.")
    wanted = [name for name in ORDER if not claims or any(name.startswith(claim) for claim in claims)]
    left = SHARE * minutes
    chosen: dict[str, float] = {}
    taken: dict[str, None] = {}
    known = experiments()

    def needed(name: str) -> list[str]:
        before = [other for need in known[name].needs for other in needed(need)]
        return [each for each in (*before, name) if each not in chosen]

    for name in wanted:
        teacher = known[name].teacher
        if teacher is None:
            students = [prices[each] for each in wanted if known[each].teacher == name]
            new = needed(name)
            cost = sum(prices[each] for each in new) + min(students, default=0.0)
        elif teacher in chosen or teacher not in shipped:
            new = needed(name)
            cost = sum(prices[each] for each in new)
        else:
            new, cost = [name], prices[name]
        if cost > left + 1e-9:  # sums of minutes round
            continue
        chosen |= {each: prices[each] for each in new}
        left -= sum(prices[each] for each in new)
        if teacher is not None and teacher not in chosen:
            taken[teacher] = None
    if not chosen:
        cheapest = min(wanted, key=lambda name: prices[name])
        raise ValueError(
            f"A budget of {minutes:g} minutes buys nothing here: {cheapest} alone takes about "
            f"{prices[cheapest] / SHARE:.1f} minutes. Give more, or a shorter --preset."
        )
    return {name: chosen[name] for name in known if name in chosen}, tuple(taken)


def measure(preset: str, device: torch.device | str | None) -> dict[str, float]:
    """Operations a second of this device with EDSR ×4: "training" by a preset's recipe, and "scoring".

    Both on photographs that come along.
    """
    place = devices.current(device)
    torch.manual_seed(0)
    network = build("edsr", 4)
    recipe = Recipe.preset(preset, network)
    run = Run(network, None, recipe, training_images("photos_train"), 0, place)
    run.begin()
    pictures = [image[:MIDDLE, :MIDDLE] for _, image in datasets.load("photos")]
    with uniform.compiled(recipe.compile):
        (step,) = median_seconds([run.advance], place, 20 if place.type == "cuda" else 3)
    (scoring,) = median_seconds([lambda: evaluate(network, pictures, device=place, progress=False)], place)
    return {
        "training": estimates.operations(network, vars(recipe) | {"steps": 1}) / step,
        "scoring": estimates.scoring_operations(network, len(pictures) * MIDDLE**2) / scoring,
    }


def price(speed: Mapping[str, float], preset: str) -> dict[str, float]:
    """Minutes of each run's training and scoring by a preset, at a speed as `measure` returns it."""
    pixels = 0
    for name in TEST_DATA.get(preset, runner.benchmarks()):
        for file in datasets.paths(name):
            with Image.open(file) as image:
                pixels += image.width * image.height
    return {
        name: estimates.operations(each.network, vars(each.recipe(preset))) / speed["training"] / 60
        + estimates.scoring_operations(each.network, pixels) / speed["scoring"] / 60
        for name, each in experiments().items()
    }


def make(
    out: Path,
    budget: str,
    preset: str,
    claims: Sequence[str] = (),
    data: Sequence[str] | None = None,
    device: torch.device | str | None = None,
) -> Plan:
    """The plan for a folder: the one that lies there, or a new one, for which the speed is measured first.

    Raises `ValueError` as `choose`, for data that nobody could check, and if the folder holds another plan;
    `FileNotFoundError` for data that are not at hand.
    """
    data = tuple(TRAINING_DATA[preset] if data is None else data)
    for name in data:
        if name not in datasets.names("training"):
            raise ValueError(
                f"{name!r} is no training set that others have too: {', '.join(datasets.names('training'))}."
            )
        datasets.paths(name)
    plan = Plan(minutes_of(budget), preset, tuple(claims), data, str(devices.resolve(device)), {}, {}, ())
    if stored := read(out):
        if stored.asked != plan.asked:
            raise ValueError(f"{out} holds the runs of {stored.asked}: repeat that, or choose another folder.")
        return stored
    choose(math.inf, claims, dict.fromkeys(experiments(), 0.0), ())  # a wrong claim costs no measurement
    speed = measure(preset, device)
    chosen, shipped = choose(plan.budget_minutes, claims, price(speed, preset), progress.shipped(experiments()))
    plan = replace(plan, speed=speed, minutes=chosen, shipped=shipped)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / PLAN, f"{json.dumps(asdict(plan), indent=1)}\n".encode())
    return plan


def read(out: Path) -> Plan | None:
    """The plan that lies in a folder; None if there is none, `ValueError` if it cannot be read."""
    file = out / PLAN
    if not file.is_file():
        return None
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        lists = {name: tuple(facts[name]) for name in ("claims", "data", "shipped")}
        return Plan(**facts | lists)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: delete it to plan anew.") from error


def carry_out(plan: Plan, out: Path, *, progress_bar: bool = True) -> Iterator[dict[str, Any]]:
    """Run what is planned, each run's result as it comes; what is finished comes at once, what was begun goes on."""
    for name in plan.minutes:
        each = experiments()[name]
        file = runner.result_of(out / name)
        if file.is_file():
            yield results.read(file)
            continue
        try:
            runner.run_experiment(
                each,
                plan.preset,
                out,
                shipped=plan.shipped,
                data=plan.data,
                device=plan.device,
                progress=progress_bar,
            )
        except Diverged:
            pass  # an outcome like others, and its result file says so
        yield results.read(file)


def write_bundle(plan: Plan, out: Path) -> Path:
    """The bundle of all planned runs that are finished; those that diverged have nothing that could be scored again."""
    finished = [name for name in plan.minutes if runner.checkpoint_of(out / name).is_file()]
    finished = [name for name in finished if runner.result_of(out / name).is_file()]
    path = out / "bundle.zip"
    bundle.write(path, out, finished, {"plan": asdict(plan)})
    return path
