"""The list of runs, what they cost, how far they have come, and the workflow over them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ddtb_lite import build, quantize
from ddtb_lite.cli import main, parser
from ddtb_lite.reproduction import estimates, grid, progress, results
from ddtb_lite.reproduction.claims import ledger
from ddtb_lite.reproduction.experiment import TRAINING_DATA, Experiment
from ddtb_lite.reproduction.grid import select
from ddtb_lite.support import resources
from ddtb_lite.training.recipe import PRESETS, Recipe

ROOT = Path(__file__).parents[2]
ALL = grid.experiments()
ONE_STUDENT = {"purpose": ["main results"], "model": ["edsr"], "scale": [4], "bits": [2], "method": ["pams"]}
SNAKEMAKE = shutil.which("snakemake") or shutil.which("snakemake", path=Path(sys.executable).parent)


def result(name: str, preset: str = "smoke", seconds: float = 100.0, **scores: float) -> dict[str, Any]:
    """A result file's content for an experiment, as if its training had taken `seconds`."""
    experiment = ALL[name]
    recipe = Recipe.preset(preset, experiment.network)
    quantization = experiment.quantization
    one_image = {test: [{"image": "a", "psnr": psnr, "ssim": 0.8}] for test, psnr in scores.items()}
    return {
        "run": name,
        "config": {
            "model": experiment.model,
            "scale": experiment.scale,
            "architecture": experiment.network.architecture,
            "quantization": quantization and vars(quantization),
            "recipe": vars(recipe),
            "training_data": list(TRAINING_DATA[preset]),
        },
        "seed": experiment.seed,
        "data": {},
        "versions": {},
        "device": "CPU",
        "commit": None,
        "seconds": seconds,
        "curve": [],
        "checkpoint": None,
        "scores": {test: {"psnr": psnr, "ssim": 0.8, "images": one_image[test]} for test, psnr in scores.items()},
        "command": "made up",
    }


def store(folder: Path, **content: dict[str, Any]) -> None:
    for name, each in content.items():
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.json").write_text(json.dumps(each))


# ------------------------------------------------------------------------------------------- the list


def test_names_are_unique_and_each_run_comes_after_what_it_needs() -> None:
    names = [each.name for each in grid._all()]
    assert len(names) == len(set(names)) == len(ALL)
    seen: set[str] = set()
    for each in ALL.values():
        assert set(each.needs) <= seen
        seen.add(each.name)


def test_full_precision_comes_first_and_students_have_a_teacher_of_their_kind() -> None:
    quantized = [each.quantization is not None for each in ALL.values()]
    assert quantized == sorted(quantized)
    for each in ALL.values():
        if each.quantization is None:
            assert each.teacher is None and each.bits is None and each.method is None
        else:
            assert each.start is None and each.teacher is not None
            teacher = ALL[each.teacher]
            assert teacher.quantization is None
            for field in ("model", "scale", "architecture"):
                assert getattr(teacher, field) == getattr(each, field)


def test_the_grid_is_the_papers() -> None:
    grid = {(each.model, each.scale, each.bits, each.method) for each in ALL.values() if each.purpose == "main results"}
    methods = {"ddtb", "minmax", "dorefa", "pact", "pams", "lsq", "fqsr"}
    assert grid == {
        (model, scale, bits, method)
        for model in ("edsr", "rdn", "srresnet")
        for scale in (2, 4)
        for bits in (2, 3, 4)
        for method in methods
    }
    fully = [each for each in ALL.values() if each.fully and not each.seed]
    assert {(each.model, each.scale, each.bits, each.method) for each in fully} == {
        (model, scale, 4, method)
        for model in ("edsr", "srresnet", "srgan")
        for scale in (2, 4)
        for method in ("ddtb", "fqsr")
    }
    assert len(fully) == 12 and {each.purpose for each in fully} == {"fully quantized"}


def test_srgan_alone_meets_a_discriminator() -> None:
    """The generator is SRResNet: trained for PSNR alone, the run would be SRResNet's under another name."""
    adversarial = {each.name for each in ALL.values() if each.recipe("short").adversarial_weight}
    assert adversarial == {"srgan_x2", "srgan_x4"}


