"""How far a quantized network falls behind full precision: our gap beside the printed one.

Scores of short runs cannot be compared with the paper's, their gaps can: teacher and student are equally short.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from . import progress, results

# Gaps that are this close are one gap, dB; where seeds scatter by more, as close as their standard deviation.
AS_PRINTED_WITHIN = 0.1
# A full-precision network this far from the printed one is not the paper's, dB.
TEACHER_WITHIN = 0.1


@dataclass(frozen=True)
class Gap:
    """PSNR of full precision minus PSNR of the quantized network, dB, the printed one and ours.

    Ours is the mean over seeds, `spread` their standard deviation, None for one seed. `teacher` is the run of our
    full-precision network, `teacher_psnr` its score, `teacher_preset` how long it was trained; `preset` and `data` are
    the student's.
    """

    paper: float
    ours: float
    spread: float | None
    teacher: str
    teacher_psnr: float
    teacher_preset: str
    preset: str
    data: tuple[str, ...]

    @property
    def tolerance(self) -> float:
        """How far from the printed gap ours may lie and still be the same, dB."""
        return max(AS_PRINTED_WITHIN, self.spread or 0.0)

    @property
    def status(self) -> str:
        """One of "gap as printed", "smaller gap" and "larger gap"."""
        difference = round(self.ours - self.paper, 6)
        if abs(difference) <= self.tolerance:
            return "gap as printed"
        return "smaller gap" if difference < 0 else "larger gap"

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        teacher = f"{self.teacher} with {self.teacher_psnr:.2f} dB, {self.teacher_preset} run"
        return f"{self.status}: {self.ours:.2f}{spread}, printed {self.paper:.2f} dB (teacher {teacher})"


def printed_full_precision(config: Mapping[str, Any]) -> dict[str, float]:
    """The PSNR by data set that the paper prints for the full-precision network of a run's configuration."""
    return {
        row["dataset"]: float(row["psnr_db"])
        for row in results.paper_tables()["main_results"]
        if (row["model"].lower(), int(row["scale"]), row["method"]) == (config["model"], config["scale"], "FP")
    }


def teacher_of(
    run: dict[str, Any], measured: Mapping[str, dict[str, Any]], carried: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """The result of the full-precision network that a run started from, if it is on record.

    A network of the package has its result among the `carried` ones; any other was made beside the run.
    """
    source = run["config"].get("teacher")
    if not source:
        return None
    path = PurePosixPath(source)
    shipped = str(path.parent) == "data/checkpoints" or not path.suffix
    return (carried if shipped else run.get("beside", measured)).get(path.stem)


def teacher_counts(
    run: dict[str, Any], measured: Mapping[str, dict[str, Any]], carried: Mapping[str, dict[str, Any]]
) -> bool:
    """Whether a student's teacher scores as the paper prints, on each set that it prints and the teacher was scored on.

    True in full precision, and where the paper prints no full precision.
    """
    printed = printed_full_precision(run["config"])
    if run["config"]["quantization"] is None or not printed:
        return True
    teacher = teacher_of(run, measured, carried)
    if teacher is None:
        return False
    off = [abs(score["psnr"] - printed[name]) for name, score in teacher["scores"].items() if name in printed]
    return bool(off) and round(max(off), 6) <= TEACHER_WITHIN


def _weights(run: dict[str, Any]) -> str | None:
    """What tells apart the weights that a run started from."""
    return run["config"].get("source_sha256") or run["config"].get("teacher")


def gap_of(
    runs: Sequence[dict[str, Any]],
    dataset: str,
    printed: float,
    measured: Mapping[str, dict[str, Any]],
    carried: Mapping[str, dict[str, Any]],
) -> Gap | None:
    """The gap of a network's runs, one a seed, beside that of the `printed` score.

    None in full precision, without a printed or a measured score of the teacher, and for a teacher that was trained for
    a moment only. Seeds that started from another teacher than the first, by its weights or if those were not recorded
    by its file, are left aside.
    """
    if not runs or runs[0]["config"]["quantization"] is None:
        return None
    config = runs[0]["config"]
    full = printed_full_precision(config).get(dataset)
    teacher = teacher_of(runs[0], measured, carried)
    if full is None or teacher is None or dataset not in teacher["scores"] or not progress.counts(teacher):
        return None
    alike = [run for run in runs if _weights(run) == _weights(runs[0])]
    scores = [run["scores"][dataset]["psnr"] for run in alike]
    return Gap(
        round(full - printed, 6),
        teacher["scores"][dataset]["psnr"] - statistics.fmean(scores),
        statistics.stdev(scores) if len(scores) > 1 else None,
        teacher["run"],
        teacher["scores"][dataset]["psnr"],
        teacher["config"]["recipe"]["preset_name"],
        config["recipe"]["preset_name"],
        tuple(config["training_data"]),
    )
