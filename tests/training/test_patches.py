"""Training patches: each one found again in the image it was cut from, by brute force."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from ddtb_lite import images
from ddtb_lite.training import patches
from ddtb_lite.training.patches import PatchSampler

torch.set_num_threads(1)

# (flip rows, flip columns, transpose): the eight orientations of a square.
ORIENTATIONS = list(itertools.product((False, True), repeat=3))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture in which every square is unlike every other, in any orientation."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def oriented(crop: np.ndarray, flip_rows: bool, flip_columns: bool, transpose: bool) -> np.ndarray:
    crop = crop[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return crop.swapaxes(0, 1) if transpose else crop


def pixels(patch: Tensor) -> np.ndarray:
    """3×P×P as P×P×3 whole numbers; fails for anything that a uint8 image cannot hold."""
    array = patch.permute(1, 2, 0).numpy()
    assert array.dtype == np.float32 and np.array_equal(array, array.astype(np.uint8))
    return array.astype(np.uint8)


def found(patch: np.ndarray, pictures: list[np.ndarray]) -> list[tuple[int, int, int, tuple[bool, bool, bool]]]:
    """Every (image, top, left, orientation) at which this patch can be cut."""
    side = patch.shape[0]
    places = []
    for index, picture in enumerate(pictures):
        for top in range(picture.shape[0] - side + 1):
            for left in range(picture.shape[1] - side + 1):
                crop = picture[top : top + side, left : left + side]
                if crop.sum() != patch.sum():
                    continue
                places += [
                    (index, top, left, each) for each in ORIENTATIONS if np.array_equal(oriented(crop, *each), patch)
                ]
    return places


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_each_pair_is_cut_from_one_place_of_one_image(scale: int) -> None:
    """Odd sizes, one image exactly as large as a patch, one too small."""
    side = 4 * scale
    pictures = [noise(side + 9, side + 5), noise(side, side, 1), noise(side + 1, side + 14, 2), noise(side - 1, 60, 3)]
    sampler = PatchSampler(pictures, scale, side, seed=3)
    assert (len(sampler), sampler.left_out) == (3, 1)
    low, high = sampler.sample(40)
    assert low.shape == (40, 3, 4, 4) and high.shape == (40, 3, side, side)
    assert low.dtype == high.dtype == torch.float32
    small = [images.lower_resolution(picture, scale) for picture in pictures[:3]]
    images_seen, orientations = set(), set()
    for low_patch, high_patch in zip(low, high, strict=True):
        places = found(pixels(high_patch), pictures)
        assert len(places) == 1
        index, top, left, orientation = places[0]
        assert index < 3 and top % scale == 0 and left % scale == 0
        rows, columns = slice(top // scale, top // scale + 4), slice(left // scale, left // scale + 4)
        assert np.array_equal(pixels(low_patch), oriented(small[index][rows, columns], *orientation))
        images_seen.add(index)
        orientations.add(orientation)
    assert images_seen == {0, 1, 2}
    assert orientations == set(ORIENTATIONS)


def test_places_flips_and_images_are_uniform() -> None:
    """Pixels that tell their own position show where each of 6000 patches begins and how it lies."""
    count, rows, columns = 6000, 10, 7
    position = np.zeros((rows, columns, 3), np.uint8)
    position[..., 0], position[..., 1] = np.arange(rows)[:, None] * 10, np.arange(columns) * 10
    other = np.full((300, 300, 3), 255, np.uint8)  # larger, but no likelier
    sampler = PatchSampler([position, other], 1, 4, seed=0)
    _, high = sampler.sample(count)
    mine = high[high[:, 0, 0, 0] < 255]
    assert abs(len(mine) / count - 1 / 2) < 0.03
    corner = mine[:, :2, 0, 0]
    step_down, step_right = mine[:, :2, 1, 0] - corner, mine[:, :2, 0, 1] - corner
    transposed = step_down[:, 0] == 0
    flipped_rows = (step_down[:, 0] + step_right[:, 0]) < 0
    flipped_columns = (step_down[:, 1] + step_right[:, 1]) < 0
    kinds = transposed * 4 + flipped_rows * 2 + flipped_columns * 1
    shares = torch.bincount(kinds, minlength=8) / len(mine)
    assert (shares - 1 / 8).abs().max() < 0.02  # three standard deviations, and the seed is fixed
    for drawn in (transposed, flipped_rows, flipped_columns):
        assert abs(drawn.double().mean() - 1 / 2) < 0.03
    top, left = mine[:, 0].amin((1, 2)) / 10, mine[:, 1].amin((1, 2)) / 10
    places = torch.bincount((top * 4 + left).long(), minlength=28) / len(mine)
    assert len(places) == 28 and (places - 1 / 28).abs().max() < 0.018


def test_seeds_and_states() -> None:
    pictures = [noise(40, 50), noise(60, 30, 1)]

    def sampler(seed: int) -> PatchSampler:
        return PatchSampler(pictures, 2, 16, seed=seed)

    first, again, other = sampler(5), sampler(5), sampler(6)
    torch.manual_seed(1)
    expected = [first.sample(4) for _ in range(3)]
    torch.manual_seed(2)  # the sampler has a generator of its own
    for low, high in expected:
        own_low, own_high = again.sample(4)
        assert torch.equal(own_low, low) and torch.equal(own_high, high)
    assert not torch.equal(other.sample(4)[1], expected[0][1])

    state = first.state()
    assert state.dtype == torch.uint8 and state.device.type == "cpu"
    later = [first.sample(4)[1] for _ in range(2)]
    other.set_state(state)
    assert all(torch.equal(other.sample(4)[1], high) for high in later)


# ------------------------------------------------------------------------------------------ placement


def sampler_in(placement: str, seed: int = 5) -> PatchSampler:
    return PatchSampler([noise(40, 50), noise(60, 30, 1)], 2, 16, seed=seed, placement=placement)


def equal(batch: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(*pair) and pair[0].stride() == pair[1].stride() for pair in zip(batch, other, strict=True))


def test_the_placement_changes_no_patch_and_no_state() -> None:
    """Batches of the same size, which the thread has cut ahead, and of other sizes, which it could not foresee."""
    device, host = sampler_in("device"), sampler_in("host")
    assert torch.equal(device.state(), host.state())
    for count in (4, 4, 4, 3, 4, 4, 1):
        assert equal(device.sample(count), host.sample(count))
        assert torch.equal(device.state(), host.state())


@pytest.mark.parametrize("count", [4, 3])
def test_a_state_leads_back_to_the_same_patches_in_spite_of_prefetching(count: int) -> None:
    host = sampler_in("host")
    host.sample(4)
    state = host.state()
    expected = [host.sample(count) for _ in range(3)]
    host.set_state(state)
    assert torch.equal(host.state(), state)
    assert all(equal(host.sample(count), batch) for batch in expected)
    for placement in ("host", "device"):  # resumed elsewhere
        resumed = sampler_in(placement, seed=6)
        resumed.sample(4)
        resumed.set_state(state)
        assert all(equal(resumed.sample(count), batch) for batch in expected)


def test_the_next_batch_is_cut_by_a_thread_while_this_one_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    gather = PatchSampler._gather

    def watched(self: PatchSampler, places: Tensor) -> tuple[Tensor, Tensor]:
        threads.append(threading.current_thread().name)
        return gather(self, places)

    monkeypatch.setattr(PatchSampler, "_gather", watched)
    host = sampler_in("host")
    for _ in range(3):
        host.sample(4)
    host._ahead.batch.result()
    assert len(threads) == 4 and set(threads) == {"patches_0"}


def test_the_thread_ends_with_the_sampler() -> None:
    host = sampler_in("host")
    host.sample(2)
    (thread,) = host._thread._threads
    assert thread.is_alive() and thread in threading.enumerate()
    del host
    gc.collect()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_an_error_in_the_thread_reaches_the_caller_and_skips_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    host, device = sampler_in("host"), sampler_in("device")
    expected = [device.sample(4) for _ in range(3)]
    assert equal(host.sample(4), expected[0])
    host._ahead.batch.result()

    def out_of_memory(self: PatchSampler, places: Tensor) -> None:
        raise MemoryError("no memory for patches")

    with monkeypatch.context() as context:
        context.setattr(PatchSampler, "_gather", out_of_memory)
        assert equal(host.sample(4), expected[1])  # cut before
        for _ in range(2):
            with pytest.raises(MemoryError, match="no memory for patches"):
                host.sample(4)
    host.set_state(host.state())
    assert equal(host.sample(4), expected[2])


def test_large_sets_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(40, 40)
    size = 40 * 40 * 3 + 20 * 20 * 3
    for free, expected in ((2 * size, "device"), (2 * size - 1, "host")):
        monkeypatch.setattr(patches, "_free_memory", lambda device, free=free: free)
        assert PatchSampler([picture], 2, 8).placement == expected
        assert PatchSampler([picture], 2, 8, placement="device").placement == "device"
        assert PatchSampler([picture], 2, 8, placement="host").placement == "host"
    monkeypatch.undo()
    assert PatchSampler([picture], 2, 8).placement == "device"
    with pytest.raises(ValueError, match="placement is 'gpu', expected one of auto, device, host"):
        PatchSampler([picture], 2, 8, placement="gpu")


def test_cut_needs_nothing_but_places() -> None:
    """As a graph would use it: into the same tensor, drawn anew each time."""
    whole, parts = sampler_in("device"), sampler_in("device")
    places = torch.zeros(2, 3, 4, dtype=torch.long)
    for _ in range(3):
        places.copy_(parts.draw(4))
        assert equal(parts.cut(places), whole.sample(4))


def test_nothing_is_drawn_inside_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = sampler_in("device")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    sampler.draw(4)  # a CPU has no graphs
    sampler.device = torch.device("cuda")
    with pytest.raises(RuntimeError, match="The host draws patches"):
        sampler.sample(4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("placement", ["device", "host"])
def test_a_gpu_gets_the_same_patches(placement: str) -> None:
    gpu = PatchSampler([noise(40, 50), noise(60, 30, 1)], 2, 16, seed=5, device="cuda", placement=placement)
    cpu = sampler_in("device")
    for count in (4, 4, 3):
        low, high = gpu.sample(count)
        assert low.is_cuda and high.is_cuda
        assert equal((low.cpu(), high.cpu()), cpu.sample(count))


def test_a_batch_is_channels_last_and_independent_of_the_buffer() -> None:
    picture = noise(20, 20)
    sampler = PatchSampler([picture], 2, 8)
    low, high = sampler.sample(2)
    assert low.is_contiguous(memory_format=torch.channels_last)
    assert high.is_contiguous(memory_format=torch.channels_last)
    high.zero_()
    assert sampler.sample(2)[1].any()


@pytest.mark.parametrize("patch_size", [0, 1, 3, 10, 13, -4])
def test_patches_that_are_no_multiple_of_the_scale(patch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"patch_size is {patch_size}, expected a multiple of the scale, 4"):
        PatchSampler([noise(64, 64)], 4, patch_size)


def test_images_that_are_all_too_small() -> None:
    # 19 rows are 16 after cropping to a multiple of the scale.
    with pytest.raises(ValueError, match="None of the 2 training images is 20×20 pixels or larger; choose"):
        PatchSampler([noise(19, 64), noise(64, 18)], 4, 20)
    assert len(PatchSampler([noise(20, 20)], 4, 20)) == 1


def test_grey_images_are_refused() -> None:
    """Also where their pixels could be taken for a third as many of three colors."""
    for side in (20, 24):
        with pytest.raises(ValueError, match=rf"shape \({side}, {side}\), expected H×W×3"):
            PatchSampler([noise(side, side)[..., 0]], 2, 8)