def test_every_printed_score_has_its_run() -> None:
    """Found by name, independently of how the ledger looks for it."""
    for table, rows in results.paper_tables().items():
        if "psnr_db" not in rows[0]:
            continue
        for row in rows:
            network = f"{row['model'].lower()}_x{row['scale']}"
            if row["method"].partition(" ")[0] in ("DAQ", "ODM", "best"):  # later methods, and one without a name
                continue
            fully = "_fully" if "s2" in table else ""
            name = f"{network}_{row['method'].lower()}_{row['bits']}bit{fully}"
            assert (network if row["method"] == "FP" else name) in ALL


@pytest.mark.parametrize("preset", PRESETS)
def test_every_command_is_understood_and_says_what_the_experiment_is(preset: str) -> None:
    for each in ALL.values():
        options = parser().parse_args(each.arguments(preset, folder="some/where"))
        assert (options.model, options.scale, options.bits) == (each.model, each.scale, each.bits)
        assert getattr(options, "method", None) == each.method and getattr(options, "fully", False) == each.fully
        assert options.seed == each.seed and options.preset == each.preset(preset)
        assert options.out == f"some/where/{each.name}"
        for needed, given in ((each.teacher, options.teacher), (each.start, options.start_from)):
            assert given == (needed and f"some/where/{needed}/{needed}.safetensors")
        assert options.data == list(TRAINING_DATA[preset])
        assert options.test == (["photos"] if preset == "smoke" else None)
        assert not options.publish


def test_options_are_ones_that_training_takes() -> None:
    """The ablations' recipes and quantizers can be made, and each differs from the base run."""
    from ddtb_lite.cli.arguments import pairs, quantized

    base = ALL["edsr_x4_ddtb_2bit"]
    small = build("edsr", 4, n_blocks=1, n_feats=8)
    made = []
    ablations = [each for each in ALL.values() if each.purpose == "ablations"]
    for each in (base, *ablations):
        options = parser().parse_args(each.arguments("short"))
        student = quantized(small, options)
        made.append((student.quantization, Recipe.preset("short", student).override(**pairs(options.set))))
    assert len(ablations) == 15 and len({each.change for each in ablations}) == 10
    assert all(each != made[0] for each in made[1:])
    assert len({each.seed for each in ALL.values() if each.name.startswith("edsr_x4_lsq_3bit")}) == 3


def test_a_small_network_is_told_to_the_full_precision_run_only() -> None:
    small = parser().parse_args(ALL["rdn_d4c4_x4"].arguments("short"))
    assert small.architecture == ["D=4", "C=4"]
    student = parser().parse_args(ALL["rdn_d4c4_x4_ddtb_3bit_fixed_start_seed1"].arguments("short"))
    assert student.architecture == [] and student.set == ["fixed_bounds=10"] and student.seed == 1
    slow = parser().parse_args(ALL["rdn_d4c4_x4_ddtb_3bit_fixed_start_paper_rate_seed0"].arguments("short"))
    assert slow.set == ["fixed_bounds=10", "bound_learning_rate=0.01"]
    assert Recipe.preset("paper", ALL["rdn_d4c4_x4_ddtb_3bit_seed0"].network).bound_learning_rate == 0.01


def test_shipped_networks_are_read_from_the_package() -> None:
    arguments = ALL["edsr_x4_ddtb_2bit"].arguments("short", "runs/short", shipped={"edsr_x4"})
    assert arguments[arguments.index("--teacher") + 1] == "data/checkpoints/edsr_x4.safetensors"
    assert arguments[-1] == "runs/short/edsr_x4_ddtb_2bit"


# ---------------------------------------------------------------------------------------------- choosing


def names(chosen: Sequence[Experiment]) -> list[str]:
    return [each.name for each in chosen]


