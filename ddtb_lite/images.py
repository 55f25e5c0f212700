"""Images in and out: reading, writing, MATLAB's bicubic resizing, luma, tensors.

Outside networks an image is uint8, H×W×3, RGB; inside, float, N×3×H×W, in 0…255.
"""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .support.files import atomic_write

READABLE = ("PNG", "JPEG", "BMP", "TIFF")
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
_ORIENTATION = 0x0112  # tags of EXIF and TIFF
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284


# ---------------------------------------------------------------------------------------------- files


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a PNG, JPEG, BMP or TIFF file as a uint8 H×W×3 RGB image.

    Grey and palette images become RGB. 16-bit values v become round(v / 257). Transparent pixels are
    composited over white. EXIF rotation is applied. FileNotFoundError if there is no such file; ValueError
    if it is not an image, is damaged or cut short, holds several pages, or has floating-point pixels.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an image file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image file {path}") from None
    try:
        image = _open(data)
    except Exception as error:  # Pillow's decoders raise anything at all on a malformed file
        raise ValueError(
            f"{path} is not a readable {', '.join(READABLE[:-1])} or {READABLE[-1]} image: {error}"
        ) from error
    return image


def _open(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data), formats=READABLE)
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise ValueError("it holds several pages, expected one")
    low = _low_bytes(data)
    picture.load()
    # Asked only after loading: Pillow has rotated a TIFF by then, and PNG keeps EXIF behind the pixels.
    orientation = picture.getexif().get(_ORIENTATION, 1)
    if low is not None:
        pixels = (np.asarray(picture) * 256.0 + low) / 257
    elif picture.mode.startswith(("I", "F")):
        pixels = _wide_grey(picture)
    elif "A" in picture.mode or "transparency" in picture.info:
        pixels = np.asarray(picture.convert("RGBA")).astype(np.float64)
    else:
        pixels = np.asarray(picture.convert("RGB"))
    return np.array(_upright(_over_white(pixels), orientation), order="C")  # Pillow's own array is read-only


def _low_bytes(data: bytes) -> np.ndarray | None:
    """The low bytes of a 16-bit colour image, None for any other; Pillow's own decoding keeps the high bytes.

    The low bytes are what the same decoder yields when it is told the opposite byte order.
    """
    picture = Image.open(io.BytesIO(data), formats=READABLE)
    tags = getattr(picture, "tag_v2", {})
    if max(tags.get(_BITS, (8,))) > 8 and (tags.get(_PLANES, 1) != 1 or tags.get(_PHOTOMETRIC) == 0):
        raise ValueError("it is a 16-bit TIFF with separate planes or inverted grey, expected 8 bits")
    opposite = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    tiles: list[Any] = []
    deep = False
    for tile in picture.tile:
        mode, *rest = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if isinstance(mode, str) and mode[-4:-1] == ";16" and not mode.startswith("I"):
            if mode[:-4] not in ("RGB", "RGBA") or "transparency" in picture.info:
                raise ValueError(f"it is 16-bit {mode[:-4]} with transparency, expected RGB, RGBA or grey")
            mode, deep = mode[:-1] + opposite[mode[-1]], True
        options = (mode, *rest) if isinstance(tile[3], tuple) else mode
        # A named tuple in newer versions of Pillow, a plain one in older.
        tiles.append(tile._replace(args=options) if hasattr(tile, "_replace") else (*tile[:3], options))
    picture.tile = tiles
    return np.asarray(picture) if deep else None


def _wide_grey(picture: Image.Image) -> np.ndarray:
    """16-bit grey, H×W, as floats in 0…255; older versions of Pillow hand it over as 32-bit integers."""
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels are mode {picture.mode!r}, expected 8 or 16 bits")
    if "transparency" in picture.info:
        raise ValueError("it is 16-bit grey with transparency, expected 8 bits or no transparency")
    return values / 257


def _over_white(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:] / 255
        pixels = pixels[..., :3] * alpha + 255 * (1 - alpha)
    return _to_uint8(pixels)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    vertical = -1 if orientation in (3, 4, 7, 8) else 1
    horizontal = -1 if orientation in (2, 3, 6, 7) else 1
    return image[::vertical, ::horizontal]


