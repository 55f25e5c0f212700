"""Describe the repository for machines: `python book/crate.py` writes `ro-crate-metadata.json`.

An RO-Crate (https://w3id.org/ro/crate/1.1) of the software, the book, the results, the trained networks and the paper.
Title, version, date, authors and the paper are those of `CITATION.cff`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "ro-crate-metadata.json"
VERSION = "https://w3id.org/ro/crate/1.1"
MIT, CC_BY = ({"@id": f"https://spdx.org/licenses/{name}"} for name in ("MIT", "CC-BY-4.0"))
AUTHORS = {"@id": "#authors"}


def crate() -> dict[str, Any]:
    """The whole description, in JSON-LD."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = _paper(citation["references"][0])
    about, address = {"@id": paper["@id"]}, citation["repository-code"]
    parts = [
        {
            "@id": "ddtb_lite/",
            "@type": ["Dataset", "SoftwareSourceCode"],
            "name": "ddtb_lite",
            "description": "The package: quantizers, networks, training, evaluation, counting, and the reproduction.",
            "programmingLanguage": {"@id": "https://www.python.org/"},
            "codeRepository": address,
            "version": citation["version"],
            "license": MIT,
        },
        {
            "@id": "book/",
            "@type": ["Dataset", "Book"],
            "name": "DDTB, reproduced",
            "description": "The book: Markdown pages and executed notebooks; the code in them is under MIT.",
            "inLanguage": "en",
            "about": about,
            "license": CC_BY,
        },
        {
            "@id": "data/results/",
            "@type": "Dataset",
            "name": "Results",
            "description": "A JSON file for each run: configuration, seed, hashes of the data, versions, device, "
            "commit, time, training curve, and the score of each image. Facts: reuse them freely, and cite the book.",
            "encodingFormat": "application/json",
        },
        {
            "@id": "data/checkpoints/",
            "@type": "Dataset",
            "name": "Trained networks",
            "description": "Safetensors files of the networks whose results are in data/results, under the same names. "
            "They were trained on images without an open licence: see book/reference/data-and-licences.md.",
            "license": MIT,
        },
        {
            "@id": "data/paper/",
            "@type": "Dataset",
            "name": "What the paper prints",
            "description": "Tables of printed scores, sizes and settings as CSV, each row with its source.",
            "citation": about,
        },
        {
            "@id": "data/datasets.toml",
            "@type": "File",
            "name": "Data sets",
            "description": "Where each training and test set is kept, with its terms and checksums. None is in here.",
            "encodingFormat": "application/toml",
        },
        {
            "@id": "CITATION.cff",
            "@type": "File",
            "name": "How to cite",
            "description": "Citation File Format 1.2.0",
            "encodingFormat": "application/yaml",
        },
    ]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": citation["title"],
        "description": "A re-implementation of DDTB, quantization of super-resolution networks to two, three and four "
        "bits, with a book that teaches, runs and checks it, and a ledger of every printed number.",
        "datePublished": str(citation["date-released"]),
        "version": citation["version"],
        "license": MIT,
        "author": AUTHORS,
        "url": address,
        "keywords": citation["keywords"],
        "citation": about,
        "hasPart": [{"@id": part["@id"]} for part in parts],
    }
    descriptor = {
        "@id": FILE.name,
        "@type": "CreativeWork",
        "conformsTo": {"@id": VERSION},
        "about": {"@id": "./"},
    }
    entities = [
        {**AUTHORS, "@type": "Organization", "name": citation["authors"][0]["name"]},
        {"@id": "https://www.python.org/", "@type": "ComputerLanguage", "name": "Python"},
        {**MIT, "@type": "CreativeWork", "name": "MIT License"},
        {**CC_BY, "@type": "CreativeWork", "name": "Creative Commons Attribution 4.0 International"},
    ]
    return {"@context": f"{VERSION}/context", "@graph": [descriptor, root, *parts, paper, *entities]}


def _paper(reference: dict[str, Any]) -> dict[str, Any]:
    return {
        "@id": reference["url"],
        "@type": "ScholarlyArticle",
        "name": reference["title"],
        "author": [f"{each['given-names']} {each['family-names']}" for each in reference["authors"]],
        "datePublished": str(reference["year"]),
        "isPartOf": reference["collection-title"],
    }


def text() -> str:
    """The file's content."""
    return f"{json.dumps(crate(), indent=2, ensure_ascii=False)}\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
