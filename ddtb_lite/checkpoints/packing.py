"""Quantized weights at their true size: a codebook of the values that occur, and indices of a few bits each.

Nothing here depends on the method: whatever quantizer made the weight, only the values that it yields count.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A quantized weight (out×…) as its codebook (float32) and its packed indices (uint8, 1-d).

    The codebook is 1×K, or out×K where each output channel has its own scale, with K at most 2^bits values in
    ascending order. Raises `ValueError` for a weight with more values than that, or with NaN.
    """
    flat = weight.detach().to("cpu", torch.float32) + 0.0  # so that -0.0 and 0.0 are one value
    if flat.isnan().any():
        raise ValueError("the quantized weight holds NaN")
    codebook, indices = _codebook(flat.reshape(1, -1))
    if codebook.shape[1] > 2**bits:
        codebook, indices = _codebook(flat.flatten(1))
    if codebook.shape[1] > 2**bits:
        raise ValueError(f"a weight of {bits} bits has {codebook.shape[1]} values, expected at most {2**bits}")
    return codebook, torch.from_numpy(pack_indices(indices.numpy().reshape(-1), index_width(codebook)))


def unpack(codebook: Tensor, packed: Tensor, shape: torch.Size) -> Tensor:
    """The weight of the given shape that `pack` made `codebook` and `packed` of; `ValueError` if they do not
    fit."""
    if codebook.dim() != 2 or codebook.shape[0] not in (1, shape[0]) or not 1 <= codebook.shape[1] <= 256:
        raise ValueError(f"the codebook is {tuple(codebook.shape)}, which does not fit a weight {tuple(shape)}")
    indices = unpack_indices(packed.numpy(), index_width(codebook), shape.numel())
    if indices.size and indices.max() >= codebook.shape[1]:
        raise ValueError(f"the packed weight refers to value {indices.max()} of a codebook of {codebook.shape[1]}")
    rows = torch.from_numpy(indices.astype(np.int64)).reshape(codebook.shape[0], -1)
    return codebook.gather(1, rows).reshape(shape)


def index_width(codebook: Tensor) -> int:
    """How many bits an index into the codebook takes: ceil(log2 K), and 1 for a single value."""
    return max(1, (codebook.shape[1] - 1).bit_length())


def pack_indices(indices: np.ndarray, width: int) -> np.ndarray:
    """uint8 indices below 2^width as one stream of bits, least significant bit first, without gaps."""
    bits = np.unpackbits(indices.astype(np.uint8)[:, None], axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little")


def unpack_indices(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """The first `count` indices of the stream; `ValueError` unless its length is exactly what they need."""
    expected = (count * width + 7) // 8
    if packed.dtype != np.uint8 or packed.shape != (expected,):
        raise ValueError(f"the packed weight is {packed.dtype} {packed.shape}, expected uint8 ({expected},)")
    bits = np.unpackbits(packed, count=count * width, bitorder="little").reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little")[:, 0]


def _codebook(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's distinct values in ascending order (filled up with zeros), and where each element is in
    them."""
    ordered, order = rows.sort(dim=1)
    rank = torch.zeros_like(order)
    rank[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=1)
    codebook = rows.new_zeros(len(rows), int(rank[:, -1].max()) + 1).scatter_(1, rank, ordered)
    return codebook, torch.empty_like(rank).scatter_(1, order, rank)
