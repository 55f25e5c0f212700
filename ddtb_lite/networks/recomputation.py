"""Gradient checkpointing (Chen et al., 2016): a block keeps its input alone and is computed again when needed.

https://arxiv.org/abs/1604.06174. That trades a third more arithmetic for a fraction of the memory.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """The block's output; what its backward pass needs is computed again there, with the same gradients.

    Running statistics move once, as without recomputation. The block must not draw random numbers.
    """
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, x)
    again = _AsBefore(block)
    return checkpoint(
        forward,
        block,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), again),
    )


class _AsBefore:
    """A context in which a block's buffers are what they were when this was made; whatever happens inside is undone.

    Batch norm and running ranges change their buffers in a forward pass. Its repetition must begin from the same
    ones, and leave no trace: neither in them nor in what modules remember of their last pass, such as a gate's
    logits.
    """

    def __init__(self, block: nn.Module) -> None:
        self.modules = list(block.modules())
        self.buffers = [_copies(module) for module in self.modules]

    def __enter__(self) -> None:
        self.kept = [(vars(module).copy(), module._buffers.copy()) for module in self.modules]
        for module, buffers in zip(self.modules, self.buffers, strict=True):
            # Other tensors, not other values: the backward pass may still need those that are there.
            module._buffers.update({name: value.clone() for name, value in buffers.items()})

    def __exit__(self, *error: Any) -> None:
        for module, (attributes, buffers) in zip(self.modules, self.kept, strict=True):
            vars(module).update(attributes)
            module._buffers.update(buffers)
        del self.kept


def _copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module._buffers.items() if value is not None}