def test_a_selection_brings_what_it_needs() -> None:
    assert names(select(ONE_STUDENT | {"bits": [2, 3], "method": ["ddtb", "pams"]})) == [
        "edsr_x2",
        "edsr_x4",
        "edsr_x4_ddtb_2bit",
        "edsr_x4_pams_2bit",
        "edsr_x4_ddtb_3bit",
        "edsr_x4_pams_3bit",
    ]
    assert names(select({})) == list(ALL)
    assert names(select({"model": ["srgan"], "scale": [2], "bits": [4], "method": ["fqsr"]})) == [
        "edsr_x2",
        "srresnet_x2",
        "srgan_x2",
        "srgan_x2_fqsr_4bit_fully",
    ]
    assert names(select({"purpose": ["full precision"], "model": ["rdn"]})) == ["rdn_x2", "rdn_x4"]
    heir = {"purpose": ["full precision"], "model": ["srresnet"], "scale": [4]}
    assert names(select(heir)) == ["edsr_x2", "edsr_x4", "srresnet_x4"]
    assert names(select(heir, done=["edsr_x4"], shipped=["edsr_x4"])) == ["edsr_x4", "srresnet_x4"]
    with pytest.raises(ValueError, match=r"No run has model \['rdn'\], purpose \['ablations'\]"):
        select({"model": ["rdn"], "purpose": ["ablations"]})


# -------------------------------------------------------------------------------------------- estimates


def test_hours_on_an_h100_by_hand() -> None:
    """EDSR ×4 multiplies at three resolutions; 59,000 steps of 16 patches, four passes' worth each."""
    pixels = 48 * 48
    at_input = 9 * (3 * 64 + 33 * 64 * 64 + 64 * 256)
    at_twice = 9 * 64 * 256
    at_output = 9 * 64 * 3
    macs = pixels * (at_input + 4 * at_twice + 16 * at_output)
    operations = 59_000 * 16 * 4 * 2 * macs
    hours = ALL["edsr_x4_ddtb_2bit"].hours("paper")
    assert hours == pytest.approx(operations / (0.4 * 989e12) / 3600, rel=1e-3)
    teacher = ALL["edsr_x4"].hours("paper")
    assert teacher == pytest.approx(hours * 300 / 59 * 3 / 4)


def test_hours_of_shorter_presets_follow_the_median_of_measured_speeds() -> None:
    timed = [result("edsr_x4_ddtb_2bit", "short", seconds) for seconds in (1800.0, 3600.0, 36000.0)]
    assert ALL["edsr_x4_ddtb_2bit"].hours("short", timed) == pytest.approx(1.0)
    # One pass of four fewer, and as many more pixels as the recipes say.
    recipes = [Recipe.preset("short", ALL[name].network) for name in ("edsr_x4", "edsr_x4_ddtb_2bit")]
    teacher, student = (each.steps * each.batch_size * each.patch_size**2 for each in recipes)
    assert ALL["edsr_x4"].hours("short", timed) == pytest.approx(0.75 * teacher / student)
    assert ALL["edsr_x4"].hours("short", []) is None
    assert ALL["edsr_x4"].hours("short", [result("edsr_x4", "paper")]) is None
    # Another model's runs do not change what is known of this one, but speak for one without any.
    both = [*timed, *(result("srresnet_x4_ddtb_2bit", "short", 7200.0) for _ in range(5))]
    assert ALL["edsr_x4_ddtb_2bit"].hours("short", both) == pytest.approx(1.0)
    assert ALL["srresnet_x4_ddtb_3bit"].hours("short", both) == pytest.approx(2.0)
    assert ALL["srresnet_x4_ddtb_3bit"].hours("short", timed) < 2.0
    assert ALL["srgan_x4_ddtb_4bit_fully"].hours("short", both) == pytest.approx(2.0)


def test_a_run_that_an_h100_was_timed_with_replaces_arithmetic() -> None:
    """Ten times as long as by arithmetic: so are the prices, of the list and of the ledger. Other GPUs say nothing."""
    name, other = "edsr_x4_ddtb_2bit", "srresnet_x4_ddtb_2bit"
    seconds = 10 * 3600 * ALL[name].hours("paper")
    here = result(name, "paper", seconds) | {"device": "NVIDIA H100 80GB HBM3, bf16"}
    elsewhere = result(name, "paper", seconds / 7) | {"device": "Tesla T4, fp16"}
    short = result(name, "short", seconds / 7) | {"device": "NVIDIA H100 80GB HBM3, bf16"}
    assert ALL[other].hours("paper", [elsewhere, short]) == ALL[other].hours("paper")
    assert ALL[other].hours("paper", [elsewhere, here, short]) == pytest.approx(10 * ALL[other].hours("paper"))
    price = {claim.command: claim.hours for claim in ledger({name: here})}[ALL[other].command("paper")]
    assert price == pytest.approx(10 * ALL[other].hours("paper"))
    assert estimates.basis("paper", [elsewhere]) == "on one H100, by arithmetic"
    assert estimates.basis("paper", [here]) == "on one H100, at the speed of runs that are done"


