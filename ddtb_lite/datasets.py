"""Data sets: which there are, where they lie, reading and downloading them.

They lie in the folder that the environment variable DDTB_DATA names, one folder each, or else in
`~/.cache/ddtb_lite/data`. Two small sets need no download: "photos" (test) and "photos_train", the
photographs that scikit-image carries.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from . import archives, images
from .support import resources

Data = str | os.PathLike[str] | Sequence[Any]

# scikit-image's photographs, split once and for all. They are CC0, public domain, or without known copyright
# restrictions, but for three of which it says nothing. Both pictures of the stereo pair are on the same side. Its
# drawings, test patterns, scanned text and blurred or microscopic grey pictures are left out.
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
PHOTOS_TRAIN = (
    "brick.png",
    "camera.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
)
EMBEDDED = {"photos": PHOTOS, "photos_train": PHOTOS_TRAIN}


@dataclass(frozen=True)
class Source:
    """An archive that holds a data set; size 0 and sha256 "" mean unknown."""

    url: str
    folder: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """An entry of `data/datasets.toml`."""

    name: str
    about: str
    use: str
    images: int
    licence: str
    page: str
    sources: tuple[Source, ...]
    exclude: tuple[str, ...] = ()


@cache
def registry() -> dict[str, DataSet]:
    """Every downloadable data set by its name."""
    sets = {}
    text = resources.data("datasets.toml").read_text(encoding="utf-8")
    for name, entry in tomllib.loads(text).items():
        sources = tuple(Source(**source) for source in entry.pop("sources"))
        sets[name] = DataSet(name, sources=sources, exclude=tuple(entry.pop("exclude", ())), **entry)
    return sets


def names(use: str) -> list[str]:
    """The data sets that everybody can have, for "training" or as a "test"."""
    embedded = {"training": "photos_train", "test": "photos"}
    return [embedded[use], *(entry.name for entry in registry().values() if entry.use == use)]


def root() -> Path:
    """The folder of the data sets: DDTB_DATA if set, else `~/.cache/ddtb_lite/data`."""
    folder = os.environ.get("DDTB_DATA")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "ddtb_lite" / "data"


# -------------------------------------------------------------------------------------------- reading


def paths(name_or_folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a data set or a folder, sorted by name.

    Accepts "photos", "photos_train", a registered name, the name of a folder under `root()`, or the path of
    any folder. FileNotFoundError, with the command to run, if it is not there; ValueError for a folder
    without images, and for a registered set that is not complete.
    """
    name = os.fspath(name_or_folder)
    if name in EMBEDDED:
        return [_skimage_folder() / file for file in EMBEDDED[name]]
    if name in registry():
        found = _registered(registry()[name], root())
        if not found:
            raise FileNotFoundError(_missing(registry()[name]))
        return found
    for folder in (Path(name), root() / name) if name else ():
        if folder.is_dir():
            found = _images_in(folder)
            if not found:
                raise ValueError(f"the folder {folder} holds no image ({', '.join(images.FORMATS)})")
            return found
    known = ", ".join([*EMBEDDED, *registry()])
    raise FileNotFoundError(f"there is no folder and no data set {name!r}; data sets: {known}")


def _missing(entry: DataSet) -> str:
    get = f"run `python -m ddtb_lite download {entry.name}`" if entry.sources else f"get it from {entry.page}"
    return f"the data set {entry.name} is not in {root()}: {get}, or set DDTB_DATA to where it is"


def _images_in(folder: Path, exclude: tuple[str, ...] = ()) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.FORMATS
        and path.is_file()
        and not path.name.startswith(".")
        and path.stem not in exclude
    )


def _registered(entry: DataSet, base: Path) -> list[Path]:
    """The set's files under `base`, in its own folder or arranged as in the archive; [] if absent."""
    own = base / entry.name
    inside = [Path(source.folder) for source in entry.sources if source.folder != "*"]
    for folder in (own, *(own / path.name for path in inside), *(base / path for path in inside)):
        found = _images_in(folder, entry.exclude)
        if found and len(found) != entry.images:
            raise ValueError(
                f"{entry.name} in {folder} has {len(found)} images, expected {entry.images}; "
                f"move that folder away and run `python -m ddtb_lite download {entry.name}`"
            )
        if found:
            return found
    return []


