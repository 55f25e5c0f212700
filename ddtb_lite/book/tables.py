"""The book's result tables: claims and runs as HTML, and a run made on the page for them."""

from __future__ import annotations

import html
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import HTML

from ..reproduction import progress, runner
from ..reproduction.claims import Claim
from ..reproduction.experiment import Change, Experiment


def table(columns: Mapping[str, str], rows: Sequence[Sequence[object]]) -> HTML:
    """A table: `columns` maps each heading to the class of its cells, "" or "number"; cells are HTML."""
    classes = [f' class="{kind}"' if kind else "" for kind in columns.values()]
    heads = "".join(f"<th{kind}>{html.escape(head)}</th>" for head, kind in zip(columns, classes, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    return HTML(f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>")


def verdict(status: str) -> str:
    """A status as a badge, whose look the book's style sheet decides."""
    return f'<span class="verdict {html.escape(status.replace(" ", "-"))}">{html.escape(status)}</span>'


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation and the number of values; with a single one just that, with none nothing."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f} ({len(values)})"


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the first scores minus mean of the second, and the standard deviation of that from seed to seed.

    How much a single score scatters is taken from both groups together; None where they hold too few seeds for
    that: two scores may agree by chance, so that a group of three or two of two are the least.
    """
    several = [group for group in (first, second) if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    shift = statistics.fmean(first) - statistics.fmean(second)
    if freedom < 2:
        return shift, None
    squares = sum((len(group) - 1) * statistics.variance(group) for group in several)
    return shift, math.sqrt(squares / freedom * (1 / len(first) + 1 / len(second)))


def run_or_cost(claim: Claim) -> str:
    """The run behind a claim, or what it would take on one H100."""
    if claim.run:
        return html.escape(claim.run).replace("_", "_<wbr>")  # long names may break there
    if not claim.command:
        return ""
    minutes = 60 * claim.hours
    return f"{minutes:.1f}\u00a0min" if minutes < 60 else f"{claim.hours:.1f}\u00a0h"


CLAIM_COLUMNS = {
    "bits": "number",
    "method": "",
    "data set": "",
    "paper [dB / SSIM]": "number",
    "ours [dB / SSIM]": "number",
    "difference [dB]": "number",
    "verdict": "",
    "run, or its cost on an H100, at least": "",
}


def claim_table(rows: Sequence[Claim], here: Sequence[dict[str, Any]] = ()) -> HTML:
    """Claims of one network, paper's value beside ours, and below the commands: of runs, and of what was not run.

    Results made on the page (`here`, as `train_here` returns them) come last and are marked as such. Where
    several seeds ran, ours is the first one's, with mean ± standard deviation of all below it.
    """
    rows = sorted(rows, key=lambda claim: (-claim.bits, claim.method != "DDTB", claim.method))
    cells = [_claim(claim) for claim in rows] + [row for result in here for row in _here(result, rows)]
    named = {
        f"{claim.bits} bits, {claim.method}{'' if claim.run else ', not run'}": claim.command
        for claim in rows
        if claim.command
    }
    named |= {f"{result['config']['quantization']['bits']} bits, this page": result["command"] for result in here}
    return HTML(table(CLAIM_COLUMNS, cells).data + commands(named).data)


def _claim(claim: Claim) -> list[str]:
    ours = _score(claim.ours, claim.ours_ssim)
    if len(claim.seeds) > 1:
        ours += f"<br><small>{spread(claim.seeds)}</small>"
    return [
        str(claim.bits),
        html.escape(claim.method),
        html.escape(claim.dataset),
        _score(claim.paper, claim.paper_ssim),
        ours,
        _difference(claim.paper, claim.ours),
        verdict(claim.status),
        run_or_cost(claim),
    ]


def _here(result: dict[str, Any], rows: Sequence[Claim]) -> list[list[str]]:
    """A result made on the page, one row a data set; beside it what the paper prints for it, if anything."""
    config = result["config"]
    bits, method = config["quantization"]["bits"], config["quantization"]["method"]
    printed = {(claim.bits, claim.method.lower(), claim.dataset): claim for claim in rows}
    lines = []
    for dataset, score in result["scores"].items():
        claim = printed.get((bits, method, dataset))
        paper, paper_ssim = (claim.paper, claim.paper_ssim) if claim else (None, None)
        lines.append(
            [
                str(bits),
                f"{html.escape(method)}, this page",
                html.escape(dataset),
                _score(paper, paper_ssim),
                _score(score["psnr"], score["ssim"]),
                _difference(paper, score["psnr"]),
                verdict(f"{config['recipe']['preset_name']} run"),
                "made here, kept nowhere",
            ]
        )
    return lines


def _score(psnr: float | None, ssim: float | None) -> str:
    """As papers print it, such as "30.97 / 0.876"; what is missing is left out."""
    if psnr is None:
        return ""
    return f"{psnr:.2f}" if ssim is None else f"{psnr:.2f} / {ssim:.3f}"


def _difference(paper: float | None, ours: float | None) -> str:
    return "" if paper is None or ours is None else f"{round(ours - paper, 2) + 0:+.2f}"


def commands(named: Mapping[str, str]) -> HTML:
    """Commands that unfold on a click, each below its name."""
    lines = "".join(f"<p>{html.escape(name)}</p><pre>{html.escape(command)}</pre>" for name, command in named.items())
    return HTML(f"<details><summary>The exact commands</summary>{lines}</details>")


def missing(runs: Sequence[Experiment], measured: Mapping[str, dict[str, Any]]) -> HTML:
    """Experiments that were not run: verdict and cost of each, and their commands below.

    A short run is priced at the speed of the `measured` ones, the paper's at an H100's: a lower bound.
    """
    if not runs:
        return HTML("<p>Nothing is missing.</p>")
    rows = []
    for run in runs:
        short, full = (run.hours(preset, measured.values()) for preset in ("short", "paper"))
        prices = ["" if short is None else f"{60 * short:.0f}", "" if full is None else f"{60 * full:.1f}"]
        rows.append([html.escape(run.name), verdict("not run"), *prices])
    columns = {
        "run": "",
        "verdict": "",
        "short run [minutes, at our speed]": "number",
        "paper's [H100-minutes, at least]": "number",
    }
    named = {run.name: run.command("short") for run in runs}
    return HTML(table(columns, rows).data + commands(named).data)


def feature_error(run: Mapping[str, Any]) -> float | None:
    """How far the blocks' outputs were from the teacher's at the end of training (`losses.feature_error`)."""
    return next((row["feature_error"] for row in reversed(run["curve"]) if "feature_error" in row), None)


def train_here(
    model: str,
    scale: int,
    bits: int,
    method: str = "ddtb",
    *,
    fully: bool = False,
    change: Change | None = None,
    teacher: str | None = None,
    architecture: Mapping[str, int] | None = None,
    preset: str = "smoke",
    data: str = "photos_train",
    images: str = "embedded",
) -> dict[str, Any]:
    """Train and score a student as `python -m ddtb_lite train` does; returns its result, and no file is left.

    `change` is what is special about it. `data` may name several data sets, separated by spaces; `images` is
    "embedded" or the data set to score on. `teacher` names a shipped network, by default that of `model` and
    `scale`; if it is not there, it is trained first, with the same preset and `architecture`. Raises as
    `quantize` and `train`.
    """
    teacher = teacher or f"{model}_x{scale}"
    tests = ["photos" if images == "embedded" else images]
    student = Experiment(
        "here", "this page", model, scale, bits, method, teacher, fully=fully, change=change or Change()
    )
    full = Experiment(teacher, "this page", model, scale, architecture=tuple((architecture or {}).items()))
    shipped = progress.shipped([teacher])
    with tempfile.TemporaryDirectory() as folder:
        result = None
        for each in [student] if shipped else [full, student]:
            result = runner.run_experiment(
                each, preset, folder, shipped=shipped, data=data.split(), tests=tests, progress=False
            )
        assert result is not None
        return result
