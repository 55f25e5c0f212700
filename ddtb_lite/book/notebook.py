"""What notebooks repeat: networks, sources, the line by which one notices that a result has changed, live controls."""

from __future__ import annotations

import inspect
import math
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from IPython.display import Markdown

from .. import checkpoints
from ..conversion import quantize
from ..networks import SuperResolutionNetwork, build
from ..training import train

# Seconds; longer than a client takes to store a picture.
REST = 0.5


def check(name: str, got: float, want: float = True, tolerance: float = 0.0) -> None:
    """Print one constant line if `got` is within `tolerance` of `want`; raise `AssertionError` otherwise.

    The line does not contain `got`, so that a notebook's output stays the same as long as the result holds. With
    two arguments `got` is a condition, which must be true.
    """
    is_condition = want is True
    # Six digits would round a large count.
    wanted = f"{want:,.0f}" if abs(want) >= 1e6 and float(want).is_integer() else f"{want:g}"
    line = f"check {name}" if is_condition else f"check {name}: {wanted} ± {tolerance:g}"
    got = float(got)
    if not math.isfinite(got) or not abs(got - want) <= tolerance:
        raise AssertionError(f"{line}, but {'it does not hold' if is_condition else f'got {got:g}'}")
    print(f"✓ {line}")


def published(parameters: Mapping[str, object], **values: object) -> bool:
    """Whether a page's parameters (its `globals()`) have these values, with which its text was written.

    Checks of measured numbers hold for these alone; checks of mathematics always.
    """
    return all(parameters[name] == value for name, value in values.items())


def shipped(name: str) -> SuperResolutionNetwork | None:
    """The network of this name that comes with the package, None if there is none."""
    try:
        return checkpoints.pretrained(name)
    except FileNotFoundError:
        return None


def teacher_of(model: str, scale: int, preset: str) -> SuperResolutionNetwork:
    """The full-precision network that comes with the package; one that does not is trained here with a preset."""
    network = shipped(f"{model}_x{scale}")
    if network is None:
        network = build(model, scale)
        train(network, "photos_train", preset, progress=False)
    return network


def student_of(teacher: SuperResolutionNetwork, method: str, bits: int, preset: str) -> SuperResolutionNetwork:
    """The student of this network that comes with the package; one that does not is trained here with a preset."""
    student = shipped(f"{teacher.name}_x{teacher.scale}_{method}_{bits}bit")
    if student is None:
        student = quantize(teacher, method, bits)
        train(student, "photos_train", preset, teacher=teacher, progress=False)
    return student


def listing(*objects: Any) -> str:
    """Functions and classes as they stand in the package, so that a page and the package cannot drift apart."""
    return "\n\n".join(textwrap.dedent(inspect.getsource(each)).rstrip() for each in objects)


def source(*objects: Any) -> Markdown:
    """Their `listing`, to be shown as code."""
    return Markdown(f"```python\n{listing(*objects)}\n```")


def interact(function: Callable[..., object], **controls: Any) -> None:
    """`ipywidgets.interact`, followed by a short rest.

    nbclient and papermill tell the kernel of each picture that they store for a widget. If the cell's reply comes
    at that very moment, they miss it and wait for ever. So the cell ends a little later than its picture comes.
    """
    ipywidgets.interact(function, **controls)
    time.sleep(REST)
