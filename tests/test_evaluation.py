"""Scoring on data sets, and super-resolving one image whole or in tiles."""

from __future__ import annotations

import copy
import io
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddtb_lite import evaluate, evaluation, images, inference, metrics, upscale
from ddtb_lite.conversion import activation_quantizers, attach_gates, quantize, set_phase
from ddtb_lite.inference import _halo, _tail_has_gate, _tiles
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import SuperResolutionNetwork, build
from ddtb_lite.support import devices

DATA = os.environ.get("DDTB_DATA")
SMALL = {
    "edsr": {"n_blocks": 1, "n_feats": 8},
    "rdn": {"D": 1, "C": 2, "G": 8},
    "srresnet": {"n_blocks": 1, "n_feats": 8},
}


def picture(height: int = 40, width: int = 37, seed: int = 0) -> np.ndarray:
    """Smooth color with some texture."""
    random = np.random.default_rng(seed)
    smooth = images.resize(random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8), 4)
    return smooth[:height, :width].copy()


def small(name: str = "edsr", scale: int = 2) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    return build(name, scale, **SMALL[name])


class Nearest(SuperResolutionNetwork):
    """Repeats each pixel and adds 0.4, which rounding takes away again; records how it was run."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__(scale)
        self.offset = nn.Parameter(torch.tensor(0.4))
        self.active = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.seen: dict[str, object] = {}

    def features(self, x: Tensor) -> Tensor:
        self.seen = {
            "training": self.training or self.active.training,
            "gradients": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "product": (x[0, 0, :2, :2] @ x[0, 0, :2, :2]).dtype,
            "shape": tuple(x.shape),
        }
        return self.active(x)

    def upsample(self, features: Tensor) -> Tensor:
        larger = features.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return larger + self.offset


def nearest(hr: np.ndarray, scale: int) -> np.ndarray:
    lr = images.lower_resolution(hr, scale)
    return lr.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small tensors: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --------------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scores_are_those_of_the_rounded_output_against_the_cropped_picture(scale: int) -> None:
    pictures = [picture(47, 50), picture(41, 43, seed=1)]
    scores = evaluate(Nearest(scale), pictures)
    expected = []
    for hr in pictures:
        sr = nearest(hr, scale)
        cropped = hr[: sr.shape[0], : sr.shape[1]]
        expected.append((metrics.psnr(sr, cropped, scale), metrics.ssim(sr, cropped, scale)))
    measured = [(row["psnr"], row["ssim"]) for row in scores.images]
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-9)
    assert [row["name"] for row in scores.images] == ["image_0", "image_1"]
    assert scores.psnr == pytest.approx(np.mean([row[0] for row in expected]))
    assert scores.ssim == pytest.approx(np.mean([row[1] for row in expected]))
    assert (scores.dataset, scores.scale, scores.protocol, scores.border) == ("images", scale, "y", scale)


def test_protocol_and_border_are_passed_on() -> None:
    hr = picture(48, 48)
    scores = evaluate(Nearest(), [("flower", hr)], protocol="rgb", border=0)
    assert scores.psnr == pytest.approx(metrics.psnr(nearest(hr, 2), hr, 0, "rgb"), abs=1e-9)
    assert scores.ssim == pytest.approx(metrics.ssim(nearest(hr, 2), hr, 0, "rgb"), abs=1e-9)
    assert (scores.protocol, scores.border, scores.images[0]["name"]) == ("rgb", 0, "flower")


def test_output_outside_the_grey_scale_is_clipped() -> None:
    network = Nearest()
    with torch.no_grad():
        network.offset.fill_(1000)
    hr = picture(48, 48)
    white = np.full_like(hr, 255)
    assert evaluate(network, [hr]).psnr == pytest.approx(metrics.psnr(white, hr, 2), abs=1e-9)


def test_a_folder_is_scored_under_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    images.write(folder / "b.png", picture(48, 48))
    images.write(folder / "a.png", picture(48, 48, seed=1))
    scores = evaluate(Nearest(), folder)
    assert scores.dataset == "mine" and [row["name"] for row in scores.images] == ["a", "b"]


def test_the_table_names_everything() -> None:
    scores = evaluation.Scores(
        "Set0",
        4,
        "y",
        4,
        [{"name": "a", "psnr": 30.0, "ssim": 0.9}, {"name": "butterfly", "psnr": math.inf, "ssim": 1.0}],
    )
    lines = str(scores).splitlines()
    assert lines[0] == "Set0 ×4, protocol y, border 4"
    assert [line.split() for line in lines[2:]] == [
        ["a", "30.00", "0.9000"],
        ["butterfly", "inf", "1.0000"],
        ["mean", "inf", "0.9500"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_the_network_runs_in_eval_mode_in_float32_and_is_left_as_it_was() -> None:
    network = Nearest().train()
    network.frozen.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        evaluate(network, [picture()], device="cpu")
    shape = network.seen.pop("shape")
    assert shape == (1, 3, 20, 18)
    assert network.seen == {
        "training": False,
        "gradients": False,
        "inference": True,
        "product": torch.float32,
    }
    assert network.training and network.active.training and not network.frozen.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    evaluate(network, [picture()], device="cpu", dtype=torch.bfloat16)
    assert network.seen["product"] == torch.bfloat16


def test_the_mode_comes_back_after_an_error_too() -> None:
    network = Nearest().train()
    with torch.no_grad():
        network.offset.fill_(math.nan)
    with pytest.raises(RuntimeError):
        evaluate(network, [picture()])
    assert network.training and network.active.training
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_weights_keep_their_storage_and_can_be_trained_on() -> None:
    network = small()
    places = [(parameter.data_ptr(), parameter.stride()) for parameter in network.parameters()]
    evaluate(network, [picture()], device="cpu")
    upscale(network, picture(), device="cpu")
    assert [(parameter.data_ptr(), parameter.stride()) for parameter in network.parameters()] == places
    network(torch.rand(1, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_cudnn_settings_are_exact_inside_and_restored_after() -> None:
    def state() -> object:
        convolutions = getattr(torch.backends.cudnn, "conv", None)
        return convolutions.fp32_precision if convolutions else torch.backends.cudnn.allow_tf32

    before = state()
    with devices.true_float32():
        assert state() in ("ieee", False)
    assert state() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_network_on_the_cpu_is_scored_on_the_gpu_and_stays_where_it_is() -> None:
    network = small()
    on_gpu, on_cpu = evaluate(network, [picture()]), evaluate(network, [picture()], device="cpu")
    assert network.device.type == "cpu"
    assert on_gpu.psnr == pytest.approx(on_cpu.psnr, abs=0.01)


# -------------------------------------------------------------------------------------------- batches


def alone(network: SuperResolutionNetwork, pictures: list[np.ndarray]) -> list[tuple[float, float]]:
    """Scores of images of which each has a call of its own."""
    rows = [evaluate(network, [each], device="cpu").images[0] for each in pictures]
    return [(row["psnr"], row["ssim"]) for row in rows]


def together(network: SuperResolutionNetwork, pictures: list[np.ndarray]) -> list[tuple[float, float]]:
    return [(row["psnr"], row["ssim"]) for row in evaluate(network, pictures, device="cpu").images]


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches on the CPU, too."""
    monkeypatch.setitem(evaluation.TOGETHER, "cpu", evaluation.TOGETHER["cuda"])


