"""Recipes: the paper's numbers to the letter, and what the shorter presets must keep."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace

import pytest

from ddtb_lite import Recipe, build, quantize
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS
from ddtb_lite.training.recipe import PRESETS

SMALL = {
    "edsr": {"n_blocks": 1, "n_feats": 8},
    "rdn": {"D": 1, "C": 1, "G": 8},
    "srresnet": {"n_blocks": 1, "n_feats": 8},
    "srgan": {"n_blocks": 1, "n_feats": 8},
}


def network(name: str = "edsr", scale: int = 4) -> SuperResolutionNetwork:
    return build(name, scale, **SMALL[name])


def student(name: str = "edsr", scale: int = 4, method: str = "ddtb", bits: int = 2) -> SuperResolutionNetwork:
    return quantize(network(name, scale), method, bits)


# ---------------------------------------------------------------------------------- the paper's recipe

# What the released code trains with: 60 epochs of 1000 iterations, of which 1 calibrates, 4 warm up gates, 55 are
# dynamic; the learning rates are halved every 10 epochs. Full-precision networks: halved every 200 epochs.
HR_PATCH = {
    ("edsr", 4): 192,
    ("edsr", 2): 96,
    ("srresnet", 4): 192,
    ("srresnet", 2): 96,
    ("rdn", 4): 96,
    ("rdn", 2): 64,
}
BASELINE_EPOCHS = {"edsr": 300, "rdn": 300, "srresnet": 500, "srgan": 500}


@pytest.mark.parametrize(("name", "scale"), list(HR_PATCH))
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_papers_students(name: str, scale: int, bits: int) -> None:
    recipe = Recipe.preset("paper", student(name, scale, bits=bits))
    assert recipe.preset_name == "paper"
    assert recipe.batch_size == 16
    assert recipe.patch_size == HR_PATCH[name, scale]
    assert recipe.learning_rate == 1e-4
    assert recipe.bound_learning_rate == 1e-2
    assert recipe.skt_weight == 1000
    assert recipe.calibration_batches == 1 * 1000
    assert recipe.warmup_steps == 4 * 1000
    assert recipe.steps == (4 + 55) * 1000
    assert recipe.halve_every == 10 * 1000
    # Nothing that is not in the paper.
    assert recipe.falling_bits == () and recipe.feature_weight == 0


@pytest.mark.parametrize(("name", "scale"), list(HR_PATCH))
def test_the_papers_baselines(name: str, scale: int) -> None:
    recipe = Recipe.preset("paper", network(name, scale))
    assert recipe.steps == BASELINE_EPOCHS[name] * 1000
    assert recipe.batch_size == 16
    assert recipe.patch_size == HR_PATCH[name, scale]
    assert recipe.learning_rate == 1e-4
    assert recipe.halve_every == 200 * 1000
    assert recipe.calibration_batches == 0 and recipe.falling_bits == ()


def test_the_papers_learning_rates_count_the_calibration_epoch() -> None:
    """Epoch 1 watches ranges, so the first halving comes after 9 epochs of training, the last after 49."""
    recipe = Recipe.preset("paper", student())
    for epoch in range(1, 60):  # whole epochs of training, counted from 0 behind the calibration epoch
        factor = 0.5 ** (epoch // 10)
        first, last = (epoch - 1) * 1000, epoch * 1000 - 1
        assert recipe.learning_rates_at(first) == recipe.learning_rates_at(last) == (1e-4 * factor, 1e-2 * factor)
    assert recipe.learning_rates_at(8999) == (1e-4, 1e-2)
    assert recipe.learning_rates_at(9000) == (5e-5, 5e-3)
    assert recipe.learning_rates_at(58_999) == (1e-4 / 32, 1e-2 / 32)


def test_the_papers_baseline_is_halved_once() -> None:
    recipe = Recipe.preset("paper", network())
    assert [recipe.learning_rates_at(step)[0] for step in (0, 199_999, 200_000, 299_999)] == [1e-4, 1e-4, 5e-5, 5e-5]
    assert Recipe.preset("paper", network("srresnet")).learning_rates_at(499_999)[0] == 1e-4 / 4


# --------------------------------------------------------------------------------------- other presets


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_srgan_alone_meets_a_discriminator(preset: str, scale: int) -> None:
    """Without one, the same command would train SRResNet under another name."""
    recipe = Recipe.preset(preset, network("srgan", scale))
    assert (recipe.adversarial_weight, recipe.learning_rate) == (1, 1e-4)
    assert recipe.patch_size % 16 == 0 == recipe.patch_size % scale, "what a discriminator takes"
    assert recipe.patch_size - Recipe.preset(preset, network("srresnet", scale)).patch_size in (0, 24)
    others = [network("srresnet", scale), network("edsr", scale), student("srgan", scale)]
    assert not any(Recipe.preset(preset, each).adversarial_weight for each in others)


def test_the_cosine() -> None:
    recipe = Recipe("x", steps=100, halve_every=None, learning_rate=1e-3, bound_learning_rate=1e-2)
    for step, factor in [(0, 1), (25, (1 + math.sqrt(0.5)) / 2), (50, 0.5), (75, (1 - math.sqrt(0.5)) / 2), (100, 0)]:
        assert recipe.learning_rates_at(step) == pytest.approx((1e-3 * factor, 1e-2 * factor), abs=1e-15)
    rates = [recipe.learning_rates_at(step)[0] for step in range(100)]
    assert rates == sorted(rates, reverse=True) and rates[-1] > 0


def test_bits_at() -> None:
    recipe = Recipe("x", steps=10, falling_bits=((4, 3), (3, 2)))
    assert [recipe.bits_at(step, 2) for step in range(10)] == [4, 4, 4, 3, 3, 2, 2, 2, 2, 2]
    assert Recipe("x", steps=10).bits_at(0, 5) == 5


@pytest.mark.parametrize(("bits", "falling"), [(2, [4, 3]), (3, [4]), (4, []), (8, [])])
@pytest.mark.parametrize("preset", ["smoke", "short", "long"])
def test_bits_fall_from_above_only(preset: str, bits: int, falling: list[int]) -> None:
    recipe = Recipe.preset(preset, student(bits=bits))
    assert [each for each, _ in recipe.falling_bits] == falling
    assert all(recipe.bits_at(step, bits) >= bits for step in range(recipe.steps))
    remaining = recipe.steps - sum(steps for _, steps in recipe.falling_bits)
    assert remaining > recipe.warmup_steps  # the gates get to be live


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_preset_fits_every_network(name: str, scale: int) -> None:
    for preset in PRESETS:
        full, quantized = network(name, scale), student(name, scale)
        for recipe in (Recipe.preset(preset, full), Recipe.preset(preset, quantized)):
            assert recipe.preset_name == preset
            assert recipe.patch_size % scale == 0
        assert Recipe.preset(preset, full).falling_bits == ()
        assert Recipe.preset(preset, quantized).calibration_batches >= 1
        if (name, scale) == ("srgan", 3):
            continue  # a discriminator does not take patches of 72 pixels
        # The patches of a student are its teacher's.
        assert Recipe.preset(preset, full).patch_size == Recipe.preset(preset, quantized).patch_size


def test_presets_get_longer() -> None:
    for each in (network(), student()):
        smoke, short, long, paper = (Recipe.preset(preset, each).steps for preset in PRESETS)
        assert smoke < short / 10 and short <= long < paper / 10


@pytest.mark.parametrize(("bits", "falling"), [(2, ((4, 300), (3, 300))), (3, ((4, 300),)), (4, ())])
def test_the_long_preset(bits: int, falling: tuple[tuple[int, int], ...]) -> None:
    """Four times the short one's steps, whatever precision is fastest; all else is as in the short one."""
    short, long = (Recipe.preset(preset, student(bits=bits)) for preset in ("short", "long"))
    assert (long.steps, long.falling_bits, long.precision) == (3200, falling, "auto")
    changed = {name for name, value in vars(long).items() if value != vars(short)[name]}
    assert changed <= {"preset_name", "steps", "falling_bits", "precision"}
    assert long.steps == 4 * short.steps and short.precision == "fp32"
    for name in SMALL:
        assert replace(Recipe.preset("long", network(name)), preset_name="short") == Recipe.preset(
            "short", network(name)
        )


