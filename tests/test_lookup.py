"""Looked-up products against PyTorch's convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ddtb_lite.lookup import look_up_convolution


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("offset", [0, -2, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 5)])
def test_sums_are_those_of_a_convolution(bits: int, offset: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(bits)
    codes = random.integers(0, 2**bits, (6, *size))
    weights = random.integers(1 - 2**bits, 2**bits, (5, 6, 3, 3))
    want = F.conv2d(torch.from_numpy(codes[None] + offset).double(), torch.from_numpy(weights).double(), padding=1)
    got = look_up_convolution(codes.astype(np.uint8), weights.astype(np.int8), bits, offset)
    np.testing.assert_array_equal(got, want[0].numpy())


def test_by_hand() -> None:
    codes = np.array([[[1, 3]], [[2, 0]]])  # two channels, one row of two pixels
    weights = np.zeros((1, 2, 3, 3), np.int64)
    weights[0, :, 1] = [[1, -2, 3], [0, 1, -1]]  # a left, a middle and a right tap for each channel
    left = -2 * 1 + 1 * 2 + 3 * 3 - 1 * 0
    right = 1 * 1 + 0 * 2 - 2 * 3 + 1 * 0
    np.testing.assert_array_equal(look_up_convolution(codes, weights, 2), [[[left, right]]])


def test_refusals() -> None:
    weights = np.zeros((1, 3, 3, 3), np.int64)
    with pytest.raises(ValueError, match="5"):
        look_up_convolution(np.zeros((3, 2, 2), np.int64), weights, 5)
    with pytest.raises(ValueError, match="3 channels.*multiple of 2"):
        look_up_convolution(np.zeros((3, 2, 2), np.int64), weights, 2)
