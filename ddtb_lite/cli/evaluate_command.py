"""PSNR and SSIM of a checkpoint, or of bicubic upscaling, on data sets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from .. import datasets, evaluation
from ..reproduction import results
from ..support import resources
from ..support.files import check_folder
from . import arguments


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument("network", metavar="NETWORK", help=f'{arguments.NETWORK_FILE}; or "bicubic"')
    each.add_argument(
        "--data",
        nargs="+",
        action=arguments.Collect,
        default=["photos"],
        metavar="SET",
        help="data sets or folders; by default photos that come with scikit-image",
    )
    each.add_argument("--scale", type=int, help="needed for bicubic only")
    each.add_argument("--protocol", default="y", help="y (the paper's, the default), y_full or rgb")
    each.add_argument("--border", type=int, help="pixels left out at each side; by default the scale")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    arguments.integer_option(each)
    each.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    each.add_argument("--out", type=Path, metavar="FILE", help="also write a result file (.json)")
    each.add_argument("--publish", action="store_true", help="add the scores to the result file of a shipped network")


def run(options: argparse.Namespace) -> None:
    """Score it on each set, print tables or JSON, and write a result file if one is wanted."""
    bicubic = options.network == "bicubic"
    if bicubic and options.integer:
        raise ValueError("Bicubic upscaling has no integers: leave out --integer.")
    if options.out:
        check_folder(options.out)
    file = None if bicubic else arguments.file_of(options.network)
    network = arguments.opened(file, options.integer) if file else "bicubic"
    carried = file is not None and file.resolve().parent == resources.data("checkpoints").resolve()
    if options.publish and not carried:
        raise ValueError(f"{options.network} is no network that the package ships: leave out --publish.")
    if options.publish and (options.integer or options.protocol != "y" or options.border is not None):
        raise ValueError("Published scores follow the paper's protocol: leave out --integer, --protocol and --border.")
    started = time.perf_counter()
    scores = {
        name: evaluation.evaluate(
            network,
            name,
            scale=options.scale,
            protocol=options.protocol,
            border=options.border,
            device=options.device,
        )
        for name in options.data
    }
    seconds = time.perf_counter() - started
    if options.out:
        results.write(
            options.out,
            run=options.out.stem,
            config={"network": options.network, "protocol": options.protocol, "border": options.border}
            | {"scale": next(iter(scores.values())).scale}
            | ({"integer": True} if options.integer else {}),
            seed=0,
            data={name: datasets.fingerprint(name) for name in options.data},
            curve=[],
            seconds=seconds,
            checkpoint=f"data/checkpoints/{file.name}" if file and carried else None,
            scores=scores,
            command=arguments.command_line(options),
            precision="fp32",
            device=options.device,
        )
    if options.publish and file:
        fingerprints = {name: datasets.fingerprint(name) for name in options.data}
        path = results.add_scores(file.stem, scores, fingerprints, seconds=seconds, device=options.device)
        print(path, file=sys.stderr)
    if options.json:
        rows = {
            name: {"psnr": score.psnr, "ssim": score.ssim, "images": score.images} for name, score in scores.items()
        }
        # JSON knows no infinity, which is the PSNR of equal images: null.
        print(json.dumps(json.loads(json.dumps(rows), parse_constant=lambda _: None)))
    else:
        print("\n\n".join(str(score) for score in scores.values()))
