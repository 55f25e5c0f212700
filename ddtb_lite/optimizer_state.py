"""What an optimizer remembers, as tensors by dotted name: for a run's state, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that the optimizer remembers of each parameter, such as "3.exp_avg" of the fourth; not copied."""
    stored = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, own in stored.items() for name, value in own.items()}


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Make a copy of what `moments` returned the optimizer's own; its learning rates stay.

    Parameters that have had no gradient yet, such as those of bypassed gates, have no moments.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, moment = name.partition(".")
        state.setdefault(int(index), {})[moment] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, own in optimizer.state.items():
        # A fused optimizer walks through memory: moments must lie there as their parameter does.
        for name, value in own.items():
            if value.shape == parameter.shape:
                own[name] = torch.empty_like(parameter).copy_(value)