def write(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write a uint8 image (H×W×3 RGB or H×W grey) in the format that the file's extension names.

    The file appears whole or not at all: it is written beside its final name, then renamed. JPEG is stored
    with quality 95 and full colour resolution. ValueError for an unknown extension or another kind of
    array, FileNotFoundError for a missing folder, RuntimeError if the folder or disk refuses the file.
    """
    path, image = Path(path), check(image)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot write {path}: expected an extension among {', '.join(FORMATS)}")
    kind, encoded = FORMATS[path.suffix.lower()], io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(image).save(encoded, kind, **options)
    atomic_write(path, encoded.getvalue())


def check(image: np.ndarray) -> np.ndarray:
    """The image itself if it is a non-empty uint8 array, H×W×3 or H×W; ValueError otherwise."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"got an image of {given}, expected a uint8 array with values 0…255")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise ValueError(f"got an image of shape {image.shape}, expected H×W×3 or H×W, not empty")
    return image


# ------------------------------------------------------------------------------------------- resizing


def resize(image: np.ndarray, factor: float) -> np.ndarray:
    """Resize like MATLAB's `imresize(image, factor, 'bicubic')`, to the grey level.

    uint8 in and out, H×W×3 or H×W; the result has ceil(size · factor) rows and columns. When shrinking, the
    kernel is stretched against aliasing; the border is mirrored; height is resized before width, and each
    pass is rounded and clipped to uint8, as MATLAB does. ValueError unless 0 < factor < ∞.
    """
    image = check(image)
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"got the factor {factor}, expected a finite number above 0")
    image = _resize_rows(image, factor)
    return np.ascontiguousarray(_resize_rows(image.swapaxes(0, 1), factor).swapaxes(0, 1))


def _resize_rows(image: np.ndarray, factor: float) -> np.ndarray:
    weights, rows = _taps(image.shape[0], factor)
    flat = np.ascontiguousarray(image).reshape(image.shape[0], -1).astype(np.float64)
    out = np.empty((len(rows), flat.shape[1]), np.uint8)
    block = max(1, 2**16 // flat.shape[1])  # rows at a time, so that the sums stay in the processor's cache
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        total = flat[rows[part, 0]] * weights[part, 0, None]
        for tap in range(1, rows.shape[1]):  # summed in the order of the pixels: ties round as in MATLAB
            term = flat[rows[part, tap]]
            term *= weights[part, tap, None]
            total += term
        out[part] = _to_uint8(total)
    return out.reshape(len(rows), *image.shape[1:])


def _taps(size: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """For each output row its weights and the input rows they apply to, both output size × taps."""
    stretch = min(factor, 1.0)
    width = 4 / stretch
    centre = (np.arange(math.ceil(size * factor)) + 0.5) / factor - 0.5
    first = np.floor(centre - width / 2).astype(np.int64)
    rows = first[:, None] + np.arange(math.ceil(width) + 2)
    weights = cubic((centre[:, None] - rows) * stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(size), np.arange(size)[::-1]])[rows % (2 * size)]
    used = weights.any(axis=0)
    return weights[:, used], mirrored[:, used]


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = −1/2: the weight of an old pixel at distance `x`, for each element of it."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Round halves up, as MATLAB does for positive numbers, and clip."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """The upper left part of the image whose height and width are the largest multiples of `scale`."""
    image = check(image)
    if scale != int(scale) or scale < 1:
        raise ValueError(f"got the scale {scale}, expected a whole number of at least 1")
    height, width = (size - size % int(scale) for size in image.shape[:2])
    if not height or not width:
        raise ValueError(f"an image of {image.shape[0]}×{image.shape[1]} is smaller than the scale {scale}")
    return image[:height, :width]


def lower_resolution(image: np.ndarray, scale: int) -> np.ndarray:
    """The low-resolution image of a benchmark: cropped to a multiple of `scale`, shrunk by 1/scale."""
    return resize(crop_to_multiple(image, scale), 1 / scale)


# ------------------------------------------------------------------------------------ luma and tensors


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 studio-range luma of a uint8 H×W×3 image: float64 H×W in 16…235, not rounded."""
    if check(image).ndim != 3:
        raise ValueError(f"got an image of shape {image.shape}, expected H×W×3")
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """A uint8 H×W×3 image as a float32 tensor 1×3×H×W, values 0…255."""
    if check(image).ndim != 3:
        raise ValueError(f"got an image of shape {image.shape}, expected H×W×3")
    return torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32, order="C"))


def to_image(tensor: torch.Tensor) -> np.ndarray:
    """A float tensor 1×3×H×W as a uint8 H×W×3 image: clipped to 0…255, then rounded to the nearest value.

    ValueError for another shape, and for NaN or infinite values, which have no place on the grey scale.
    """
    if tensor.ndim != 4 or tensor.shape[:2] != (1, 3):
        raise ValueError(f"got a tensor of shape {tuple(tensor.shape)}, expected 1×3×H×W")
    values = tensor.detach()[0].permute(1, 2, 0).float()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the tensor holds NaN or infinite pixels; the network that made it has diverged")
    return values.clamp(0, 255).round().to(torch.uint8).cpu().contiguous().numpy()
