"""Networks small enough for tests that need a whole one."""

from __future__ import annotations

import torch

from ddtb_lite.networks import SuperResolutionNetwork, build

SMALL = {
    "edsr": {"n_blocks": 2, "n_feats": 8},
    "rdn": {"D": 2, "C": 2, "G": 8},
    "srresnet": {"n_blocks": 2, "n_feats": 8},
    "srgan": {"n_blocks": 2, "n_feats": 8},
}


def small(name: str = "edsr", scale: int = 2) -> SuperResolutionNetwork:
    """The same weights at each call."""
    torch.manual_seed(0)
    return build(name, scale, **SMALL[name])
