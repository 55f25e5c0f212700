"""Looking at a network while it runs, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

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
    with ExitStack() as stack:
        for path, module in modules.items():
            hook = module.register_forward_pre_hook(lambda _module, inputs, path=path: see(path, inputs[0]))
            stack.callback(hook.remove)
        yield


@contextmanager
def outputs_watched(modules: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside, `see(path, input, output)` is called just after each of the modules has run."""
    with ExitStack() as stack:
        for path, module in modules.items():
            hook = module.register_forward_hook(lambda _module, x, output, path=path: see(path, x[0], output))
            stack.callback(hook.remove)
        yield
