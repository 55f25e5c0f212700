"""Training and quantization-aware training: one loop for both (section 8)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .. import datasets, uniform
from ..networks import SuperResolutionNetwork
from ..quantizers.packed import is_packed
from ..support import devices, distributed
from .recipe import Recipe
from .run import History, Run
from .run_folder import RunFolder

LOG_EVERY = 50


def train(
    network: SuperResolutionNetwork,
    data: str | Path | Sequence,
    recipe: Recipe | str = "short",
    *,
    teacher: SuperResolutionNetwork | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train a network in place; it ends with the weights that scored best on held-out training images.

    Adversarial training ends with the last ones, because PSNR does not see what it is after.

    A full-precision network minimizes L1; a quantized one also matches its `teacher`, the full-precision network
    it came from (section 8). `data` is a data set's name, a folder, a list of those, or a list of uint8 images
    H×W×3; `recipe` a `Recipe` or the name of a preset. A quantized network that has not been initialized is
    initialized from `data` first.

    With `out`, the run writes `log.csv`, its best weights and its complete state there. The same call with the same
    folder goes on where the run was cut off, and on a CPU ends bit-identical to one that never was. SIGTERM and
    Ctrl-C save the state before they end the run.

    A recipe with an `adversarial_weight` adds a discriminator that trains along, see `adversarial.Adversary`.

    Started by `torchrun --nproc-per-node N`, N processes share each batch, on GPUs one each. They train what one
    process trains, up to the order of sums in floating point, and may continue its run, as it may continue theirs.
    `batch_size` must be a multiple of N. Process 0 alone writes and shows progress.

    However it ends, `network` and `teacher` are back on the device where they were.

    Raises `ValueError` for data or networks that do not fit, `runs.Diverged`, naming the layers that went wrong, if
    the loss, a gradient or a parameter stops being finite, and `RuntimeError` if the device's memory is full or another
    process dies.
    """
    if isinstance(recipe, str):
        recipe = Recipe.preset(recipe, network)
    if is_packed(network):
        raise ValueError(
            "This student was loaded bit-packed: the full-precision weights that training needs are gone. "
            "Continue its run folder, or quantize the full-precision network again."
        )
    with distributed.process_group(device) as own_device, brought_back(network, teacher):
        run = Run(network, teacher, recipe, training_images(data), seed, own_device)
        folder = None if out is None else RunFolder(Path(out), run.identity)
        with (
            uniform.compiled(recipe.compile),
            # Machines are compared by their short runs, and GPUs differ in what they take for float32.
            devices.true_float32() if run.precision == "fp32" else nullcontext(),
            _stop_requests() as stop,
            _full_memory_explained(run),
        ):
            _to_the_end(run, folder, stop, progress and distributed.rank() == 0)
        run.finish()
    return run.history


def _to_the_end(run: Run, folder: RunFolder | None, stop: threading.Event, progress: bool) -> None:
    """All steps that are left, with what happens between them."""
    recipe = run.recipe
    state = folder.read_state() if folder else None
    distributed.check_agreement(run.identity, state.facts["step"] if state else 0)
    if state is None:
        run.begin()
    else:
        run.restore(state)
        if folder and run.best_weights:
            folder.write_best(run.best_weights)  # those there may come from steps that are lost
    with tqdm(total=recipe.steps, initial=run.step, unit="step", disable=None if progress else True) as bar:
        while run.step < recipe.steps:
            run.advance()
            bar.update()
            last = run.step == recipe.steps
            stopped = distributed.any_process(stop.is_set())
            if last or run.step % recipe.validate_every == 0:
                improved = run.log(validate=True)
                if folder and improved:
                    folder.write_best(run.best_weights)
            elif run.step % LOG_EVERY == 0:
                run.log(validate=False)
            if folder and (last or run.step % recipe.save_every == 0 or stopped):
                run.check()
                folder.write_state(run.state())
                folder.write_log(run.history.rows)
            if run.history.rows:
                bar.set_postfix(run.summary(), refresh=False)
            if stopped and not last:
                distributed.any_process(False)  # torchrun ends all others when the first has left: let files be whole
                where = f" The same call continues from {folder.path}." if folder else ""
                raise KeyboardInterrupt(f"Training was stopped after step {run.step}.{where}")
    if folder:
        folder.write_log(run.history.rows)


def training_images(data: str | Path | Sequence) -> list[tuple[str, np.ndarray]]:
    """All images of a data set, a folder, or a list of those or of images, as (name, uint8 H×W×3)."""
    if isinstance(data, (list, tuple)) and data and all(isinstance(each, (str, Path)) for each in data):
        return [image for each in data for image in datasets.load(each)]
    return datasets.load(data)


@contextmanager
def brought_back(*networks: SuperResolutionNetwork | None) -> Iterator[None]:
    """Return networks to the device where they were: what follows a training should not depend on where it ran."""
    homes = [(each, each.device) for each in networks if each is not None]
    try:
        yield
    finally:
        for each, device in homes:
            each.to(device)


@contextmanager
def _full_memory_explained(run: Run) -> Iterator[None]:
    """Turn a device's refusal of more memory into a sentence that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        recompute = "" if run.recipe.checkpointing else "say checkpointing=true, with which the run goes on, or "
        raise RuntimeError(
            f"The memory of {run.device} is full at step {run.step}; what was saved is whole. To need less, {recompute}"
            f"begin another run with a smaller batch_size ({run.recipe.batch_size}) or patch_size "
            f"({run.recipe.patch_size})."
        ) from error


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets, so that a step is finished before the run stops."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
