"""The claims ledger as a page shows it: a row a claim, which others can link to, and filters that need no kernel."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from IPython.display import HTML

from ..cost import FULL_BITS
from ..reproduction import claims, gaps, table_s1
from ..reproduction.claims import Claim
from .explorers import component, template
from .tables import anchor, anchor_of, verdict

# Each table of `data/paper`: what the ledger calls it, and its page in the book.
TABLES = {
    "main_results": ("main table", "main-results"),
    "table_s1_complexity": ("Table S1", "complexity"),
    "table_s2_fully_quantized": ("Table S2", "fully-quantized"),
}
SETS = ("Set5", "Set14", "BSD100", "Urban100")
# What Table S1 counts: a word for links, the heading, the unit that a number is shown in, and the digits of ours.
QUANTITIES = {
    "params_M": ("size", "size [million]", 1, 3),
    "hlfe_params_M": ("quantized-size", "quantized part [million]", 1, 3),
    "gate_params_pct_of_params": ("gate-size", "gates, of the size [%]", 1, 2),
    "bops_T": ("operations", "bit operations [T]", 1, 1),
    "gate_bops_pct": ("gate-operations", "gates, of these [10⁻⁶\u00a0%]", 1e-6, 2),
}
COLUMNS = {
    "network": "",
    "bits": "number",
    "method": "",
    "what": "",
    "paper": "number",
    "ours": "number",
    "difference": "number",
    "tolerance": "number",
    "status": "",
    "gap to full precision [dB]": "",
    "page": "",
    "H100-hours": "number",
}
FILTERS = ("network", "bits", "method", "status", "gap")


@dataclass(frozen=True)
class ClaimRow:
    """A claim in words.

    `anchor` is its place on the page. `tolerance` (what counts as reproduced and as approximate) and `gap` are HTML.
    `gap_status` is the verdict on the gap, "" for none; `hours` are H100-hours of what was not run, "" otherwise.
    """

    anchor: str
    table: str
    network: str
    bits: int
    method: str
    what: str
    paper: str
    ours: str
    difference: str
    tolerance: str
    status: str
    gap: str = ""
    gap_status: str = ""
    hours: str = ""


def score_rows(scores: Sequence[Claim]) -> list[ClaimRow]:
    """Printed scores, by table, network, bits, method (DDTB first) and data set."""

    def order(claim: Claim) -> tuple[object, ...]:
        network = list(TABLES).index(claim.table), claim.model, -claim.scale, -claim.bits
        return *network, claim.method != "DDTB", claim.method, SETS.index(claim.dataset)

    return [_score(claim) for claim in sorted(scores, key=order)]


def counted_rows() -> list[ClaimRow]:
    """The sizes and operations of Table S1, counted now."""
    rows = table_s1.table_rows()
    return [
        _counted(row, column, cell)
        for column in QUANTITIES
        for row in rows
        if (cell := row.cells[column]).printed is not None
    ]


def counted_anchor(row: table_s1.TableRow, column: str) -> str:
    """The place of one of Table S1's numbers."""
    return anchor(row.model.removesuffix("_DDTB"), 4, row.bits, "DDTB", QUANTITIES[column][0])


def ledger_table(rows: Sequence[ClaimRow]) -> HTML:
    """All rows, each with its anchor, and filters above them; without scripts there are rows alone."""
    classes = [f' class="{kind}"' if kind else "" for kind in COLUMNS.values()]
    heads = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(classes, COLUMNS, strict=True))
    body = ""
    for row in rows:
        cells = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, _cells(row), strict=True))
        body += f"<tr{_attributes(row)}>{cells}</tr>"
    filters = "".join(_menu(name, [_keys(row)[name] for row in rows]) for name in FILTERS)
    inside = template("ledger", filters=filters, heads=heads, rows=body)
    caption = (
        "Every claim, one a row. Tolerance: reproduced within the first, approximate within the second; one unit is "
        "one of the last printed digit."
    )
    return component(("ledger",), "ledger", inside, caption, None)


def _score(claim: Claim) -> ClaimRow:
    ours = claim.ours
    return ClaimRow(
        anchor_of(claim),
        claim.table,
        f"{claim.model} ×{claim.scale}",
        claim.bits,
        claim.method,
        f"{claim.dataset}\u00a0[dB]",
        f"{claim.paper:.2f}",
        "" if ours is None else f"{ours:.2f}",
        "" if ours is None else f"{round(ours - claim.paper, 2) + 0:+.2f}",
        f"{claims.REPRODUCED_WITHIN:g}, {claims.APPROXIMATE_WITHIN:g}"
        + (f"<small>gap {claim.gap.tolerance:.2f}</small>" if claim.gap else ""),
        claim.status,
        _gap(claim.gap) if claim.gap else "",
        claim.gap.status if claim.gap else "",
        f"{claim.hours:.2f}" if claim.status == "not run" else "",
    )


def _gap(gap: gaps.Gap) -> str:
    scatter = "" if gap.spread is None else f"\u00a0±\u00a0{gap.spread:.2f}"
    said = f"{gap.paper:.2f} printed, {gap.ours:.2f}{scatter} ours"
    teacher = f"teacher {gap.teacher_psnr:.2f}, {gap.teacher_preset} run"
    return f"{verdict(gap.status)}<small>{said}<br>{teacher}</small>"


def _counted(row: table_s1.TableRow, column: str, cell: table_s1.Cell) -> ClaimRow:
    _, heading, unit, digits = QUANTITIES[column]
    assert cell.status is not None and cell.printed is not None and cell.difference is not None
    return ClaimRow(
        counted_anchor(row, column),
        "table_s1_complexity",
        f"{row.model.removesuffix('_DDTB')} ×4",
        row.bits,
        "FP" if row.bits == FULL_BITS else "DDTB",
        heading,
        cell.text if unit == 1 else f"{cell.printed / unit:g}",
        f"{cell.ours / unit:.{digits}f}",
        f"{round(cell.difference / unit, digits) + 0:+.{digits}f}",
        f"1 unit, {100 * table_s1.APPROXIMATE_WITHIN:g}\u00a0%",
        cell.status,
    )


def _keys(row: ClaimRow) -> dict[str, str]:
    """What a row is filtered by."""
    return {
        "network": row.network,
        "bits": str(row.bits),
        "method": row.method,
        "status": row.status,
        "gap": row.gap_status,
    }


def _attributes(row: ClaimRow) -> str:
    data = "".join(f' data-{name}="{html.escape(value)}"' for name, value in _keys(row).items())
    return f' id="{row.anchor}"{data}'


def _cells(row: ClaimRow) -> Iterator[str]:
    name, page = TABLES[row.table]
    here = f'<a href="#{row.anchor}" tabindex="-1" aria-label="this row">#</a>'
    yield f"{here} {html.escape(row.network)}"
    yield str(row.bits)
    yield from map(html.escape, (row.method, row.what, row.paper, row.ours, row.difference))
    yield row.tolerance
    yield verdict(row.status)
    yield row.gap
    yield f'<a href="../tables/{page}.html">{name.removeprefix("Table ").removesuffix(" table")}</a>'
    yield row.hours


def _menu(name: str, values: Sequence[str]) -> str:
    """A menu with what occurs, in the order in which it does."""
    found = dict.fromkeys(filter(None, values))
    options = "".join(f"<option>{html.escape(value)}</option>" for value in found)
    return f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'
