"""The fingerprint: by three paths, with any number of threads, and on an older processor."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_networks import small

import ddtb_lite as ddtb
from ddtb_lite.deploy import convolution, fingerprint
from ddtb_lite.deploy.integer import integer_convolutions
from ddtb_lite.networks import SuperResolutionNetwork

SHIPPED = ["edsr_x4_ddtb_2bit", "edsr_x4_fqsr_4bit_fully"]

needs_fast_path = pytest.mark.skipif(
    not convolution.fast_path_fits(torch.zeros(1, dtype=torch.int8), torch.device("cpu")),
    reason="oneDNN's convolution of bytes is not here",
)


def by_numpy(network: SuperResolutionNetwork) -> str:
    """The same from the written definition, with NumPy's integers alone."""
    digest = hashlib.sha256()
    for index, layer in enumerate(integer_convolutions(network).values()):
        weight = layer.codes.numpy().astype(np.int64)
        channel, row, column = np.ogrid[: weight.shape[1], :8, :10]
        numbers = (37 * channel + 17 * row + 5 * column + 11 * index) % 2**layer.bits - 2 ** (layer.bits - 1)
        padded = np.pad(numbers, [(0, 0), *[(each, each) for each in layer.padding]])
        windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))
        sums = np.tensordot(weight, windows, axes=([1, 2, 3], [0, 3, 4]))
        digest.update(sums.astype("<i4").tobytes())
    return digest.hexdigest()


@needs_fast_path
@pytest.mark.parametrize("name", SHIPPED)
def test_three_paths_give_one_fingerprint(name: str) -> None:
    fast = ddtb.to_integer(ddtb.pretrained(name))
    expected = by_numpy(fast)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert fingerprint(fast) == expected
            assert fingerprint(fast, "fast") == expected
    finally:
        torch.set_num_threads(threads)


@needs_fast_path
@pytest.mark.parametrize("instructions", ["AVX2", "SSE41"])
def test_an_older_processor_gives_the_same(instructions: str) -> None:
    """oneDNN without instructions for bytes adds in 16 bits, and SSE has no fast path perhaps: never another sum."""
    code = (
        "import ddtb_lite as ddtb; fast = ddtb.to_integer(ddtb.pretrained('edsr_x4_ddtb_2bit'))\n"
        "try: print(ddtb.deploy.fingerprint(fast, 'fast'))\n"
        "except ValueError: print(ddtb.deploy.fingerprint(fast))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == fingerprint(ddtb.to_integer(ddtb.pretrained("edsr_x4_ddtb_2bit")))


@pytest.mark.parametrize("name", ["edsr", "rdn", "srresnet"])
def test_it_knows_one_weight_from_another(name: str) -> None:
    student = ddtb.quantize(small(name), method="lsq", bits=3)
    ddtb.initialize(student, [torch.rand(2, 3, 16, 16) * 255])
    fast = ddtb.to_integer(student)
    before = fingerprint(fast)
    assert before == by_numpy(fast)
    last = list(integer_convolutions(fast).values())[-1]
    last.codes.view(-1)[-1] += 1
    last._prepared = None
    assert fingerprint(fast) != before


def test_other_networks_have_none() -> None:
    student = ddtb.quantize(small(), bits=2)
    for network in (small(), student):
        with pytest.raises(ValueError, match="to_integer"):
            fingerprint(network)
