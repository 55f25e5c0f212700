"""What belongs to an optimizer: its memory as tensors, for a run's state and back, and the scale of the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

GROW_AFTER = 2000


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that the optimizer remembers of each parameter, such as "3.exp_avg" of the fourth; not copied."""
    stored = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, own in stored.items() for name, value in own.items()}


def restore_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
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


class LossScale:
    """A factor for the loss, as large as gradients stand it: doubled after 2000 good steps, halved after a bad one.

    float16's smallest numbers are not small enough for gradients (Micikevicius et al., 2018). It lives on the device
    and nothing in it waits for the host, so that it can be part of a CUDA graph.
    """

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.tensor(2.0**16, device=device)
        self.good_steps = torch.tensor(0, device=device)

    def update(self, finite: Tensor) -> None:
        """Take note of whether all gradients of a step were finite, a 0-d boolean tensor."""
        good_steps = torch.where(finite, self.good_steps + 1, 0)
        grow = good_steps == GROW_AFTER
        self.factor.mul_(torch.where(finite, torch.where(grow, 2.0, 1.0), 0.5))
        self.good_steps.copy_(torch.where(grow, 0, good_steps))

    def state(self) -> dict[str, Tensor]:
        return {"factor": self.factor, "good_steps": self.good_steps}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned; in place, because a graph reads these tensors."""
        self.factor.copy_(state["factor"])
        self.good_steps.copy_(state["good_steps"])
