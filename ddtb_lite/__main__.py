"""The command line: python -m ddtb_lite download | train | evaluate | upscale | complexity | compare | benchmark."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import ddtb_lite as ddtb
from ddtb_lite import arguments, checkpoints, comparison, datasets, distributed, images, results
from ddtb_lite.benchmark import benchmark
from ddtb_lite.conversion import activation_quantizers, attach_gates, number_of_gates
from ddtb_lite.files import atomic_write, check_folder
from ddtb_lite.quantizers import METHODS
from ddtb_lite.throughput import paper_steps
from ddtb_lite.train_command import train


def main(words: list[str] | None = None) -> int:
    """Run one command; the result is the exit status: 0, 1 for an error told in one line, 130 if stopped."""
    options = parser().parse_args(words)
    options.words = sys.argv[1:] if words is None else words
    try:
        options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        if distributed.rank() == 0:
            print(str(stopped) or "Stopped.", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    return arguments.parser(COMMANDS)


def _download(options: argparse.Namespace) -> None:
    if not options.names:
        for entry in datasets.registry().values():
            print(f"{entry.name:14s} {entry.images:5d} images  {entry.about}")
    for name in options.names:
        print(f"{name}: {datasets.download(name)}")


def _evaluate(options: argparse.Namespace) -> None:
    bicubic = options.network == "bicubic"
    if options.out:
        check_folder(options.out)
    network = "bicubic" if bicubic else checkpoints.load(options.network)
    carried = not bicubic and Path(options.network).resolve().parent == (results.DATA / "checkpoints").resolve()
    started = time.perf_counter()
    scores = {
        name: ddtb.evaluate(
            network,
            name,
            scale=options.scale,
            protocol=options.protocol,
            border=options.border,
            device=options.device,
        )
        for name in options.data
    }
    if options.out:
        results.write(
            options.out,
            run=options.out.stem,
            config={"network": options.network, "protocol": options.protocol, "border": options.border}
            | {"scale": next(iter(scores.values())).scale},
            seed=0,
            data={name: datasets.fingerprint(name) for name in options.data},
            curve=[],
            seconds=time.perf_counter() - started,
            checkpoint=f"data/checkpoints/{Path(options.network).name}" if carried else None,
            scores=scores,
            command=arguments.command_line(options),
            precision="fp32",
            device=options.device,
        )
    if options.json:
        rows = {
            name: {"psnr": score.psnr, "ssim": score.ssim, "images": score.images} for name, score in scores.items()
        }
        print(json.dumps(_finite(rows)))
    else:
        print("\n\n".join(str(score) for score in scores.values()))


def _finite(value: Any) -> Any:
    """JSON knows no infinity, which is the PSNR of equal images: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _upscale(options: argparse.Namespace) -> None:
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
        images.write(target, ddtb.upscale(network, images.read(source), tile=options.tile, device=options.device))
        print(target)


def _complexity(options: argparse.Namespace) -> None:
    if options.network:
        others = list(arguments.given(options, (*arguments.NETWORK, *arguments.QUANTIZATION)))
        others += [name for name in ("architecture", "bits") if getattr(options, name)]
        if others:
            raise ValueError(f"{options.network} says what it holds: leave out {arguments.written(others)}.")
        network = checkpoints.load(options.network)
    else:
        network = arguments.built(options)
        if options.bits is not None:
            network = arguments.quantized(network, options)
            paths = list(activation_quantizers(network))
            count = number_of_gates(network)
            attach_gates(network, paths[:count])
            if count:
                print(f"Without training data the first {count} layers get the gates; this matters for RDN only.")
    cost = ddtb.complexity(network, tuple(options.output_size))
    print(f"parameters (32-bit)          {cost.params:14,.0f}")
    print(f"  high-level features        {cost.hlfe_params:14,.0f}")
    print(f"  dynamic gates              {cost.gate_params:14,.0f}")
    print(f"bit operations               {cost.bops / 1e12:14,.2f} T")
    print(f"  dynamic gates              {cost.gate_bops / 1e6:14,.2f} M")


def _compare(options: argparse.Namespace) -> None:
    model, scale = getattr(options, "model", "edsr"), getattr(options, "scale", 4)
    file = options.teacher or checkpoints.shipped(f"{model}_x{scale}")
    teacher = checkpoints.load(file)
    arguments.check_kind(file, teacher, options)
    rows = comparison.compare(
        teacher,
        options.data,
        options.test,
        bits=options.bits,
        methods=list(METHODS) if "all" in options.methods else options.methods,
        preset=options.preset,
        changes=arguments.pairs(options.set),
        own_rates=options.own_rates,
        out=options.out,
        seed=options.seed,
        device=options.device,
    )
    print(comparison.table(rows))


def _benchmark(options: argparse.Namespace) -> None:
    if options.out:
        check_folder(options.out)
    ratios = benchmark(options.device)
    # The paper's networks take a CPU seconds a step, and tell nothing that the ratios do not.
    measured = [] if options.device == "cpu" else paper_steps(options.device)
    values = {name: ratio.value for name, ratio in ratios.items()}
    facts = {**values, "throughput": [vars(each) for each in measured]}
    if options.out:
        here = results.environment(options.device)
        atomic_write(options.out, f"{json.dumps({**facts, 'environment': here}, indent=1)}\n".encode())
    if options.json:
        print(json.dumps(facts))
        return
    for name, ratio in ratios.items():
        print(f"{name:28s} {ratio.value:6.2f}  {ratio.about}")
    for each in measured:
        print(each)


COMMANDS = {
    "download": _download,
    "train": train,
    "evaluate": _evaluate,
    "upscale": _upscale,
    "complexity": _complexity,
    "compare": _compare,
    "benchmark": _benchmark,
}

if __name__ == "__main__":
    sys.exit(main())
