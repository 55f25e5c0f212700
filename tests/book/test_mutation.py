"""The proof that the pages' checks bite: a quantizer that is off by 2 % makes the pages about it fail."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGES = ("foundations/quantization.ipynb", "method/dual_bounds.ipynb")

# At run time, in the notebook's own process; no source is touched.
MUTATION = """
from ddtb_lite import uniform

exact = uniform._forward
uniform._forward = lambda *arguments: 1.02 * exact(*arguments)
"""


def run(page: str, first: str) -> None:
    notebook = nbformat.read(BOOK / page, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    folder = str((BOOK / page).parent)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_notices_a_quantizer_that_is_off_by_two_percent(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with pytest.raises(CellExecutionError, match="AssertionError.*check|check.*but got"):
        run(page, MUTATION)


def test_the_unchanged_page_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    run(PAGES[0], "pass")
