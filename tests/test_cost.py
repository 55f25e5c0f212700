"""Parameters and bit operations against torch's own counter, section 11's numbers, and counts by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError
from functools import cache

import pytest
import torch
from small_networks import small
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ddtb_lite as ddtb
from ddtb_lite.conversion import attach_gates, full_precision, gated_paths, quantize, set_bits, set_phase
from ddtb_lite.cost import Complexity, complexity, convolutions
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import NETWORKS, SuperResolutionNetwork, build
from ddtb_lite.reproduction.table_s1 import Cell, TableRow, rdn_stand_in, table_rows


@cache
def full_size(name: str) -> SuperResolutionNetwork:
    with torch.device("meta"):
        return build(name, scale=4)


def gated(name: str, bits: int, gates: int, **options) -> SuperResolutionNetwork:
    student = quantize(full_size(name), bits=bits, **options)
    points = student.quantization_points(options.get("variant", "paper")).activations
    attach_gates(student, [point.path for point in points][:gates])
    return student


# --------------------------------------------------------------------------- multiply-accumulates


def counted_by_torch(network: nn.Module, image: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_macs_equal_torchs_own_counter(name: str, scale: int) -> None:
    network = small(name, scale)
    image = torch.empty(1, 3, 90, 160 // scale, device="meta")
    assert complexity(network, (scale * image.shape[3], scale * 90)).macs == counted_by_torch(network.to("meta"), image)


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_of_a_live_student_equal_torchs_own_counter(name: str) -> None:
    student = quantize(small(name), gate_ratio=0.5)
    initialize(student, 255 * torch.rand(2, 3, 8, 8))
    set_phase(student, "live")
    student.eval()
    assert complexity(student, (20, 12)).macs == counted_by_torch(student, torch.rand(1, 3, 6, 10))


@pytest.mark.parametrize(("name", "macs"), [("edsr", 257.02e9), ("rdn", 2945.73e9), ("srresnet", 287.48e9)])
def test_printed_macs(name: str, macs: float) -> None:
    network = full_size(name)
    assert complexity(network).macs == pytest.approx(macs, abs=0.005e9)
    assert complexity(network).macs == counted_by_torch(network, torch.empty(1, 3, 270, 480, device="meta"))
    assert complexity(quantize(network)).macs == complexity(network).macs


# ------------------------------------------------------------------------------- section 11's numbers


@pytest.mark.parametrize(
    ("name", "bits", "tera"),
    [
        ("edsr", 32, 526.4),
        ("edsr", 2, 214.5),
        ("edsr", 3, 216.0),
        ("edsr", 4, 218.2),
        ("rdn", 32, 6032.9),
        ("rdn", 2, 236.0),
        ("rdn", 3, 264.4),
        ("rdn", 4, 304.2),
        ("srresnet", 32, 588.7),
        ("srresnet", 2, 276.9),
        ("srresnet", 3, 278.4),
        ("srresnet", 4, 280.5),
    ],
)
def test_bit_operations(name: str, bits: int, tera: float) -> None:
    network = full_size(name)
    cost = complexity(network if bits == 32 else quantize(network, bits=bits))
    assert cost.bops / 1e12 == pytest.approx(tera, abs=0.0501)  # 588.75 is printed as 588.7


def test_edsr_by_hand() -> None:
    """Head 1792, last body convolution 36,928, upsampler 295,424, tail 1731; 14 gates of 2112 weights."""
    cost = complexity(gated("edsr", 2, 14))
    assert cost.gate_params == 14 * (2112 * 2 / 32 + 64) == 2744
    assert cost.hlfe_params == 1_179_648 * 2 / 32 + 2744 == 76_472
    assert cost.params == 1792 + 36_928 + 295_424 + 1731 + 76_472
    assert cost.gate_bops == 14 * 2112 * 2 * 2 * 2 == 236_544
    body_macs = 1_179_648 * 480 * 270
    outside_macs = (1728 + 36_864 + 147_456) * 480 * 270 + 147_456 * 960 * 540 + 1728 * 1920 * 1080
    assert cost.bops == 2 * body_macs * 2 * 2 + 2 * outside_macs * 32 * 32 + 236_544
    assert cost.macs == body_macs + outside_macs + 14 * 2112


@pytest.mark.parametrize(("name", "weights"), [("edsr", 1_179_648), ("rdn", 21_925_888), ("srresnet", 1_179_648)])
def test_full_precision(name: str, weights: int) -> None:
    network = full_size(name)
    cost = complexity(network)
    assert cost.hlfe_params == weights
    assert (cost.gate_params, cost.gate_bops) == (0, 0)
    assert cost.bops == 2 * cost.macs * 32 * 32
    in_convolutions = [p for m in network.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()]
    assert cost.params == sum(parameter.numel() for parameter in in_convolutions)


@pytest.mark.parametrize("bits", range(2, 9))
def test_any_bits(bits: int) -> None:
    network = full_size("edsr")
    by_two, cost = quantize(network, bits=2), complexity(quantize(network, bits=bits))
    assert cost.hlfe_params == 1_179_648 * bits / 32
    assert cost.bops - complexity(by_two).bops == 2 * 1_179_648 * 480 * 270 * (bits**2 - 4)
    set_bits(by_two, bits)
    assert complexity(by_two) == cost


# --------------------------------------------------------------- which widths belong to which layer


@pytest.mark.parametrize("name", NETWORKS)
def test_widths_of_the_paper_variant(name: str) -> None:
    student = quantize(small(name), bits=3)
    high_level = set(student.quantization_points().weights)
    for path, layer in convolutions(student, (32, 16)).items():
        expected = (3, 3, True) if path in high_level else (32, 32, False)
        assert (layer.weight_bits, layer.activation_bits, layer.high_level) == expected, path


@pytest.mark.parametrize(
    ("name", "unquantized"),
    [("edsr", {"body.0.body.0", "body.1.body.0"}), ("rdn", {"GFF.1"}), ("srresnet", set())],
)
def test_the_official_variant_leaves_some_inputs_unquantized(name: str, unquantized: set[str]) -> None:
    student = quantize(small(name), bits=3, variant="official")
    layers = convolutions(student, (32, 16))
    widths = {path: (layer.weight_bits, layer.activation_bits) for path, layer in layers.items()}
    assert {path for path, width in widths.items() if width == (3, 32)} == unquantized
    others = {widths[path] for path in student.quantization_points().weights if path not in unquantized}
    assert others == {(3, 3)}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fully_quantized_network_has_an_8_bit_image_and_4_bits_elsewhere(name: str) -> None:
    network = small(name)
    student = quantize(network, bits=4, fully=True)
    layers = convolutions(student, (32, 16))
    first, *others = layers.values()
    assert (first.weight_bits, first.activation_bits) == (4, 8)
    assert {(layer.weight_bits, layer.activation_bits) for layer in others} == {(4, 4)}
    cost, full = complexity(student, (32, 16)), complexity(network, (32, 16))
    weights = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert cost.params == weights / 8
    assert cost.hlfe_params == full.hlfe_params / 8
    assert cost.bops == 2 * full.macs * 16 + 2 * first.macs * 16


@pytest.mark.parametrize("method", ddtb.quantizers.METHODS)
def test_every_method_has_its_own_bits(method: str) -> None:
    bits = ddtb.quantizers.METHODS[method].lowest_bits
    student = quantize(small(), method, bits)
    layers = [layer for layer in convolutions(student, (32, 16)).values() if layer.high_level]
    assert {(layer.weight_bits, layer.activation_bits) for layer in layers} == {(bits, bits)}
    assert complexity(student, (32, 16)).hlfe_params == 4 * 8 * 8 * 9 * bits / 32


# ------------------------------------------------------------------------ state, sizes, devices


def test_gates_count_when_they_exist() -> None:
    student = quantize(small(), gate_ratio=0.5)
    assert complexity(student, (32, 16)).gate_params == 0
    initialize(student, 255 * torch.rand(2, 3, 8, 8))
    bypassed = complexity(student, (32, 16))
    assert bypassed.gate_params == 3 * ((32 * 8 + 64) * 2 / 32 + 64)
    assert bypassed.gate_bops == 3 * (32 * 8 + 64) * 2 * 4
    for phase in ("warm-up", "live"):
        set_phase(student, phase)
        assert complexity(student, (32, 16)) == bypassed


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_stays_as_it_is(name: str, training: bool) -> None:
    student = quantize(small(name), gate_ratio=1.0)
    initialize(student, 255 * torch.rand(2, 3, 8, 8))
    set_phase(student, "live")
    student.train(training)
    student(torch.rand(2, 3, 8, 8)).mean().backward()  # as in the middle of training
    before = {key: tensor.clone() for key, tensor in student.state_dict().items()}
    complexity(student, (32, 16))
    after = student.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert all(parameter.device.type == "cpu" and parameter.grad is not None for parameter in student.parameters())
    assert student.training == training
    assert not any(module._forward_hooks for module in student.modules())
    student.eval()
    with torch.no_grad(), full_precision(student):
        full = student(torch.rand(1, 3, 8, 8))
    assert full.device.type == "cpu"


def test_double_precision_costs_the_same() -> None:
    student = quantize(small())
    assert complexity(student.double(), (32, 16)) == complexity(quantize(small()), (32, 16))


def test_a_loaded_student_costs_what_it_did(tmp_path) -> None:
    student = quantize(small("rdn"), bits=3)
    initialize(student, 255 * torch.rand(2, 3, 8, 8))
    ddtb.save(student, tmp_path / "student.safetensors")
    assert complexity(ddtb.load(tmp_path / "student.safetensors")) == complexity(student)


@pytest.mark.parametrize("size", [(1920, 1082), (1922, 1080), (0, 1080), (-4, 8), (3, 3)])
def test_sizes_that_are_no_multiples_of_the_scale(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"output_size is {size[0]}×{size[1]}, expected multiples of the scale 4"):
        complexity(small("edsr", 4), size)


def test_width_comes_first() -> None:
    wide, high = (convolutions(small(), size)["head.0"] for size in ((64, 16), (16, 64)))
    assert wide == high
    assert complexity(small(), (64, 16)).macs == 4 * complexity(small(), (16, 16)).macs
    with pytest.raises(ValueError, match="7×4"):
        complexity(small(), (7, 4))
    with pytest.raises(FrozenInstanceError):
        complexity(small(), (8, 8)).params = 0  # type: ignore[misc]


# ------------------------------------------------------------------------------------------ Table S1


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, int], TableRow]:
    return {(row.model, row.bits): row for row in table_rows()}


def test_twelve_rows_with_every_cell(rows: dict[tuple[str, int], TableRow]) -> None:
    assert len(rows) == 12
    assert Counter(model for model, _ in rows) == {
        **{"EDSR": 1, "RDN": 1, "SRResNet": 1},
        **{"EDSR_DDTB": 3, "RDN_DDTB": 3, "SRResNet_DDTB": 3},
    }
    for (_, bits), row in rows.items():
        assert list(row.cells) == [
            *("params_M", "hlfe_params_M", "gate_params_pct_of_params", "bops_T", "gate_bops_pct")
        ]
        for column, cell in row.cells.items():
            if bits == 32 and column == "hlfe_params_M":
                assert cell.printed is None and cell.difference is None
            else:
                assert cell.printed is not None
                assert cell.difference == cell.ours - cell.printed


def test_size_cells_match_when_rounded_but_for_one(rows: dict[tuple[str, int], TableRow]) -> None:
    different = []
    for key, row in rows.items():
        for column in ("params_M", "hlfe_params_M"):
            cell = row.cells[column]
            if cell.printed is None:
                continue
            places = {"RDN": 1, "SRResNet": 3}.get(row.model, 2)
            if round(cell.ours, places) != cell.printed:
                different.append((*key, column))
    assert different == [("RDN_DDTB", 3, "hlfe_params_M")]
    assert rows["RDN_DDTB", 3].cells["hlfe_params_M"].ours == pytest.approx(2.106, abs=5e-4)


def test_gate_ratios_match_when_truncated(rows: dict[tuple[str, int], TableRow]) -> None:
    for row in rows.values():
        cell = row.cells["gate_params_pct_of_params"]
        assert int(10 * cell.ours) / 10 == cell.printed


def test_bit_operations_differ_by_a_constant_of_at_most_2_percent(rows: dict[tuple[str, int], TableRow]) -> None:
    for model in ("EDSR_DDTB", "RDN_DDTB", "SRResNet_DDTB"):
        gaps = [rows[model, bits].cells["bops_T"].difference for bits in (2, 3, 4)]
        assert max(gaps) < 0 and max(gaps) - min(gaps) < 1  # the printed numbers are whole
    for row in rows.values():
        cell = row.cells["bops_T"]
        assert abs(cell.difference / cell.printed) < 0.0211


def test_gate_operations_lie_below_the_printed_ones_by_the_known_factors(
    rows: dict[tuple[str, int], TableRow],
) -> None:
    for model, factor in (("EDSR_DDTB", 12), ("RDN_DDTB", 2.7), ("SRResNet_DDTB", 12)):
        cell = rows[model, 2].cells["gate_bops_pct"]
        assert cell.printed / cell.ours == pytest.approx(factor, rel=0.1)
    operations = {
        model: rows[model, 2].cells["gate_bops_pct"].ours / 100 * rows[model, 2].cells["bops_T"].ours * 1e12
        for model in ("EDSR_DDTB", "RDN_DDTB", "SRResNet_DDTB")
    }
    assert operations == pytest.approx({"EDSR_DDTB": 0.24e6, "RDN_DDTB": 5.85e6, "SRResNet_DDTB": 0.05e6}, abs=0.005e6)


@pytest.mark.parametrize(
    ("ours", "text", "fitted", "status"),
    [
        (2.106, "2.10", False, "reproduced"),
        (2.0999, "2.1", False, "reproduced"),
        (532.9, "532", False, "reproduced"),
        (533.0, "532", False, "approximate"),
        (97.5, "100", False, "approximate"),
        (97.4, "100", False, "contradicted"),
        (2.8, "2.8", True, "approximate"),
        (0.0, "0", False, "reproduced"),
        (1.0, "", False, None),
    ],
)
def test_status_of_a_printed_number(ours: float, text: str, fitted: bool, status: str | None) -> None:
    assert Cell(ours, text, fitted).status == status


def test_statuses_of_the_table(rows: dict[tuple[str, int], TableRow]) -> None:
    statuses = Counter((column, cell.status) for row in rows.values() for column, cell in row.cells.items())
    assert statuses == {
        ("params_M", "reproduced"): 12,
        ("hlfe_params_M", "reproduced"): 9,
        ("hlfe_params_M", None): 3,
        ("gate_params_pct_of_params", "reproduced"): 9,
        ("gate_params_pct_of_params", "approximate"): 3,
        ("bops_T", "approximate"): 12,
        ("gate_bops_pct", "reproduced"): 3,
        ("gate_bops_pct", "contradicted"): 9,
    }


def test_what_gates_can_cost(rows: dict[tuple[str, int], TableRow]) -> None:
    for (model, bits), row in rows.items():
        expected = {"EDSR_DDTB": (2744, 2744), "RDN_DDTB": (30_496, 72_864), "SRResNet_DDTB": (588, 588)}
        assert row.gate_params_range == expected.get(model, (0, 0)), bits


def test_rdns_stand_in_and_another_choice() -> None:
    paths = rdn_stand_in()
    assert len(paths) == len(set(paths)) == 72
    student = quantize(full_size("rdn"))
    attach_gates(student, paths)
    assert set(gated_paths(student)) == set(paths)
    cost = complexity(student)
    norms = 72 * 64
    assert cost.gate_params - norms == pytest.approx(45.7e3, abs=50)
    cheapest = [f"RDBs.{block}.convs.0.input" for block in range(16)]
    row = next(row for row in table_rows(cheapest) if (row.model, row.bits) == ("RDN_DDTB", 2))
    gate_params = row.cells["gate_params_pct_of_params"].ours * row.cells["params_M"].ours * 1e4
    assert gate_params == pytest.approx(16 * (2112 / 16 + 64))


def test_complexity_is_the_packages_public_name() -> None:
    assert ddtb.complexity is complexity
    fields = {"params", "hlfe_params", "gate_params", "bops", "gate_bops"}
    assert fields <= set(Complexity.__dataclass_fields__)
