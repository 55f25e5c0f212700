"""Adversarial training: both losses by hand, where gradients go, that it learns, and that it resumes."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

import ddtb_lite as ddtb
from ddtb_lite.training.adversarial import FAKE, LOSSES, REAL, Adversary

torch.set_num_threads(1)

SIZE = 16


def textures(count: int, seed: int = 0) -> Tensor:
    """Sharp patches: black and white blocks of 2×2 pixels."""
    blocks = torch.rand(count, 3, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(seed))
    return 255 * F.interpolate((blocks > 0.5).float(), scale_factor=2)


def blurred(patches: Tensor) -> Tensor:
    return F.avg_pool2d(patches, 5, stride=1, padding=2, count_include_pad=False)


def adversary(loss: str = "bce", seed: int = 0, **options) -> Adversary:
    return Adversary(loss, SIZE, seed=seed, **options)


def logits(judge: Adversary, patches: Tensor) -> Tensor:
    """The discriminator's opinion, from pixels scaled by hand, its running statistics left alone."""
    before = {name: value.clone() for name, value in judge.discriminator.named_buffers()}
    with torch.no_grad():
        opinion = judge.discriminator((patches - 127.5) / 127.5)
    for name, value in judge.discriminator.named_buffers():
        value.copy_(before[name])
    return opinion


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_losses_by_hand() -> None:
    given = torch.tensor([0.0, 2.0, -1.0])
    real = -(math.log(0.5) + math.log(probability(2)) + math.log(probability(-1))) / 3
    fake = -(math.log(0.5) + math.log(1 - probability(2)) + math.log(1 - probability(-1))) / 3
    assert LOSSES["bce"](given, REAL).item() == pytest.approx(real)
    assert LOSSES["bce"](given, FAKE).item() == pytest.approx(fake)
    # ½ · mean of (1, 1, 4), and of (0, 4, 1).
    assert LOSSES["least_squares"](given, REAL).item() == pytest.approx(1.0)
    assert LOSSES["least_squares"](given, FAKE).item() == pytest.approx(5 / 6)
    extreme = torch.tensor([200.0, -200.0])
    assert LOSSES["bce"](extreme, REAL).item() == pytest.approx(100), "no logarithm of zero"


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_both_sides_by_hand(loss: str) -> None:
    judge, hr = adversary(loss), textures(4)
    sr = blurred(hr)
    of_real, of_fake = logits(judge, hr).tolist(), logits(judge, sr).tolist()
    if loss == "bce":
        generator = sum(-math.log(probability(each)) for each in of_fake) / 4
        discriminator = sum(-math.log(probability(each)) for each in of_real) / 4
        discriminator += sum(-math.log(1 - probability(each)) for each in of_fake) / 4
    else:
        generator = sum((each - 1) ** 2 for each in of_fake) / 8
        discriminator = sum((each - 1) ** 2 for each in of_real) / 8 + sum(each**2 for each in of_fake) / 8
    assert judge.generator_loss(sr).item() == pytest.approx(generator, rel=1e-4)
    value = judge.update(sr, hr)
    assert value.item() == pytest.approx(discriminator, rel=1e-4)
    assert value.shape == () and not value.requires_grad


def test_the_generators_loss_reaches_the_generator_only() -> None:
    torch.manual_seed(0)
    generator = ddtb.build("srgan", 2, n_blocks=1, n_feats=4)
    judge, before = adversary(), adversary().state()
    sr = generator(textures(2)[:, :, ::2, ::2])
    judge.generator_loss(sr).backward()
    gradients = [parameter.grad for parameter in generator.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    assert all(parameter.grad is None for parameter in judge.discriminator.parameters())
    assert equal(judge.state(), before), "not even batch norm's statistics move"


def test_an_update_reaches_the_discriminator_only() -> None:
    judge = adversary()
    sr = blurred(textures(2)).requires_grad_()
    before = [parameter.clone() for parameter in judge.discriminator.parameters()]
    judge.update(sr, textures(2))
    assert sr.grad is None
    assert all(not torch.equal(*pair) for pair in zip(before, judge.discriminator.parameters(), strict=True))
    gradients = [parameter.grad.clone() for parameter in judge.discriminator.parameters()]
    judge.generator_loss(sr).backward()
    after = [parameter.grad for parameter in judge.discriminator.parameters()]
    assert all(torch.equal(*pair) for pair in zip(gradients, after, strict=True)), "nothing is added to them"


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_both_sides_learn(loss: str) -> None:
    """The discriminator to tell sharp from blurred; then a generator, one 5×5 kernel, to pass as sharp."""
    judge, hr = adversary(loss, learning_rate=3e-4), textures(4)
    values = [judge.update(blurred(hr), hr).item() for _ in range(8)]
    assert values[-1] < values[0] / 2
    assert logits(judge, hr).min() > logits(judge, blurred(hr)).max()

    kernel = torch.zeros(1, 1, 5, 5)
    kernel[0, 0, 2, 2] = 1  # changes nothing
    kernel.requires_grad_()
    optimizer = torch.optim.Adam([kernel], lr=0.2)
    values = []
    for _ in range(8):
        sr = F.conv2d(blurred(hr).flatten(0, 1)[:, None], kernel, padding=2).view_as(hr)
        value = judge.generator_loss(sr)
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < 0.9 * values[0]


def test_resuming_is_bit_identical(tmp_path) -> None:
    hr = textures(4)

    def steps(judge: Adversary) -> list[float]:
        return [judge.update(blurred(hr), hr).item() for _ in range(3)]

    first = adversary(seed=5)
    new = first.state()
    steps(first)
    kept = first.state()
    safetensors.torch.save_file(kept, tmp_path / "state.safetensors")
    expected = steps(first)
    assert not equal(first.state(), kept), "the kept state is a copy"

    resumed = adversary(seed=6)
    steps(resumed)
    resumed.restore(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert equal(resumed.state(), kept)
    assert steps(resumed) == expected
    assert equal(resumed.state(), first.state())
    resumed.restore(new)
    assert equal(resumed.state(), new), "before the first step there are no moments"


def test_the_seed_decides_and_nothing_else() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = adversary(seed=3)
    assert torch.equal(torch.rand(3), expected), "PyTorch's own random numbers go on undisturbed"
    assert equal(first.state(), adversary(seed=3).state())
    assert not equal(first.state(), adversary(seed=4).state())


def test_float32_under_autocast() -> None:
    hr = textures(4)
    sr = blurred(hr).bfloat16()
    plain, cast = adversary(), adversary()
    expected = plain.generator_loss(sr.float()), plain.update(sr.float(), hr)
    with torch.autocast("cpu", torch.bfloat16):
        given = cast.generator_loss(sr), cast.update(sr, hr)
    assert all(value.dtype == torch.float32 for value in given)
    assert given == expected
    assert equal(plain.state(), cast.state()), "neither is the backward pass in bf16"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="hinge.*bce, least_squares"):
        adversary("hinge")
    with pytest.raises(ValueError, match="multiple of 16"):
        Adversary(patch_size=24)
    judge, good = adversary(), textures(2)
    for bad in (good[0], good[:0], good[:, :1], good[..., :8], F.pad(good, (8, 8, 8, 8))):
        for call in (
            lambda bad=bad: judge.generator_loss(bad),
            lambda bad=bad: judge.update(bad, good),
            lambda bad=bad: judge.update(good, bad),
        ):
            with pytest.raises(ValueError, match="expected N×3×16×16"):
                call()
