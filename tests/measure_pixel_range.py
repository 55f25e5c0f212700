"""Which half of SRResNet's pixel range lets it learn: that zero is mid-gray, or that pixels are small.

    python tests/measure_pixel_range.py [--seeds 0] [--steps 400] [--out data/benchmarks/pixel_range.json]

Trains SRResNet ×4 from nothing on pixels as they are, centered alone, scaled alone, and both, and EDSR ×4 beside it,
all with the same recipe, and writes the mean PSNR of the held-out training images as the run goes on, with that of
bicubic interpolation. Needs BSD200 and T91 in $DDTB_DATA, and about eight minutes of a CPU core for each network and
seed. Not collected by pytest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ddtb_lite import evaluate
from ddtb_lite.evaluation import smallest_side
from ddtb_lite.networks import EDSR, SRResNet, SuperResolutionNetwork
from ddtb_lite.support import devices
from ddtb_lite.support.provenance import environment
from ddtb_lite.training import Recipe, train, training_images
from ddtb_lite.training.validation import split

DATA = ["BSD200_train", "BSD200_test", "T91"]
# The darkest and the brightest pixel inside the network.
RANGES: dict[str, tuple[float, float]] = {
    "as they are": (0.0, 255.0),
    "centered": (-127.5, 127.5),
    "scaled": (0.0, 2.0),
    "both": (-1.0, 1.0),
}
EDSR_ITSELF = "EDSR"


def new_network(arm: str) -> SuperResolutionNetwork:
    if arm == EDSR_ITSELF:
        return EDSR(4)
    return SRResNet(4)


def run(arm: str, seed: int, images: list, recipe: Recipe) -> dict[str, Any]:
    torch.manual_seed(seed)
    # A network's state is checked against the ranges there are: inside here, this one is.
    with mock.patch("ddtb_lite.networks.srresnet.PIXEL_RANGE", RANGES.get(arm, RANGES["both"])):
        history = train(new_network(arm), images, recipe, seed=seed, device="cpu")
    curve = [[row["step"], round(row["psnr"], 4)] for row in history.rows if "psnr" in row]
    return {"arm": arm, "seed": seed, "psnr": curve, "seconds": round(history.seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/pixel_range.json"))
    options = parser.parse_args()
    # EDSR's own short recipe: for SRResNet that preset expects weights to go on from.
    recipe = Recipe.preset("short", EDSR(4)).override(steps=options.steps, validate_every=50)
    images = training_images(DATA)
    held_out, _ = split(images, recipe.validation_images, smallest_side(4, 4), recipe.patch_size)
    facts = {
        **environment("cpu", devices.training_precision(recipe.precision, torch.device("cpu"))),
        "data": DATA,
        "recipe": vars(recipe),
        "ranges": RANGES,
        "bicubic": round(evaluate("bicubic", held_out, scale=4, progress=False).psnr, 4),
        "rows": [],
    }
    for seed, arm in itertools.product(options.seeds, [*RANGES, EDSR_ITSELF]):
        facts["rows"].append(run(arm, seed, images, recipe))
        options.out.write_text(f"{json.dumps(facts, indent=1)}\n", encoding="utf-8")
        print(facts["rows"][-1], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
