"""Verdicts of the gap: ours between our own teacher and student, beside the printed one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ddtb_lite.cli import main
from ddtb_lite.reproduction import progress, results
from ddtb_lite.reproduction.claims import Claim, changed, ledger
from ddtb_lite.reproduction.estimates import outline
from ddtb_lite.reproduction.experiment import TRAINING_DATA
from ddtb_lite.reproduction.grid import experiments
from ddtb_lite.training.recipe import Recipe

QUANTIZATION = {"method": "ddtb", "bits": 2, "variant": "paper", "gate_ratio": 0.3, "percentile": 99.0, "fully": False}


def run(name: str, psnr: float, preset: str = "short", seed: int = 0, teacher: str | None = None) -> dict[str, Any]:
    """A result of EDSR ×4 on Set5: in full precision, or with a `teacher` at 2 bits."""
    experiment = experiments()["edsr_x4_ddtb_2bit" if teacher else "edsr_x4"]
    return {
        "run": name,
        "seed": seed,
        "command": "made up",
        "device": "CPU, 1 thread, fp32",
        "scores": {"Set5": {"psnr": psnr, "ssim": 0.8}},
        "config": {
            "model": "edsr",
            "scale": 4,
            "architecture": outline("edsr", 4).architecture,
            "quantization": QUANTIZATION if teacher else None,
            "recipe": json.loads(json.dumps(vars(Recipe.preset(preset, experiment.network)))),
            "training_data": list(TRAINING_DATA[preset]),
            "teacher": teacher and f"runs/{teacher}/{teacher}.safetensors",
        },
    }


def verdict(*runs: dict[str, Any]) -> Claim:
    """What the ledger says of DDTB at 2 bits on Set5, where the paper prints 30.97 dB, 1.13 below full precision."""
    claims = ledger({each["run"]: each for each in runs})
    return next(
        claim
        for claim in claims
        if (claim.model, claim.scale, claim.bits, claim.method, claim.dataset) == ("EDSR", 4, 2, "DDTB", "Set5")
        and claim.table == "main_results"
    )


@pytest.mark.parametrize(
    ("student", "status"),
    [
        (30.00, "larger gap"),  # 1.5 dB below the teacher
        (30.26, "larger gap"),  # 1.24: 0.11 more than printed
        (30.27, "gap as printed"),  # 1.23: a tenth more, the most that counts as the same
        (30.47, "gap as printed"),  # 1.03
        (30.48, "smaller gap"),
    ],
)
def test_a_tenth_of_a_decibel_is_the_same_gap(student: float, status: str) -> None:
    claim = verdict(run("full", 31.5), run("student", student, teacher="full"))
    assert claim.gap is not None and claim.gap.status == status
    assert claim.gap.paper == pytest.approx(1.13) and claim.gap.ours == pytest.approx(31.5 - student)
    assert claim.status == "short run", "and the score is not judged"
    assert "teacher full with 31.50 dB, short run" in str(claim.gap)


def test_seeds_that_scatter_widen_the_verdict() -> None:
    """Gaps 1.2, 1.5 and 1.8: mean 1.5, standard deviation 0.3, and 1.13 lies 0.37 away; 1.3, 1.5, 1.7 do not reach."""
    teacher = run("full", 31.5)
    wide = [run(f"s{seed}", 31.5 - gap, seed=seed, teacher="full") for seed, gap in enumerate((1.1, 1.5, 1.9))]
    narrow = [run(f"s{seed}", 31.5 - gap, seed=seed, teacher="full") for seed, gap in enumerate((1.3, 1.5, 1.7))]
    found = verdict(teacher, *wide).gap
    assert found is not None and (found.ours, found.spread) == (pytest.approx(1.5), pytest.approx(0.4))
    assert found.status == "gap as printed"
    found = verdict(teacher, *narrow).gap
    assert found is not None and found.spread == pytest.approx(0.2) and found.status == "larger gap"


def test_a_seeds_teacher_is_known_by_its_weights_wherever_they_lay() -> None:
    teacher = run("full", 31.5)
    first, alike, other = (run(f"s{seed}", 30.5 - seed, seed=seed, teacher="full") for seed in range(3))
    alike["config"]["teacher"] = "data/checkpoints/full.safetensors"
    for each, weights in ((first, "a"), (alike, "a"), (other, "b")):
        each["config"]["source_sha256"] = weights
    found = verdict(teacher, first, alike, other).gap
    assert found is not None and found.ours == pytest.approx(1.5) and found.spread is not None
    del first["config"]["source_sha256"], other["config"]["source_sha256"]
    found = verdict(teacher, first, alike, other).gap
    assert found is not None and found.ours == pytest.approx(2.0), "by their file, if nobody wrote down the weights"


def test_a_smoke_run_counts_for_nothing() -> None:
    assert verdict(run("full", 31.5), run("s", 30.4, "smoke", teacher="full")).status == "not run"
    assert verdict(run("full", 31.5, "smoke"), run("s", 30.4, teacher="full")).gap is None


def test_without_its_teacher_a_run_has_no_gap() -> None:
    assert verdict(run("other", 31.5), run("s", 30.4, teacher="full")).gap is None


def test_a_student_of_another_teacher_is_judged_by_its_gap_alone() -> None:
    student = run("s", 30.97, "paper", teacher="full")
    printed = verdict(run("full", 32.01, "paper"), student)
    assert printed.status == "reproduced"
    weak = verdict(run("full", 31.99, "paper"), student)
    assert weak.status == "other teacher" and weak.gap is not None and weak.gap.status == "smaller gap"
    assert verdict(student).status == "other teacher", "a teacher that nobody can look at is none"


def test_longer_runs_come_first() -> None:
    """ "long" between "short" and "paper", whatever the scores and the order."""
    runs = [run(preset, 30 + index, preset, teacher="full") for index, preset in enumerate(("long", "short", "smoke"))]
    for order in (runs, runs[::-1]):
        claim = verdict(run("full", 31.5), *order)
        assert (claim.run, claim.preset, claim.status) == ("long", "long", "short run")
    assert verdict(run("full", 31.5), run("paper", 29.0, "paper", teacher="full"), *runs).run == "paper"


def test_what_own_results_change_in_the_ledger() -> None:
    """A run of the paper's length changes the claims about it, on four data sets; a smoke run none."""
    own = run("edsr_x4_ddtb_2bit", 30.5, "paper", teacher="full")
    scores = {"Set5": 30.5, "Set14": 27.5, "BSD100": 27.0, "Urban100": 24.5}
    own["scores"] = {name: {"psnr": psnr, "ssim": 0.8} for name, psnr in scores.items()}
    claims = changed({own["run"]: own})
    assert {claim.dataset: claim.ours for claim in claims} == scores
    assert {(claim.run, claim.preset) for claim in claims} == {(own["run"], "paper")}
    assert str(claims[0]).startswith("EDSR ×4 2 bits DDTB on Set5: printed 30.97 dB, ours 30.50: other teacher")
    assert changed({own["run"]: run(own["run"], 30.5, "smoke", teacher="full")}) == []


