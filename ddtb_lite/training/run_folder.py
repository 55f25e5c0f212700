"""The folder of a training run: its log, its best weights, and the state from which it continues."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from .. import datasets
from ..conversion import EXTRA_STATE
from ..networks import SuperResolutionNetwork
from ..support import distributed
from ..support.files import atomic_write
from .recipe import WITHOUT_TRACE, Recipe

# Seconds in which any disk has taken a state.
ABANDONED_AFTER = 600


def identity(
    network: SuperResolutionNetwork,
    teacher: SuperResolutionNetwork | None,
    recipe: Recipe,
    data: list[tuple[str, np.ndarray]],
    seed: int,
) -> dict:
    """What makes a run this run and no other: everything that its result depends on, weights and images as digests."""
    return {
        "network": network.name,
        "scale": network.scale,
        "architecture": network.architecture,
        "quantization": None if network.quantization is None else vars(network.quantization),
        "weights": _digest(network),
        "teacher": None if teacher is None else _digest(teacher),
        "recipe": {name: value for name, value in vars(recipe).items() if name not in WITHOUT_TRACE},
        "seed": seed,
        "data": datasets.fingerprint(data),
    }


def _digest(network: SuperResolutionNetwork) -> str:
    """SHA-256 of all tensors in a network's state dict."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if name == EXTRA_STATE:  # older folders have no such entry, and what it says is part of the identity anyway
            continue
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class RunState:
    """A run frozen between two steps: `tensors` by dotted name, everything else in `facts`."""

    tensors: dict[str, Tensor]
    facts: dict

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix`, their names without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


class RunFolder:
    """Writes are atomic: a process killed at any moment leaves the previous files whole. Only process 0 writes.

    `identity` says what is being trained; a folder that holds another run is refused with `ValueError`, an
    unreadable state with `RuntimeError`.
    """

    def __init__(self, path: Path, identity: dict) -> None:
        self.path = path
        # A round trip through JSON, so that tuples and lists compare as equal.
        self.identity = json.loads(json.dumps(identity))
        path.mkdir(parents=True, exist_ok=True)
        for name in ("state.safetensors", "best.safetensors", "log.csv"):
            # What a killed process was writing is as large as a state and of no use; what is new may be another's.
            for remains in path.glob(f".{name}.*.tmp"):
                with contextlib.suppress(FileNotFoundError):  # all processes clear away
                    if time.time() - remains.stat().st_mtime > ABANDONED_AFTER:
                        remains.unlink()

    def write_state(self, state: RunState) -> None:
        """Replace the state that `read_state` returns."""
        facts = json.dumps({"identity": self.identity, **state.facts})
        self._write("state.safetensors", lambda: _serialized(state.tensors, {"run": facts}))

    def read_state(self) -> RunState | None:
        """The last state written, or None in a new folder."""
        path = self.path / "state.safetensors"
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except Exception as error:
            raise RuntimeError(
                f"{path} cannot be read ({error}); delete it to start the run again, or choose another folder."
            ) from error
        stored = facts.pop("identity")
        if changed := sorted(key for key in self.identity if _differs(stored.get(key), self.identity[key])):
            # Another seed or method means other weights too; the cause says more.
            causes = [key for key in changed if key != "weights"] or changed
            raise ValueError(f"{self.path} holds another run (different {', '.join(causes)}); choose another folder.")
        return RunState(tensors, facts)

    def write_best(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights that scored best so far as a plain state dict."""
        self._write("best.safetensors", lambda: _serialized(weights))

    def write_log(self, rows: list[dict]) -> None:
        """All rows as `log.csv`, one column for each quantity that any row has."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        self._write("log.csv", lambda: text.getvalue().encode())

    def _write(self, name: str, content: Callable[[], bytes]) -> None:
        if distributed.rank() == 0:
            atomic_write(self.path / name, content())


def _differs(stored: Any, wanted: Any) -> bool:
    """Whether a part of the identity is another one; of a recipe, say, what only one of the two knows is left aside.

    A folder may be older than some fields, or hold some that no longer count.
    """
    if isinstance(stored, dict) and isinstance(wanted, dict):
        return any(stored[name] != wanted[name] for name in stored.keys() & wanted.keys())
    return stored != wanted


def _serialized(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(tensors, metadata)
