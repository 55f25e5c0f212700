"""The book's result tables: claims and runs as HTML, and a run made on the page for them."""

from __future__ import annotations

import html
import math
import re
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import HTML

from ..cost import FULL_BITS
from ..quantizers import EARLIER, METHODS
from ..reproduction import progress, runner
from ..reproduction.claims import Claim, runs_of
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


# What tables and figures call a method; "fp" is the full-precision network.
TITLES = {name: method.title for name, method in METHODS.items()} | {"ddtb": "DDTB", "fp": "full precision"}


def runs_by_method(
    measured: dict[str, dict[str, Any]], model: str, scale: int, fully: bool = False
) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """The runs of a network by bits and method, one a seed (`claims.runs_of`): full precision, then from 2 bits on.

    Without the methods after the paper: one of them has other points, and `data/comparisons` compares them on both.
    """
    cases = [(FULL_BITS, "fp"), *((bits, method) for bits in (2, 3, 4) for method in EARLIER)]
    found = {(bits, method): runs_of(measured, model, scale, bits, method, fully) for bits, method in cases}
    return {case: runs for case, runs in found.items() if runs}


def anchor(model: str, scale: int, bits: int, method: str, what: str, fully: bool = False) -> str:
    """A claim's place on the ledger's page, such as "edsr-x4-2bit-ddtb-set5" or "edsr-x4-fp-set5"."""
    how = ["fp"] if bits == FULL_BITS else [f"{bits}bit", method]
    parts = [model, f"x{scale}", *how, *(["fully"] if fully else []), what]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower())


def anchor_of(claim: Claim) -> str:
    """The place of a printed score."""
    fully = claim.table == "table_s2_fully_quantized"
    return anchor(claim.model, claim.scale, claim.bits, claim.method, claim.dataset, fully)


def to_ledger(text: str, place: str) -> str:
    """A text that leads to a claim's place on the ledger's page, from pages in the book's other folders."""
    return f'<a href="../reference/claims.html#{place}">{text}</a>'


def score_table(claims: Sequence[Claim], runs: Mapping[tuple[int, str], Sequence[Mapping[str, Any]]]) -> HTML:
    """One network's scores [dB / SSIM], data sets across: a row for each bits and method that ran, ours in full size.

    `claims` are those of the network, `runs` as `runs_by_method` returns them; a method of another name, such as that
    of a run made on the page, stands under its name, HTML. Ours is the mean over seeds ± standard deviation; what is
    printed for the row stands above it, small, and leads to its row in the ledger.
    """
    printed = {(claim.bits, claim.method.lower(), claim.dataset): claim for claim in claims}
    sets = list(dict.fromkeys(dataset for group in runs.values() for each in group for dataset in each["scores"]))
    rows = []
    for (bits, method), group in runs.items():
        papers = [printed.get((bits, method, dataset)) for dataset in sets]
        above = ["–" if each is None else _printed(each) for each in papers]
        scores = [[each["scores"][dataset] for each in group if dataset in each["scores"]] for dataset in sets]
        errors = [error for each in group if (error := feature_error(each)) is not None]
        title = TITLES.get(method, method)
        below = ["" if bits == FULL_BITS else str(bits), title, str(len(group)), *map(_ours, scores), _mean(errors)]
        if any(papers):
            over = ["", "printed", "", *above, ""]
            below = [f"<small>{text}</small><br>{cell}" for text, cell in zip(over, below, strict=True)]
        rows.append(below)
    columns = {"bits": "number", "method": "", "seeds": "number"} | dict.fromkeys([*sets, "feature error"], "number")
    return table(columns, rows)


def _ours(scores: Sequence[Mapping[str, float]]) -> str:
    ssim = [score["ssim"] for score in scores if "ssim" in score]
    return _score(_mean([score["psnr"] for score in scores]), statistics.fmean(ssim) if ssim else None)


def _printed(claim: Claim) -> str:
    return to_ledger(_score(f"{claim.paper:.2f}", claim.paper_ssim), anchor_of(claim))


def _mean(values: Sequence[float]) -> str:
    return spread(values).partition(" (")[0]


def _score(psnr: str, ssim: float | None) -> str:
    """As papers print it, such as "30.97 / 0.876"; what is missing is left out."""
    return psnr if ssim is None else f"{psnr} / {ssim:.3f}"


def commands(named: Mapping[str, str]) -> HTML:
    """Commands that unfold on a click, each below its name."""
    lines = "".join(f"<p>{html.escape(name)}</p><pre>{html.escape(command)}</pre>" for name, command in named.items())
    return HTML(f"<details><summary>The exact commands</summary>{lines}</details>")


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
