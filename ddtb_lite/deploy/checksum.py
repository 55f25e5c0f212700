"""One number for all the integer arithmetic of a network, the same on every machine.

Floating-point sums depend on their order, and so on processor, library and number of threads; sums of integers do not.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..networks import SuperResolutionNetwork
from .codes import Codes
from .integer import IntegerConv2d, integer_convolutions

# Sides that differ, so that rows and columns cannot be mistaken for each other.
HEIGHT, WIDTH = 8, 10


def fingerprint(network: SuperResolutionNetwork, path: str = "exact") -> str:
    """SHA-256 (hex) over the integer sums of every convolution that `to_integer` made.

    The layers come in the order of the network's quantization points. Layer number l, from 0, of k bits is given an
    input of 8 × 10 pixels whose channel c has the whole number (37·c + 17·row + 5·column + 11·l) mod 2^k − 2^(k−1) at
    each place. Its sums, without steps and bias, are hashed as little-endian int32 in the order channel, row, column.

    `path` is "exact", or "fast" for oneDNN's convolutions, as in `IntegerConv2d.sums`. Raises `ValueError` for a
    network that does not run on integers, and where there is no fast path.
    """
    digest = hashlib.sha256()
    for index, layer in enumerate(integer_convolutions(network).values()):
        sums = layer.sums(numbered_input(layer, index), path)
        digest.update(sums.cpu().contiguous().numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def numbered_input(layer: IntegerConv2d, index: int) -> Codes:
    """The input that layer number `index` is given for its fingerprint, 1×C×8×10."""
    device = layer.codes.device
    channel, row, column = (torch.arange(n, device=device) for n in (layer.in_channels, HEIGHT, WIDTH))
    numbers = 37 * channel[:, None, None] + 17 * row[:, None] + 5 * column + 11 * index
    codes = (numbers % 2**layer.bits).to(torch.uint8)[None]
    half: Tensor = layer.step.new_full((), 2 ** (layer.bits - 1))
    return Codes(codes, half, torch.ones_like(half))
