"""PSNR by hand, SSIM against scikit-image and against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from ddtb_lite import images
from ddtb_lite.metrics import PROTOCOLS, psnr, psnr_tensor, ssim, ssim_tensor


def pair(height: int = 40, width: int = 33, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture with structure and a noisy copy."""
    random = np.random.default_rng(seed)
    smooth = images.resize(random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8), 4)
    hr = smooth[:height, :width]
    noisy = hr + random.normal(0, 12, hr.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8), hr


def luma(image: np.ndarray, protocol: str) -> np.ndarray:
    red, green, blue = image.astype(np.float64).transpose(2, 0, 1)
    if protocol == "y":
        return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    return 0.299 * red + 0.587 * green + 0.114 * blue


# ------------------------------------------------------------------------------------------------- PSNR


@pytest.mark.parametrize(
    ("protocol", "error"),
    [("y", 10 * 65.481 / 255), ("y_full", 10 * 0.299), ("rgb", math.sqrt(100 / 3))],
)
def test_psnr_of_a_constant_error_in_red(protocol: str, error: float) -> None:
    _, hr = pair()
    hr = hr // 2
    sr = hr.copy()
    sr[..., 0] += 10
    assert psnr(sr, hr, 4, protocol) == pytest.approx(20 * math.log10(255 / error), abs=1e-4)


