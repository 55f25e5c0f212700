"""Looking inside a quantized network: what the book draws and what an error message names."""

from __future__ import annotations

import torch

from .conversion import activation_quantizers
from .networks import SuperResolutionNetwork
from .quantizers import DualBound


def explain_divergence(network: SuperResolutionNetwork, step: int) -> str:
    """One sentence that names what stopped being finite, and the bounds that met."""
    faults = [
        f"{name} is not finite" for name, parameter in network.named_parameters() if not torch.isfinite(parameter).all()
    ]
    faults += [
        f"the gradient of {name} is not finite"
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    if network.quantization is not None:
        faults += [
            f"the bounds of {path} have met ({quantizer.lower.item():.3g} to {quantizer.upper.item():.3g})"
            for path, quantizer in activation_quantizers(network).items()
            if isinstance(quantizer, DualBound) and quantizer.upper <= quantizer.lower
        ]
    shown = "; ".join(faults[:5]) or "no parameter is to blame, so look at the images"
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    return (
        f"The loss is not finite at step {step}: {shown}{more}. "
        "Lower the learning rate, or start again from the last saved state with another seed."
    )
