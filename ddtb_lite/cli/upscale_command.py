"""The command that enlarges an image or a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import checkpoints, datasets, images
from ..inference import upscale
from . import arguments


def add(choices: arguments.Choices) -> None:
    """Its options."""
    each = arguments.command(choices, "upscale", "Super-resolve an image or all images of a folder.", run)
    each.add_argument("network", metavar="FILE", help="a checkpoint")
    each.add_argument("input", type=Path, help="an image or a folder")
    each.add_argument("--out", type=Path, required=True, help="the new image, or a folder for a folder")
    each.add_argument("--tile", type=int, help="side of a tile in low-resolution pixels; chosen by itself")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")


def run(options: argparse.Namespace) -> None:
    """Enlarge the image, or every image of the folder."""
    network = checkpoints.load(options.network)
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
    for source, target in jobs:
        images.write(target, upscale(network, images.read(source), tile=options.tile, device=options.device))
        print(target)
