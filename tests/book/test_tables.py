"""The book's result tables: claims beside runs as HTML, and the runs that a page makes for them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddtb_lite.book import tables
from ddtb_lite.networks import Quantization
from ddtb_lite.reproduction import results
from ddtb_lite.reproduction.claims import Claim, ledger, runs_of
from ddtb_lite.reproduction.estimates import outline
from ddtb_lite.reproduction.experiment import TRAINING_DATA, Change
from ddtb_lite.reproduction.grid import experiments
from ddtb_lite.training.recipe import Recipe


class Reader(HTMLParser):
    """Collects each table's rows as lists of cell texts, and the elements that were left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("wbr", "br"):  # never closed; the first is a place to break a long name
            if tag == "br":
                self.handle_data(" ")
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "tr" in self.open:
            self.rows[-1][-1] += data


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "table": "main_results",
        "model": "EDSR",
        "scale": 4,
        "bits": 2,
        "method": "DDTB",
        "dataset": "Set5",
        "paper": 30.97,
        "source": "s",
        "ours": None,
        "preset": None,
        "run": None,
        "command": "python -m ddtb_lite train --bits 2",
        "hours": 0.025,
    }
    return Claim(**(fields | changes))


def run(name: str = "r", seed: int = 0, psnr: float = 29.5, **changes: Any) -> dict[str, Any]:
    """A result as the ledger reads it; `changes` go into its quantization, recipe or configuration."""
    quantization: dict[str, Any] = {"method": "ddtb", "bits": 2, "fully": False, "variant": "paper"}
    quantization |= {"gate_ratio": 0.3, "percentile": 99}
    quantization |= {key: changes.pop(key) for key in list(changes) if key in quantization}
    preset = changes.pop("preset_name", "short")
    student = outline("edsr", 4, quantization=Quantization(**quantization))
    # JSON's lists for tuples.
    recipe = json.loads(json.dumps(vars(Recipe.preset(preset, student))))
    config: dict[str, Any] = {"model": "edsr", "scale": 4, "architecture": {"n_blocks": 16, "n_feats": 64}}
    config["training_data"] = list(TRAINING_DATA[preset])
    for key, value in changes.items():
        (recipe if key in recipe else config)[key] = value
    config |= {"quantization": quantization, "recipe": recipe}
    scores = {"Set5": {"psnr": psnr}}
    return {"run": name, "seed": seed, "command": f"train {name}", "config": config, "scores": scores}


# ------------------------------------------------------------------------------------------------ HTML


def test_a_table_has_its_headings_its_cells_and_their_classes() -> None:
    text = tables.table({"a < b": "", "dB": "number"}, [["<b>x</b>", 3], ["y", ""]]).data
    reader = Reader(text)
    assert reader.rows == [["a < b", "dB"], ["x", "3"], ["y", ""]] and not reader.open
    assert text.count('class="number"') == 3


def test_a_table_refuses_a_row_of_another_length() -> None:
    with pytest.raises(ValueError):
        tables.table({"a": "", "b": ""}, [["x"]])


def test_a_verdict_has_the_class_that_the_style_sheet_knows() -> None:
    sheet = (Path(__file__).parents[2] / "book/_static/book.css").read_text(encoding="utf-8")
    for status in (
        "reproduced",
        "approximate",
        "contradicted",
        "not run",
        "not here",
        "gap as printed",
        "smaller gap",
        "larger gap",
    ):
        found = re.fullmatch(r'<span class="verdict ([a-z-]+)">(.+)</span>', tables.verdict(status))
        assert found and found.group(2) == status
        assert f".verdict.{found.group(1)}" in sheet


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([], ""), ([1.234], "1.23"), ([1.0, 2.0, 3.0], "2.00 ± 1.00 (3)"), ([0.0, 0.2], "0.10 ± 0.14 (2)")],
)
def test_spread_is_mean_and_sample_deviation(values: list[float], wanted: str) -> None:
    assert tables.spread(values) == wanted


def test_a_difference_of_means_and_its_deviation() -> None:
    """Variances of 1 (three values) and 2 (two values) pool to (2·1 + 1·2) / 3, and one value has none to add."""
    three, two = [29.0, 30.0, 31.0], [28.0, 30.0]
    shift, deviation = tables.difference(three, two)
    assert shift == pytest.approx(1) and deviation == pytest.approx((4 / 3 * (1 / 3 + 1 / 2)) ** 0.5)
    assert tables.difference(three, [29.5]) == pytest.approx((0.5, (4 / 3) ** 0.5))
    assert tables.difference([29.5], three) == pytest.approx((-0.5, (4 / 3) ** 0.5))
    assert tables.difference([1.0], [3.0]) == tables.difference([1.0, 1.0], [3.0]) == (-2, None)