def _skimage_folder() -> Path:
    """scikit-image's data folder, found without importing it: its own loader may download."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the embedded photos come with scikit-image: run `pip install scikit-image`")
    return Path(spec.submodule_search_locations[0]) / "data"


def load(data: Data) -> list[tuple[str, np.ndarray]]:
    """Read a data set as (name, uint8 H×W×3 image) pairs.

    `data` is what `paths` accepts, or a list whose items are arrays, image files, or such pairs. Arrays
    without a name are called image_0, image_1 and so on. ValueError for an empty list, another kind of item,
    or an array that is not uint8 H×W×3.
    """
    if isinstance(data, str | os.PathLike):
        return [(path.stem, images.read(path)) for path in paths(data)]
    loaded: list[tuple[str, np.ndarray]] = []
    for index, item in enumerate(data):
        if isinstance(item, str | os.PathLike):
            item = (Path(item).stem, images.read(item))
        named = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        name, image = item if named else (f"image_{index}", item)
        if images.check(image).ndim != 3:
            raise ValueError(f"{name} has the shape {image.shape}, expected H×W×3")
        loaded.append((name, image))
    if not loaded:
        raise ValueError("got an empty list of images, expected at least one")
    return loaded


def fingerprint(data: Data) -> str:
    """The sha256, in hexadecimal, over names, sizes and pixels: equal if and only if the images are."""
    digest = hashlib.sha256()
    for name, image in load(data):
        digest.update(f"{len(name.encode())} {name} {image.shape[0]} {image.shape[1]} ".encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------- downloading


def download(name: str, root: str | os.PathLike[str] | None = None, progress: bool = True) -> Path:
    """Download a registered data set into a folder of `root` (default: `root()`), and return that folder.

    A set that is already there is left alone. The archive is kept as long as another set that it holds is
    missing. ValueError for an unknown name, a set that must be asked for in person, or an incomplete one;
    RuntimeError if every source fails, with each one's reason.
    """
    if name in EMBEDDED:
        return _skimage_folder()
    if name not in registry():
        raise ValueError(f"there is no data set {name!r} to download, choose among {', '.join(registry())}")
    entry, base = registry()[name], _base(root)
    present = _registered(entry, base)
    if present:
        return present[0].parent
    if not entry.sources:
        raise ValueError(f"{name} has no public download: put its images ({entry.page}) into {base / name}")
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(f"cannot create {base}: {error.strerror}; choose a folder by DDTB_DATA") from error
    reasons = []
    for source in entry.sources:
        archive = base / Path(urlsplit(source.url).path).name
        try:
            archives.fetch(source.url, archive, source.size, source.sha256, progress)
            _unpack(archive, source, entry, base / name)
        except RuntimeError as error:
            reasons.append(str(error))
            continue
        if not _needed(source.url, base):
            archive.unlink()
        return base / name
    raise RuntimeError(f"{name} could not be downloaded: {'; '.join(reasons)}")


def _base(folder: str | os.PathLike[str] | None) -> Path:
    return root() if folder is None else Path(folder)


def _unpack(archive: Path, source: Source, entry: DataSet, target: Path) -> None:
    try:
        archives.unpack(archive, source.folder, target, entry.images, entry.exclude)
    except RuntimeError as error:
        if source.sha256:
            raise  # the archive is the right one: the disk or the registry is at fault
        raise RuntimeError(f"{error}; the archive was moved to {archives.set_aside(archive)}") from error


def _needed(url: str, base: Path) -> bool:
    """Whether a set that is not there yet comes from the archive at this address."""
    holders = (entry for entry in registry().values() if any(source.url == url for source in entry.sources))
    return any(not _images_in(base / entry.name) for entry in holders)
