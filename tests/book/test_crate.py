"""The repository's description for machines: as the script makes it, complete, and true of what is there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import ddtb_lite as ddtb

ROOT = Path(__file__).resolve().parents[2]
STORED = (ROOT / "ro-crate-metadata.json").read_text(encoding="utf-8")
ENTITIES = {entity["@id"]: entity for entity in json.loads(STORED)["@graph"]}


def script() -> Any:
    spec = importlib.util.spec_from_file_location("crate", ROOT / "book" / "crate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def references(value: Any) -> Iterator[str]:
    """Identifiers of other entities that one names."""
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, dict):
        if set(value) == {"@id"}:
            yield value["@id"]
        for each in value.values():
            yield from references(each)


def test_the_stored_file_is_what_the_script_writes() -> None:
    assert script().text() == STORED, "run python book/crate.py"


def test_it_is_a_crate_of_version_1_1() -> None:
    assert json.loads(STORED)["@context"] == "https://w3id.org/ro/crate/1.1/context"
    descriptor = ENTITIES["ro-crate-metadata.json"]
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"} and descriptor["about"] == {"@id": "./"}
    assert {"name", "description", "datePublished", "license", "hasPart"} <= set(ENTITIES["./"])
    assert len(json.loads(STORED)["@graph"]) == len(ENTITIES), "an identifier twice"


def test_what_it_names_is_described_or_is_there() -> None:
    for entity in ENTITIES.values():
        named = set(references({key: value for key, value in entity.items() if key != "conformsTo"}))
        assert named <= set(ENTITIES), entity
    parts = {part["@id"] for part in ENTITIES["./"]["hasPart"]}
    assert {"ddtb_lite/", "book/", "data/results/", "data/checkpoints/", "data/paper/"} <= parts
    for part in parts:
        assert (ROOT / part).is_dir() == part.endswith("/") and (ROOT / part).exists(), part


def test_the_citation_file_says_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert {"message", "title", "authors", "license", "date-released"} <= set(citation)
    assert citation["version"] == ddtb.__version__
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "year", "url"} <= set(paper)
    cited = " ".join((ROOT / "book" / "reference" / "how-to-cite.md").read_text(encoding="utf-8").split())
    assert paper["title"] in cited and f"Version {citation['version']}" in cited
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in cited
