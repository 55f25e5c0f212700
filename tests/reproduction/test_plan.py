"""What a budget buys: the most telling first, after what they need, and the folder remembers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddtb_lite.cli import main
from ddtb_lite.reproduction import plan, runner
from ddtb_lite.reproduction.grid import experiments

EQUAL = dict.fromkeys(experiments(), 1.0)
SHARE = plan.TRAINING_SHARE
SHIPPED = {"edsr_x4", "edsr_x2"}


def chosen(minutes: float, *claims: str, shipped: set[str] = SHIPPED) -> tuple[list[str], tuple[str, ...]]:
    found, taken = plan.choose(minutes / SHARE, "paper", claims, EQUAL, shipped)
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


def test_the_folder_keeps_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second call measures nothing and runs what is left; another budget is refused."""
    measured = []

    def speed(*_: object) -> float:
        measured.append(1)
        return 1e12

    def killed(each: object, *_: object, **__: object) -> None:
        raise KeyboardInterrupt("cut off")

    monkeypatch.setattr(plan, "operations_per_second", speed)
    monkeypatch.setattr(runner, "run_experiment", killed)
    words = ["reproduce", "--preset", "smoke", "--device", "cpu", "--out", str(tmp_path / "run"), "--budget"]
    for _ in range(2):
        assert main([*words, "3m"]) == 130
        assert "minutes" in capsys.readouterr().out
    assert measured == [1]
    assert main([*words, "4m"]) == 1
    assert "holds the runs of another budget" in capsys.readouterr().err
    (tmp_path / "run" / plan.PLAN).write_text("torn")
    assert main([*words, "3m"]) == 1
    assert "delete it to plan anew" in capsys.readouterr().err
