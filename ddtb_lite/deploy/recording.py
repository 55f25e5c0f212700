"""What a network computes, as a list of steps: it runs once, and every layer and every operation between is noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..networks import SuperResolutionNetwork
from ..networks.rdn import Concatenation
from .integer import IntegerActivation, IntegerConv2d

LAYERS = (IntegerActivation, IntegerConv2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.PReLU, nn.PixelShuffle)
OPERATIONS = ("add", "sub", "mul", "div", "rsub", "cat")
SAME_VALUES = ("clone", "contiguous", "to", "float", "detach")


@dataclass(frozen=True)
class Step:
    """One layer (a module) or operation (its name), what goes in and what comes out.

    An operand is the number of an earlier tensor (0 is the picture), or a constant.
    """

    what: nn.Module | str
    operands: tuple[int | Tensor | float, ...]
    result: int


class _Recorder(TorchFunctionMode):
    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.number = {id(picture): 0}
        self.alive: list[Tensor] = [picture]  # else another tensor could be given a known one's place in memory
        self.inside_layer = False

    def note(self, what: nn.Module | str, operands: Any, result: Tensor) -> None:
        known = tuple(self._operand(each) for each in operands)
        self.alive.append(result)
        self.number[id(result)] = len(self.alive) - 1
        self.steps.append(Step(what, known, self.number[id(result)]))

    def _operand(self, each: Tensor | float) -> int | Tensor | float:
        if id(each) in self.number:
            return self.number[id(each)]
        return each if isinstance(each, Tensor) else float(each)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operands = args[0] if func.__name__ == "cat" else args
        if self.inside_layer or not isinstance(result, Tensor) or id(result) in self.number:
            return result
        if not any(isinstance(each, Tensor) and id(each) in self.number for each in operands):
            return result  # arithmetic of constants
        name = func.__name__.strip("_").removeprefix("true")
        if name in SAME_VALUES:
            self.alive.append(result)
            self.number[id(result)] = self.number[id(args[0])]
        elif name in OPERATIONS:
            self.note(name, operands, result)
        else:
            raise NotImplementedError(
                f"The network computes {func.__name__!r}, which has no place in a standard file yet."
            )
        return result


def record(network: SuperResolutionNetwork) -> list[Step]:
    """The steps of a network, quantizers among them as layers that yield real values; the last one makes the image.

    Raises `NotImplementedError` for an operation that is not in `OPERATIONS`.
    """
    picture = torch.zeros(1, 3, 16, 16, device=network.device)
    recorder = _Recorder(picture)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_layers_noted(network, recorder))
        # It copies into memory that was set aside, which cannot be read off the operations.
        stack.enter_context(patch.object(Concatenation, "__call__", lambda _self, *parts: torch.cat(parts, 1)))
        stack.enter_context(recorder)
        network(picture)
    return recorder.steps


@contextmanager
def _layers_noted(network: nn.Module, recorder: _Recorder) -> Iterator[None]:
    inner = {part for module in network.modules() if isinstance(module, LAYERS) for part in list(module.modules())[1:]}

    def before(module: nn.Module, inputs: Any) -> None:
        recorder.inside_layer = True

    def after(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(module, IntegerActivation):
            output = output.real()
        recorder.inside_layer = False
        recorder.note(module, inputs, output)
        return output

    hooks: list[Callable[[], None]] = []
    for module in network.modules():
        if isinstance(module, LAYERS) and module not in inner:
            hooks += [module.register_forward_pre_hook(before).remove, module.register_forward_hook(after).remove]
    try:
        yield
    finally:
        for remove in hooks:
            remove()
