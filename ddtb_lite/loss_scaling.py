"""Loss scaling for float16, whose smallest numbers are not small enough for gradients (Micikevicius et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

GROW_AFTER = 2000


class LossScale:
    """A factor for the loss, as large as gradients stand it: doubled after 2000 good steps, halved after a bad one.

    It lives on the device and nothing in it waits for the host, so that it can be part of a CUDA graph.
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