def test_images_of_one_size_run_together_up_to_a_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    network = Nearest()
    features = network.features
    monkeypatch.setattr(network, "features", lambda x: shapes.append(tuple(x.shape)) or features(x))
    # 41 rows are 40 after cropping; two sizes take turns, and one is turned on its side.
    sizes = [(40, 37), (48, 48), (41, 36), (36, 40), (40, 36), (48, 48), (40, 36)]
    pictures = [picture(*size, seed) for seed, size in enumerate(sizes)]
    monkeypatch.setitem(evaluation.TOGETHER, "cpu", 3 * 20 * 18)
    scores = evaluate(network, pictures, device="cpu")
    assert shapes == [(3, 3, 20, 18), (1, 3, 20, 18), (1, 3, 24, 24), (1, 3, 24, 24), (1, 3, 18, 20)]
    assert [row["name"] for row in scores.images] == [f"image_{index}" for index in range(7)]
    np.testing.assert_allclose(together(network, pictures), alone(network, pictures), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("like_a_gpu")
def test_company_changes_no_score(name: str) -> None:
    pictures = [picture(seed=seed) for seed in range(4)]
    np.testing.assert_allclose(together(small(name), pictures), alone(small(name), pictures), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("like_a_gpu")
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_gates_see_each_image_by_itself(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student = gated_student(variant=variant)
    pictures = [np.full((40, 40, 3), 90, np.uint8), *(picture(40, 40, seed) for seed in range(3))]
    sizes: list[int] = []
    features = student.features
    monkeypatch.setattr(student, "features", lambda x: sizes.append(len(x)) or features(x))
    # Where a sum comes out a bit higher, a value on the border between two levels can fall on the other side.
    np.testing.assert_allclose(together(student, pictures), alone(student, pictures), rtol=0, atol=1e-3)
    assert sizes == ([4] if variant == "paper" else [1] * 4) + [1] * 4
    # The released code's gates compare the images of a batch, so that these would have changed each other.
    batch = torch.cat([images.to_tensor(each) for each in pictures])
    with torch.inference_mode():
        difference = (student(batch) - torch.cat([student(each[None]) for each in batch])).abs().max()
    assert (difference > 0.1) == (variant == "official")


@pytest.mark.usefixtures("like_a_gpu")
def test_the_image_with_pixels_that_are_not_finite_is_named_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Nearest()
    upsample = network.upsample

    def damaged(features: Tensor) -> Tensor:
        sr = upsample(features)
        sr[1, 0, 0, 0] = math.nan
        return sr

    monkeypatch.setattr(network, "upsample", damaged)
    with pytest.raises(RuntimeError, match="output for rose holds NaN"):
        evaluate(network, [(name, picture()) for name in ("lily", "rose", "iris")], device="cpu")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "disable", "progress", "visible"),
    [
        (Terminal, None, True, True),
        (Terminal, "0", True, True),
        (Terminal, "1", True, False),
        (Terminal, None, False, False),
        (io.StringIO, None, True, False),
    ],
)
def test_the_bar_shows_only_where_somebody_sees_it(stream, disable, progress, visible, monkeypatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if disable is not None:
        monkeypatch.setenv("TQDM_DISABLE", disable)
    monkeypatch.setattr(sys, "stderr", stream())
    evaluate(Nearest(), [picture()], progress=progress)
    assert bool(sys.stderr.getvalue()) == visible


# ---------------------------------------------------------------------------------------------- bicubic


def test_bicubic_is_matlabs_there_and_back() -> None:
    hr = picture(49, 50)
    sr = images.resize(images.resize(hr[:48, :48], 1 / 3), 3)
    scores = evaluate("bicubic", [hr], scale=3)
    assert scores.psnr == pytest.approx(metrics.psnr(sr, hr[:48, :48], 3), abs=1e-9)
    assert scores.scale == 3


@pytest.mark.skipif(not DATA, reason="DDTB_DATA does not name a folder with Set5 and Set14")
@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [("Set5", 2, 33.67), ("Set5", 4, 28.43), ("Set14", 2, 30.33), ("Set14", 4, 26.09)],
)
def test_bicubic_scores_of_the_benchmarks(name: str, scale: int, expected: float) -> None:
    scores = evaluate("bicubic", name, scale=scale)
    assert scores.psnr == pytest.approx(expected, abs=0.01)
    assert len(scores.images) == {"Set5": 5, "Set14": 14}[name]


# ---------------------------------------------------------------------------------------------- upscale


def test_an_image_is_upscaled_rounded_and_of_the_right_size() -> None:
    image = picture(7, 11)
    sr = upscale(Nearest(3), image)
    assert sr.dtype == np.uint8 and sr.flags.c_contiguous
    assert np.array_equal(sr, image.repeat(3, axis=0).repeat(3, axis=1))
    assert np.array_equal(upscale(Nearest(3), image[::-1]), sr[::-1])


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_tiles_equal_the_whole_and_need_all_of_their_halo(name: str, scale: int, monkeypatch) -> None:
    network = small(name, scale).eval()
    features = 50 * torch.randn(1, 8, 17, 23)
    whole = network.upsample(features)

    def assembled() -> Tensor:
        result = torch.full_like(whole, math.nan)
        for top, left, pixels in _tiles(network, features, 6):
            result[..., top : top + pixels.shape[-2], left : left + pixels.shape[-1]] = pixels
        return result

    noise = 1e-5 * whole.abs().max().item()  # networks compute on pixels of other ranges inside
    torch.testing.assert_close(assembled(), whole, atol=noise, rtol=0)
    halo = _halo(network, features)
    # 3×3 convolutions reach 1 + 1/2 (×2), 1 + 1/3 (×3) or 1 + 1/2 + 1/4 (×4) pixels; SRResNet's last is 9×9.
    assert halo == (3 if name == "srresnet" else 2)
    monkeypatch.setattr(inference, "_halo", lambda network, features: halo - 1)
    assert not torch.allclose(assembled(), whole, atol=noise, rtol=0)


def test_finding_the_halo_leaves_no_hook_behind() -> None:
    network = small()
    _halo(network, torch.zeros(1, 8, 8, 8))
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("tile", [1, 5, 16, 1000])
def test_upscaled_images_do_not_depend_on_the_tiles(tile: int) -> None:
    network, image = small("edsr", 4), picture(15, 19)
    whole, tiled = upscale(network, image), upscale(network, image, tile=tile)
    difference = np.abs(whole.astype(int) - tiled.astype(int))
    assert difference.max() <= 1 and np.mean(difference == 0) >= 0.999


def test_large_images_are_tiled_by_default(monkeypatch) -> None:
    sizes: list[tuple[int, ...]] = []
    network = Nearest(2)
    upsample = network.upsample
    monkeypatch.setattr(network, "upsample", lambda x: sizes.append(tuple(x.shape[-2:])) or upsample(x))
    monkeypatch.setattr(inference, "WHOLE", 100)
    monkeypatch.setattr(inference, "TILE", 9)
    image = picture(10, 10)
    upscale(network, image)
    assert sizes == [(10, 10)]
    sizes.clear()
    image = picture(10, 11)
    assert np.array_equal(upscale(network, image), image.repeat(2, axis=0).repeat(2, axis=1))
    assert sizes[1:] == [(9, 9), (9, 2), (1, 9), (1, 2)]  # after the trial run of the halo
    assert network.seen["shape"] == (1, 3, 10, 11)


def gated_student(fully: bool = False, tail: bool = False, variant: str = "paper") -> SuperResolutionNetwork:
    """A 4-bit student whose gates are live and really differ from picture to picture."""
    student = quantize(small("edsr", 2), "ddtb", 4, fully=fully, variant=variant)
    batch = torch.cat([images.to_tensor(picture(16, 16, seed)) for seed in range(4)])
    initialize(student, [batch])
    paths = [path for path in activation_quantizers(student) if path.startswith("tail") == tail]
    attach_gates(student, paths)
    set_phase(student, "live")
    for path in paths:
        expand = student.get_submodule(path).gate.expand
        nn.init.normal_(expand.weight, std=0.3)
    return student.eval()


def test_gates_decide_once_for_the_whole_picture() -> None:
    student = gated_student()
    left, right = np.zeros((24, 16, 3), dtype=np.uint8), picture(24, 16)
    image = np.concatenate([left, right], axis=1)
    whole, tiled = upscale(student, image), upscale(student, image, tile=16)
    difference = np.abs(whole.astype(int) - tiled.astype(int))
    assert difference.max() <= 1 and np.mean(difference == 0) >= 0.999
    # Tiling the whole network would let the right half decide alone, and not just at the seam.
    with torch.inference_mode():
        together = student(images.to_tensor(image))[..., 48:]
        alone = student(images.to_tensor(image[:, 16:].copy()))[..., 16:]
    assert (together - alone).abs().max() > 0.1


def test_a_network_with_a_gate_in_its_upsampler_is_not_tiled(monkeypatch) -> None:
    assert not _tail_has_gate(small()) and not _tail_has_gate(Nearest())
    assert not _tail_has_gate(gated_student()) and not _tail_has_gate(gated_student(fully=True))
    student = gated_student(fully=True, tail=True)
    assert _tail_has_gate(student)
    monkeypatch.delattr(inference, "_tiles")
    assert np.array_equal(upscale(student, picture(20, 20), tile=8), upscale(student, picture(20, 20)))


def test_a_network_fresh_from_training_can_be_copied_for_another_device() -> None:
    student = gated_student().train()
    student(torch.rand(2, 3, 8, 8)).mean().backward()
    copied = copy.deepcopy(student).eval()
    assert np.array_equal(upscale(copied, picture()), upscale(student, picture()))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert student.head[0].weight.abs().max() > 0


# ----------------------------------------------------------------------------------------------- errors


def test_output_that_is_not_finite_names_the_image() -> None:
    for value in (math.nan, math.inf):
        network = Nearest()
        with torch.no_grad():
            network.offset.fill_(value)
        with pytest.raises(RuntimeError, match="rose.*NaN or infinite"):
            evaluate(network, [("rose", picture())])
        with pytest.raises(RuntimeError, match="NaN or infinite"):
            upscale(network, picture())
        with pytest.raises(RuntimeError, match="NaN or infinite"):
            upscale(network, picture(), tile=8)


def test_a_student_without_bounds_is_refused() -> None:
    student = quantize(small(), "minmax", 4)
    with pytest.raises(ValueError, match="no bounds yet: call ddtb_lite.initialize"):
        evaluate(student, [picture()])
    with pytest.raises(ValueError, match="no bounds yet"):
        upscale(student, picture())
    initialize(student, images.to_tensor(picture()))
    assert math.isfinite(evaluate(student, [picture()]).psnr) and upscale(student, picture()).any()


def test_an_image_that_is_too_small_is_named_before_anything_runs() -> None:
    network = Nearest(4)
    # 11 pixels of window and 4 of border on each side, rounded up to a multiple of the scale.
    with pytest.raises(ValueError, match="tiny.*19×40.*at least 20"):
        evaluate(network, [picture(), ("tiny", picture(19, 40))])
    assert not network.seen
    assert math.isfinite(evaluate(network, [picture(20, 20)]).ssim)


def test_unknown_arguments_are_refused() -> None:
    network, data = Nearest(), [picture()]
    with pytest.raises(ValueError, match="network is 'bilinear'"):
        evaluate("bilinear", data, scale=2)
    with pytest.raises(ValueError, match="network is Linear"):
        evaluate(nn.Linear(1, 1), data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="network is Linear"):
        upscale(nn.Linear(1, 1), data[0])  # type: ignore[arg-type]
    for scale in (None, 0, 2.5):
        with pytest.raises(ValueError, match="scale is"):
            evaluate("bicubic", data, scale=scale)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale is 4.*is 2"):
        evaluate(network, data, scale=4)
    with pytest.raises(ValueError, match="protocol is 'x'"):
        evaluate(network, data, protocol="x")
    with pytest.raises(ValueError, match="border is -1"):
        evaluate(network, data, border=-1)
    with pytest.raises(ValueError, match="dtype is torch.int8"):
        evaluate(network, data, dtype=torch.int8)
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(ValueError, match=f"device is '{device}'"):
            evaluate(network, data, device=device)
    with pytest.raises(ValueError, match="empty"):
        evaluate(network, [])
    with pytest.raises(FileNotFoundError, match="no-such-set"):
        evaluate(network, "no-such-set")
    with pytest.raises(ValueError, match="uint8"):
        evaluate(network, [picture().astype(np.float32)])
    assert not network.seen


def test_images_of_another_kind_are_refused() -> None:
    network, image = Nearest(), picture()
    with pytest.raises(ValueError, match="float32.*uint8"):
        upscale(network, np.full(image.shape, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="H×W×3"):
        upscale(network, image[..., 0])
    with pytest.raises(ValueError, match="H×W×3"):
        upscale(network, image[None])
    for tile in (0, -1, 2.5):
        with pytest.raises(ValueError, match="tile is"):
            upscale(network, image, tile=tile)  # type: ignore[arg-type]
