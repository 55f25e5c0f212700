"""A training step as one CUDA graph: hundreds of kernels launched at once instead of one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

Outputs = dict[str, Tensor]
# Libraries choose algorithms and allocate workspaces in their first calls; a graph must not hold that.
EAGER_STEPS = 3


class Recorder(Protocol):
    """What a device must be able to do for a step to become a graph; on CUDA, `CudaRecorder`."""

    def eagerly(self, step: Callable[[], Outputs]) -> Outputs:
        """Run a step as it will be recorded, on the side."""

    def record(self, step: Callable[[], Outputs]) -> tuple[Callable[[], Any], Outputs]:
        """(replay, outputs): what runs the recorded step, and the tensors into which it writes each time."""


class CudaRecorder:
    """Records with `torch.cuda.CUDAGraph`, on one stream of the device.

    What autograd keeps from one step to the next belongs to the stream on which it was made, and so does memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def eagerly(self, step: Callable[[], Outputs]) -> Outputs:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = step()
        current.wait_stream(self.stream)
        return outputs

    def record(self, step: Callable[[], Outputs]) -> tuple[Callable[[], Any], Outputs]:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        try:
            # A thread that prepares the next batch pins memory meanwhile, which a capture of all threads would forbid.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                outputs = step()
        except BaseException:
            torch.cuda.set_stream(current)  # a capture that cannot end does not leave its stream
            raise
        return graph.replay, outputs


class StepGraph:
    """Calls a step, and from the fourth call in one situation on replays it as a graph.

    A recorded step does what it did, whatever has changed in Python since, so `situation` names everything
    that Python decides: another one is recorded anew. Without a `recorder` (on a CPU), and where recording fails,
    which is logged once, the step is simply called. The step must not wait for the device, must read what changes from
    the same tensors each time, and draw no random numbers.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self._forget(None)

    def _forget(self, situation: Hashable) -> None:
        self._situation, self._calls = situation, 0
        self._replay: Callable[[], Any] | None = None
        self._outputs: Outputs = {}

    def __call__(self, step: Callable[[], Outputs], situation: Hashable) -> Outputs:
        """The step's outputs; they are overwritten by the next call."""
        if self.recorder is None:
            return step()
        if situation != self._situation:
            self._forget(situation)
        self._calls += 1
        if self._calls <= EAGER_STEPS:
            return self.recorder.eagerly(step)
        if self._replay is None:
            try:
                # Recording does not run the step; the first replay does.
                self._replay, self._outputs = self.recorder.record(step)
            except RuntimeError as error:
                logging.getLogger(__name__).warning(
                    "The training step runs without a CUDA graph: %s", str(error).splitlines()[0]
                )
                self.recorder = None
        if self._replay is None:
            return step()  # after the error, which holds on to half a graph, is gone
        self._replay()
        return self._outputs


def recorder_for(device: torch.device) -> Recorder | None:
    """The recorder of a device, None where steps cannot be recorded."""
    return CudaRecorder(device) if device.type == "cuda" else None
