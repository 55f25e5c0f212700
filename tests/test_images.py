import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddtb_lite import images

DATA = os.environ.get("DDTB_DATA")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ------------------------------------------------------------------------------------------- resizing


def slow_resize(image: np.ndarray, factor: float) -> np.ndarray:
    """An independent bicubic of one channel: the definition, pixel by pixel."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1 - 2.5 * x**2 + 1.5 * x**3
        return 2 - 4 * x + 2.5 * x**2 - 0.5 * x**3 if x < 2 else 0.0

    def line(values: list[float]) -> list[int]:
        size, result = len(values), []
        shrink = max(1 / factor, 1.0)
        for index in range(int(np.ceil(size * factor))):
            centre = (index + 0.5) / factor - 0.5
            total = weight_sum = 0.0
            for source in range(int(centre - 2 * shrink) - 2, int(centre + 2 * shrink) + 3):
                inside = source
                while not 0 <= inside < size:  # mirrored about the outer edge of the border pixel
                    inside = -1 - inside if inside < 0 else 2 * size - 1 - inside
                weight = kernel((source - centre) / shrink)
                total += weight * values[inside]
                weight_sum += weight
            result.append(min(max(int(np.floor(total / weight_sum + 0.5)), 0), 255))
        return result

    columns = [line([float(v) for v in column]) for column in image.T]
    rows = np.array(columns).T
    return np.array([line([float(v) for v in row]) for row in rows])


@pytest.mark.parametrize("factor", [1 / 4, 1 / 3, 1 / 2, 0.37, 1, 1.5, 2, 3, 4])
@pytest.mark.parametrize("shape", [(13, 10), (3, 17), (1, 1)])
def test_resize_equals_slow_reference(factor: float, shape: tuple[int, int]) -> None:
    image = noise(*shape)
    resized = images.resize(image, factor)
    assert resized.dtype == np.uint8
    reference = slow_resize(image, factor)
    assert resized.shape == reference.shape
    assert np.array_equal(resized, reference)


def test_resize_treats_channels_alike() -> None:
    image = noise(12, 9, 3)
    resized = images.resize(image, 1 / 3)
    assert resized.shape == (4, 3, 3) and resized.flags.c_contiguous
    for channel in range(3):
        assert np.array_equal(resized[..., channel], images.resize(image[..., channel], 1 / 3))


def test_resize_of_constant_is_constant() -> None:
    for value in (0, 1, 127, 255):
        for factor in (1 / 3, 2.5, 4):
            assert (images.resize(np.full((7, 5, 3), value, np.uint8), factor) == value).all()


def test_resize_rounds_height_pass_before_width_pass() -> None:
    image = noise(24, 24)
    order = images.resize(image, 1 / 2)
    other = images.resize(image.T, 1 / 2).T  # width first; equal if the intermediate were not rounded
    assert np.abs(order.astype(int) - other).max() == 1


def test_resize_by_hand() -> None:
    # Doubled, output 5 lies at input 2.25: Keys' weights of inputs 1, 2, 3, 4 are (-9, 111, 29, -3) / 128.
    step = np.array([[0], [0], [0], [128], [128], [128]], np.uint8)
    doubled = images.resize(step, 2)[:, 0].tolist()
    assert doubled == [0, 0, 0, 0, 0, 29 - 3, 111 - 9, 128 + 9, 128 + 3, 128, 128, 128]


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_resize_refuses_factor(factor: float) -> None:
    with pytest.raises(ValueError, match="finite number above 0"):
        images.resize(noise(4, 4), factor)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_arrays_of_another_kind_are_refused(image: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        images.resize(image, 2)
    with pytest.raises(ValueError, match="expected"):
        images.write(tmp_path / "x.png", image)
    assert not list(tmp_path.iterdir())


def test_crop_and_lower_resolution() -> None:
    image = noise(14, 11, 3)
    assert np.array_equal(images.crop_to_multiple(image, 4), image[:12, :8])
    assert np.array_equal(images.lower_resolution(image, 4), images.resize(image[:12, :8], 0.25))
    assert images.lower_resolution(image, 3).shape == (4, 3, 3)
    for scale in (0, -2, 2.5):
        with pytest.raises(ValueError, match="whole number"):
            images.crop_to_multiple(image, scale)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="smaller than the scale"):
        images.lower_resolution(image, 12)


@pytest.mark.skipif(DATA is None, reason="DDTB_DATA is not set: no benchmark images")
@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [("Set5", 2, 33.67), ("Set5", 4, 28.43), ("Set14", 2, 30.33), ("Set14", 4, 26.09)],
)
def test_bicubic_scores_of_benchmarks(name: str, scale: int, expected: float) -> None:
    scores = []
    for path in sorted((Path(DATA or "") / name).glob("*.png")):
        hr = images.crop_to_multiple(images.read(path), scale)
        sr = images.resize(images.lower_resolution(hr, scale), scale)
        inner = slice(scale, -scale)
        error = (images.luma(sr) - images.luma(hr))[inner, inner]
        scores.append(10 * np.log10(255**2 / np.mean(error**2)))
    assert np.mean(scores) == pytest.approx(expected, abs=0.01)


# ------------------------------------------------------------------------------------ luma and tensors


def test_luma() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [10, 20, 30]]], np.uint8)
    by_hand = [16, 235, 16 + 65.481, 16 + (654.81 + 2571.06 + 748.98) / 255]
    assert images.luma(colours).dtype == np.float64
    assert images.luma(colours)[0] == pytest.approx(by_hand, abs=1e-12)
    with pytest.raises(ValueError, match="H×W×3"):
        images.luma(colours[..., 0])


def test_tensor_round_trip() -> None:
    image = noise(5, 7, 3)
    tensor = images.to_tensor(image)
    assert tensor.shape == (1, 3, 5, 7) and tensor.dtype == torch.float32
    assert tensor[0, 2, 3, 4] == image[3, 4, 2]
    assert np.array_equal(images.to_image(tensor), image)
    assert np.array_equal(images.to_image(images.to_tensor(image[::-1, ::-1])), image[::-1, ::-1])


def test_to_image_clips_and_rounds() -> None:
    values = torch.tensor([-3.0, 0.4, 0.6, 254.6, 300.0, 1.5]).repeat(3, 1).reshape(1, 3, 1, 6)
    assert images.to_image(values)[0, :, 1].tolist() == [0, 0, 1, 255, 255, 2]
    assert images.to_image(values.requires_grad_()).shape == (1, 6, 3)
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = torch.zeros(1, 3, 2, 2)
        broken[0, 1, 1, 0] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            images.to_image(broken)
    for shape in [(3, 4, 4), (2, 3, 4, 4), (1, 1, 4, 4)]:
        with pytest.raises(ValueError, match="1×3×H×W"):
            images.to_image(torch.zeros(shape))


# -------------------------------------------------------------------------------------------- reading


def png16(path: Path, values: np.ndarray, colour_type: int) -> Path:
    """A 16-bit PNG written from the specification."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_formats(extension: str, tmp_path: Path) -> None:
    image = noise(6, 9, 3)
    images.write(tmp_path / f"x{extension}", image)
    found = images.read(tmp_path / f"x{extension}")
    assert np.array_equal(found, image) and found.flags.writeable
    images.write(tmp_path / f"grey{extension}", image[..., 0])
    assert np.array_equal(images.read(str(tmp_path / f"grey{extension}")), image[..., :1].repeat(3, 2))