def test_a_longer_run_takes_as_many_times_the_steps_and_the_hours() -> None:
    longer, usual = ALL["edsr_x4_lsq_2bit_longer"], ALL["edsr_x4_lsq_2bit"]
    assert longer.steps("short") == 1600 and usual.steps("short") == 800
    assert "--set steps=1600" in longer.command("short") and "steps=" not in usual.command("short")
    assert longer.hours("paper") == pytest.approx(2 * usual.hours("paper"))
    assert longer.hours("short", []) is None


def test_an_outline_is_enough_to_count_and_to_choose_a_recipe() -> None:
    full = build("rdn", 4, D=2, C=2, G=16)
    outline = estimates.outline("rdn", 4, {"D": 2, "C": 2, "G": 16})
    student = quantize(full, "pams", 2)
    quantized = estimates.outline("rdn", 4, full.architecture, student.quantization)
    for real, sketch in ((full, outline), (student, quantized)):
        recipe = Recipe.preset("short", real)
        assert Recipe.preset("short", sketch) == recipe
        assert estimates.operations(sketch, vars(recipe)) == estimates.operations(real, vars(recipe))
    assert outline.quantization is None  # its students are copies


# --------------------------------------------------------------------------------------------- progress


def test_a_state_is_opened_once_for_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may replace the file at any moment; PyTorch would open it a second time, by its name."""
    facts = {"step": 7, "identity": {"recipe": {"preset_name": "short"}}}
    safetensors.torch.save_file({"x": torch.zeros(2)}, tmp_path / "state.safetensors", {"run": json.dumps(facts)})
    opened: list[object] = []
    monkeypatch.setattr(torch.UntypedStorage, "from_file", lambda *arguments, **_: opened.append(arguments))
    assert progress.last_step(tmp_path, "short") == 7 and progress.last_step(tmp_path, "paper") is None
    assert not opened


def test_ones_own_run_hides_a_published_one_unless_it_is_shorter() -> None:
    smoke, short, paper = (result("edsr_x2", preset) for preset in ("smoke", "short", "paper"))
    assert progress.together({"a": short}, {"a": smoke})["a"] is short
    assert progress.together({"a": short}, {"a": paper})["a"] is paper
    assert progress.together({"a": dict(short)}, {"a": short})["a"] is short
    assert set(progress.together({"a": short}, {"b": smoke})) == {"a", "b"}


def test_a_longer_training_counts_for_a_shorter_preset() -> None:
    lengths = {preset: result("edsr_x2", preset) for preset in PRESETS}
    counts = {(have, want): progress.finished(lengths[have], want) for have in PRESETS for want in PRESETS}
    assert [pair for pair, enough in counts.items() if enough] == [
        ("smoke", "smoke"),
        ("short", "smoke"),
        ("short", "short"),
        ("long", "smoke"),
        ("long", "short"),
        ("long", "long"),
        ("paper", "smoke"),
        ("paper", "short"),
        ("paper", "long"),
        ("paper", "paper"),
    ]
    assert not progress.finished({"config": {"network": "bicubic"}}, "smoke")


def test_the_list_says_done_under_way_or_missing(tmp_path: Path) -> None:
    chosen = select(ONE_STUDENT)
    timed = [result("edsr_x4_pams_2bit", "short", 3600)]
    half = Recipe.preset("short", ALL["edsr_x4_pams_2bit"].network).steps // 2
    (tmp_path / "edsr_x4_pams_2bit").mkdir()
    facts = {"step": half, "phase": "live", "identity": {"recipe": {"preset_name": "short"}}}
    state = {"run": json.dumps(facts)}
    safetensors.torch.save_file({}, tmp_path / "edsr_x4_pams_2bit" / "state.safetensors", state)
    done = {name: result(name, "short", Set5=31.5) for name in ("edsr_x2", "edsr_x4")}
    lines = progress.listing(chosen, "short", str(tmp_path), done, timed).splitlines()
    assert re.fullmatch(r"full precision +edsr_x2 +done \(short\): Set5 31.50 dB", lines[0])
    assert lines[2].endswith(f"under way, at step {half}, about 30.0 minutes")
    assert lines[3] == "All that is left: about 30.0 minutes at the speed of runs that are done."
    assert lines[4] == "On a CPU, none longer than 1 hour: 1 of edsr, about 30.0 minutes."
    paper = progress.listing(chosen, "paper", str(tmp_path), {}, []).splitlines()  # a short state is no progress there
    assert "missing, about 1.5 minutes" in paper[2] and paper[-1].endswith("on one H100, by arithmetic.")


def test_the_list_says_what_is_for_a_gpu(tmp_path: Path) -> None:
    """A run is large as a whole, however little of it is left; at a GPU's speed nobody needs to be told."""
    chosen = [ALL[name] for name in ("rdn_x4", "edsr_x4_lsq_2bit", "edsr_x4_pams_2bit", "rdn_x4_lsq_2bit")]
    timed = [result("edsr_x4_ddtb_2bit", "short", 1800)]
    lines = progress.listing(chosen, "short", "no/folder", {}, timed).splitlines()
    assert [line.endswith(": for a GPU") for line in lines[:4]] == [True, False, False, True]
    hours = [each.hours("short", timed) for each in chosen]
    assert hours[0] and hours[3] and hours[1] == hours[2] == 0.5
    assert lines[4:] == [
        f"All that is left: about {sum(filter(None, hours)):.1f} hours at the speed of runs that are done.",
        "On a CPU, none longer than 1 hour: 2 of edsr, about 60.0 minutes.",
        f"For a GPU, by their size: 2 of rdn, about {hours[0] + hours[3]:.1f} hours.",
        "For a GPU, by their length: all runs as long as the paper's, listed by --preset paper.",
    ]
    (tmp_path / "rdn_x4_lsq_2bit").mkdir()
    nearly = ALL["rdn_x4_lsq_2bit"].steps("short") - 1
    state = {"step": nearly, "phase": "live", "identity": {"recipe": {"preset_name": "short"}}}
    safetensors.torch.save_file({}, tmp_path / "rdn_x4_lsq_2bit" / "state.safetensors", {"run": json.dumps(state)})
    lines = progress.listing(chosen[3:], "short", str(tmp_path), {}, timed).splitlines()
    assert lines[0].endswith(": for a GPU") and lines[2].startswith("For a GPU, by their size: 1 of rdn")

    timed[0]["device"] = "NVIDIA H100"
    for preset in ("short", "paper"):
        lines = progress.listing(chosen, preset, "no/folder", {}, timed).splitlines()
        assert lines[4].startswith("All that is left") and len(lines) == 5
        assert not any("GPU" in line for line in lines)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "edsr_x2").mkdir()
    (tmp_path / "edsr_x2" / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="state.safetensors is damaged .*delete its folder"):
        progress.listing(select(ONE_STUDENT), "short", str(tmp_path), {}, [])