def test_an_unknown_preset() -> None:
    for name in ("longer", "", "Paper"):
        with pytest.raises(ValueError, match=f"'{name}'.* smoke, short, long, paper"):
            Recipe.preset(name, network())


def test_own_rates() -> None:
    """Every method gets DDTB's rates, unless its own are asked for."""
    common = Recipe.preset("paper", student())
    for method in METHODS:
        bits = METHODS[method].lowest_bits
        assert replace(Recipe.preset("paper", student(method=method, bits=bits))) == common
    own = {
        method: Recipe.preset("paper", student(method=method), own_rates=True) for method in ("ddtb", "pams", "fqsr")
    }
    assert own["ddtb"] == common
    # PAMS: 1e-4, α 1e-2; FQSR trains its clips like its weights.
    assert (own["pams"].learning_rate, own["pams"].bound_learning_rate) == (1e-4, 1e-2)
    assert (own["fqsr"].learning_rate, own["fqsr"].bound_learning_rate) == (1e-4, 1e-4)
    assert Recipe.preset("short", network(), own_rates=True) == Recipe.preset("short", network())


# ----------------------------------------------------------------------------------- changing a recipe


def test_override() -> None:
    recipe = Recipe.preset("short", student())
    changed = recipe.override(steps=900, precision="fp32")
    assert (changed.steps, changed.precision) == (900, "fp32")
    assert replace(changed, steps=recipe.steps, precision=recipe.precision) == recipe
    assert recipe.steps != 900 and recipe.override() == recipe
    with pytest.raises(FrozenInstanceError):
        recipe.steps = 5  # type: ignore[misc]


