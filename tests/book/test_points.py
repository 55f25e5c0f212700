"""The table of what is quantized, and the drawing of a block."""

from __future__ import annotations

import copy

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

import ddtb_lite as ddtb
from ddtb_lite.book import figures
from ddtb_lite.book.points import quantization_table, stages
from ddtb_lite.conversion import attach_gates, set_bits
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS

matplotlib.use("Agg")

SMALL = {
    "edsr": {"n_blocks": 2, "n_feats": 4},
    "rdn": {"D": 2, "C": 2, "G": 4},
    "srresnet": {"n_blocks": 2, "n_feats": 4},
    "srgan": {"n_blocks": 2, "n_feats": 4},
}


def small(name: str, scale: int = 2) -> SuperResolutionNetwork:
    return ddtb.build(name, scale, **SMALL[name])


def paths(network: SuperResolutionNetwork, kind: str, **how: object) -> list[str]:
    return [row.path for row in quantization_table(network, **how) if row.kind == kind]


# Section 7, for networks of full size: (activations, weights) by variant, and of a fully quantized network at ×4.
COUNTS = {
    ("edsr", "paper"): (48, 32),
    ("edsr", "official"): (48, 32),
    ("rdn", "paper"): (146, 146),
    ("rdn", "official"): (145, 146),
    ("srresnet", "paper"): (32, 32),
    ("srresnet", "official"): (32, 32),
    ("edsr", "convolutions"): (32, 32),
    ("rdn", "convolutions"): (146, 146),
    ("srresnet", "convolutions"): (32, 32),
}


@pytest.mark.parametrize(("name", "variant"), COUNTS)
def test_counts_of_the_paper(name: str, variant: str) -> None:
    with torch.device("meta"):  # shapes only
        network = ddtb.build(name, 4)
    rows = quantization_table(network, variant=variant)
    counts = tuple(sum(row.kind == kind for row in rows) for kind in ("activation", "weight"))
    assert counts == COUNTS[name, variant]
    assert {row.bits for row in rows} == {2}


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("name", SMALL)
def test_table_holds_exactly_what_conversion_quantizes(name: str, variant: str, fully: bool) -> None:
    network = small(name)
    points = network.quantization_points(variant, fully)
    rows = quantization_table(network, variant=variant, fully=fully, bits=3)
    assert len({row.path for row in rows}) == len(rows)
    activations = {row.path: row for row in rows if row.kind == "activation"}
    assert activations.keys() == {point.path for point in points.activations}
    for point in points.activations:
        row = activations[point.path]
        assert row.shape == (point.channels,) and row.bits == (8 if point.skip else 3) and not row.gated
    weights = {row.path: row.shape for row in rows if row.kind == "weight"}
    assert weights == {path: tuple(network.get_submodule(path).weight.shape) for path in points.weights}
    assert network.quantization is None


@pytest.mark.parametrize("name", SMALL)
def test_stages_are_in_the_order_of_execution(name: str) -> None:
    """Each convolution that quantizes its input comes right behind its quantizer: compare the shapes."""
    network = small(name, scale=4)
    rows = [stage for stage in stages(network, fully=True) if stage.kind != "function"]
    rows = [row for row in rows if row.kind == "weight" or not row.path.endswith(("skip", "output"))]
    first, *rest = rows
    assert first.kind == "weight" and first.shape[1] == 3
    assert [row.kind for row in rest] == ["activation", "weight"] * (len(rest) // 2)
    for quantizer, convolution in zip(rest[::2], rest[1::2], strict=True):
        assert quantizer.shape == (convolution.shape[1],)
    assert rest[-1].shape[0] == 3


def test_stages_list_what_stays_in_full_precision() -> None:
    network = small("srresnet", scale=4)
    found = stages(network, method="pact", bits=4)
    convolutions = [stage for stage in found if stage.kind == "weight"]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    exact = [stage for stage in convolutions if stage.bits == 32]
    assert [stage.path for stage in exact] == ["conv_input", "conv_mid", "upscale.0", "upscale.3", "conv_output"]
    assert all(stage.method == "" and stage.rule == "" for stage in exact)
    functions = [(stage.path, stage.rule) for stage in found if stage.kind == "function"]
    assert functions[1:4] == [
        ("residual.0.in1", "BatchNorm2d"),
        ("residual.0.relu", "PReLU"),
        ("residual.0.in2", "BatchNorm2d"),
    ]
    assert {stage.method for stage in found if stage.bits == 4} == {"pact"}
    assert [stage for stage in found if stage.bits < 32] == quantization_table(network, method="pact", bits=4)


@pytest.mark.parametrize("method", METHODS)
def test_rules_of_each_method(method: str) -> None:
    bits = METHODS[method].lowest_bits
    network = small("edsr")
    student = ddtb.quantize(network, method, bits)
    rows = quantization_table(network, method=method, bits=bits)
    for row in rows:
        module = student.get_submodule(row.path)
        quantizer = module if row.kind == "activation" else module.weight_quantizer
        assert (row.rule, row.bits, row.method) == (type(quantizer).__name__, bits, method)


def test_quantized_network_is_described_as_it_is_and_stays_so() -> None:
    student = ddtb.quantize(small("edsr"), "ddtb", 4, variant="official").train()
    attach_gates(student, ["body.1.hidden"])
    set_bits(student, 2)
    before = copy.deepcopy(student.state_dict())
    rows = quantization_table(student)
    assert [row.path for row in rows if row.gated] == ["body.1.hidden"]
    assert {row.bits for row in rows} == {2}
    assert paths(student, "activation")[:3] == ["body.0.hidden", "body.0.skip", "body.0.output"]
    assert student.training and all(module.training for module in student.modules())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert not any(module._forward_pre_hooks for module in student.modules())
    with pytest.raises(ValueError, match="quantized already"):
        quantization_table(student, bits=2)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="variant"):
        quantization_table(small("edsr"), variant="mine")