def test_jpeg(tmp_path: Path) -> None:
    ramp = (np.indices((32, 48)).sum(0)[..., None] * [1, 2, 3]).astype(np.uint8)
    images.write(tmp_path / "x.jpg", ramp)
    found = images.read(tmp_path / "x.jpg")
    assert found.shape == ramp.shape and np.abs(found.astype(int) - ramp)[:, :40].mean() < 2
    Image.fromarray(ramp).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert images.read(tmp_path / "cmyk.jpg").shape == ramp.shape


def test_sixteen_bits_are_rounded(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (9, 8, 4))
    rounded = np.floor(values / 257 + 0.5)
    assert (rounded[..., :3] != values[..., :3] >> 8).any(), "the check needs values where truncation differs"
    assert np.array_equal(images.read(png16(tmp_path / "rgb.png", values[..., :3], 2)), rounded[..., :3])
    grey = rounded[..., :1].repeat(3, 2)
    assert np.array_equal(images.read(png16(tmp_path / "grey.png", values[..., 0], 0)), grey)
    alpha = values[..., 3:] / 65535
    over_white = np.floor(values[..., :3] / 257 * alpha + 255 * (1 - alpha) + 0.5)
    assert np.array_equal(images.read(png16(tmp_path / "rgba.png", values, 6)), over_white)
    with pytest.raises(ValueError, match="16-bit LA with transparency"):
        images.read(png16(tmp_path / "la.png", values[..., :2], 4))


