"""Writing files so that each is whole or not there."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise `FileNotFoundError` if the folder in which a file is to be written does not exist.

    Better asked before hours of work than after.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}, create it first")


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to the file `path`, whole or not at all; a file that is there already stays until then.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name. Raises
    `FileNotFoundError` for a missing folder, and `RuntimeError` if the folder or the disk refuses the file.
    """
    path = Path(path)
    check_folder(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RuntimeError(
            f"cannot write {path}: {reason}; check the folder's permissions and the free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the reason for the failure is what counts
            partial.unlink()
