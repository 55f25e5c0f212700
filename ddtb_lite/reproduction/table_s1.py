"""Table S1: parameters and bit operations by the formulas of section 11, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..conversion import DEFAULTS, attach_gates, quantize, set_bits
from ..cost import FULL_BITS, complexity, gate_cost
from ..gate import DynamicGate
from ..networks import build
from . import results

APPROXIMATE_WITHIN = 0.025  # of the printed number


@dataclass(frozen=True)
class Cell:
    """One number of Table S1: by the formula, as the paper prints it ("" for nothing), and what lies between.

    `fitted` marks a value that follows from a choice made to fit the printed one, so that it reproduces nothing.
    """

    ours: float
    text: str
    fitted: bool = False

    @property
    def printed(self) -> float | None:
        """The printed number; None where the paper prints nothing."""
        return float(self.text) if self.text else None

    @property
    def difference(self) -> float | None:
        """Ours minus the printed one; None where the paper prints nothing."""
        return None if self.printed is None else self.ours - self.printed

    @property
    def decimals(self) -> int:
        """How many digits the paper prints after the point."""
        return len(self.text.partition(".")[2])

    @property
    def unit(self) -> float:
        """One unit of the last printed digit."""
        return 10.0**-self.decimals

    @property
    def status(self) -> str | None:
        """ "reproduced", "approximate" or "contradicted"; None where the paper prints nothing.

        Reproduced is what lies less than one unit of the last printed digit away, since the authors sometimes
        round and sometimes cut.
        """
        if self.printed is None:
            return None
        difference = abs(self.ours - self.printed)
        if difference < self.unit and not self.fitted:
            return "reproduced"
        near = difference <= APPROXIMATE_WITHIN * self.printed
        return "approximate" if self.fitted or near else "contradicted"


@dataclass(frozen=True)
class TableRow:
    """One row of Table S1.

    `cells` has the table's columns: `params_M` and `hlfe_params_M` in millions, `bops_T` in 10^12, and the
    gates' share of parameters and of bit operations, `gate_params_pct_of_params` and `gate_bops_pct`, in percent.
    `gate_params_range` are the least and the most that the row's gates can cost, in parameters, whichever
    layers they sit on.
    """

    model: str
    bits: int
    cells: dict[str, Cell]
    gate_params_range: tuple[float, float]


def table_rows(rdn_gated: Iterable[str] | None = None) -> list[TableRow]:
    """The twelve rows of Table S1, each cell by the formulas of section 11 beside the printed value.

    All networks are ×4 and of default size, the output is 1920×1080. Which layers have a gate matters for RDN
    only, and the paper does not tell: without `rdn_gated` (paths of activation quantizers, as `gated_paths`
    returns them) it is `rdn_stand_in`.
    """
    networks, ranges = {}, {}
    for name in ("edsr", "rdn", "srresnet"):
        with torch.device("meta"):
            full = build(name, scale=4)
        # The table counts gates by the released code's points: for RDN one less than the paper's variant.
        points = full.quantization_points("official").activations
        count = int(DEFAULTS[name].gate_ratio * len(points))
        costs = sorted(gate_cost(DynamicGate(point.channels)) for point in points)
        ranges[name] = sum(costs[:count]), sum(costs[-count:])
        student = quantize(full)
        gated = [point.path for point in student.quantization_points().activations][:count]
        if name == "rdn":
            gated = rdn_stand_in() if rdn_gated is None else list(rdn_gated)
        attach_gates(student, gated)
        networks[name] = full, student

    rows = []
    for printed in results.paper_tables()["table_s1_complexity"]:
        model, bits = printed["model"], int(printed["bits"])
        name = model.removesuffix("_DDTB").lower()
        network, student = networks[name]
        if bits < FULL_BITS:
            network = student
            set_bits(network, bits)
        cost = complexity(network)
        ours = {
            "params_M": cost.params / 1e6,
            "hlfe_params_M": cost.hlfe_params / 1e6,
            "gate_params_pct_of_params": 100 * cost.gate_params / cost.params,
            "bops_T": cost.bops / 1e12,
            "gate_bops_pct": 100 * cost.gate_bops / cost.bops,
        }
        least, most = ranges[name] if bits < FULL_BITS else (0.0, 0.0)
        fitted = {"gate_params_pct_of_params"} if least < most else set()
        cells = {column: Cell(value, printed[column], column in fitted) for column, value in ours.items()}
        rows.append(TableRow(model, bits, cells, (least, most)))
    return rows


def rdn_stand_in() -> list[str]:
    """72 layers of RDN whose gates cost what the printed ratios say, since the paper's are unknown.

    Seven whole dense blocks, and an eighth without its last dense convolution, for which a smaller one of the
    next block steps in. The gates' convolutions take 45.7 K parameters, with batch norm 50.3 K.
    """
    blocks = [
        [*(f"RDBs.{block}.convs.{index}.input" for index in range(8)), f"RDBs.{block}.fusion_input"]
        for block in range(8)
    ]
    replaced, replacement = "RDBs.7.convs.7.input", "RDBs.8.convs.2.input"
    return [replacement if path == replaced else path for block in blocks for path in block]
