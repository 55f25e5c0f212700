"""Numbers in pages that no notebook computes, against the result files that they were read from."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from ddtb_lite.reproduction import results
from ddtb_lite.reproduction.grid import experiments

BOOK = Path(__file__).resolve().parents[2] / "book"
SHORT = {
    name: run
    for name, run in results.all_results().items()
    if run["config"].get("recipe", {}).get("preset_name") == "short"
}


def page(name: str) -> str:
    return (BOOK / name).read_text(encoding="utf-8")


def test_the_glossary_says_how_long_short_runs_took() -> None:
    students = [run["seconds"] / 60 for run in SHORT.values() if run["config"]["quantization"]]
    teachers = {
        name: run["seconds"] / 60
        for name, run in SHORT.items()
        if not run["config"]["quantization"] and run["config"]["model"] not in ("srresnet", "srgan")
    }
    said = f"{min(students):.0f} to {max(students):.0f} minutes on a CPU core for a quantized network"
    glossary = " ".join(page("reference/glossary.md").split())
    assert said in glossary and f"half of the time less than {math.ceil(statistics.median(students))}," in glossary
    assert min(teachers, key=teachers.__getitem__) == "edsr_x2" and max(teachers, key=teachers.get) == "rdn_d4c4_x4"
    said = f"{min(teachers.values()):.0f} (EDSR ×2) to {max(teachers.values()):.0f} minutes (a small RDN)"
    assert said in glossary


def test_limits_say_how_long_srresnet_goes_on() -> None:
    for name, said in (("srresnet_x4", "trains it on for {} steps"), ("srgan_x4", "goes on from there for {}")):
        assert said.format(experiments()[name].steps("short")) in page("beyond/limits.md")


def test_odm_has_one_year_everywhere() -> None:
    """It was on arXiv in 2023 and at ECCV in 2024, and is cited by the latter."""
    assert "year      = {2024}" in page("references.bib").partition("{odm,")[2].partition("\n}")[0]
    for path in [*BOOK.rglob("*.md"), *(BOOK.parent / "data" / "paper").iterdir()]:
        text = path.read_text(encoding="utf-8")
        assert "Hong et al. 2023" not in text and "Hong et al., 2023" not in text, path
