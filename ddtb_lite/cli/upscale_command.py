"""Super-resolve an image or all images of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .. import datasets, images
from ..inference import prepared, upscale
from . import arguments


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument("network", metavar="NETWORK", help=arguments.NETWORK_FILE)
    each.add_argument("input", type=Path, help="an image or a folder")
    each.add_argument("--out", type=Path, required=True, help="the new image, or a folder for a folder")
    each.add_argument("--tile", type=int, help="side of a tile in low-resolution pixels; chosen by itself")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    arguments.integer_option(each)


def run(options: argparse.Namespace) -> None:
    """Enlarge the image, or every image of the folder.

    Raises `ValueError` for images that cannot be read; the others of the folder are enlarged before that.
    """
    network = arguments.opened(arguments.file_of(options.network), options.integer)
    if options.input.is_dir():
        if options.out.exists() and not options.out.is_dir():
            raise ValueError(f"{options.input} is a folder, but {options.out} is a file; give a folder as --out.")
        options.out.mkdir(parents=True, exist_ok=True)
        folder = options.input.resolve()  # "photos" would name a data set
        jobs = [(path, options.out / f"{path.stem}.png") for path in datasets.paths(folder)]
        if len({target for _, target in jobs}) < len(jobs):
            raise ValueError(f"Two images in {options.input} differ only in their suffix; rename one of them.")
    else:
        jobs = [(options.input, options.out)]
    if taken := [str(target) for source, target in jobs if target.resolve() == source.resolve()]:
        raise ValueError(f"{taken[0]} would be overwritten by its enlargement: give another place as --out.")
    unreadable = []
    with prepared(network, options.device, torch.float32) as ready:
        for source, target in jobs:
            try:
                image = images.read(source)
            except ValueError as error:
                unreadable.append(str(error))
                continue
            images.write(target, upscale(ready, image, tile=options.tile, device=ready.device))
            print(target)
    if unreadable:
        others = f"{len(unreadable)} of {len(jobs)} images are left out: " if len(jobs) > 1 else ""
        raise ValueError(others + " ".join(unreadable))
