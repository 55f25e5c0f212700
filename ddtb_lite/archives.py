"""Fetching an archive over HTTP, never mistaking a part for the whole, and unpacking its images safely."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.client
import lzma
import os
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from .images import FORMATS

TIMEOUT = 30.0  # seconds without a byte until a connection counts as stalled
ATTEMPTS = 5  # connections in a row that bring nothing new, before giving up
PAUSE = 1.0  # seconds before the second attempt; doubles with each further one
_CHUNK = 1 << 20


def fetch(url: str, target: Path, size: int = 0, sha256: str = "", progress: bool = True) -> Path:
    """Download `url` to the file `target`, and return it once size and sha256 (where given) are verified.

    A target that is already there and right is left alone. An interrupted download is kept beside the target
    and resumed, by the next attempt or the next call. A connection that stalls or breaks off is tried again.
    RuntimeError if the server keeps failing, or if the file is not the expected one; a wrong file is moved
    aside as `….corrupt`.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"got the address {url}, expected http:// or https://")
    if target.exists():
        if not _difference(target, size, sha256):
            return target
        set_aside(target)
    # One partial file per address: halves of different mirrors must never be joined.
    partial = target.with_name(f"{target.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    best, failures = _length(partial), 0
    while True:
        try:
            _continue(url, partial, size, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429:
                reason = f"the server says {error.code} {error.reason}"
                raise RuntimeError(f"{url} cannot be downloaded: {reason}") from error
            failures = 0 if _length(partial) > best else failures + 1
            best = max(best, _length(partial))
            if failures >= ATTEMPTS:
                raise RuntimeError(
                    f"{url} cannot be downloaded: {error or type(error).__name__}; "
                    f"{_length(partial)} bytes are kept, run the same command again to resume"
                ) from error
            time.sleep(PAUSE * 2 ** max(failures - 1, 0))
    found = _difference(partial, size, sha256)
    if found:
        raise RuntimeError(f"{url} gave a corrupt file ({found}); it was moved to {set_aside(partial)}")
    os.replace(partial, target)
    return target


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _difference(path: Path, size: int, sha256: str) -> str:
    """What is wrong with the file's size or sha256, as far as these are known; "" if nothing."""
    if size and _length(path) != size:
        return f"{_length(path)} bytes, expected {size}"
    if sha256:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            return f"sha256 {digest}, expected {sha256}"
    return ""


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `….corrupt`, so that it is neither used nor resumed again."""
    corrupt = path.with_name(path.name.removesuffix(".part") + ".corrupt")
    os.replace(path, corrupt)
    return corrupt


def _continue(url: str, partial: Path, size: int, progress: bool) -> None:
    """One connection: append what is missing. Raises OSError when the connection ends too early."""
    have = _length(partial)
    if size and have == size:
        return
    headers = {"User-Agent": "ddtb_lite"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond what we have: either that is the whole file, or it belongs to another one.
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return
        partial.unlink(missing_ok=True)
        raise ConnectionError("the server's file is shorter than the part kept here") from error
    with response:
        total = int(response.headers.get("Content-Length") or 0)
        if response.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not match or int(match[1]) != have:
                partial.unlink(missing_ok=True)
                raise ConnectionError("the server resumed at another place than asked for")
            total = int(match[2])
        else:
            have = 0  # the server ignored the range and sends everything
        if size and total and total != size:
            raise RuntimeError(f"{url} offers {total} bytes, expected {size}: it is not the file meant here")
        _receive(response, partial, have, total or size, progress)
    if total and _length(partial) != total:
        raise ConnectionError(f"the connection ended after {_length(partial)} of {total} bytes")


def _receive(response: http.client.HTTPResponse, partial: Path, have: int, total: int, progress: bool) -> None:
    options: dict[str, Any] = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
    name = partial.name.split(".")[0]
    bar = tqdm(total=total or None, initial=have, unit="B", unit_scale=True, desc=name, **options)
    with _disk(partial):
        file = partial.open("r+b" if have else "wb")
        file.seek(have)
    with bar, file:
        while chunk := response.read1(_CHUNK):
            with _disk(partial):
                file.write(chunk)
                file.flush()
            bar.update(len(chunk))


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Tells the disk's errors, which end a download, from the network's, which are worth another attempt."""
    try:
        yield
    except OSError as error:
        raise RuntimeError(f"cannot write {path}: {error.strerror}; check rights and free space") from error


# ------------------------------------------------------------------------------------------ unpacking


def unpack(archive: Path, folder: str, target: Path, images: int, exclude: tuple[str, ...] = ()) -> Path:
    """Unpack the images that lie directly in `folder` of a zip or tar archive into the new folder `target`.

    `folder` "*" stands for every folder. Only plain image files are written, under their last name, so that
    no member can escape; `exclude` names images (without extension) to leave out. RuntimeError if the archive
    is damaged, holds a path that leads outside or a link or device among the images, or not exactly `images`
    images. The target appears whole or not at all.
    """
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    written: set[str] = set()
    try:
        unfinished.mkdir(parents=True)
        for path, plain, content in _members(archive):
            if path.suffix.lower() not in FORMATS or path.name.startswith(".") or path.stem in exclude:
                continue
            if folder != "*" and path.parent != PurePosixPath(folder):
                continue
            if not plain:
                raise RuntimeError(f"{archive} holds a link or device, {path}, among its images")
            if path.name.lower() in written or not re.fullmatch(r"\w[\w .()+,=@#&'-]*", path.name):
                raise RuntimeError(f"{archive} holds an image with a doubled or unsafe name, {path}")
            written.add(path.name.lower())
            with content() as file, (unfinished / path.name).open("xb") as out:
                shutil.copyfileobj(file, out, _CHUNK)
        if len(written) != images:
            raise RuntimeError(f"{archive} holds {len(written)} images in {folder}, expected {images}")
        os.replace(unfinished, target)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise RuntimeError(f"{archive} is damaged: {error}") from error
    except OSError as error:
        raise RuntimeError(f"cannot unpack {archive} to {target}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, bool, Callable[[], Any]]]:
    """Of each member but folders: its path, whether it is a plain file, and how to open it."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if not entry.is_dir():
                    plain = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
                    yield _safe(entry.filename, archive), plain, functools.partial(packed.open, entry)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as bundle:
            for member in bundle:
                if not member.isdir():
                    content = functools.partial(bundle.extractfile, member)
                    yield _safe(member.name, archive), member.isfile(), content
            assert bundle.fileobj is not None
            while bundle.fileobj.read(_CHUNK):  # what was compressed has its checksum behind the last member
                pass
    else:
        raise RuntimeError(f"{archive} is neither a zip nor a tar archive")


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise RuntimeError(f"{archive} holds {name}, a path that leads outside; it will not be unpacked")
    return path