def test_the_scores_as_csv() -> None:
    chosen = select(ONE_STUDENT)
    done = {"edsr_x4_pams_2bit": result("edsr_x4_pams_2bit", "short", 12.5, Set5=29.5, Set14=26.5)}
    rows = list(csv.DictReader(io.StringIO(progress.as_csv(chosen, done))))
    assert [(row["run"], row["bits"], row["preset"], row["dataset"], row["psnr_db"]) for row in rows] == [
        ("edsr_x4_pams_2bit", "2", "short", "Set5", "29.5"),
        ("edsr_x4_pams_2bit", "2", "short", "Set14", "26.5"),
    ]
    assert rows[0]["seconds"] == "12.5" and rows[0]["fully"] == "False"


def test_what_is_done_elsewhere_is_not_repeated_unless_its_network_is_missing() -> None:
    wanted = ONE_STUDENT | {"method": ["pams", "lsq"]}
    teachers, student = ["edsr_x2", "edsr_x4"], "edsr_x4_pams_2bit"

    def todo(elsewhere: Sequence[str], shipped: Sequence[str]) -> list[dict[str, Any]]:
        chosen = select(wanted, elsewhere, shipped)
        return progress.jobs(chosen, "short", "no/folder", elsewhere, shipped, [])

    lsq = "edsr_x4_lsq_2bit"
    assert [job["name"] for job in todo([student], [])] == [*teachers, lsq]
    assert [job["name"] for job in todo([student, *teachers], [])] == [*teachers, lsq]
    assert [job["name"] for job in todo([student, *teachers], ["edsr_x2"])] == ["edsr_x4", lsq]
    assert [job["name"] for job in todo(["edsr_x4"], ["edsr_x4"])] == [student, lsq]
    assert todo([student, lsq], []) == []
    everything = list(ALL)
    assert progress.jobs(ALL.values(), "short", "no/folder", everything, [], []) == []
    (job,) = todo([student, "edsr_x4"], ["edsr_x4"])
    assert job["inputs"] == ["data/checkpoints/edsr_x4.safetensors"] and job["quantized"]
    assert job["inputs"][0] in job["arguments"] and job["hours"] is None
    assert todo([], [])[1]["inputs"] == ["no/folder/edsr_x2/edsr_x2.safetensors"]


