"""The claims ledger: each score that the paper prints, what we measured for it, and a computed verdict.

`python -m ddtb_lite ledger` prints it: done, done by a short run, or not run and what that would cost. Beside the
verdict on a quantized network's score stands one on its gap to full precision, which short runs may earn too.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..conversion import DEFAULTS
from ..networks import Quantization
from ..quantizers import LATER, METHODS
from ..training.recipe import Recipe
from . import progress, results
from .estimates import outline
from .experiment import TRAINING_DATA, Experiment
from .gaps import Gap, gap_of, teacher_counts
from .grid import FULLY_PERCENTILE, experiments

# How far two honest runs of one recipe lie apart; the authors call less than this noise.
REPRODUCED_WITHIN = 0.05
APPROXIMATE_WITHIN = 0.3

# The tables of scores in `data/paper`, and the purpose of the experiments that repeat them.
PURPOSES = {"main_results": "main results", "table_s2_fully_quantized": "fully quantized"}


@dataclass(frozen=True)
class Claim:
    """A printed PSNR (dB), and ours of the best fitting run: None where nothing was run.

    `command` produced ours or would produce it; it is empty where no run is about the score.

    `preset` is that run's. Only a run of the paper's own length can reproduce or contradict the paper; a
    shorter one is shown and not judged, nor is one on other training data or from a teacher that is not the paper's.
    `hours` are GPU-hours on one H100, as `estimates.hours`, for what was not run. `seeds` are the PSNR of all runs that
    differ from the best one by their seed, its own first. `gap` is to full precision; `as_prescribed` says whether the
    run kept its preset's training data, `teacher_counts` whether its teacher scores as printed.
    """

    table: str
    model: str
    scale: int
    bits: int
    method: str
    dataset: str
    paper: float
    source: str
    ours: float | None
    preset: str | None
    run: str | None
    command: str
    hours: float
    seeds: tuple[float, ...] = ()
    paper_ssim: float | None = None
    ours_ssim: float | None = None
    gap: Gap | None = None
    as_prescribed: bool = True
    teacher_counts: bool = True

    @property
    def status(self) -> str:
        """One of "reproduced", "approximate", "contradicted"; else why it is none of them.

        "short run", "other data", "other teacher", "not run", or "not here" for a score that no run is about.
        """
        if self.ours is None:
            return "not run" if self.command else "not here"
        if self.preset != "paper":
            return "short run"
        if not self.as_prescribed:
            return "other data"
        if not self.teacher_counts:
            return "other teacher"
        difference = abs(self.ours - self.paper)
        if difference <= REPRODUCED_WITHIN:
            return "reproduced"
        return "approximate" if difference <= APPROXIMATE_WITHIN else "contradicted"

    def __str__(self) -> str:
        ours = "" if self.ours is None else f", ours {self.ours:.2f}"
        what = f"{self.model} ×{self.scale} {self.bits} bits {self.method} on {self.dataset}"
        gap = f"; {self.gap}" if self.gap else ""
        return f"{what}: printed {self.paper:.2f} dB{ours}: {self.status}{gap}"


def ledger(measured: dict[str, dict[str, Any]] | None = None) -> list[Claim]:
    """One `Claim` for each score in the main table and Table S2; by default of `data/results` and `data/accepted`."""
    carried = results.all_results()
    measured = progress.with_accepted(carried) if measured is None else measured
    measured = {name: run for name, run in measured.items() if progress.counts(run)}
    claims = []
    for table, rows in results.paper_tables().items():
        if table not in PURPOSES:
            continue
        for row in rows:
            model, scale, bits, method = _network(row)
            fully = table != "main_results"
            wanted = (model, scale, bits, method, fully, row["dataset"])
            runs = runs_of(measured, *wanted) or runs_of(measured, *wanted, any_data=True)
            run = runs[0] if runs else None
            scores = [each["scores"][row["dataset"]] for each in runs]
            ours = _experiment(table, model, scale, bits, method)
            claims.append(
                Claim(
                    table,
                    row["model"],
                    scale,
                    bits,
                    row["method"],
                    row["dataset"],
                    float(row["psnr_db"]),
                    row["source"],
                    scores[0]["psnr"] if run else None,
                    run["config"]["recipe"]["preset_name"] if run else None,
                    run["run"] if run else None,
                    run["command"] if run else ours.command("paper") if ours else "",
                    0.0 if run or not ours else ours.hours("paper", measured.values()) or 0.0,
                    tuple(score["psnr"] for score in scores),
                    float(row["ssim"]) if row["ssim"] else None,
                    scores[0].get("ssim") if run else None,
                    gap_of(runs, row["dataset"], float(row["psnr_db"]), measured, carried),
                    run is None or trained_on_its_data(run),
                    run is None or teacher_counts(run, measured, carried),
                )
            )
    return claims


def printed(run: str) -> dict[str, float]:
    """The PSNR by data set that the paper prints for an experiment's network, dB."""
    return {
        row["dataset"]: float(row["psnr_db"])
        for table in PURPOSES
        for row in results.paper_tables()[table]
        if (ours := _experiment(table, *_network(row))) and ours.name == run
    }