def test_a_difference_scatters_as_it_says() -> None:
    """Over many draws from one distribution, twice the deviation is passed about as often as Student's t says."""
    draws = np.random.default_rng(0).normal(30, 0.1, (4000, 5))
    found = [tables.difference(row[:3], row[3:]) for row in draws]
    passed = [deviation is not None and abs(shift) > 2 * deviation for shift, deviation in found]
    assert np.mean(passed) == pytest.approx(0.139, abs=0.02)  # 3 degrees of freedom


def test_scores_stand_below_the_printed_ones_with_data_sets_across() -> None:
    measured = {each["run"]: each for each in (run("a", 0, 29.517), run("b", 1, 29.483), run("p", method="pams"))}
    for name, ssim in (("a", 0.8358), ("b", 0.8342)):
        measured[name]["scores"]["Set5"]["ssim"] = ssim
        measured[name]["curve"] = [{"feature_error": 0.5}]
    measured["p"]["config"]["quantization"]["gate_ratio"] = 0.0
    measured["p"]["scores"]["Set14"] = {"psnr": 26.6}
    measured["p"]["curve"] = []
    found = tables.runs_by_method(measured, "edsr", 4)
    assert list(found) == [(2, "ddtb"), (2, "pams")] and [each["run"] for each in found[2, "ddtb"]] == ["a", "b"]
    claims = [claim(paper_ssim=0.876), claim(bits=3, paper=31.52), claim(method="PAMS", dataset="Set14", paper=26.79)]
    reader = Reader(tables.score_table(claims, found).data)
    assert not reader.open
    head, ours, pams = reader.rows
    assert head == ["bits", "method", "seeds", "Set5", "Set14", "feature error"]
    assert ours == [" 2", "printed DDTB", " 2", "30.97 / 0.876 29.50 ± 0.02 / 0.835", "– ", " 0.50 ± 0.00"]
    assert pams == [" 2", "printed PAMS", " 1", "– 29.50", "26.79 26.60", " "]


def test_a_result_made_on_the_page_is_a_row_of_its_own_name() -> None:
    made = run(preset_name="smoke") | {"curve": []}
    made["scores"] = {"photos": {"psnr": 27.0, "ssim": 0.7}}
    rows = Reader(tables.score_table([claim()], {(2, "ddtb, <i>this page</i>"): [made]}).data).rows
    assert rows[1] == ["2", "ddtb, this page", "1", "27.00 / 0.700", ""], "and no line for what is not printed"


def test_the_feature_error_is_the_last_one_of_the_curve() -> None:
    curve = [{"step": 1, "feature_error": 2.0}, {"step": 2, "feature_error": 0.5}, {"step": 3}]
    assert tables.feature_error({"curve": curve}) == 0.5
    assert tables.feature_error({"curve": [{"step": 1}]}) is None


# ---------------------------------------------------------------------------------- runs of the ledger


def test_seeds_are_runs_of_one_configuration_in_their_order() -> None:
    measured = {each["run"]: each for each in (run("b", 1, 29.4), run("a", 0, 29.5), run("c", 2, 29.6))}
    runs = runs_of(measured, "edsr", 4, 2, "ddtb")
    assert [each["seed"] for each in runs] == [0, 1, 2]
    claims = [each for each in ledger(measured) if each.ours is not None]
    assert [(each.run, each.seeds) for each in claims] == [("a", (29.5, 29.4, 29.6))]


def paper_run(**changes: Any) -> dict[str, Any]:
    """A result that the paper's preset leaves; `changes` as for `run`."""
    return run("p", 1, preset_name="paper", **changes)


def test_a_run_of_the_papers_length_replaces_shorter_ones() -> None:
    measured = {"a": run("a", 0), "p": paper_run(precision="bf16", save_every=7)}
    assert [each["run"] for each in runs_of(measured, "edsr", 4, 2, "ddtb")] == ["p"]


def test_a_long_run_replaces_no_short_one() -> None:
    """The other rows of its table had the short one's budget."""
    name = "edsr_x4_ddtb_2bit_long"
    for measured in ({"a": run("a", 0), name: run(name, 1, preset_name="long")}, {"a": run("a", 0)}):
        assert [each["run"] for each in runs_of(measured, "edsr", 4, 2, "ddtb")] == ["a"]
    everything_long = {"a": run("a", 0), "b": run("b", 1, preset_name="long")}
    assert [each["run"] for each in runs_of(everything_long, "edsr", 4, 2, "ddtb")] == ["b"], "somebody's own budget"