def test_the_default_is_studio_range_luma_that_is_not_rounded_with_a_border_of_4() -> None:
    sr, hr = pair()
    error = (luma(sr, "y") - luma(hr, "y"))[4:-4, 4:-4]
    assert psnr(sr, hr) == pytest.approx(10 * math.log10(255**2 / np.mean(error**2)), abs=1e-4)
    slightly_blue = hr // 2 + np.array([0, 0, 1], dtype=np.uint8)  # a tenth of a grey level of luma
    assert psnr(slightly_blue, hr // 2) == pytest.approx(20 * math.log10(255 * 255 / 24.966), abs=1e-3)


def test_luma_is_the_one_of_images() -> None:
    sr, hr = pair()
    error = images.luma(sr) - images.luma(hr)
    assert psnr(sr, hr, 0) == pytest.approx(10 * math.log10(255**2 / np.mean(error**2)), abs=1e-4)


def test_equal_images_score_infinity_and_one() -> None:
    _, hr = pair()
    for protocol in PROTOCOLS:
        assert psnr(hr, hr.copy(), protocol=protocol) == math.inf
        assert ssim(hr, hr.copy(), protocol=protocol) == pytest.approx(1, abs=1e-12)


def test_the_border_is_exactly_what_is_left_out() -> None:
    _, hr = pair()
    sr = hr.copy()
    sr[3, 20] ^= 255  # the fourth row from the top
    sr[20, -4] ^= 255  # the fourth column from the right
    assert psnr(sr, hr, border=4) == math.inf
    assert ssim(sr, hr, border=4) == pytest.approx(1, abs=1e-12)
    assert psnr(sr, hr, border=3) < 60
    assert ssim(sr, hr, border=3) < 1 - 1e-7
    assert psnr(sr, hr, border=0) < 60


# ------------------------------------------------------------------------------------------------- SSIM


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("border", [0, 3])
def test_ssim_equals_scikit_image_where_the_window_fits(protocol: str, border: int) -> None:
    sr, hr = pair(48, 37)
    if protocol == "rgb":
        planes = list(zip(sr.transpose(2, 0, 1).astype(float), hr.transpose(2, 0, 1).astype(float), strict=True))
    else:
        planes = [(luma(sr, protocol), luma(hr, protocol))]
    values = []
    for x, y in planes:
        inside = slice(border, -border or None)
        _, full = structural_similarity(
            x[inside, inside],
            y[inside, inside],
            win_size=11,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            full=True,
        )
        values.append(full[5:-5, 5:-5].mean())
    assert ssim(sr, hr, border, protocol) == pytest.approx(np.mean(values), abs=1e-6)


def test_ssim_equals_its_definition_window_by_window() -> None:
    sr, hr = pair(14, 13)
    x, y = luma(sr, "y_full"), luma(hr, "y_full")
    window = np.array([[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i in range(-5, 6)] for j in range(-5, 6)])
    window /= window.sum()
    values = []
    for top in range(4):
        for left in range(3):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 2.55**2, 7.65**2
            numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            values.append(numerator / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
    assert ssim(sr, hr, 0, "y_full") == pytest.approx(np.mean(values), abs=1e-10)


def test_the_smallest_image_has_one_window() -> None:
    sr, hr = pair(17, 17)
    assert ssim(sr, hr, 3) == ssim(sr[3:14, 3:14], hr[3:14, 3:14], 0) < 1
    black, grey = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 51, np.uint8)
    assert psnr(black, grey, 0, "rgb") == pytest.approx(20 * math.log10(5))


# ---------------------------------------------------------------------------------------------- tensors


def test_a_batch_of_tensors_scores_as_its_images_do() -> None:
    pairs = [pair(seed=seed) for seed in range(3)]
    sr, hr = (torch.stack([torch.tensor(images_[side]).permute(2, 0, 1) for images_ in pairs]) for side in (0, 1))
    for tensor_score, score in ((psnr_tensor, psnr), (ssim_tensor, ssim)):
        result = tensor_score(sr, hr, 2, "rgb")
        assert result.dtype == torch.float64 and result.shape == (3,)
        assert result.tolist() == pytest.approx([score(*images_, 2, "rgb") for images_ in pairs], abs=1e-12)


def test_flipped_and_read_only_arrays_are_fine() -> None:
    sr, hr = pair()
    hr.flags.writeable = False
    assert psnr(sr[::-1, ::-1], hr[::-1, ::-1]) == pytest.approx(psnr(sr, hr), abs=1e-9)
    assert ssim(sr[::-1, ::-1], hr[::-1, ::-1]) == pytest.approx(ssim(sr, hr), abs=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_the_gpu_scores_as_the_cpu_does() -> None:
    sr, hr = (torch.tensor(image).permute(2, 0, 1)[None] for image in pair())
    for score in (psnr_tensor, ssim_tensor):
        assert float(score(sr.cuda(), hr.cuda())) == pytest.approx(float(score(sr, hr)), abs=1e-10)


# ----------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("score", [psnr, ssim])
def test_bad_input_is_refused(score) -> None:
    sr, hr = pair()
    with pytest.raises(ValueError, match="40×32.*40×33.*crop"):
        score(sr[:, :-1], hr)
    with pytest.raises(ValueError, match="float64.*uint8.*round"):
        score(sr.astype(np.float64), hr)
    with pytest.raises(ValueError, match="float32"):
        score(sr, np.full(hr.shape, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="list"):
        score(sr.tolist(), hr)
    with pytest.raises(ValueError, match="H×W×3"):
        score(sr[..., 0], hr[..., 0])
    with pytest.raises(ValueError, match="protocol is 'yuv'.*y, y_full, rgb"):
        score(sr, hr, protocol="yuv")
    for border in (-1, 1.5):
        with pytest.raises(ValueError, match="border is"):
            score(sr, hr, border=border)


def test_images_must_be_larger_than_border_and_window() -> None:
    sr, hr = pair()
    with pytest.raises(ValueError, match="8×8.*at least 9"):
        psnr(sr[:8, :8], hr[:8, :8], border=4)
    with pytest.raises(ValueError, match="18×19.*at least 19"):
        ssim(sr[:18, :19], hr[:18, :19], border=4)
    assert ssim(sr[:19, :19], hr[:19, :19], border=4) == ssim(sr[4:15, 4:15], hr[4:15, 4:15], border=0)


@pytest.mark.parametrize("score", [psnr_tensor, ssim_tensor])
def test_bad_tensors_are_refused(score) -> None:
    pixels = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    with pytest.raises(ValueError, match="float32"):
        score(pixels.float(), pixels)
    with pytest.raises(ValueError, match="N×3×H×W"):
        score(pixels[:, :1], pixels[:, :1])
    with pytest.raises(ValueError, match="expected N×3×H×W"):
        score(pixels[0], pixels[0])
