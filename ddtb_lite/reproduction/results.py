"""Result files: one JSON object a run, with everything that is needed to obtain the same numbers again.

The book reads its numbers from here and prints beside them what the paper prints (`paper_tables`).
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from ..support import resources
from ..support.files import atomic_write
from ..support.provenance import environment, without_paths

# The keys of a result in the order of the file, and the type of each.
KEYS: dict[str, type | tuple[type, ...]] = {
    "run": str,
    "config": dict,
    "seed": int,
    "data": dict,
    "versions": dict,
    "device": str,
    "commit": (str, type(None)),
    "seconds": (int, float),
    "curve": list,
    "checkpoint": (str, type(None)),
    "scores": dict,
    "command": str,
}
# Where the scores of some data sets came from that a run got later, by data set; a file may do without.
ADDED = "added"

__all__ = ["KEYS", "accepted", "all_results", "environment", "paper_tables", "read", "write"]


def write(
    path: str | os.PathLike[str],
    *,
    run: str,
    config: Any,
    seed: int,
    data: Mapping[str, str],
    curve: list[Any],
    seconds: float,
    checkpoint: str | os.PathLike[str] | None,
    scores: Mapping[str, Any],
    command: str,
    precision: str,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Write a result file and return its content; versions, device and commit are added here.

    `config` is a dictionary or a dataclass, `data` the SHA-256 of each data set, `curve` the rows of the
    training log, `seconds` the wall time, `checkpoint` the file in which the repository carries the network, None
    if it does not, `scores` what `evaluate` returned for each data set, rounded to 4 decimals. `device` and
    `precision` say where and in what the network was trained, as in `environment`. A commit followed by "-dirty"
    means that the package differed from it. Machine paths are cut down, see `provenance.without_paths`.

    Raises `ValueError` for anything that `read` would refuse, before a file is touched; otherwise as
    `atomic_write`.
    """
    result = without_paths(
        {
            "run": run,
            "config": asdict(config) if is_dataclass(config) and not isinstance(config, type) else config,
            "seed": seed,
            "data": dict(data),
            **_origin(device, precision),
            "seconds": round(seconds, 1),
            "curve": curve,
            "checkpoint": checkpoint,
            "scores": {name: _scores(item) for name, item in scores.items()},
            "command": command,
        }
    )
    try:
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The result of {run!r} cannot be stored as JSON: {error}.") from error
    result = json.loads(text)
    _check(result, f"The result of {run!r}")
    atomic_write(path, f"{text}\n".encode())
    return result


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a result file.

    Raises `FileNotFoundError` for a missing file, and `ValueError` if it is not JSON, if a key is missing,
    unknown or of the wrong type, or if a data set's scores are not the means of its images'.
    """
    path = Path(path)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no result file {path}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
    _check(result, str(path))
    return result


def all_results(folder: str | os.PathLike[str] | None = None) -> dict[str, dict[str, Any]]:
    """Every result of a folder by its run, in the order of the names; by default those that came with the
    package.

    Raises `FileNotFoundError` for a missing folder and `ValueError` for two files of one run; otherwise as
    `read`.
    """
    own = folder is None
    folder = resources.data("results") if folder is None else Path(folder)
    if not folder.is_dir() and not own:
        raise FileNotFoundError(f"There is no folder of results {folder}.")
    results: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        result = read(path)
        if result["run"] in results:
            raise ValueError(f"{path} holds the run {result['run']!r}, which another file in {folder} holds too.")
        results[result["run"]] = result
    return results


def add_scores(
    run: str,
    scores: Mapping[str, Any],
    data: Mapping[str, str],
    *,
    seconds: float,
    device: torch.device | str | None = None,
) -> Path:
    """Give a published run the scores of its shipped network on further data sets; returns its file.

    `scores`, `data` and `device` as in `write`, `seconds` the wall time of the scoring. Versions, device and commit
    belong to the run; those of the scores stand under "added". Raises `ValueError` for a data set that was scored
    already, and if the package is installed; otherwise as `read` and `atomic_write`.
    """
    path = resources.published("results") / f"{run}.json"
    result = read(path)
    if known := sorted(scores.keys() & result["scores"].keys()):
        raise ValueError(f"{run} has scores on {', '.join(known)} already.")
    result["scores"] |= {name: _scores(item) for name, item in scores.items()}
    result["data"] |= data
    origin = _origin(device, "fp32") | {"seconds": round(seconds, 1)}
    result[ADDED] = result.get(ADDED, {}) | dict.fromkeys(scores, origin)
    _check(result, str(path))
    atomic_write(path, f"{json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode())
    return path


def accepted() -> list[dict[str, dict[str, Any]]]:
    """The results of each bundle in `data/accepted`: those that others sent and that were scored again."""
    return [all_results(folder) for folder in sorted(resources.data("accepted").glob("*/results"))]


def paper_tables() -> dict[str, list[dict[str, str]]]:
    """What the paper prints: the rows of each table in `data/paper` by the table's name, cells as printed."""
    return {
        file.stem: list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        for file in sorted(resources.data("paper").glob("*.csv"))
    }


def _origin(device: torch.device | str | None, precision: str) -> dict[str, Any]:
    """Versions, device and commit, the latter marked if the package differs from it."""
    here = environment(device, precision)
    commit = f"{here['commit']}-dirty" if here["dirty"] else here["commit"]
    return {"versions": here["versions"], "device": here["device"], "commit": commit}


def _scores(item: Any) -> dict[str, Any]:
    """`Scores`, or a dictionary like it, with the three keys of the file."""
    keys = ("psnr", "ssim", "images")
    found = {key: item.get(key) if isinstance(item, Mapping) else getattr(item, key, None) for key in keys}
    return _rounded(found)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(float(value), 4) if isinstance(value, float) else value


def _check(result: Any, what: str) -> None:
    """Raise `ValueError` unless `result` has the form of a result file."""
    if not isinstance(result, dict):
        raise ValueError(f"{what} is a {type(result).__name__}, expected one JSON object.")
    if wrong := sorted(set(KEYS) ^ (set(result) - {ADDED})):
        raise ValueError(f"{what} has missing or unknown keys: {', '.join(wrong)}.")
    for key, expected in KEYS.items():
        if not isinstance(result[key], expected) or isinstance(result[key], bool):
            raise ValueError(f"{what} has {type(result[key]).__name__} as {key!r}, which is not its type.")
    for name, digest in result["data"].items():
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(f"{what} has {digest!r} as the checksum of {name}, expected a SHA-256 in hexadecimal.")
    added = result.get(ADDED, {})
    if not isinstance(added, dict) or not added.keys() <= result["scores"].keys():
        raise ValueError(f"{what} says where scores came from that it does not have.")
    for name, scores in result["scores"].items():
        _check_scores(scores, f"{what} has scores of {name} that")


def _check_scores(scores: Any, what: str) -> None:
    if not isinstance(scores, dict) or set(scores) != {"psnr", "ssim", "images"}:
        raise ValueError(f"{what} are not an object with psnr, ssim and images.")
    rows = scores["images"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{what} have no rows of images.")
    for key in ("psnr", "ssim"):
        values = [scores[key], *(row.get(key) for row in rows)]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise ValueError(f"{what} lack a finite {key}.")
        if abs(values[0] - math.fsum(values[1:]) / len(rows)) > 2e-4:  # both sides are rounded
            raise ValueError(f"{what} have a {key} of {values[0]}, which is not the mean of the images'.")