def changed(own: dict[str, dict[str, Any]]) -> list[Claim]:
    """The claims that one's own results, by name, turn into others."""
    published = progress.with_accepted(results.all_results())
    before, after = ledger(published), ledger(progress.together(published, own))
    return [new for old, new in zip(before, after, strict=True) if new != old]


def _network(row: dict[str, str]) -> tuple[str, int, int, str]:
    """Model, scale, bits and method of a printed row, as experiments name them."""
    return row["model"].lower(), int(row["scale"]), int(row["bits"]), row["method"].lower()


def runs_of(
    measured: dict[str, dict[str, Any]],
    model: str,
    scale: int,
    bits: int,
    method: str,
    fully: bool = False,
    dataset: str = "Set5",
    any_data: bool = False,
) -> list[dict[str, Any]]:
    """The runs of a network as the paper has it that scored the data set, one a seed, all of one preset.

    A longer preset counts before a shorter one; each run unchanged and, unless `any_data` will do, on the preset's
    training data. Smaller networks and ablations are other networks, and what the experiments run long where others are
    short has another budget: left aside. In full precision (`method` "fp") `bits` do not matter.
    """

    def preset(run: dict[str, Any]) -> str:
        return run["config"]["recipe"]["preset_name"]

    def fits(run: dict[str, Any]) -> bool:
        config = run["config"]
        if "recipe" not in config or dataset not in run["scores"]:
            return False
        if (planned := experiments().get(run["run"])) and planned.long:
            return False
        if (config["model"], config["scale"]) != (model, scale) or not _full_size(config):
            return False
        if not (_as_prescribed(config) and (any_data or trained_on_its_data(run))):
            return False
        if config["quantization"] is None:
            return method == "fp"
        wanted = {"method": method, "bits": bits, "fully": fully}
        alike = all(config["quantization"][key] == value for key, value in wanted.items())
        return alike and not _is_ablation(config)

    fitting = sorted(filter(fits, measured.values()), key=lambda run: (-progress.length(run), run["seed"]))
    chosen: dict[int, dict[str, Any]] = {}
    for run in fitting:
        if preset(run) == preset(fitting[0]):
            chosen.setdefault(run["seed"], run)
    return list(chosen.values())


def _full_size(config: dict[str, Any]) -> bool:
    usual = outline(config["model"], config["scale"]).architecture
    return config.get("architecture", usual) == usual


def _as_prescribed(config: dict[str, Any]) -> bool:
    """Whether a run kept the recipe of its preset, or took its method's own learning rates."""
    quantization, recipe = config["quantization"], config["recipe"]
    how = None if quantization is None else Quantization(**quantization)
    network = outline(config["model"], config["scale"], quantization=how)
    presets = (Recipe.preset(recipe["preset_name"], network, own_rates) for own_rates in (False, True))
    return any(preset.agrees_with(recipe) for preset in presets)


def trained_on_its_data(run: dict[str, Any]) -> bool:
    """Whether a run kept the training data of its preset."""
    config = run["config"]
    return config["training_data"] == list(TRAINING_DATA[config["recipe"]["preset_name"]])


def _is_ablation(config: dict[str, Any]) -> bool:
    """Whether the method was changed where no recipe shows it: then the run is not about the paper's network."""
    quantization = config["quantization"]
    gated = METHODS[quantization["method"]].gated
    usual = DEFAULTS[config["model"]]
    expected = {
        "variant": METHODS[quantization["method"]].default_variant,
        "percentile": FULLY_PERCENTILE if quantization.get("fully") and gated else usual.percentile,
        "gate_ratio": usual.gate_ratio if gated else 0.0,
    }
    return any(quantization.get(key, value) != value for key, value in expected.items())


@functools.cache
def _experiment(table: str, model: str, scale: int, bits: int, method: str) -> Experiment | None:
    """The experiment that repeats a printed score, None if no run is about it."""
    purpose = "full precision" if method == "fp" else PURPOSES[table]
    wanted = (model, scale, None, None) if method == "fp" else (model, scale, bits, method)
    # A later method has its runs in the comparison of points; the one on its own points is what its authors print.
    purposes = (purpose, "points") if method in LATER else (purpose,)
    for each in experiments().values():
        own = each.method is None or each.variant == METHODS[each.method].default_variant
        if own and each.purpose in purposes and (each.model, each.scale, each.bits, each.method) == wanted:
            return each
    return None


def summary(claims: list[Claim]) -> dict[str, int]:
    """How many claims have which status."""
    return dict(Counter(claim.status for claim in claims))
