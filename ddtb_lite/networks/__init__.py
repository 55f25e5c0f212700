"""The full-precision networks, each of which names its own quantization points."""

from __future__ import annotations

from .base import ActivationPoint, Quantization, QuantizationPoints, SuperResolutionNetwork
from .edsr import EDSR
from .imitation import imitate
from .rdn import RDN
from .srgan import SRGAN, Discriminator
from .srresnet import SRResNet

NETWORKS: dict[str, type[SuperResolutionNetwork]] = {network.name: network for network in (EDSR, RDN, SRResNet, SRGAN)}

__all__ = [
    "EDSR",
    "NETWORKS",
    "RDN",
    "SRGAN",
    "ActivationPoint",
    "Discriminator",
    "Quantization",
    "QuantizationPoints",
    "SRResNet",
    "SuperResolutionNetwork",
    "build",
    "imitate",
]


def build(name: str, scale: int, **architecture: int) -> SuperResolutionNetwork:
    """A freshly initialized full-precision network (section 7).

    `name` is "edsr", "rdn", "srresnet" or "srgan" (its generator), `scale` the upscaling factor 2, 3 or 4.
    `architecture` overrides depth and width: `n_blocks=16, n_feats=64`, for RDN `D=16, C=8, G=64`.
    Raises `ValueError` for an unknown name, scale or size.
    """
    if name not in NETWORKS:
        raise ValueError(f"Unknown network {name!r}; the known ones are {', '.join(NETWORKS)}.")
    allowed = NETWORKS[name].options()
    for key, value in architecture.items():
        if key not in allowed:
            raise ValueError(f"{name} has no option {key!r}; it takes {', '.join(sorted(allowed))}.")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} is {value!r}, expected a positive whole number.")
    return NETWORKS[name](scale, **architecture)
