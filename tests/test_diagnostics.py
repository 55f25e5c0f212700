"""Looking inside networks, and the ledger's verdicts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import ddtb_lite as ddtb
from ddtb_lite import diagnostics
from ddtb_lite.conversion import activation_quantizers, attach_gates, set_phase
from ddtb_lite.networks import Quantization
from ddtb_lite.quantizers import EARLIER, LATER
from ddtb_lite.reproduction.claims import Claim, ledger, summary
from ddtb_lite.reproduction.estimates import outline
from ddtb_lite.reproduction.experiment import TRAINING_DATA
from ddtb_lite.training.recipe import Recipe


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.rand(3, 3, 9, 12, generator=torch.Generator().manual_seed(0)) * 255


@pytest.fixture
def network() -> ddtb.networks.SuperResolutionNetwork:
    torch.manual_seed(0)
    return ddtb.build("edsr", 2, n_blocks=2, n_feats=8)


def test_quantizer_inputs_are_the_tensors_of_the_forward_pass(network, batch) -> None:
    inputs = diagnostics.quantizer_inputs(network, batch)
    block = network.body[0]
    with torch.no_grad():
        shallow = network.head(batch - network.mean)
        hidden = torch.relu(block.body[0](shallow))
    assert list(inputs) == [f"body.{i}.{name}" for i in range(2) for name in ("input", "hidden", "output")]
    torch.testing.assert_close(inputs["body.0.input"], shallow)
    torch.testing.assert_close(inputs["body.0.hidden"], hidden)


def test_activation_ranges_are_those_of_each_image(network, batch) -> None:
    together = diagnostics.activation_ranges(network, batch)["body.1.output"]
    for index in range(3):
        alone = diagnostics.quantizer_inputs(network, batch[index : index + 1])["body.1.output"].numpy()
        np.testing.assert_allclose(together[index].numpy(), [alone.min(), alone.max()], rtol=1e-4)


def test_quantization_error_against_numpy(network, batch) -> None:
    student = ddtb.quantize(network, "ddtb", 3)
    ddtb.initialize(student, batch)
    activations = diagnostics.quantizer_inputs(network, batch)
    errors = diagnostics.quantization_errors(student, activations)
    for path, quantizer in activation_quantizers(student).items():
        x = activations[path].double().numpy()
        lower, upper = quantizer.lower.item(), quantizer.upper.item()
        step = (upper - lower) / 7
        expected = np.round(np.clip(x, lower, upper) / step) * step
        assert errors[path] == pytest.approx(np.mean((expected - x) ** 2) / np.var(x), rel=1e-3)


def test_quantization_error_where_one_value_arrives(network, batch) -> None:
    """Met exactly, it has error 0; missed, no mean could be worse; and what is not a number is not hidden."""
    student = ddtb.quantize(network, "ddtb", 2)
    ddtb.initialize(student, batch)
    activations = diagnostics.quantizer_inputs(network, batch)
    (met, _), (missed, other), (broken, _), *_ = activation_quantizers(student).items()
    activations[met] = torch.zeros_like(activations[met])
    activations[missed] = torch.full_like(activations[missed], 2 * other.upper.item())
    activations[broken] = torch.full_like(activations[broken], torch.nan)
    errors = diagnostics.quantization_errors(student, activations)
    assert errors[met] == 0 and np.isinf(errors[missed]) and np.isnan(errors[broken])


def test_gate_outputs_are_what_a_live_gate_multiplies_with(network, batch) -> None:
    student = ddtb.quantize(network, "ddtb", 2)
    ddtb.initialize(student, batch)
    attach_gates(student, ["body.0.input"])
    outputs = diagnostics.gate_outputs(student, batch)
    assert list(outputs) == ["body.0.input"] and outputs["body.0.input"].shape == (3, 2)
    set_phase(student, "live")
    quantizer = activation_quantizers(student)["body.0.input"]
    x = diagnostics.quantizer_inputs(student, batch)["body.0.input"]
    lower, upper = quantizer.eval().bounds(x)
    factors = torch.stack([lower.flatten() / quantizer.lower, upper.flatten() / quantizer.upper], dim=1)
    torch.testing.assert_close(outputs["body.0.input"], factors)


def test_divergence_names_the_layer(network, batch) -> None:
    student = ddtb.quantize(network, "ddtb", 2)
    ddtb.initialize(student, batch)
    with torch.no_grad():
        student.body[1].body[0].weight[0, 0, 0, 0] = float("nan")
        activation_quantizers(student)["body.0.hidden"].upper.fill_(-100.0)
    message = diagnostics.explain_divergence(student, 7, batch)
    assert "step 7" in message and "body.1.body.0.weight is not finite" in message
    assert "the bounds of body.0.hidden have met" in message


def claim(ours: float | None, preset: str | None) -> Claim:
    return Claim("t", "EDSR", 4, 2, "DDTB", "Set5", 30.97, "s", ours, preset, None, "c", 1.0)


def test_verdicts_follow_from_numbers() -> None:
    assert claim(None, None).status == "not run"
    assert claim(30.97, "short").status == "short run"
    assert claim(30.93, "paper").status == "reproduced"
    assert claim(30.75, "paper").status == "approximate"
    assert claim(30.5, "paper").status == "contradicted"


def test_the_ledger_has_a_row_for_every_printed_score() -> None:
    tables = ddtb.results.paper_tables()
    claims = ledger({})
    assert len(claims) == len(tables["main_results"]) + len(tables["table_s2_fully_quantized"])
    counts = summary(claims)
    assert counts.keys() == {"not run", "not here"} and sum(counts.values()) == len(claims)
    for each in claims:
        method = each.method.lower()
        known = method in ("fp", *EARLIER) or (method in LATER and each.bits == 2)
        assert each.status == ("not run" if known else "not here")
        assert (each.hours > 0) == bool(each.command) == known


def test_the_ledger_finds_the_run_that_fits_and_no_other() -> None:
    student = outline("edsr", 4, quantization=Quantization("ddtb", 2))
    quantization = {"method": "ddtb", "bits": 2, "fully": False, "variant": "paper"}
    run = {
        "run": "r",
        "seed": 0,
        "command": "c",
        "config": {
            "model": "edsr",
            "scale": 4,
            "quantization": quantization,
            "recipe": json.loads(json.dumps(vars(Recipe.preset("short", student)))),
            "training_data": list(TRAINING_DATA["short"]),
        },
        "scores": {"Set5": {"psnr": 29.5}},
    }
    filled = [each for each in ledger({"r": run}) if each.ours is not None]
    assert [(each.model, each.scale, each.bits, each.method, each.dataset) for each in filled] == [
        ("EDSR", 4, 2, "DDTB", "Set5")
    ]
    assert filled[0].status == "short run" and filled[0].table == "main_results"
