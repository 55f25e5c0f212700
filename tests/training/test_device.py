"""The device: nothing waits for it, its precision is the one asked for, and networks return from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import DATA, PLAIN, RECIPE, PowerCut, after_each_step, full_precision, run_of, student
from torch.utils._python_dispatch import TorchDispatchMode

from ddtb_lite import train
from ddtb_lite.quantizers import METHODS
from ddtb_lite.training.loop import brought_back
from ddtb_lite.training.run import Run

SYNCHRONIZING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
}


class NothingWaits(TorchDispatchMode):
    """Fails on operations for whose result, or the size of it, the host has to wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._schema.name not in SYNCHRONIZING, f"{func} waits for the device"
        if func._schema.name == "aten::index":
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "indexing by a mask waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["ddtb", *(name for name in METHODS if name != "ddtb"), None])
def test_a_step_does_not_wait_for_the_device(method: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In warm-up and with live gates; Adam is the fused one, which training takes on a GPU."""
    recipe = (PLAIN if method is None else RECIPE).override(falling_bits=())
    run = run_of(full_precision() if method is None else student(method), full_precision(), recipe)
    groups = [{"params": group["params"]} for group in run.train_step.optimizer.param_groups]
    run.train_step.optimizer = torch.optim.Adam(groups, fused=True)

    def waits(*_: object) -> None:
        raise AssertionError("a value was read back from the device")

    phases = []
    with monkeypatch.context() as patched:
        for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"):
            patched.setattr(torch.Tensor, name, waits)
        with NothingWaits():
            for _ in range(4):
                run.advance()
                phases.append(run.network.phase)
    if method == "ddtb":
        assert phases == ["warm-up", "warm-up", "live", "live"]
    assert run.sums["loss"].isfinite()


def test_that_test_notices_a_wait() -> None:
    x = torch.ones(3)
    waiting: list[Callable[[], object]] = [lambda: x.sum().item(), lambda: bool(x.any()), lambda: x[x > 0]]
    for wait in waiting:
        with pytest.raises(AssertionError, match="waits"), NothingWaits():
            wait()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_float32_is_float32_on_every_gpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs of different machines are compared; cuDNN would round their convolutions to TF32 where it can."""

    def setting() -> object:
        convolutions = getattr(torch.backends.cudnn, "conv", None)
        return convolutions.fp32_precision if convolutions else torch.backends.cudnn.allow_tf32

    seen, before = set(), setting()
    after_each_step(monkeypatch, lambda run: seen.add(setting()))
    train(full_precision(), DATA, PLAIN.override(precision=precision), progress=False, device="cpu")
    assert (seen <= {"ieee", False}) == (precision == "fp32") and setting() == before


def test_a_run_that_goes_on_in_another_precision_says_so(caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(full_precision(), None, PLAIN)
    run.advance()
    state = run.state()
    assert state.facts["precision"] == "fp32"
    other = Run(
        full_precision(), None, PLAIN.override(precision="fp16"), [(n, image) for n, image in DATA], 0, run.device
    )
    other.restore(state)
    assert "This run began in fp32 and goes on in fp16." in caplog.text
    other.advance()
    assert other.step == 2
    # What the loss scale discards is no sign of divergence, and later on nothing would remember why it was.
    loss_scale = other.train_step.loss_scale
    assert loss_scale is not None
    loss_scale.factor.fill_(2.0**60)
    other.advance()
    other.check()
    back = run_of(full_precision(), None, PLAIN)
    back.restore(other.state())
    back.advance()
    back.check()


def test_networks_return_to_the_device_where_they_were() -> None:
    with torch.device("meta"):  # a device that every machine has, beside the CPU
        network = full_precision()
    with pytest.raises(PowerCut), brought_back(network, None):
        network.to_empty(device="cpu")
        raise PowerCut
    assert network.device == torch.device("meta")
