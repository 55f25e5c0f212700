"""What the commands have in common: options, and what some of them stand for."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import checkpoints
from ..conversion import quantize
from ..deploy import to_integer
from ..networks import NETWORKS, SuperResolutionNetwork, build
from ..networks.base import VARIANTS
from ..networks.onnx_network import OnnxNetwork
from ..quantizers import METHODS
from ..training.recipe import PRESETS

# What every command takes for a network.
CHECKPOINT = 'a checkpoint file, or the name of a network that comes with the package, such as "edsr_x4_ddtb_2bit"'
NETWORK_FILE = f"{CHECKPOINT}; or an exported .onnx file"
# Arguments of `quantize` and of `build` that options carry only if they were given.
QUANTIZATION = ("method", "variant", "gate_ratio", "percentile", "fully")
NETWORK = ("model", "scale")


class Collect(argparse.Action):
    """A list of values: the first use of the option replaces the default, another one adds to it."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def which_network(each: argparse.ArgumentParser) -> None:
    """Architecture and upscaling factor."""
    absent = argparse.SUPPRESS
    each.add_argument("--model", default=absent, choices=list(NETWORKS), help="architecture; by default edsr")
    each.add_argument("--scale", type=int, default=absent, choices=(2, 3, 4), help="upscaling factor; by default 4")


def network_options(each: argparse.ArgumentParser) -> None:
    """Which network, and how it is quantized."""
    which_network(each)
    each.add_argument(
        "--architecture",
        nargs="+",
        action=Collect,
        default=[],
        metavar="NAME=NUMBER",
        help="depth and width, such as n_blocks=8; by default the paper's",
    )
    each.add_argument("--bits", type=int, help="bit-width of weights and activations; without it full precision")
    absent = argparse.SUPPRESS
    each.add_argument("--method", default=absent, choices=list(METHODS), help="how to quantize; by default ddtb")
    each.add_argument(
        "--variant", default=absent, choices=VARIANTS, help="what is quantized, and how; by default as in the paper"
    )
    each.add_argument(
        "--gate-ratio", type=float, default=absent, help="fraction of layers with a gate; by default the paper's"
    )
    each.add_argument("--percentile", type=float, default=absent, help="of the initializer; by default the paper's")
    each.add_argument(
        "--fully", action="store_true", default=absent, help="quantize first, last and upsampling layers too"
    )


def training_options(each: argparse.ArgumentParser) -> None:
    """How long, on what, from which seed and where."""
    each.add_argument("--preset", default="short", choices=PRESETS, help="length of training; by default short")
    each.add_argument("--own-rates", action="store_true", help="the method's own learning rates instead of DDTB's")
    each.add_argument(
        "--set",
        nargs="+",
        action=Collect,
        default=[],
        metavar="FIELD=VALUE",
        help="change fields of the recipe, such as steps=2000",
    )
    each.add_argument(
        "--data",
        nargs="+",
        action=Collect,
        default=["photos_train"],
        metavar="SET",
        help="training sets or folders; by default photos that come with scikit-image",
    )
    each.add_argument("--seed", type=int, default=0, help="of initialization, patches and gates; by default 0")
    each.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")


def pairs(texts: list[str]) -> dict[str, object]:
    """["a=1", "b=x", "c=none"] to {"a": 1, "b": "x", "c": None}."""
    values: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not of the form NAME=VALUE.")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = None if value.lower() == "none" else value
    return values


def given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of some options that were given, by name."""
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def written(names: Iterable[str]) -> str:
    """Names of options as they are written: "--model, --gate-ratio"."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def built(options: argparse.Namespace) -> SuperResolutionNetwork:
    """A full-precision network, as the options say; by default EDSR ×4."""
    architecture = pairs(options.architecture)
    if own := sorted({"name", "scale"} & set(architecture)):
        raise ValueError(f"--architecture is for depth and width, not for {' and '.join(own)}.")
    if options.bits is None and (quantization := given(options, QUANTIZATION)):
        raise ValueError(f"{written(quantization)}: say with --bits how many bits the network gets.")
    model, scale = getattr(options, "model", "edsr"), getattr(options, "scale", 4)
    return build(model, scale, **architecture)  # type: ignore[arg-type]


def quantized(network: SuperResolutionNetwork, options: argparse.Namespace) -> SuperResolutionNetwork:
    """A quantized copy of a network, as the options say; `ValueError` for those that the method would ignore."""
    rule = METHODS[getattr(options, "method", "ddtb")]
    used = {"gate_ratio": rule.gated, "percentile": rule.cuts_tails}
    if ignored := given(options, [name for name, known in used.items() if not known]):
        raise ValueError(f"{rule.title} does without {written(ignored)}: leave it out.")
    return quantize(network, bits=options.bits, **given(options, QUANTIZATION))


def integer_option(each: argparse.ArgumentParser) -> None:
    """Whether a student runs on integers."""
    each.add_argument("--integer", action="store_true", help="run a student on integers, as to_integer makes it")


def file_of(name: str) -> Path:
    """The file that is meant: an exported `.onnx` file as it is, anything else as `checkpoints.find` finds it."""
    return Path(name) if name.endswith(".onnx") else checkpoints.find(name)


def opened(file: Path, integer: bool) -> SuperResolutionNetwork:
    """The network of a checkpoint or of an exported `.onnx` file, on integers if that is wanted."""
    if file.suffix == ".onnx":
        if integer:
            raise ValueError(f"{file} computes with the integers it was exported with: leave out --integer.")
        return OnnxNetwork(file)
    network = checkpoints.load(file)
    return to_integer(network) if integer else network


def check_kind(file: str | Path, network: SuperResolutionNetwork, options: argparse.Namespace) -> None:
    """Raise `ValueError` if a file's network is not of the model and the scale that were given."""
    wanted = {"model": network.name, "scale": network.scale} | given(options, NETWORK)
    if (network.name, network.scale) != (wanted["model"], wanted["scale"]):
        raise ValueError(
            f"{file} is {network.name} ×{network.scale}, but --model and --scale say "
            f"{wanted['model']} ×{wanted['scale']}."
        )


def command_line(options: argparse.Namespace) -> str:
    """The command line, to be repeated from a result file."""
    return f"python -m ddtb_lite {shlex.join(options.words)}"