def test_what_was_sent_has_the_teacher_of_its_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our longer teacher of the same name says nothing about it."""
    sent = {"full": run("full", 31.0), "student": run("student", 30.0, "long", teacher="full")}
    monkeypatch.setattr(results, "accepted", lambda: [sent])
    ours = {"full": run("full", 32.0, "long"), "student": run("student", 30.0, teacher="full")}
    claim = verdict(*progress.with_accepted(ours).values())
    assert claim.preset == "long" and claim.gap is not None
    assert claim.gap.teacher_psnr == 31.0 and claim.gap.ours == pytest.approx(1.0)


def test_other_training_data_earn_a_gap_alone() -> None:
    student = run("s", 30.97, "paper", teacher="full")
    student["config"]["training_data"] = ["T91"]
    claim = verdict(run("full", 32.1, "paper"), student)
    assert claim.status == "other data" and claim.gap is not None and claim.gap.data == ("T91",)
    prescribed = run("t", 30.5, "paper", seed=1, teacher="full")
    assert verdict(run("full", 32.1, "paper"), student, prescribed).run == "t", "the prescribed data come first"


def test_todays_short_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand from the result files: full precision minus the mean over seeds, on Set5."""
    measured = results.all_results()

    def psnr(name: str) -> float:
        return measured[name]["scores"]["Set5"]["psnr"]

    seeds = [psnr(f"edsr_x4_ddtb_3bit{ending}") for ending in ("", "_seed1", "_seed2")]
    claim = next(each for each in ledger() if each.run == "edsr_x4_ddtb_3bit" and each.dataset == "Set5")
    assert claim.gap is not None
    assert claim.gap.ours == pytest.approx(psnr("edsr_x4") - sum(seeds) / 3, abs=1e-9)
    assert main(["ledger"]) == 0
    assert f"gap as printed: {claim.gap.ours:.2f} ± " in capsys.readouterr().out
