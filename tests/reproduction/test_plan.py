"""What a budget buys: the most telling first, after what they need, and the folder remembers it."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ddtb_lite import build, complexity, datasets
from ddtb_lite.cli import main
from ddtb_lite.reproduction import bundle, estimates, plan, runner
from ddtb_lite.reproduction.claims import ledger
from ddtb_lite.reproduction.experiment import Experiment
from ddtb_lite.reproduction.grid import experiments
from ddtb_lite.training import Diverged

EQUAL = dict.fromkeys(experiments(), 1.0)
SHARE = plan.SHARE
SHIPPED = {"edsr_x4", "edsr_x2"}


def chosen(minutes: float, *claims: str, shipped: set[str] = SHIPPED) -> tuple[list[str], tuple[str, ...]]:
    found, taken = plan.choose(minutes / SHARE, claims, EQUAL, shipped)
    return list(found), taken


@pytest.mark.parametrize(("budget", "minutes"), [("90s", 1.5), ("45m", 45), ("2h", 120), ("1.5h", 90)])
def test_budgets(budget: str, minutes: float) -> None:
    assert plan.minutes_of(budget) == minutes


@pytest.mark.parametrize("budget", ["", "45", "m", "-3m", "0m", "3 days"])
def test_what_is_no_budget(budget: str) -> None:
    with pytest.raises(ValueError, match="expected a time above 0 such as 90s"):
        plan.minutes_of(budget)


def test_every_name_in_the_order_is_an_experiment() -> None:
    assert set(plan.ORDER) <= set(experiments()) and len(set(plan.ORDER)) == len(plan.ORDER)
    assert plan.ORDER[:6] == (
        "edsr_x4",
        "edsr_x4_ddtb_2bit",
        "edsr_x4_ddtb_3bit",
        "edsr_x4_ddtb_4bit",
        "edsr_x4_lsq_2bit",
        "edsr_x4_pams_2bit",
    )


def test_every_score_that_the_paper_prints_for_its_method_can_come() -> None:
    printed = [claim for claim in ledger({}) if claim.method in ("FP", "DDTB", "FQSR")]
    names = {Path(claim.command.split("--out ")[1].split()[0]).name for claim in printed}
    assert len(names) > 30 and names <= set(plan.ORDER)


def test_a_teacher_is_trained_only_if_time_is_left_for_a_student() -> None:
    """EDSR ×4 starts from ×2: three minutes buy both and a student, two do not."""
    assert chosen(3) == (["edsr_x2", "edsr_x4", "edsr_x4_ddtb_2bit"], ())
    assert chosen(2) == (["edsr_x4_ddtb_2bit", "edsr_x4_ddtb_3bit"], ("edsr_x4",))


def test_the_most_telling_come_first_and_claims_narrow() -> None:
    assert chosen(1)[0] == ["edsr_x4_ddtb_2bit"]
    names, taken = chosen(4, "edsr_x2_ddtb", "edsr_x4_lsq")
    assert names == ["edsr_x4_lsq_2bit", "edsr_x2_ddtb_2bit", "edsr_x2_ddtb_3bit", "edsr_x2_ddtb_4bit"]
    assert set(taken) == {"edsr_x2", "edsr_x4"}


def test_without_a_shipped_teacher_it_is_trained_or_nothing_is() -> None:
    assert chosen(3, "edsr_x4_ddtb_2bit", shipped=set())[0] == ["edsr_x2", "edsr_x4", "edsr_x4_ddtb_2bit"]
    with pytest.raises(ValueError, match="buys nothing here: .* alone takes about"):
        chosen(2, "edsr_x4_ddtb_2bit", shipped=set())


def test_a_claim_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="There is no claim 'vdsr'"):
        chosen(9, "vdsr")


def test_scoring_has_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the photographs are enlarged once, at the speed of scoring; ×2 has four times the pixels of ×4."""
    pixels = sum(image.shape[0] * image.shape[1] for _, image in datasets.load("photos"))
    never = {"training": math.inf, "scoring": 60.0}
    prices = plan.price(never, "smoke")
    four = complexity(build("edsr", 4), (96, 96)).macs / 96**2
    assert prices["edsr_x4"] * 3600 == pytest.approx(2 * four * pixels, rel=1e-6)
    assert prices["edsr_x4_ddtb_2bit"] == prices["edsr_x4"] < prices["edsr_x2"]
    monkeypatch.setattr(runner, "benchmarks", lambda: [])
    trained = plan.price({"training": 60.0, "scoring": 1.0}, "short")["edsr_x4"]
    assert trained * 3600 == estimates.operations(
        experiments()["edsr_x4"].network, vars(experiments()["edsr_x4"].recipe("short"))
    )