def test_override_names_fields_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="A recipe has no field epochs, lr; it has adversarial_loss, .*warmup_steps"):
        Recipe("x", steps=5).override(lr=1, epochs=2, steps=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0, expected"),
        ({"batch_size": -1}, "batch_size is -1, expected"),
        ({"patch_size": 0}, "patch_size is 0, expected"),
        ({"validate_every": 0}, "validate_every is 0, expected"),
        ({"save_every": 0}, "save_every is 0, expected"),
        ({"learning_rate": 0}, "learning_rate is 0, expected more than 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan, expected"),
        ({"bound_learning_rate": 1}, "bound_learning_rate is 1, expected .* less than 1"),
        ({"precision": "fp8"}, "precision is 'fp8', expected auto, fp32, bf16 or fp16"),
        ({"placement": "disk"}, "placement is 'disk', expected auto, device or host"),
        ({"falling_bits": ((4, 6), (3, 4))}, "falling_bits takes up all of the steps"),
        ({"falling_bits": ((33, 1),)}, "bits is 33, expected"),
        ({"falling_bits": ((1, 1),)}, "bits is 1, expected"),
    ],
)
def test_values_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe("x", steps=10).override(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": "many"},
        {"steps": 2.5},
        {"steps": None},
        {"batch_size": 1.5},
        {"patch_size": "96"},
        {"learning_rate": "fast"},
        {"falling_bits": 4},
        {"falling_bits": (4,)},
        {"calibration_batches": -1},
        {"warmup_steps": -1},
        {"warmup_steps": "x"},
        {"halve_every": 0},
        {"halve_every": -5},
        {"validation_images": "all"},
        {"skt_weight": "x"},
        {"feature_weight": None},
    ],
)
def test_values_of_the_wrong_kind(changes: dict[str, object]) -> None:
    """The command line takes any JSON value for any field; the error must name the field."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        Recipe("x", steps=10).override(**changes)


def test_falling_bits_need_data_for_the_bounds() -> None:
    with pytest.raises(ValueError, match="calibration_batches is 0, but with falling_bits"):
        Recipe("x", steps=10, falling_bits=((4, 2),), calibration_batches=0)


def test_a_recipe_survives_json() -> None:
    for recipe in (Recipe.preset("short", student()), Recipe.preset("paper", network())):
        fields = json.loads(json.dumps(vars(recipe)))
        fields["falling_bits"] = tuple(map(tuple, fields["falling_bits"]))
        assert Recipe(**fields) == recipe


@pytest.mark.parametrize("preset", ["smoke", "short", "long"])
def test_a_method_of_one_bit_starts_at_its_own_width(preset: str) -> None:
    reactnet = quantize(build("edsr", 4, n_blocks=1, n_feats=8), "reactnet", 1)
    assert Recipe.preset(preset, reactnet).falling_bits == ()
