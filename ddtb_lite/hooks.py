"""Looking at a network while it runs, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode; afterwards each of its modules is in the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def inputs_watched(modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside, `see(path, input)` is called just before each of the modules runs."""
    handles = [
        module.register_forward_pre_hook(lambda _module, inputs, path=path: see(path, inputs[0]))
        for path, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def outputs_watched(modules: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside, `see(path, input, output)` is called just after each of the modules has run."""
    handles = [
        module.register_forward_hook(lambda _module, inputs, output, path=path: see(path, inputs[0], output))
        for path, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