def test_a_smoke_run_replaces_nothing() -> None:
    measured = {"a": run("a", 0, preset_name="smoke"), "b": run("b", 1)}
    assert [each["run"] for each in runs_of(measured, "edsr", 4, 2, "ddtb")] == ["b"]


@pytest.mark.parametrize(
    "change", [{"steps": 12}, {"skt_weight": 0.0}, {"falling_bits": [[4, 1]]}, {"learning_rate": 0.1}]
)
def test_a_changed_recipe_is_not_the_papers(change: dict[str, Any]) -> None:
    measured = {"a": run("a", 0), "p": paper_run(**change)}
    assert [each["run"] for each in runs_of(measured, "edsr", 4, 2, "ddtb")] == ["a"]


@pytest.mark.parametrize("change", [{"training_data": ["T91"]}, {"steps": 790}, {"feature_weight": 0.0}])
def test_a_changed_short_run_is_no_seed_of_the_others(change: dict[str, Any]) -> None:
    measured = {"a": run("a", 0), "b": run("b", 1, **change)}
    assert [each["run"] for each in runs_of(measured, "edsr", 4, 2, "ddtb")] == ["a"]


def test_other_training_data_are_not_the_papers() -> None:
    assert not runs_of({"p": paper_run(training_data=["T91"])}, "edsr", 4, 2, "ddtb")


def test_the_adversarial_run_of_the_experiments_counts_and_no_other() -> None:
    """Without the preset's discriminator it would be another network."""
    stored = results.all_results()["srgan_x4"]
    recipe = stored["config"]["recipe"]
    assert recipe["adversarial_weight"] == 1
    for weight, counts in ((1.0, True), (0.0, False), (0.5, False)):
        changed = {**stored, "config": {**stored["config"], "recipe": {**recipe, "adversarial_weight": weight}}}
        assert bool(runs_of({"r": changed}, "srgan", 4, 32, "fp")) == counts, weight


@pytest.mark.parametrize("method", ["ddtb", "fqsr"])
def test_a_fully_quantized_run_as_the_experiments_have_it_counts(method: str) -> None:
    experiment = experiments()[f"edsr_x4_{method}_4bit_fully"]
    percentile = dict(experiment.change.quantization).get("percentile", 99)
    gate_ratio = 0.3 if method == "ddtb" else 0.0
    own = run(fully=True, bits=4, method=method, percentile=percentile, gate_ratio=gate_ratio)
    assert runs_of({"r": own}, "edsr", 4, 4, method, fully=True)
    clipping = run(fully=True, bits=4, percentile=99)
    assert not runs_of({"r": clipping}, "edsr", 4, 4, "ddtb", fully=True)


@pytest.mark.parametrize(
    "change",
    [
        {"gate_ratio": 0},
        {"percentile": 95},
        {"variant": "official"},
        {"warmup_steps": 0},
        {"fixed_bounds": 10},
        {"fully": True},
        {"architecture": {"n_blocks": 4, "n_feats": 64}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_ablations_and_reduced_networks_are_no_claim_of_the_main_table(change: dict[str, Any]) -> None:
    assert not runs_of({"r": run(**change)}, "edsr", 4, 2, "ddtb")


def test_methods_without_gates_are_no_ablations() -> None:
    peer = run(method="pams", gate_ratio=0.0)
    assert runs_of({"r": peer}, "edsr", 4, 2, "pams")


# --------------------------------------------------------------------------------- running on the page


def test_a_page_can_train_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    steps = Change(recipe=(("steps", 6), ("falling_bits", []), ("validate_every", 3)))
    architecture = {"n_blocks": 1, "n_feats": 4}
    result = tables.train_here("edsr", 2, 2, change=steps, teacher="tiny", architecture=architecture)
    config = result["config"]
    assert config["quantization"]["bits"] == 2 and config["recipe"]["preset_name"] == "smoke"
    assert config["architecture"] == {"n_blocks": 1, "n_feats": 4}
    assert result["curve"][-1]["step"] == 6 and result["scores"]["photos"]["psnr"] > 0
    assert "--set steps=6 --set 'falling_bits=[]' --set validate_every=3 " in result["command"]
    assert result["command"].endswith("--data photos_train --test photos --seed 0 --out here")
    left = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in left if not name.startswith("torchinductor")}, "torch keeps a cache of its own"


@pytest.mark.parametrize("bits, method, wrong", [(2, "none", "'none'"), (99, "ddtb", "99")])
def test_a_student_that_cannot_be_says_why(bits: int, method: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        tables.train_here("edsr", 4, bits, method)
