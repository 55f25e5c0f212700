"""Parameters and bit operations, as Table S1 counts them."""

from __future__ import annotations

import argparse

from .. import checkpoints
from ..conversion import activation_quantizers, attach_gates, number_of_gates
from ..cost import complexity
from . import arguments


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument(
        "network", nargs="?", metavar="NETWORK", help=f"{arguments.CHECKPOINT}; instead of the options below"
    )
    arguments.network_options(each)
    each.add_argument(
        "--output-size",
        type=int,
        nargs=2,
        default=(1920, 1080),
        metavar=("WIDTH", "HEIGHT"),
        help="of the picture that is made; by default 1920 1080",
    )


def run(options: argparse.Namespace) -> None:
    """Count, and print one number a line."""
    if options.network:
        others = list(arguments.given(options, (*arguments.NETWORK, *arguments.QUANTIZATION)))
        others += [name for name in ("architecture", "bits") if getattr(options, name)]
        if others:
            raise ValueError(f"{options.network} says what it holds: leave out {arguments.written(others)}.")
        network = checkpoints.load(checkpoints.find(options.network))
    else:
        network = arguments.built(options)
        if options.bits is not None:
            network = arguments.quantized(network, options)
            paths = list(activation_quantizers(network))
            count = number_of_gates(network)
            attach_gates(network, paths[:count])
            if count:
                print(f"Without training data the first {count} layers get the gates; this matters for RDN only.")
    cost = complexity(network, tuple(options.output_size))
    print(f"parameters (32-bit)          {cost.params:14,.0f}")
    print(f"  high-level features        {cost.hlfe_params:14,.0f}")
    print(f"  dynamic gates              {cost.gate_params:14,.0f}")
    print(f"bit operations               {cost.bops / 1e12:14,.2f} T")
    print(f"  dynamic gates              {cost.gate_bops / 1e6:14,.2f} M")
