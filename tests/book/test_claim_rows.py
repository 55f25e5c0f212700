"""The ledger's table: a row a claim with a place of its own, and menus that choose among the rows."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddtb_lite.book import claim_rows, tables
from ddtb_lite.reproduction import results, table_s1
from ddtb_lite.reproduction.claims import ledger

BOOK = Path(__file__).resolve().parents[2] / "book"
SCORES = ledger()
ROWS = claim_rows.score_rows(SCORES) + claim_rows.counted_rows()


def test_every_claim_has_one_row_and_one_place() -> None:
    printed = sum(cell.printed is not None for row in table_s1.table_rows() for cell in row.cells.values())
    assert len(ROWS) == len(SCORES) + printed
    assert len({row.anchor for row in ROWS}) == len(ROWS)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", row.anchor) for row in ROWS)


def test_links_lead_to_rows() -> None:
    places = {row.anchor for row in ROWS}
    assert {"edsr-x4-2bit-ddtb-set5", "edsr-x4-4bit-ddtb-fully-set5", "rdn-x4-fp-size"} <= places
    assert {tables.anchor_of(claim) for claim in SCORES} <= places
    counted = itertools.product(table_s1.table_rows(), claim_rows.QUANTITIES)
    assert {
        claim_rows.counted_anchor(*each) for each in counted if each[0].cells[each[1]].printed is not None
    } <= places


def test_a_printed_score_leads_to_its_row() -> None:
    mine = [claim for claim in SCORES if (claim.table, claim.model, claim.scale) == ("main_results", "EDSR", 4)]
    runs = tables.runs_by_method(results.all_results(), "edsr", 4)
    shown = tables.score_table(mine, runs).data
    places = dict(re.findall(r'<a href="\.\./reference/claims\.html#([^"]+)">([\d.]+) ', shown))
    by_place = {tables.anchor_of(claim): f"{claim.paper:.2f}" for claim in mine}
    assert len(places) > 12 and places == {place: by_place[place] for place in places}


def test_a_price_stands_beside_what_was_not_run_alone() -> None:
    for row in ROWS:
        assert bool(row.hours) == (row.status == "not run"), row


def test_tolerances_are_those_that_decide() -> None:
    for row in ROWS:
        if row.status == "contradicted":
            assert row.tolerance == "1 unit, 2.5\u00a0%"
            assert abs(float(row.difference)) > 0.025 * float(row.paper)
        elif row.table != "table_s1_complexity":
            assert row.tolerance.startswith("0.05, 0.3") and ("gap" in row.tolerance) == bool(row.gap)


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    file = tmp_path / "page.html"
    file.write_text(f'<!doctype html><meta charset="utf-8">{claim_rows.ledger_table(ROWS).data}', encoding="utf-8")
    context = browser.new_context(viewport={"width": 390, "height": 844})
    tab = context.new_page()
    tab.goto(file.as_uri())
    yield tab
    context.close()


def shown(page: Any) -> int:
    return page.evaluate("[...document.querySelectorAll('tbody tr')].filter(row => !row.hidden).length")


def test_menus_choose_rows_by_keys_alone(page: Any) -> None:
    assert shown(page) == len(ROWS)
    page.focus("select[name=network]")
    page.keyboard.type("RDN")
    page.keyboard.press("Tab")
    page.keyboard.type("2")
    wanted = [row for row in ROWS if row.network == "RDN ×4" and row.bits == 2]
    assert shown(page) == len(wanted)
    assert page.inner_text("output") == f"{len(wanted)} of {len(ROWS)} claims"
    page.focus("button[type=reset]")
    page.keyboard.press("Enter")
    page.wait_for_function("![...document.querySelectorAll('tbody tr')].some(row => row.hidden)")


def test_a_link_finds_a_row_that_is_filtered_away(page: Any) -> None:
    page.select_option("select[name=network]", "RDN ×2")
    page.evaluate("location.hash = 'edsr-x4-2bit-ddtb-set5'")
    page.wait_for_function("!document.getElementById('edsr-x4-2bit-ddtb-set5').hidden")
    assert shown(page) == len(ROWS)


def test_all_rows_are_there_without_scripts(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(claim_rows.ledger_table(ROWS).data, encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert all(row.is_visible() for row in tab.query_selector_all("tbody tr"))
    assert not tab.is_visible("form")
    context.close()


def test_the_stored_page_has_the_rows_of_today() -> None:
    """And its summary, which the introduction repeats, stands under its name."""
    cells = json.loads((BOOK / "reference" / "claims.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    tables = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    assert claim_rows.ledger_table(ROWS).data in tables
    assert any(o["metadata"].get("scrapbook", {}).get("name") == "ledger-summary" for o in outputs if "metadata" in o)
