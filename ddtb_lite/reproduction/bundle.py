"""Results to send: a zip with result files, packed checkpoints, where they come from, and SHA256SUMS over all of it.

Whoever receives one knows nothing about it, so reading trusts nothing: names are the four kinds below, sizes are
bounded while they are read, and nothing is unpickled or run.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.files import atomic_write
from ..support.provenance import environment
from . import runner

FORMAT = 1
SUMS, PROVENANCE = "SHA256SUMS", "provenance.json"
NAME = re.compile(rf"results/[\w.-]+\.json|checkpoints/[\w.-]+\.safetensors|{re.escape(PROVENANCE)}|{SUMS}", re.ASCII)
# The whole grid has 200 runs; the largest network, RDN in full precision, takes 45 MB at 16 bits.
MOST_FILES, LARGEST_FILE, LARGEST_BUNDLE = 500, 64 * 2**20, 2**30


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds: `files` by their names in it, and what its `provenance` says.

    `name` is the beginning of its checksum, the same for the same content.
    """

    name: str
    files: Mapping[str, bytes]
    provenance: dict[str, Any]

    @property
    def runs(self) -> list[str]:
        """The runs that it has results of."""
        return [Path(name).stem for name in self.files if name.startswith("results/")]


def write(path: Path, folder: Path, runs: Iterable[str], facts: Mapping[str, Any]) -> None:
    """Write a bundle of finished runs below `folder`; `facts` (budget, device) join its provenance."""
    files = {}
    for run in runs:
        files[f"results/{run}.json"] = runner.result_of(folder / run).read_bytes()
        files[f"checkpoints/{run}.safetensors"] = runner.checkpoint_of(folder / run).read_bytes()
    provenance = {"format": FORMAT, **facts, **environment()}
    files[PROVENANCE] = f"{json.dumps(provenance, indent=1)}\n".encode()
    atomic_write(path, archive_of(files))


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files and their checksums."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, SUMS: sums(files)}.items():
            archive.writestr(name, data)
    return content.getvalue()


def sums(files: Mapping[str, bytes]) -> bytes:
    """Lines as `sha256sum` writes them, for all files but the checksums themselves."""
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()) if name != SUMS]
    return "".join(lines).encode()


def read(path: Path) -> Bundle:
    """What an archive holds, in memory.

    Raises `FileNotFoundError` for a missing file, and `ValueError` for what is no bundle: not a zip, a file of another
    name or twice, too much of it, checksums that do not fit, a newer format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no bundle {path}.")
    try:
        files = _files(path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a zip archive that can be read: {error}.") from error
    if missing := {SUMS, PROVENANCE} - set(files):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: `reproduce` writes bundles that have it.")
    if files[SUMS] != sums(files):
        raise ValueError(f"{path} does not hold what its {SUMS} says: make the bundle again.")
    try:
        provenance = json.loads(files[PROVENANCE])
        version = provenance["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} has a {PROVENANCE} that cannot be read.") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, this version reads {FORMAT}: update ddtb_lite.")
    return Bundle(hashlib.sha256(files[SUMS]).hexdigest()[:12], files, provenance)


def _files(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MOST_FILES:
            raise ValueError(f"{path} holds {len(members)} files, expected at most {MOST_FILES}.")
        for member in members:
            if not NAME.fullmatch(member.filename) or member.filename in files:
                raise ValueError(
                    f"{path} holds {member.filename!r}: expected results/RUN.json, checkpoints/RUN.safetensors, "
                    f"{PROVENANCE} and {SUMS}, each once."
                )
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{path} is packed in another way than `reproduce` packs: make the bundle again.")
            with archive.open(member) as file:
                data = file.read(LARGEST_FILE + 1)  # a header may lie about the size
            total += len(data)
            if len(data) > LARGEST_FILE or total > LARGEST_BUNDLE:
                raise ValueError(
                    f"{path} unpacks to too much: expected at most {LARGEST_FILE >> 20} MiB a file "
                    f"and {LARGEST_BUNDLE >> 20} MiB together."
                )
            files[member.filename] = data
    return files
