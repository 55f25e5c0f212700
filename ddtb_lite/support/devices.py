"""Which device, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, by default a GPU if there is one; `ValueError` if it cannot be used here."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(device)!r}, which cannot be used here: {reason}") from error


def current(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, as `resolve`; a GPU becomes the current one, whose streams graphs are recorded on."""
    place = resolve(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    return place


# What convolutions compute in; None leaves everything in float32.
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_precision(wanted: str, device: torch.device) -> str:
    """A key of `DTYPES`; an explicit wish is granted.

    For "auto" bf16 where the device has instructions for it. GPUs without, such as the T4, get fp16 with loss
    scaling, CPUs without fp32.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if has_bf16 else "fp32"


@contextmanager
def true_float32() -> Iterator[None]:
    """Keep cuDNN from rounding the operands of float32 convolutions to TF32's 10 bits, its default."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)  # newer PyTorch switches operators singly
    owner, name, exact = (
        (torch.backends.cudnn, "allow_tf32", False)
        if convolutions is None
        else (convolutions, "fp32_precision", "ieee")
    )
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        yield
    finally:
        setattr(owner, name, before)