def test_the_speed_is_measured() -> None:
    speed = plan.measure("smoke", "cpu")
    assert set(speed) == {"training", "scoring"} and all(1e8 < value < 1e15 for value in speed.values())


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--budget", "1s"], "buys nothing here"),
        (["--budget", "never"], "budget is 'never'"),
        (["--claims", "vdsr"], "There is no claim 'vdsr'"),
        (["--data", "my-photos"], "no training set that others have too"),
        (["--data", "photos"], "no training set that others have too"),
        (["--data", "DIV2K"], "DIV2K is not in"),
        (["--device", "tpu"], "cannot be used here"),
    ],
)
def test_what_cannot_be_planned_leaves_nothing(
    words: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DDTB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(plan, "measure", lambda *_: {"training": 1e10, "scoring": 1e10})
    out = tmp_path / "run"
    asked = ["reproduce", "--budget", "3m", "--preset", "smoke", "--device", "cpu", "--out", str(out), *words]
    assert main(asked) == 1
    said = capsys.readouterr().err
    assert word in said and said.startswith("error: ") and said.count("\n") == 1
    assert not out.exists()


def small_run(monkeypatch: pytest.MonkeyPatch, out: Path) -> list[str]:
    """A command that plans two students whose runs are made up: each writes a result file and a checkpoint."""
    monkeypatch.setattr(plan, "measure", lambda *_: {"training": 1e12, "scoring": 1e12})

    def run(each: Experiment, preset: str, folder: Path, **_: object) -> None:
        (folder / each.name).mkdir(exist_ok=True)
        runner.checkpoint_of(folder / each.name).write_bytes(b"weights")
        facts = {"run": each.name, "config": {"recipe": {"preset_name": preset}}, "seed": 0, "data": {}, "curve": []}
        facts |= {"seconds": 1.0, "checkpoint": None, "scores": {}, "command": "", "versions": {}, "device": "CPU"}
        runner.result_of(folder / each.name).write_text(json.dumps(facts | {"commit": None}))

    monkeypatch.setattr(runner, "run_experiment", run)
    claims = ["--claims", "edsr_x4_ddtb_2bit", "edsr_x4_ddtb_3bit"]
    return ["reproduce", "--budget", "3m", *claims, "--preset", "smoke", "--device", "cpu", "--out", str(out)]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: the launch failed because the device\nhas fallen off the bus."),
        RuntimeError(f"cannot write state.safetensors: {os.strerror(errno.ENOSPC)}; check the free space"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
    ids=["device", "disk", "operating system"],
)
def test_what_is_finished_can_be_sent_when_a_device_vanishes_or_a_disk_is_full(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = small_run(monkeypatch, tmp_path / "run"), tmp_path / "run"
    whole = runner.run_experiment

    def failing(each: Experiment, *rest: Any, **how: Any) -> None:
        if each.name == "edsr_x4_ddtb_3bit":
            raise error
        whole(each, *rest, **how)

    monkeypatch.setattr(runner, "run_experiment", failing)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert bundle.read(out / "bundle.zip").runs == ["edsr_x4_ddtb_2bit"]
    monkeypatch.setattr(runner, "run_experiment", whole)
    assert main(words) == 0, "the same command goes on"
    assert bundle.read(out / "bundle.zip").runs == ["edsr_x4_ddtb_2bit", "edsr_x4_ddtb_3bit"]


def test_a_full_disk_leaves_the_bundle_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = small_run(monkeypatch, tmp_path / "run"), tmp_path / "run"
    replace, written = os.replace, []

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "bundle.zip":
            written.append(target)
            if len(written) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert main(words) == 1
    assert "check the folder's permissions and the free space" in capsys.readouterr().err
    assert bundle.read(out / "bundle.zip").runs == ["edsr_x4_ddtb_2bit"]
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["bundle.zip", "plan.json"]


def test_a_run_that_diverged_is_told_and_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = small_run(monkeypatch, tmp_path / "run"), tmp_path / "run"
    whole = runner.run_experiment

    def diverging(each: Experiment, *rest: Any, **how: Any) -> None:
        whole(each, *rest, **how)
        if each.name == "edsr_x4_ddtb_2bit":
            runner.checkpoint_of(out / each.name).unlink()
            raise Diverged.__new__(Diverged)

    monkeypatch.setattr(runner, "run_experiment", diverging)
    assert main(words) == 0
    assert re.search(r"edsr_x4_ddtb_2bit +diverged", capsys.readouterr().out)
    assert bundle.read(out / "bundle.zip").runs == ["edsr_x4_ddtb_3bit"]


def test_the_folder_keeps_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second call measures nothing and runs what is left; another budget is refused."""
    measured = []

    def speed(*_: object) -> dict[str, float]:
        measured.append(1)
        return {"training": 1e12, "scoring": 1e12}

    def killed(each: object, *_: object, **__: object) -> None:
        raise KeyboardInterrupt("cut off")

    monkeypatch.setattr(plan, "measure", speed)
    monkeypatch.setattr(runner, "run_experiment", killed)
    words = ["reproduce", "--preset", "smoke", "--device", "cpu", "--out", str(tmp_path / "run"), "--budget"]
    for _ in range(2):
        assert main([*words, "3m"]) == 130
        assert "minutes" in capsys.readouterr().out
    assert measured == [1]
    assert main([*words, "4m"]) == 1
    said = capsys.readouterr().err
    assert "holds the runs of --budget 3m --preset smoke --data photos_train --device cpu: repeat that" in said
    (tmp_path / "run" / plan.PLAN).write_text("torn")
    assert main([*words, "3m"]) == 1
    assert "delete it to plan anew" in capsys.readouterr().err
