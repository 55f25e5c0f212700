"""A quantized convolution without multiplications: what the engine in the reader's browser does, to read.

Processors look sixteen indices up in a table of sixteen bytes with one instruction. An index of four bits is two codes
of 2 bits, so sixteen entries are enough for everything that two weights can make of two codes, w₁·c₁ + w₂·c₂: one
look-up stands for two multiplications, at sixteen pixels. A code of 3 or 4 bits is an index of its own, and one look-up
stands for one multiplication. With 5 bits the table would no longer fit.
"""

from __future__ import annotations

import numpy as np

from .uniform import check_bits

INDEX_BITS = 4


def look_up_convolution(codes: np.ndarray, weights: np.ndarray, bits: int, offset: int = 0) -> np.ndarray:
    """The 3×3 convolution of (`codes` + `offset`) with whole-numbered `weights`, by looking products up.

    `codes` is C×H×W with values 0…2^bits − 1, `weights` O×C×3×3; the result is int64 O×H×W, exactly. A tap beyond the
    picture contributes nothing: tables hold w·(c − z), where z is a code in the middle, and the border is filled with
    z, whose entry is zero. What (z + offset) adds depends only on which taps lie inside, and that is where the lower
    bound went: it is the offset of the grid (`uniform.integer_codes`).

    Raises `ValueError` unless `bits` is 2, 3 or 4 and, at 2 bits, the number of channels is even.
    """
    check_bits(bits, 2, INDEX_BITS)
    together = INDEX_BITS // bits  # codes that share an index
    channels, height, width = codes.shape
    if channels % together:
        raise ValueError(f"There are {channels} channels, expected a multiple of {together}: two codes share an index.")
    middle = 2 ** (bits - 1)
    shifts = bits * np.arange(together)
    meant = (np.arange(2 ** (together * bits))[:, None] >> shifts) % 2**bits  # the codes behind each index
    padded = np.pad(codes.astype(np.int64), ((0, 0), (1, 1), (1, 1)), constant_values=middle)
    inside = np.pad(np.ones((height, width), np.int64), 1)
    sums = np.zeros((len(weights), height, width), np.int64)
    for row, column in np.ndindex(3, 3):
        window = np.s_[..., row : row + height, column : column + width]
        for first in range(0, channels, together):
            some = slice(first, first + together)
            indices = np.tensordot(2**shifts, padded[window][some], 1)
            tables = weights[:, some, row, column].astype(np.int64) @ (meant - middle).T  # one for each output
            sums += tables[:, indices]
        total = weights[:, :, row, column].sum(axis=1, dtype=np.int64)
        sums += total[:, None, None] * inside[window] * (middle + offset)
    return sums
