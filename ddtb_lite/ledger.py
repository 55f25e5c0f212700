"""The claims ledger: each score that the paper prints, what we measured for it, and a verdict that is computed.

`python -m ddtb_lite.ledger` prints it: done, done by a short run, or not run and what that would cost.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from . import results
from .cost import complexity
from .networks import build
from .quantizers import METHODS
from .recipe import Recipe

# How far two honest runs of one recipe lie apart; the authors call less than this noise.
REPRODUCED_WITHIN = 0.05
APPROXIMATE_WITHIN = 0.3

# Bfloat16 operations a second that an H100 reaches in practice: 40 % of its peak.
H100_OPERATIONS = 0.4 * 989e12


@dataclass(frozen=True)
class Claim:
    """A printed PSNR (dB), and ours of the best fitting run: None where nothing was run.

    `preset` is that run's. Only a run of the paper's own length can reproduce or contradict the paper; a shorter
    one is shown and not judged. `hours` are GPU-hours on one H100, by arithmetic, for what was not run.
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

    @property
    def status(self) -> str:
        """"reproduced", "approximate", "contradicted", "short run" or "not run"."""
        if self.ours is None:
            return "not run"
        if self.preset != "paper":
            return "short run"
        difference = abs(self.ours - self.paper)
        if difference <= REPRODUCED_WITHIN:
            return "reproduced"
        return "approximate" if difference <= APPROXIMATE_WITHIN else "contradicted"


def ledger(measured: dict[str, dict[str, Any]] | None = None) -> list[Claim]:
    """One `Claim` for each score in the paper's main table and Table S2; `measured` defaults to `data/results`."""
    measured = results.all_results() if measured is None else measured
    claims = []
    for table, rows in results.paper_tables().items():
        if table not in ("main_results", "table_s2_fully_quantized"):
            continue
        for row in rows:
            model, scale, bits = row["model"].lower(), int(row["scale"]), int(row["bits"])
            method = row["method"].lower()
            fully = table != "main_results"
            run = _best_run(measured, model, scale, bits, method, fully, row["dataset"])
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
                    run["scores"][row["dataset"]]["psnr"] if run else None,
                    run["config"]["recipe"]["preset_name"] if run else None,
                    run["run"] if run else None,
                    run["command"] if run else _command(model, scale, bits, method, fully),
                    0.0 if run else _hours(model, scale, bits < 32),
                )
            )
    return claims


def _best_run(
    measured: dict[str, dict[str, Any]], model: str, scale: int, bits: int, method: str, fully: bool, dataset: str
) -> dict[str, Any] | None:
    """The run of this very configuration that scored the data set; one with the paper's preset comes first."""

    def fits(run: dict[str, Any]) -> bool:
        config = run["config"]
        if "recipe" not in config or dataset not in run["scores"]:
            return False
        if (config["model"], config["scale"]) != (model, scale):
            return False
        quantization = config["quantization"]
        if quantization is None:
            return method == "fp"
        wanted = {"method": method, "bits": bits, "fully": fully, "variant": "paper"}
        return all(quantization[key] == value for key, value in wanted.items())

    fitting = [run for run in measured.values() if fits(run)]
    return min(fitting, key=lambda run: (run["config"]["recipe"]["preset_name"] != "paper", run["seed"]), default=None)


def _command(model: str, scale: int, bits: int, method: str, fully: bool) -> str:
    if method != "fp" and method not in METHODS:
        return ""
    base = f"python -m ddtb_lite train --model {model} --scale {scale} --preset paper --data DIV2K"
    if method == "fp":
        return f"{base} --out runs/{model}_x{scale}"
    name = f"{model}_x{scale}_{method}_{bits}bit{'_fully' if fully else ''}"
    teacher = f"runs/{model}_x{scale}/{model}_x{scale}.safetensors"
    options = f"--bits {bits} --method {method}{' --fully' if fully else ''}"
    return f"{base} {options} --teacher {teacher} --out runs/{name}"


@functools.cache
def _hours(model: str, scale: int, quantized: bool) -> float:
    """GPU-hours of the paper's schedule: three forward passes' worth a step, and one for the teacher."""
    with torch.device("meta"):
        network = build(model, scale)
    recipe = Recipe.preset("paper", network)
    steps = 59_000 if quantized else recipe.steps
    side = recipe.patch_size
    passes = 4 if quantized else 3
    operations = passes * 2 * complexity(network, (side, side)).macs * recipe.batch_size * steps
    return operations / H100_OPERATIONS / 3600


def summary(claims: list[Claim]) -> dict[str, int]:
    """How many claims have which status."""
    return dict(Counter(claim.status for claim in claims))


def main() -> None:
    """Print the ledger as text."""
    claims = ledger()
    for claim in claims:
        ours = "" if claim.ours is None else f"{claim.ours:6.2f}"
        what = f"{claim.model} ×{claim.scale} {claim.bits:2d} bits {claim.method}"
        cost = claim.run or f"about {claim.hours:.2f} H100-hours by arithmetic"
        if not claim.command:
            cost = "not a method of this package"
        print(f"{what:38s} {claim.dataset:9s} {claim.paper:6.2f} {ours:6s}  {claim.status:12s} {cost}")
    print(", ".join(f"{count} {status}" for status, count in summary(claims).items()))


if __name__ == "__main__":
    main()
