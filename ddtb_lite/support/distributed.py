"""Several processes that train one network together; in a single process everything here leaves things as they are.

`torchrun` starts the processes. Each holds the whole network and draws the whole batch from the same random numbers,
then works on its own equal share of it. Whatever a step needs to know of the batch as a whole passes through this
module, and so the rest of the package reads the same for one process and for many.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import devices

# Processes wait for each other at every step; one that keeps the others waiting this long is taken for dead.
PATIENCE = timedelta(minutes=10)

# All that torchrun tells a process of its place. Schedulers and other launchers set some of it, WORLD_SIZE above all.
TOLD_BY_TORCHRUN = {"WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"}

# Whether the processes work together at present: their connection outlasts the single run.
_in_process_group = False


@contextmanager
def process_group(device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Inside this context the processes that torchrun started work together; yields the device of this one.

    `device` is the device asked for, by default a GPU if there is one; on GPUs each process takes its own and they
    talk by NCCL, otherwise by gloo. Without torchrun, or within another such context, nothing is started. Raises
    `ValueError` if there are fewer GPUs than processes, and `RuntimeError` in one sentence if another process dies.
    """
    if launched() == 1 or world_size() > 1:
        yield devices.current(device)
        return
    if str(device).startswith("cuda") or (device is None and torch.cuda.is_available()):
        device = f"cuda:{_own_gpu()}"
        torch.cuda.set_device(device)
    place = devices.resolve(device)
    global _in_process_group
    if not dist.is_initialized():
        # Flags that the host reads travel by gloo on GPUs too, so that nothing has to wait for the device.
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_disconnect)
    _in_process_group = True
    try:
        yield place
    except BaseException as error:
        # When the first process has left, torchrun ends the others; each is to say before that what happened.
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        raise RuntimeError(
            f"Process {rank()} of {world_size()} lost another one, which was ended or does not answer any more "
            f"({str(error).splitlines()[0]}). The same command continues from the last state in the run's folder."
        ) from error
    finally:
        _in_process_group = False


def _disconnect() -> None:
    """End the connection, once nothing else holds on to it.

    A wrapper of DistributedDataParallel that is the last to let go of it does so without releasing the interpreter's
    lock, which gloo's own threads may be waiting for, and then the process never ends.
    """
    gc.collect()
    dist.destroy_process_group()


def _own_gpu() -> int:
    index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= count:
        raise ValueError(
            f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes, but this machine has {count} GPUs; "
            f"say --nproc-per-node {count}, or train with --device cpu."
        )
    return index


def launched() -> int:
    """How many processes torchrun started, 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if os.environ.keys() >= TOLD_BY_TORCHRUN else 1


def world_size() -> int:
    """How many processes work together at present: more than one only within `process_group`."""
    return dist.get_world_size() if _in_process_group else 1


def rank() -> int:
    """The number of this process, from 0; process 0 is the one that writes files, prints and shows progress."""
    if world_size() > 1:
        return dist.get_rank()
    return int(os.environ["RANK"]) if launched() > 1 else 0


def check_divisible(batch_size: int) -> None:
    """Raise `ValueError` unless all processes can have equal shares of a batch."""
    if batch_size % world_size():
        raise ValueError(
            f"batch_size is {batch_size}, which {world_size()} processes cannot share evenly; "
            f"choose a multiple of {world_size()}."
        )


def check_agreement(*facts: Any) -> None:
    """Raise `RuntimeError` unless all processes were given the same facts, which JSON must be able to write."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
    number = torch.tensor(int.from_bytes(digest[:4], "big"))
    lowest, highest = extremes(number, number)
    if lowest != highest:
        raise RuntimeError(
            "The processes do not train the same run: give all of them the same command, the same training images "
            "and, as --out, a folder on a disk that they share."
        )


def own_part(batch: Tensor) -> Tensor:
    """This process's part of a batch N×…: N/processes neighbours."""
    return batch if world_size() == 1 else batch.chunk(world_size())[rank()]


def parallel(module: nn.Module, idle: list[nn.Parameter]) -> nn.Module:
    """`module`, wrapped so that its gradients are the mean over processes; all start from process 0's values.

    `idle` parameters are those that get no gradient. Name them, because otherwise the wrapper waits for theirs.
    """
    if world_size() == 1:
        return module
    trained = [parameter for parameter in idle if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        wrapped = DistributedDataParallel(module)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    wrapped.broadcast_buffers = False  # from here on every process computes the same ones
    return wrapped


class _Sum(torch.autograd.Function):
    """The sum over processes. Each process's loss depends on it, so the gradient is the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Sum.apply(grads[0])


def mean(x: Tensor) -> Tensor:
    """The mean of the processes' tensors, element by element and differentiable."""
    return x if world_size() == 1 else _Sum.apply(x) / world_size()


def gathered(x: Tensor) -> Tensor:
    """The tensors of all processes, stacked, differentiable: processes×… ."""
    if world_size() == 1:
        return x[None]
    rows = x.new_zeros(world_size(), *x.shape)
    rows[rank()] = x
    return _Sum.apply(rows)


def extremes(lowest: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """The least `lowest` and the greatest `highest` of all processes; without gradients."""
    if world_size() == 1:
        return lowest, highest
    both = torch.stack([-lowest, highest]).detach()
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return -both[0], both[1]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all wait until each has asked."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics, in training, are those of the whole batch and not of one process's share.

    PyTorch's own SyncBatchNorm does that on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        wide = x.to(self.weight.dtype)
        own = torch.stack([wide.mean((0, 2, 3)), wide.var((0, 2, 3), correction=0)])
        centers, spreads = gathered(own).unbind(1)
        center = centers.mean(0)
        spread = (spreads + (centers - center).square()).mean(0)
        self._follow(center.detach(), spread.detach(), world_size() * x.numel() // x.shape[1])
        centered = wide - center.view(-1, 1, 1)
        scale = self.weight * torch.rsqrt(spread + self.eps)
        return (centered * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics as nn.BatchNorm2d does, with the unbiased variance."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1
