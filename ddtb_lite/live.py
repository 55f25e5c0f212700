"""Interaction for readers who have a kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ipywidgets

# Seconds; longer than a client takes to store a picture.
REST = 0.5


def interact(function: Callable[..., object], **controls: Any) -> None:
    """`ipywidgets.interact`, followed by a short rest.

    nbclient and papermill tell the kernel of each picture that they store for a widget. If the cell's reply comes
    at that very moment, they miss it and wait for ever. So the cell ends a little later than its picture comes.
    """
    ipywidgets.interact(function, **controls)
    time.sleep(REST)
