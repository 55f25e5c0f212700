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


def training_precision(wanted: str, device: torch.device) -> str:
    """ "bf16" or "fp32": for "auto" bf16 where the device has instructions for it; an explicit wish is granted."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if has_bf16 else "fp32"
