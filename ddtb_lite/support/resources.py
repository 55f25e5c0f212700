"""Where the data lies that comes with the package: results, networks, the paper's tables, the registry of data sets.

In a checkout that is its folder `data`, in an installation a copy inside the package.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def repository() -> Path | None:
    """The checkout that the package runs from, or None if it is installed."""
    # Beside an installed package lies whatever else is installed, a folder "data" perhaps, but no project file.
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


def data(name: str) -> Path:
    """A file or folder of `data`, such as "results" or "datasets.toml": a checkout's, else the installed copy."""
    checkout = repository()
    return PACKAGE / "_data" / name if checkout is None else checkout / "data" / name


def published(name: str) -> Path:
    """A folder of the checkout's `data` that new results go to; `ValueError` if the package is installed."""
    checkout = repository()
    if checkout is None:
        raise ValueError("An installed package takes no new results: run this in a checkout of the repository.")
    return checkout / "data" / name
