"""What the command line understands: every command, its options, and what some of them stand for."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from .conversion import quantize
from .networks import NETWORKS, SuperResolutionNetwork
from .quantizers import METHODS

Command = Callable[[argparse.Namespace], None]


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The commands and their options, named like the arguments of the Python functions."""
    top = argparse.ArgumentParser(
        prog="python -m ddtb_lite",
        description="Super-resolution networks at 2, 3 and 4 bits: train, score and use them.",
    )
    choices = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, about: str) -> argparse.ArgumentParser:
        each = choices.add_parser(
            name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        each.set_defaults(run=commands[name])
        return each

    each = command("download", "Fetch data sets into $DDTB_DATA, checked and unpacked.")
    each.add_argument("names", nargs="*", metavar="NAME", help="data sets; none lists the known ones")

    each = command("train", "Train a full-precision network, or with --bits a quantized student.")
    _network_options(each)
    each.add_argument("--teacher", metavar="FILE", help="the full-precision checkpoint that a student starts from")
    each.add_argument("--start-from", metavar="FILE", help="full-precision weights to start from, where shapes fit")
    _training_options(each)
    each.add_argument("--test", nargs="*", metavar="SET", help="score on these; by default all benchmarks there are")
    each.add_argument("--out", required=True, metavar="FOLDER", help="the run's folder; an interrupted run continues")
    each.add_argument("--publish", action="store_true", help="copy result and checkpoint into the repository's data")

    each = command("evaluate", "PSNR and SSIM of a checkpoint, or of bicubic upscaling, on data sets.")
    each.add_argument("network", metavar="FILE", help='a checkpoint, or "bicubic"')
    each.add_argument("--data", nargs="+", default=["photos"], metavar="SET", help="data sets or folders")
    each.add_argument("--scale", type=int, help="needed for bicubic only")
    each.add_argument("--protocol", default="y", help="y (the paper's), y_full or rgb")
    each.add_argument("--border", type=int, help="pixels left out at each side; by default the scale")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    each.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    each.add_argument("--out", type=Path, metavar="FILE", help="also write a result file (.json)")

    each = command("upscale", "Super-resolve an image or all images of a folder.")
    each.add_argument("network", metavar="FILE", help="a checkpoint")
    each.add_argument("input", type=Path, help="an image or a folder")
    each.add_argument("--out", type=Path, required=True, help="the new image, or a folder for a folder")
    each.add_argument("--tile", type=int, help="side of a tile in low-resolution pixels; chosen by itself")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")

    each = command("complexity", "Parameters and bit operations, as Table S1 counts them.")
    each.add_argument("network", nargs="?", metavar="FILE", help="a checkpoint, instead of the options below")
    _network_options(each)
    each.add_argument("--output-size", type=int, nargs=2, default=(1920, 1080), metavar=("WIDTH", "HEIGHT"))

    each = command("compare", "Train and score several methods with one recipe, and print one table.")
    each.add_argument("--model", default="edsr", choices=list(NETWORKS), help="architecture")
    each.add_argument("--scale", type=int, default=4, choices=(2, 3, 4), help="upscaling factor")
    each.add_argument("--bits", type=int, default=2, help="bit-width of weights and activations")
    each.add_argument("--methods", nargs="+", default=["all"], choices=["all", *METHODS], help="which methods")
    each.add_argument("--teacher", metavar="FILE", help="the full-precision checkpoint; by default the shipped one")
    _training_options(each)
    each.add_argument("--test", nargs="+", default=["photos"], metavar="SET", help="score on these")
    each.add_argument("--out", metavar="FOLDER", help="keep the runs here, so that they can be continued")

    each = command("benchmark", "Speed and memory, each as a ratio to a peer in the same process.")
    each.add_argument("--device", default="cpu", help="cpu or cuda")
    each.add_argument("--json", action="store_true", help="print one JSON object")
    each.add_argument("--out", type=Path, metavar="FILE", help="also write what was measured, and where (.json)")
    return top


def _network_options(each: argparse.ArgumentParser) -> None:
    each.add_argument("--model", default="edsr", choices=list(NETWORKS), help="architecture")
    each.add_argument("--scale", type=int, default=4, choices=(2, 3, 4), help="upscaling factor")
    each.add_argument(
        "--architecture", nargs="+", default=[], metavar="NAME=NUMBER", help="depth and width, such as n_blocks=8"
    )
    each.add_argument("--bits", type=int, help="bit-width of weights and activations; without it full precision")
    each.add_argument("--method", default="ddtb", choices=list(METHODS), help="how to quantize")
    each.add_argument("--variant", default="paper", choices=("paper", "official"), help="whose quantization points")
    each.add_argument("--gate-ratio", type=float, help="fraction of layers with a gate; by default the paper's")
    each.add_argument("--percentile", type=float, help="of the initializer; by default the paper's")
    each.add_argument("--fully", action="store_true", help="quantize first, last and upsampling layers too")


def _training_options(each: argparse.ArgumentParser) -> None:
    each.add_argument("--preset", default="short", choices=("smoke", "short", "paper"), help="length of training")
    each.add_argument("--own-rates", action="store_true", help="the method's own learning rates instead of DDTB's")
    each.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the recipe, such as steps=2000"
    )
    each.add_argument("--data", nargs="+", default=["photos_train"], metavar="SET", help="training sets or folders")
    each.add_argument("--seed", type=int, default=0, help="of initialization, patches and gates")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")


def pairs(texts: list[str]) -> dict[str, object]:
    """["a=1", "b=x"] to {"a": 1, "b": "x"}."""
    values: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not of the form NAME=VALUE.")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def quantized(network: SuperResolutionNetwork, options: argparse.Namespace) -> SuperResolutionNetwork:
    """A quantized copy of a network, as the options say."""
    return quantize(
        network,
        options.method,
        options.bits,
        variant=options.variant,
        gate_ratio=options.gate_ratio,
        percentile=options.percentile,
        fully=options.fully,
    )


def command_line(options: argparse.Namespace) -> str:
    """The command line, to be repeated from a result file."""
    return f"python -m ddtb_lite {shlex.join(options.words)}"
