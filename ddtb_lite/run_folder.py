"""The folder of a training run: its log, its best weights, and the state from which it continues."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from .files import atomic_write


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
    """Writes are atomic: a process killed at any moment leaves the previous files whole.

    `identity` says what is being trained; a folder that holds another run is refused with `ValueError`, an
    unreadable state with `RuntimeError`.
    """

    def __init__(self, path: Path, identity: dict) -> None:
        self.path = path
        # A round trip through JSON, so that tuples and lists compare as equal.
        self.identity = json.loads(json.dumps(identity))
        path.mkdir(parents=True, exist_ok=True)
        for name in ("state.safetensors", "best.safetensors", "log.csv"):
            # What a killed process was writing is as large as a state and of no use.
            for remains in path.glob(f".{name}.*.tmp"):
                remains.unlink()

    def write_state(self, state: RunState) -> None:
        """Replace the state that `read_state` returns."""
        facts = json.dumps({"identity": self.identity, **state.facts})
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}
        atomic_write(self.path / "state.safetensors", safetensors.torch.save(tensors, {"run": facts}))

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
        if stored != self.identity:
            changed = sorted(key for key in self.identity if stored.get(key) != self.identity[key])
            # Another seed or method means other weights too; the cause says more.
            causes = [key for key in changed if key != "weights"] or changed
            raise ValueError(f"{self.path} holds another run (different {', '.join(causes)}); choose another folder.")
        return RunState(tensors, facts)

    def write_best(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights that scored best so far as a plain state dict."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        atomic_write(self.path / "best.safetensors", safetensors.torch.save(tensors))

    def write_log(self, rows: list[dict]) -> None:
        """All rows as `log.csv`, one column for each quantity that any row has."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(self.path / "log.csv", text.getvalue().encode())
