"""Every run of the reproduction: done, under way, missing, what it costs, and which are for a GPU."""

from __future__ import annotations

import argparse
import json
import sys

from ..reproduction import progress, results
from ..reproduction.grid import SELECTION, experiments, select
from ..support.files import atomic_write
from ..training.recipe import PRESETS
from . import arguments


def add(each: argparse.ArgumentParser) -> None:
    each.add_argument("--preset", default="short", choices=PRESETS, help="length of training")
    each.add_argument("--folder", default="runs", help="where the run folders lie")
    each.add_argument("--own", action="store_true", help="count this folder's results only, not data/results")
    for option, field in SELECTION.items():
        known = [value for one in experiments().values() if (value := getattr(one, field)) is not None]
        values = sorted(set(known))
        each.add_argument(
            f"--{option}",
            nargs="+",
            action=arguments.Collect,
            type=type(values[0]),
            choices=values,
            metavar=field.upper(),
            help=f"only these, and what they need: {', '.join(map(str, values))}",
        )
    each.add_argument("--commands", action="store_true", help="also print the commands of what is not done")
    each.add_argument("--csv", metavar="FILE", help="also write the scores")
    each.add_argument("--json", action="store_true", help="print the workflow's jobs, and the list to stderr")


def run(options: argparse.Namespace) -> None:
    """Print the list; for the workflow, its jobs as one JSON array, and the list beside them."""
    preset, folder = options.preset, options.folder
    wanted = {field: values for option, field in SELECTION.items() if (values := getattr(options, option))}
    published, own = results.all_results(), progress.results_in(folder)
    timed = list((own or published).values())  # this machine's runs tell more than others'
    if options.own:
        published = {}
    done = {name: one for name, one in progress.together(published, own).items() if progress.finished(one, preset)}
    elsewhere = {name for name, one in done.items() if one is not own.get(name)}
    shipped = progress.shipped(elsewhere)
    chosen = select(wanted, elsewhere, shipped)
    text = progress.listing(chosen, preset, folder, done, timed)
    if options.json:
        print(text, file=sys.stderr)
        text = json.dumps(progress.jobs(chosen, preset, folder, elsewhere, shipped, timed))
    print(text)
    if options.commands:
        print("\n".join(each.command(preset) for each in chosen if each.name not in done))
    if options.csv:
        atomic_write(options.csv, progress.as_csv(chosen, done).encode())