def test_a_folder_with_shorter_runs_is_refused(tmp_path: Path) -> None:
    store(tmp_path, edsr_x4=result("edsr_x4", "short"))
    assert len(progress.jobs(select(ONE_STUDENT), "smoke", str(tmp_path), [], [], [])) == 3
    with pytest.raises(ValueError, match=r"edsr_x4 holds a shorter run than paper's; choose another folder"):
        progress.jobs(select(ONE_STUDENT), "paper", str(tmp_path), [], [], [])


def test_shipped_networks_are_those_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    (tmp_path / "_data" / "checkpoints").mkdir(parents=True)
    (tmp_path / "_data" / "checkpoints" / "edsr_x4.safetensors").touch()
    assert progress.shipped(["edsr_x2", "edsr_x4"]) == {"edsr_x4"}


def test_the_list_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, edsr_x2=result("edsr_x2", "smoke", 1.0, photos=20.0))
    (tmp_path / "edsr_x2" / "other.json").write_text("not a result")
    options = ["--preset", "smoke", "--folder", str(tmp_path), "--own", "--models", "edsr", "--scales", "2"]
    options += ["--bits", "3", "--methods", "lsq"]
    assert main(["experiments", *options, "--commands", "--csv", str(tmp_path / "scores.csv")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "done (smoke): photos 20.00 dB" in printed[0] and "missing, less than a minute" in printed[1]
    assert printed[3].startswith("On a CPU") and printed[4].startswith("For a GPU, by their length")
    assert printed[5] == ALL["edsr_x2_lsq_3bit"].command("smoke") and len(printed) == 6
    assert "photos,20.0,0.8" in (tmp_path / "scores.csv").read_text()

    assert main(["experiments", *options, "--json"]) == 0
    output = capsys.readouterr()
    assert output.err.splitlines() == printed[:5]
    jobs = json.loads(output.out)
    assert [job["name"] for job in jobs] == ["edsr_x2", "edsr_x2_lsq_3bit"]
    assert all(isinstance(job["hours"], float) for job in jobs)

    assert main(["experiments", "--models", "rdn", "--purposes", "seeds"]) == 1
    assert capsys.readouterr().err.startswith("error: No run has")
    with pytest.raises(SystemExit):
        main(["experiments", "--bits", "5"])


def test_the_ledgers_commands_and_costs_are_the_experiments() -> None:
    claims = ledger({})
    assert all(claim.command for claim in claims if claim.method in ("DDTB", "FQSR", "PAMS", "FP"))
    for claim in claims:
        method = "" if claim.method == "FP" else f"_{claim.method.lower()}_{claim.bits}bit"
        ending = "_fully" if "s2" in claim.table else "_convolutions" if claim.method == "DAQ" else ""
        name = f"{claim.model.lower()}_x{claim.scale}{method}{ending}"
        if claim.command:
            assert claim.command == ALL[name].command("paper") and claim.hours == ALL[name].hours("paper")
        else:
            assert name not in ALL


def test_the_ledger_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, edsr_x4_pams_4bit=result("edsr_x4_pams_4bit", "short", Set5=30.25))
    assert main(["ledger", "--folder", str(tmp_path), "--own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "edsr_x4_pams_4bit" in line and "30.25" in line and "short run" in line]
    assert "1 short run" in lines[-1].split(", ")


# ------------------------------------------------------------------------------------------ the workflow


def test_profiles_speak_of_rules_that_there_are() -> None:
    yaml = pytest.importorskip("yaml")
    snakefile = (ROOT / "workflow/Snakefile").read_text()
    rules = set(re.findall(r"^(?:rule|use rule \w+ as) (\w+)", snakefile, re.MULTILINE))
    assert {"full_precision", "quantized", "tables"} <= rules
    slurm = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    assert set(slurm["set-resources"]) == {"full_precision", "quantized"} and slurm["executor"] == "slurm"
    default = yaml.safe_load((ROOT / "workflow/profiles/default/config.yaml").read_text())
    assert default["rerun-triggers"] == ["mtime"] and default["rerun-incomplete"]


# Stands for the interpreter: EDSR gets one block of eight features, a restored run is written down, and the
# process group dies once, when 3-bit DDTB has saved its first state.
SMALL_PYTHON = """\
    #!{python}
    import os, runpy, signal, sys
    from pathlib import Path
    from ddtb_lite.training import run, run_folder
    from ddtb_lite.networks import EDSR

    EDSR.__init__.__defaults__ = (1, 8)
    write, restore = run_folder.RunFolder.write_state, run.Run.restore

    def write_state(self, state):
        write(self, state)
        if self.path.name == "edsr_x2_ddtb_3bit" and not Path("killed").exists():
            Path("killed").touch()
            os.killpg(0, signal.SIGKILL)

    def restore_and_tell(self, state):
        with open("restored", "a") as file:
            file.write(f"{{self.network.quantization.bits}} bits, step {{state.facts['step']}}\\n")
        restore(self, state)

    run_folder.RunFolder.write_state, run.Run.restore = write_state, restore_and_tell
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(SNAKEMAKE is None, reason="needs snakemake, an optional extra")
def test_the_workflow_is_planned_killed_resumed_and_ends_with_tables(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(textwrap.dedent(SMALL_PYTHON).format(python=sys.executable))
    python.chmod(0o755)
    settings = ["models=edsr", "scales=2", "bits=2,3", "methods=ddtb", "purposes=main results"]

    def snakemake(*options: str) -> subprocess.CompletedProcess[str]:
        command = [str(SNAKEMAKE), "--snakefile", f"{ROOT}/workflow/Snakefile", "-c1", *options]
        return subprocess.run(
            [*command, "--config", "preset=smoke", f"python={python}", *settings],
            cwd=tmp_path,
            env=os.environ | {"DDTB_DATA": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            capture_output=True,
            text=True,
        )

    runs = tmp_path / "runs" / "smoke"

    planned = snakemake("-n")
    assert planned.returncode == 0, planned.stderr
    for name in ("edsr_x2", "edsr_x2_ddtb_2bit", "edsr_x2_ddtb_3bit"):
        assert re.search(rf" {name} +missing, less than a minute", planned.stderr)
    assert re.search(r"full_precision +1\nquantized +2\ntables +1", planned.stdout + planned.stderr)
    assert not runs.exists()

    assert snakemake().returncode == -signal.SIGKILL
    half = runs / "edsr_x2_ddtb_3bit"
    assert (half / "state.safetensors").exists() and not (half / f"{half.name}.json").exists()
    finished = {file: file.stat().st_mtime_ns for file in runs.glob("*/*.json")}
    assert "edsr_x2" in {file.stem for file in finished}

    assert snakemake("--unlock").returncode == 0
    resumed = snakemake()
    assert resumed.returncode == 0, resumed.stderr
    assert re.search("edsr_x2_ddtb_3bit +under way, at step 6", resumed.stderr)
    assert (tmp_path / "restored").read_text() == "3 bits, step 6\n"
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())
    assert (runs / "results.txt").read_text().count("done (smoke): photos") == 3
    assert len(list(csv.DictReader((runs / "results.csv").open()))) == 3
    assert "not run" in (runs / "paper.txt").read_text()

    again = snakemake()
    assert "Nothing to be done" in again.stdout + again.stderr
    settings.append("model=rdn")
    mistaken = snakemake("-n")
    assert mistaken.returncode and "There is no setting model" in mistaken.stdout + mistaken.stderr