# ------------------------------------------------------------------------------------------- drawing


def drawn(network: SuperResolutionNetwork, **how: object) -> tuple[list[str], plt.Axes]:
    figure = figures.residual_block(stages(network, **how), network.block_names()[-1])
    (place,) = figure.axes
    plt.close(figure)
    return [text.get_text() for text in place.texts], place


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("name", SMALL)
def test_drawing_shows_every_stage_of_a_block(name: str, variant: str, fully: bool) -> None:
    network = small(name)
    texts, place = drawn(network, variant=variant, fully=fully, bits=3)
    block = f"{network.block_names()[-1]}."
    own = [stage for stage in stages(network, variant=variant, fully=fully, bits=3) if stage.path.startswith(block)]
    for stage in own:
        if stage.kind == "activation":
            assert stage.path.removeprefix(block) in texts
    bits = [text for text in texts if text.isdigit()]
    assert sorted(bits) == sorted(str(stage.bits) for stage in own if stage.kind == "activation")
    assert sum("conv\n" in text for text in texts) == sum(stage.kind == "weight" for stage in own)
    left, right = place.get_xlim()
    bottom, top = place.get_ylim()
    for text in place.texts:
        x, y = text.get_position()
        assert left < x < right and bottom < y < top


def test_drawing_tells_the_variants_apart() -> None:
    """What lies where: in the paper's variant before the fork, in the released code on the shortcut."""

    def height_of(name: str, variant: str) -> float:
        _, place = drawn(small("edsr"), variant=variant)
        return next(text.get_position()[1] for text in place.texts if text.get_text() == name)

    def fork(variant: str) -> float:
        _, place = drawn(small("edsr"), variant=variant)
        return next(line.get_xdata()[0] for line in place.lines if line.get_marker() == "o")

    assert height_of("input", "paper") < 0 < height_of("skip", "official")
    assert fork("paper") > fork("official")


def test_long_blocks_take_several_lines() -> None:
    with torch.device("meta"):
        network = ddtb.build("rdn", 4, D=1)
    _, place = drawn(network)
    heights = {text.get_position()[1] for text in place.texts if text.get_text() == "2"}
    assert len(heights) == 3
    right = place.get_xlim()[1]
    assert all(patch.get_window_extent().x1 <= place.transData.transform((right, 0))[0] for patch in place.patches)


def test_gates_have_a_ring_of_their_own() -> None:
    network = small("edsr")
    student = ddtb.quantize(network, "ddtb", 2)
    attach_gates(student, ["body.1.input"])
    _, place = drawn(student)
    rings = [patch for patch in place.patches if patch.get_linewidth() > 2]
    assert len(rings) == 1 and matplotlib.colors.to_hex(rings[0].get_edgecolor()).upper() == figures.COLORS["ddtb"]


def test_drawing_refuses_a_block_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="block_names"):
        figures.residual_block(stages(small("edsr")), "body.2")
