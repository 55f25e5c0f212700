"""Which device, and in which precision."""

from __future__ import annotations

import torch


def resolve(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, by default a GPU if there is one; `ValueError` if it cannot be used here."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(device)!r}, which cannot be used here: {reason}") from error


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
