"""What the page "Reproduce it yourself" shows while the command runs: a table that fills, and scores as they come."""

from __future__ import annotations

import html
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import HTML, DisplayHandle
from matplotlib.figure import Figure

from .. import datasets
from ..reproduction import plan, progress, results, runner
from ..reproduction.claims import printed
from ..reproduction.experiment import TEST_DATA, TRAINING_DATA
from ..reproduction.grid import experiments
from . import figures
from .tables import table

# Seconds between two looks into the folder.
PATIENCE = 2.0
COLUMNS = {"run": "", "network": "", "how far": "", "score": "number", "printed": "number"}


def place(keep: str) -> Path:
    """Where the runs lie: "nowhere" is a new folder for temporary files, "here" this one, "drive" Google Drive."""
    if keep == "nowhere":
        return Path(tempfile.mkdtemp())
    if keep == "here":
        return Path("reproduce")
    if keep != "drive":
        raise ValueError(f"keep is {keep!r}, expected nowhere, here or drive.")
    from google.colab import drive  # Colab alone has it

    drive.mount("/content/drive")
    return Path("/content/drive/MyDrive/ddtb_lite/reproduce")


def fetch(preset: str) -> None:
    """Download what a preset trains on and is scored on, as far as it is not at hand."""
    for name in (*TRAINING_DATA[preset], *TEST_DATA.get(preset, runner.BENCHMARKS)):
        try:
            datasets.paths(name)
        except FileNotFoundError:
            datasets.download(name)


def follow(out: Path, options: Sequence[str]) -> None:
    """Run `python -m ddtb_lite reproduce` with its runs in `out`, and keep a table and a picture of them up to date.

    Interrupting it ends the command, which saves where it is; the same call goes on from there. Raises `RuntimeError`
    with what the command says if it fails.
    """
    words = [sys.executable, "-m", "ddtb_lite", "reproduce", *options, "--out", str(out)]
    runs, picture = DisplayHandle(), DisplayHandle()
    runs.display(state(out))
    picture.display(HTML(""))
    drawn = 0

    def look() -> None:
        nonlocal drawn
        runs.update(state(out))
        done = finished(out)
        if len(done) > drawn:
            drawn, figure = len(done), scores(done)
            picture.update(figure)
            plt.close(figure)

    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                look()
                time.sleep(PATIENCE)
            look()
        finally:
            process.terminate()  # it saves its state before it ends; what has ended does not mind
            process.wait()
        if process.returncode:
            said.seek(0)
            raise RuntimeError((said.read().strip().splitlines() or ["The command said nothing."])[-1])


def download(file: Path) -> None:
    """On Colab, hand a file to the browser; elsewhere nothing."""
    if "google.colab" in sys.modules:
        from google.colab import files

        files.download(str(file))


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """The results of planned runs that are finished, by name."""
    planned = plan.read(out)
    files = {name: runner.result_of(out / name) for name in planned.minutes} if planned else {}
    return {name: results.read(file) for name, file in files.items() if file.is_file()}


def state(out: Path) -> HTML:
    """The planned runs of a folder, how far each has come, its score on the first test set, and the printed one."""
    planned = plan.read(out)
    if planned is None:
        return HTML("<p>Measuring how fast this machine is …</p>")
    done, rows = finished(out), []
    for name, minutes in planned.minutes.items():
        each = experiments()[name]
        network = f"{each.model.upper()} ×{each.scale}"
        network += f", {each.method.upper()}, {each.bits} bits" if each.method else ", full precision"
        score = paper = ""
        if name in done:
            how_far = "done" if done[name]["scores"] else "diverged"
            for dataset, found in list(done[name]["scores"].items())[:1]:
                score = f"{html.escape(dataset)} {found['psnr']:.2f}\u00a0dB"
                paper = f"{printed(name)[dataset]:.2f}\u00a0dB" if dataset in printed(name) else ""
        elif (step := progress.last_step(out / name, planned.preset)) is not None:
            how_far = f"step {step:,d} of {each.steps(planned.preset):,d}"
        else:
            how_far = f"waits, about {minutes:.1f} minutes"
        rows.append([name.replace("_", "_<wbr>"), network, how_far, score, paper])
    return table(COLUMNS, rows)


def scores(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The scores of results by run beside what the paper prints for these networks, as `figures.scores` draws them."""
    return figures.scores(
        {
            name: {dataset: (score["psnr"], printed(name).get(dataset)) for dataset, score in run["scores"].items()}
            for name, run in runs.items()
        }
    )