def test_sixteen_bit_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(1).integers(0, 65536, (9, 8, 3)).astype(np.uint16)
    rounded = np.floor(values / 257 + 0.5)
    path = tmp_path / "x.tif"
    for order in "<>":
        for compression in (None, "zlib"):
            tifffile.imwrite(path, values, byteorder=order, compression=compression, photometric="rgb")
            assert np.array_equal(images.read(path), rounded)
        tifffile.imwrite(path, values[..., 0], byteorder=order)
        assert np.array_equal(images.read(path)[..., 1], rounded[..., 0])
    planes = values.transpose(2, 0, 1)
    tifffile.imwrite(path, planes, planarconfig="separate", photometric="rgb")
    with pytest.raises(ValueError, match="separate planes"):
        images.read(path)
    tifffile.imwrite(path, values[..., 0], photometric="miniswhite")
    with pytest.raises(ValueError, match="inverted grey"):
        images.read(path)
    for kind in (np.float32, np.int32):
        tifffile.imwrite(path, values[..., 0].astype(kind) * 70000, photometric="minisblack")
        with pytest.raises(ValueError, match="expected 8 or 16 bits"):
            images.read(path)
    tifffile.imwrite(path, np.zeros((2, 8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(ValueError, match="several pages"):
        images.read(path)


def test_palette_and_bilevel(tmp_path: Path) -> None:
    image = noise(4, 4, 3) // 64 * 64
    picture = Image.fromarray(image).quantize(16)
    picture.save(tmp_path / "p.png")
    assert np.array_equal(images.read(tmp_path / "p.png"), np.asarray(picture.convert("RGB")))
    Image.fromarray(image[..., 0] > 100).save(tmp_path / "1.png")
    assert np.array_equal(images.read(tmp_path / "1.png")[..., 2], (image[..., 0] > 100) * 255)


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [10, 20, 31, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    by_hand = [[255, 255, 255], [10, 20, 30], [206, 208, 210]]  # a fifth of the colour, four fifths of 255
    assert images.read(tmp_path / "rgba.png")[0].tolist() == by_hand
    Image.fromarray(np.array([[[100, 0], [100, 255]]], np.uint8)).save(tmp_path / "la.png")
    assert images.read(tmp_path / "la.png")[0].tolist() == [[255] * 3, [100] * 3]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([5, 6, 7, 8, 9, 10])
    palette.save(tmp_path / "p.png", transparency=1)
    assert images.read(tmp_path / "p.png")[0].tolist() == [[5, 6, 7], [255] * 3]
    Image.fromarray(pixels[..., :3]).save(tmp_path / "key.png", transparency=(10, 20, 31))
    assert images.read(tmp_path / "key.png")[0].tolist() == [[10, 20, 30], [10, 20, 30], [255] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_exif_rotation(orientation: int, extension: str, tmp_path: Path) -> None:
    # Where the first row and the first column of the stored pixels belong, from the EXIF specification.
    first_row_is, first_column_is = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    stored = np.full((32, 48, 3), 128, np.uint8)
    stored[:8], stored[8:, :8] = 255, 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"x.{extension}", exif=exif)
    found = images.read(tmp_path / f"x.{extension}").astype(int)
    assert found.shape == ((48, 32, 3) if orientation > 4 else (32, 48, 3))
    edges = {"top": found[0], "bottom": found[-1], "left": found[:, 0], "right": found[:, -1]}
    assert edges[first_row_is].mean() > 250
    assert np.median(edges[first_column_is]) < 5


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpg", "progressive.jpg", "bmp", "tif", "lzw.tif"])
def test_truncated_files_never_yield_other_pixels(kind: str, tmp_path: Path) -> None:
    options = {"progressive.jpg": {"progressive": True}, "lzw.tif": {"compression": "tiff_lzw"}}.get(kind, {})
    Image.fromarray(noise(20, 24, 3)).save(tmp_path / f"whole.{kind}", **options)
    data, whole = (tmp_path / f"whole.{kind}").read_bytes(), images.read(tmp_path / f"whole.{kind}")
    path, refused = tmp_path / f"cut.{kind}", 0
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(images.read(path), whole)  # only checksums or padding are missing
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0.95 * len(data) / 7


def test_files_that_are_no_images(tmp_path: Path) -> None:
    for content in (b"", b"not an image", b"GIF89a" + bytes(30), b"\x89PNG\r\n\x1a\n" + bytes(40)):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(ValueError, match="not a readable PNG, JPEG, BMP or TIFF"):
            images.read(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError, match="no image file"):
        images.read(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="is a folder"):
        images.read(tmp_path)
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[60] ^= 0xFF
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ValueError, match="not a readable"):
        images.read(tmp_path / "x.png")


# -------------------------------------------------------------------------------------------- writing


def test_write_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extension among .png"):
        images.write(tmp_path / "x.gif", noise(4, 4, 3))
    with pytest.raises(FileNotFoundError, match="create it first"):
        images.write(tmp_path / "nowhere" / "x.png", noise(4, 4, 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.write(tmp_path / "x.png", noise(4, 4, 3))
    before = (tmp_path / "x.png").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(RuntimeError, match="No space left on device"):
        images.write(tmp_path / "x.png", noise(4, 4, 3, seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_bytes() == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RuntimeError, match="permissions"):
        images.write(tmp_path / "x.png", noise(4, 4, 3))
