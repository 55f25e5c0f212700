"""PSNR and SSIM, by the protocol of the super-resolution papers (section 9) and by two others.

Which protocol is used matters more than which network: a score means nothing without it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# How N×3×H×W pixels become the planes that are compared: the weights of R, G, B in luma, and its offset.
LUMA: dict[str, tuple[tuple[float, float, float], float]] = {
    "y": ((65.738 / 256, 129.057 / 256, 25.064 / 256), 16.0),  # BT.601 studio range, 16…235, as in MATLAB
    "y_full": ((0.299, 0.587, 0.114), 0.0),  # BT.601 full range, 0…255, as in OpenCV
}
PROTOCOLS = (*LUMA, "rgb")

PEAK = 255.0
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(sr: np.ndarray, hr: np.ndarray, border: int = 4, protocol: str = "y") -> float:
    """Peak signal-to-noise ratio in dB of two uint8 H×W×3 images; infinite if they are equal.

    `border` pixels are cut off at each side first, in papers as many as the scale. `protocol` is "y" (the
    papers': studio-range luma of BT.601, not rounded), "y_full" (full-range luma) or "rgb" (all three colors
    at once). The peak is 255 in each (section 9). Raises `ValueError` for images that differ in size, are not
    uint8, or have nothing left inside the border.
    """
    return float(psnr_tensor(_as_tensor(sr), _as_tensor(hr), border, protocol))


def ssim(sr: np.ndarray, hr: np.ndarray, border: int = 4, protocol: str = "y") -> float:
    """Structural similarity (Wang et al., 2004) of two uint8 H×W×3 images, 1 if they are equal.

    11×11 Gaussian window with σ = 1.5, only where it lies inside the cropped image; K = (0.01, 0.03) and
    L = 255 (section 9). `border` and `protocol` as for `psnr`; "rgb" is the mean over the three colors.
    Raises `ValueError` as `psnr` does, and for images that are smaller than the window inside the border.
    """
    return float(ssim_tensor(_as_tensor(sr), _as_tensor(hr), border, protocol))


def psnr_tensor(sr: Tensor, hr: Tensor, border: int = 4, protocol: str = "y") -> Tensor:
    """`psnr` of each image of two uint8 batches N×3×H×W, on their device: float64, shape N."""
    x, y = _planes(sr, hr, border, protocol, smallest=1)
    return 10 * torch.log10(PEAK**2 / (x - y).square().mean(dim=(1, 2, 3)))


def ssim_tensor(sr: Tensor, hr: Tensor, border: int = 4, protocol: str = "y") -> Tensor:
    """`ssim` of each image of two uint8 batches N×3×H×W, on their device: float64, shape N."""
    x, y = _planes(sr, hr, border, protocol, smallest=WINDOW)
    # The two variances are needed only as a sum, so four blurred maps are enough.
    moments = torch.stack([x, y, x.square() + y.square(), x * y])
    mean_x, mean_y, mean_squares, mean_product = _blur(moments).unbind()
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * product + c1) / (squares + c1)
    structure = (2 * (mean_product - product) + c2) / (mean_squares - squares + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def check_protocol(protocol: str, border: int) -> None:
    """Raise `ValueError` unless `protocol` is one of `PROTOCOLS` and `border` a whole number, 0 or more."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}.")
    if not isinstance(border, int) or border < 0:
        raise ValueError(f"border is {border!r}, expected a number of pixels, 0 or more.")


def _as_tensor(image: np.ndarray) -> Tensor:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"An image is {given}, expected a uint8 array: round and clip it to 0…255 first.")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"An image has shape {image.shape}, expected H×W×3.")
    return torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def _planes(sr: Tensor, hr: Tensor, border: int, protocol: str, smallest: int) -> tuple[Tensor, Tensor]:
    """What is compared of two uint8 batches: float64, N×1×H×W luma or N×3×H×W, without the border."""
    check_protocol(protocol, border)
    if sr.dtype != torch.uint8 or hr.dtype != torch.uint8:
        raise ValueError(f"The images are {sr.dtype} and {hr.dtype}, expected uint8: round and clip first.")
    if sr.shape != hr.shape:
        sizes = " and ".join("×".join(map(str, batch.shape[-2:])) for batch in (sr, hr))
        raise ValueError(f"The images are {sizes} pixels, expected equal sizes: crop the larger one.")
    if sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(f"The images have shape {tuple(sr.shape)}, expected N×3×H×W.")
    height, width = sr.shape[-2:]
    if min(height, width) - 2 * border < smallest:
        raise ValueError(
            f"The image is {height}×{width} pixels, expected at least {smallest + 2 * border} each way: "
            f"{smallest} inside a border of {border}."
        )
    inside = (..., slice(border, height - border), slice(border, width - border))
    return _plane(sr[inside], protocol), _plane(hr[inside], protocol)


def _plane(pixels: Tensor, protocol: str) -> Tensor:
    if protocol == "rgb":
        return pixels.double()
    weights, offset = LUMA[protocol]
    red, green, blue = (pixels[:, channel].double() * weights[channel] for channel in range(3))
    return (red + green + blue + offset)[:, None]


def _blur(planes: Tensor) -> Tensor:
    """Gaussian means of …×H×W over all 11×11 windows that fit: …×(H−10)×(W−10)."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    taps = (weights / weights.sum()).tolist()
    # Sums of shifted views: in float64 several times faster than conv2d.
    for dim in (-2, -1):
        size = planes.shape[dim] - WINDOW + 1
        blurred = planes.narrow(dim, 0, size) * taps[0]
        for shift, weight in enumerate(taps[1:], start=1):
            blurred.add_(planes.narrow(dim, shift, size), alpha=weight)
        planes = blurred
    return planes
