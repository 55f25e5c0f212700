"""Training in float16: the loss is enlarged before the backward pass, and the scale finds itself."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ddtb_lite import Recipe, build, quantize, train
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.support import devices
from ddtb_lite.training.optimizer import GROW_AFTER, LossScale
from ddtb_lite.training.run import Diverged, Run

torch.set_num_threads(1)

RECIPE = Recipe(
    "test",
    steps=6,
    batch_size=2,
    patch_size=32,
    halve_every=None,
    calibration_batches=1,
    warmup_steps=2,
    validation_images=1,
    validate_every=3,
    save_every=2,
    precision="fp16",
    compile=False,
)
CPU = torch.device("cpu")
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DATA = [
    (str(seed), torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8, generator=generator).numpy())
    for seed, generator in ((seed, torch.Generator().manual_seed(seed)) for seed in range(4))
]


def full_precision() -> SuperResolutionNetwork:
    torch.manual_seed(1)
    return build("edsr", 2, n_blocks=2, n_feats=8)


def run_of(recipe: Recipe = RECIPE) -> Run:
    run = Run(quantize(full_precision(), "ddtb", 4, gate_ratio=0.5), full_precision(), recipe, DATA, 0, CPU)
    run.begin()
    return run


def scale_of(run: Run) -> LossScale:
    assert run.train_step.loss_scale is not None
    return run.train_step.loss_scale


def test_the_scale_halves_and_doubles() -> None:
    scale = LossScale(CPU)
    start = scale.factor.item()
    for good, factor in [(True, 1), (False, 1 / 2), (True, 1 / 2), (False, 1 / 4)]:
        scale.update(torch.tensor(good))
        assert scale.factor.item() == start * factor
    for _ in range(GROW_AFTER - 1):
        scale.update(torch.tensor(True))
    assert scale.factor.item() == start / 4
    scale.update(torch.tensor(True))
    assert (scale.factor.item(), scale.good_steps.item()) == (start / 2, 0)


def test_convolutions_compute_in_float16_and_parameters_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = run_of(), set()
    run.network.get_submodule(run.network.block_names()[0]).register_forward_hook(lambda *call: seen.add(call[2].dtype))
    run.advance()
    assert seen == {torch.float16}
    assert {parameter.dtype for parameter in run.network.parameters()} == {torch.float32}


def test_gradients_are_those_of_float32() -> None:
    """Without quantizers, where a flipped rounding would make another network of it."""
    gradients = []
    for precision in ("fp16", "fp32"):
        run = Run(full_precision(), None, RECIPE.override(precision=precision), DATA, 0, CPU)
        run.begin()
        run.advance()
        gradients.append({name: each.grad for name, each in run.network.named_parameters() if each.grad is not None})
    half, full = gradients
    assert half.keys() == full.keys() and full
    for name, gradient in full.items():
        assert gradient is not None
        torch.testing.assert_close(half[name], gradient, rtol=0.05, atol=0.02 * gradient.abs().max().item())


def test_an_overflow_changes_no_weight_and_halves_the_scale() -> None:
    run = run_of()
    scale_of(run).factor.fill_(2.0**40)
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    run.advance()
    assert all(torch.equal(value, before[name]) for name, value in run.network.named_parameters())
    assert scale_of(run).factor.item() == 2.0**39
    for _ in range(30):
        run.advance()
    assert scale_of(run).factor.item() < 2.0**39
    assert not torch.equal(run.network.head[0].weight, before["head.0.weight"])  # type: ignore[index, union-attr]
    run.check()


def test_an_overflow_leaves_adam_as_it_is_too() -> None:
    """With its memory of earlier gradients it would go on in their direction."""
    run = run_of()
    while scale_of(run).factor < 2.0**10 or not run.train_step.optimizer.state:
        run.advance()
    scale_of(run).factor.fill_(2.0**60)
    before = {name: value.clone() for name, value in run.state().group("step.optimizer").items()}
    weights = {name: value.clone() for name, value in run.network.named_parameters()}
    run.advance()
    after = run.state().group("step.optimizer")
    assert before and all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(value, weights[name]) for name, value in run.network.named_parameters())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_fused_optimizer_can_be_told_to_skip_a_step(device: str) -> None:
    """What `TrainingStep` relies on where the host is not to wait."""
    parameter = torch.nn.Parameter(torch.ones(3, device=device))
    adam = torch.optim.Adam([parameter], lr=0.1, fused=True)
    memories = []
    for gradient, found in ((1.0, 0.0), (math.nan, 1.0)):
        parameter.grad = torch.full_like(parameter, gradient)
        adam.found_inf = torch.tensor(found, device=device)  # type: ignore[attr-defined]
        adam.step()
        memories.append([parameter.detach().clone(), *(each.clone() for each in adam.state[parameter].values())])
    assert all(torch.equal(*pair) for pair in zip(*memories, strict=True))
    assert not torch.equal(parameter, torch.ones_like(parameter))


def test_a_run_whose_gradients_never_become_finite_stops() -> None:
    run = run_of()
    run.network.tail[1].bias.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[index, union-attr]
    for _ in range(16):
        run.advance()
    run.check()
    run.advance()
    with pytest.raises(Diverged, match="the gradient of tail.1.bias is not finite"):
        run.check()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, halves = (quantize(full_precision(), "ddtb", 4, gate_ratio=0.5) for _ in range(2))
    train(whole, DATA, RECIPE, teacher=full_precision(), out=tmp_path / "whole", progress=False, device="cpu")
    advance = Run.advance

    def cut_off(run: Run) -> None:
        if run.step == 3:
            raise RuntimeError("cut off")
        advance(run)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "advance", cut_off)
        with pytest.raises(RuntimeError, match="cut off"):
            twin = quantize(full_precision(), "ddtb", 4, gate_ratio=0.5)
            train(twin, DATA, RECIPE, teacher=full_precision(), out=tmp_path / "halves", progress=False, device="cpu")
    train(halves, DATA, RECIPE, teacher=full_precision(), out=tmp_path / "halves", progress=False, device="cpu")
    assert all(torch.equal(value, halves.state_dict()[name]) for name, value in whole.state_dict().items())


def test_gpus_without_bf16_get_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    for has_bf16, precision in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        assert devices.training_precision("auto", gpu) == precision
        assert devices.training_precision("fp32", gpu) == "fp32"


def test_full_precision_networks_too() -> None:
    network = full_precision()
    before = [parameter.clone() for parameter in network.parameters()]
    history = train(network, DATA, RECIPE, progress=False, device="cpu")
    assert [row["step"] for row in history.rows] == [3, 6]
    assert not all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
