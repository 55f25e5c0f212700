"""How far a list of experiments has come: what is done, under way or missing, and what is left to do."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors

from ..support import resources
from ..training.recipe import PRESETS
from . import estimates, results
from .experiment import Experiment

# A run that takes a CPU more hours than this is one for a GPU.
PATIENCE = 1.0


def results_in(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The results of the runs whose folders lie in a folder, by name."""
    files = sorted(Path(folder).glob("*/*.json"))
    return {file.stem: results.read(file) for file in files if file.stem == file.parent.name}


def length(result: dict[str, Any]) -> int:
    """How long the run's preset trains, by its place among `PRESETS`; −1 if it was no training."""
    name = result["config"].get("recipe", {}).get("preset_name")
    return PRESETS.index(name) if name in PRESETS else -1


def counts(result: dict[str, Any]) -> bool:
    """Whether a result says something about its network: a smoke run shows that a machine works, and nothing else."""
    return length(result) > PRESETS.index("smoke")


def together(published: dict[str, dict[str, Any]], own: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Published results and one's own, by name: of two alike in name the longer training, else one's own."""
    newer = {name: run for name, run in own.items() if name not in published or length(run) >= length(published[name])}
    return published | newer


def with_accepted(published: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Published results and those that others sent: one of these replaces a shorter run, none of the same length.

    Those that were sent have the results of their bundle as "beside", for their teacher is among these.
    """
    every = dict(published)
    for bundle in results.accepted():
        for name, run in bundle.items():
            if name not in every or length(run) > length(every[name]):
                every[name] = run | {"beside": bundle}
    return every


def finished(result: dict[str, Any], preset: str) -> bool:
    """Whether a result comes from a training at least as long as the preset's."""
    return length(result) >= PRESETS.index(preset)


def listing(
    chosen: Iterable[Experiment],
    preset: str,
    folder: str,
    done: Mapping[str, dict[str, Any]],
    timed: Iterable[dict[str, Any]],
) -> str:
    """A line for each experiment: the scores of what is done, what the rest takes; the sum of that, and who can do it.

    `done` are results by name, `timed` those whose speed the estimates are based on.
    """
    chosen, timed = list(chosen), list(timed)
    on_cpu = preset != "paper" and all(run["device"].startswith("CPU") for run in estimates.timed(preset, timed))
    width = max((len(each.name) for each in chosen), default=0)
    lines = []
    small: dict[Experiment, float] = {}  # hours that are left
    large: dict[Experiment, float] = {}
    for each in chosen:
        if result := done.get(each.name):
            outcome = ", ".join(f"{name} {score['psnr']:.2f} dB" for name, score in result["scores"].items())
            if step := result["config"].get("diverged_at"):
                outcome = f"diverged at step {step}"
            state = f"done ({result['config']['recipe']['preset_name']}): {outcome}"
        else:
            step = last_step(Path(folder) / each.name, preset)
            state = "missing" if step is None else f"under way, at step {step}"
            hours = each.hours(preset, timed)
            if hours is not None:
                for_gpu = on_cpu and hours > PATIENCE
                hours *= 1 - min(1, (step or 0) / each.steps(preset))
                state += f", {_duration(hours)}" + (": for a GPU" if for_gpu else "")
                (large if for_gpu else small)[each] = hours
        lines.append(f"{each.purpose:16s} {each.name:{width}s} {state}")
    if left := small | large:
        lines.append(f"All that is left: {_duration(sum(left.values()))} {estimates.basis(preset, timed)}.")
    if left and on_cpu:
        on_a_cpu = f"On a CPU, none longer than {PATIENCE:g} hour"
        for what, some in ((on_a_cpu, small), ("For a GPU, by their size", large)):
            if some:
                models = ", ".join(dict.fromkeys(each.model for each in some))
                lines.append(f"{what}: {len(some)} of {models}, {_duration(sum(some.values()))}.")
        lines.append("For a GPU, by their length: all runs as long as the paper's, listed by --preset paper.")
    return "\n".join(lines)


def last_step(folder: Path, preset: str) -> int | None:
    """The step from which an unfinished run of a preset continues, None if it has not saved a state."""
    state = folder / "state.safetensors"
    if not state.exists():
        return None
    try:
        # For "pt" the file would be opened twice, and a run may replace it in between.
        with safetensors.safe_open(state, "np") as file:
            facts = json.loads(file.metadata()["run"])
    except safetensors.SafetensorError as error:
        raise ValueError(f"{state} is damaged ({error}): delete its folder to start that run again.") from error
    return facts["step"] if facts["identity"]["recipe"]["preset_name"] == preset else None


def _duration(hours: float) -> str:
    minutes = 60 * hours
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.1f} minutes" if minutes < 90 else f"about {hours:.1f} hours"


def shipped(names: Iterable[str]) -> set[str]:
    """Those of some runs whose networks are in `data/checkpoints`."""
    return {name for name in names if (resources.data("checkpoints") / f"{name}.safetensors").exists()}


def jobs(
    chosen: Iterable[Experiment],
    preset: str,
    folder: str,
    elsewhere: Collection[str],
    shipped: Collection[str],
    timed: Iterable[dict[str, Any]],
) -> list[dict[str, Any]]:
    """What a workflow has to know of each run in `folder`: its inputs, its command and its cost.

    Runs that are done `elsewhere` are left out, unless a network is needed that is not among the `shipped`.
    Raises `ValueError` if `folder` holds results of a shorter preset.
    """
    chosen, timed = list(chosen), list(timed)
    for name, result in results_in(folder).items():
        if not finished(result, preset):
            raise ValueError(f"{folder}/{name} holds a shorter run than {preset}'s; choose another folder.")
    todo: list[Experiment] = []
    needed: set[str] = set()
    for each in reversed(chosen):
        if each.name not in elsewhere or each.name in needed - set(shipped):
            todo.insert(0, each)
            needed |= set(each.needs)
    return [
        {
            "name": each.name,
            "quantized": each.quantization is not None,
            "inputs": each.inputs(folder, shipped),
            "arguments": each.arguments(preset, folder, shipped),
            "hours": each.hours(preset, timed),
        }
        for each in todo
    ]


def as_csv(chosen: Iterable[Experiment], done: Mapping[str, dict[str, Any]]) -> str:
    """The scores of all runs that are done, one row a data set."""
    text = io.StringIO()
    writer = csv.writer(text)
    fields = ("purpose", "model", "scale", "bits", "method", "fully", "seed")
    writer.writerow(["run", *fields, "preset", "dataset", "psnr_db", "ssim", "seconds"])
    for each in chosen:
        if result := done.get(each.name):
            about = [each.name, *(getattr(each, field) for field in fields)]
            about.append(result["config"]["recipe"]["preset_name"])
            for name, score in result["scores"].items():
                writer.writerow([*about, name, score["psnr"], score["ssim"], result["seconds"]])
    return text.getvalue()
