"""What is shipped: every trained network gives the score of its result file, whose command says how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from ddtb_lite import build, checkpoints, datasets, evaluate, load
from ddtb_lite.cli import arguments, parser
from ddtb_lite.quantizers import LATER
from ddtb_lite.reproduction import results
from ddtb_lite.reproduction.acceptance import score_within
from ddtb_lite.reproduction.grid import PEERS
from ddtb_lite.support import resources
from ddtb_lite.training.recipe import Recipe

RESULTS = results.all_results()
SHIPPED = {run: result for run, result in RESULTS.items() if result["checkpoint"]}
each_run = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
each_network = pytest.mark.parametrize("result", SHIPPED.values(), ids=SHIPPED)
# No page loads these, nor students with another seed than 0: all together the networks shall stay below 60 MB.
NOT_KEPT = {
    "edsr_x4_ddtb_2bit_no_warmup",
    "edsr_x4_ddtb_2bit_percentile_99.9",
    "rdn_d4c4_x4_ddtb_3bit_seed0",
    "rdn_d4c4_x4_ddtb_3bit_fixed_start_seed0",
    "rdn_d4c4_x4_ddtb_3bit_paper_rate_seed0",
    "rdn_d4c4_x4_ddtb_3bit_fixed_start_paper_rate_seed0",
    *(f"edsr_x4_{method}_4bit" for method in PEERS),
    *(f"edsr_x2_{method}_{bits}bit" for method in PEERS for bits in (2, 3, 4)),
    *(f"edsr_x4_{method}_3bit" for method in ("dorefa", "pact", "fqsr")),
    "edsr_x4_ddtb_2bit_percentile_95_no_gate",
    *(f"edsr_x4_ddtb_2bit_convolutions_percentile_{percentile}" for percentile in (95, 97)),
    "edsr_x4_ddtb_2bit_convolutions_no_gate",
    *(f"edsr_x4_{method}_2bit_convolutions" for method in ("pams", *LATER)),
    *(f"edsr_x4_{method}_2bit" for method in LATER),
    *(f"edsr_x4_{method}_2bit_longer" for method in ("ddtb", "lsq")),
    "edsr_x4_ddtb_2bit_long",
    "edsr_x4_lsq_2bit_convolutions_long",
    *(f"srresnet_x2_ddtb_{bits}bit" for bits in (2, 3, 4)),
    *(f"srresnet_x4_{method}_2bit" for method in ("pact", "pams")),
    *(f"srresnet_x{scale}_fqsr_4bit_fully" for scale in (2, 4)),
    *(f"srgan_x{scale}_{method}_4bit_fully" for scale in (2, 4) for method in ("ddtb", "fqsr")),
}
WITHOUT_DATA = pytest.mark.skipif("DDTB_DATA" not in os.environ, reason="needs Set5, in the folder $DDTB_DATA")


def test_every_network_has_its_result_and_the_other_way_round() -> None:
    files = {path.stem for path in resources.data("checkpoints").glob("*.safetensors")}
    assert files == set(SHIPPED)
    without = {run for run, each in RESULTS.items() if not (each["seed"] or each["config"].get("diverged_at"))} - files
    assert without <= NOT_KEPT
    assert sum(path.stat().st_size for path in resources.data("checkpoints").iterdir()) < 60e6


@WITHOUT_DATA
@each_network
def test_the_score_is_the_recorded_one(result: dict[str, Any]) -> None:
    assert result["data"]["Set5"] == datasets.fingerprint("Set5")
    recorded = result["scores"]["Set5"]
    scores = evaluate(load(checkpoints.shipped(result["run"])), "Set5", device="cpu", progress=False)
    for key, within in score_within(len(scores.images)).items():
        assert getattr(scores, key) == pytest.approx(recorded[key], abs=within)
    assert [row["name"] for row in scores.images] == [row["name"] for row in recorded["images"]]


@each_run
def test_the_command_says_everything(result: dict[str, Any]) -> None:
    """Network, quantization, recipe, data and seed of the result file follow from its command."""
    config = result["config"]
    program, words = result["command"].split(" -m ddtb_lite ")
    assert program == "python"
    options = parser().parse_args(shlex.split(words))
    network = build(config["model"], config["scale"], **config["architecture"])
    if config["quantization"] is not None:
        network = arguments.quantized(network, options)
        assert vars(network.quantization) == config["quantization"]
        assert options.teacher == config["teacher"] and options.teacher
    recipe = Recipe.preset(options.preset, network, options.own_rates).override(**arguments.pairs(options.set))
    assert recipe.agrees_with(config["recipe"])
    assert (options.seed, options.data) == (result["seed"], config["training_data"])
    assert (options.model, options.scale) == (config["model"], config["scale"])


@each_run
def test_runs_that_are_compared_start_from_the_same_weights(result: dict[str, Any]) -> None:
    source = result["config"]["teacher"] or result["config"]["start"]
    recorded = result["config"].get("source_sha256")  # the first runs did not record it
    if not (source and recorded):
        pytest.skip("trained from nothing, or no checksum of the weights on record")
    shipped = checkpoints.shipped(Path(source).stem)
    assert recorded == hashlib.sha256(shipped.read_bytes()).hexdigest()


@each_network
def test_the_network_is_what_the_result_says(result: dict[str, Any]) -> None:
    network = load(checkpoints.shipped(result["run"]))
    assert (network.name, network.scale) == (result["config"]["model"], result["config"]["scale"])
    quantization = None if network.quantization is None else vars(network.quantization)
    assert json.loads(json.dumps(quantization)) == result["config"]["quantization"]
    assert network.metadata is not None and network.metadata["run"] == result["run"]
