"""The engine in a real browser is the same network as the package's: layer by layer, and as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_browser import Tab, packed, picture, write_page
from torch import Tensor, nn
from torch.nn import functional as F

import ddtb_lite as ddtb
from ddtb_lite.checkpoints import shipped
from ddtb_lite.conversion import activation_quantizers, attach_gates, quantized_convolutions, set_phase
from ddtb_lite.deploy.checksum import numbered_input
from ddtb_lite.deploy.integer import integer_convolutions
from ddtb_lite.diagnostics import gate_outputs, quantizer_inputs
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import DualBound
from ddtb_lite.quantizers.lsq import LSQActivation, integer_limits
from ddtb_lite.uniform import fake_quantize, integer_codes

QUANTIZED_X4 = ("edsr_x4_ddtb_2bit", "edsr_x4_ddtb_3bit", "edsr_x4_ddtb_4bit", "edsr_x4_lsq_2bit")
CONVOLUTIONS = "edsr_x4_ddtb_2bit_convolutions"
QUANTIZED = (*QUANTIZED_X4, CONVOLUTIONS, "edsr_x2_ddtb_3bit")


def tiny(bits: int, variant: str, lower: float, upper: float, gates: bool) -> SuperResolutionNetwork:
    """A random student of two blocks with given bounds, ×2."""
    torch.manual_seed(bits)
    student = ddtb.quantize(ddtb.build("edsr", 2, n_blocks=2, n_feats=8), "ddtb", bits, variant=variant)
    for quantizer in activation_quantizers(student).values():
        assert isinstance(quantizer, DualBound)
        nn.init.constant_(quantizer.lower, lower)
        nn.init.constant_(quantizer.upper, upper)
    if gates:
        attach_gates(student, list(activation_quantizers(student)))
        for quantizer in activation_quantizers(student).values():
            nn.init.normal_(quantizer.gate.norm.weight)  # type: ignore[union-attr]
    set_phase(student, "live")
    return student.eval()


def zero() -> SuperResolutionNetwork:
    """A student whose weights are all zero."""
    student = tiny(2, "paper", -3.0, 5.0, False)
    for convolution in quantized_convolutions(student).values():
        nn.init.zeros_(convolution.weight)
    return student


def extreme(bits: int, sign: int) -> SuperResolutionNetwork:
    """64 channels whose weights all have the largest magnitude there is, but for what keeps zero in the last output."""
    student = ddtb.quantize(ddtb.build("edsr", 2, n_blocks=1, n_feats=64), "ddtb", bits)
    for convolution in quantized_convolutions(student).values():
        nn.init.constant_(convolution.weight, sign)
        nn.init.zeros_(convolution.weight[-2:])
    set_phase(student, "live")
    return student.eval()


TINY = {
    f"{variant}_{bits}{'_gates' if gates else ''}_{lower}": (bits, variant, lower, upper, gates)
    for variant, gates in (("paper", False), ("paper", True), ("convolutions", False))
    for bits, lower, upper in ((2, -30.0, 20.0), (3, 4.0, 40.0), (4, -90.0, -3.0))
}
UNSUPPORTED = ("rdn_d4c4_x4", "edsr_x4_ddtb_2bit_official", "edsr_x4_pams_2bit", "edsr_x4_ddtb_4bit_fully")
EXTREME = {f"extreme_{bits}_{sign}": (bits, sign) for bits in (2, 3, 4) for sign in (-1, 1)}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SuperResolutionNetwork]:
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {name: tiny(*how) for name, how in TINY.items()} | {name: extreme(*how) for name, how in EXTREME.items()}
    made["zero"] = zero()
    for name, student in made.items():
        ddtb.save(student, folder / f"{name}.safetensors")
    files = {name: shipped(name) for name in ("edsr_x4", *QUANTIZED)} | {
        name: folder / f"{name}.safetensors" for name in made
    }
    networks = {name: ddtb.load(path) for name, path in files.items()}
    for name, path in files.items():
        networks[name].source = path  # type: ignore[assignment]
    return networks


@pytest.fixture(scope="module")
def tab(browser: Any, students: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    checkpoints = {name: student.source.read_bytes() for name, student in students.items()}
    intact = checkpoints["edsr_x4_ddtb_2bit"]
    altered = bytearray(intact)
    altered[-1000] ^= 1
    checkpoints |= {"altered": bytes(altered), "cut": intact[:-1000], "empty": b""}
    for name in UNSUPPORTED:
        checkpoints[name] = shipped(name).read_bytes()
    tab = Tab(browser, write_page(tmp_path_factory.mktemp("page"), checkpoints))
    yield tab
    assert not tab.problems
    tab.context.close()


def photo(height: int, width: int, scale: int = 4, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(low resolution, high resolution) of a part of an embedded photograph."""
    _, image = ddtb.datasets.load("photos")[index]
    hr = image[: height * scale, : width * scale]
    return ddtb.images.lower_resolution(hr, scale), hr


def rows(x: Tensor) -> np.ndarray:
    """1×C×H×W to H×W×C."""
    return x[0].permute(1, 2, 0).contiguous().numpy()


def whole_weights(student: SuperResolutionNetwork, path: str) -> Tensor:
    """A convolution's weights in units of the smallest distance between two of them, in double precision."""
    weight = student.get_submodule(path).weight.detach().double()
    values = weight.unique()
    step = values.diff().min() if len(values) > 1 else values.abs()
    whole = (weight / step).round()
    assert (whole * step - weight).abs().max() < 1e-6 * weight.abs().max()
    return whole


@torch.no_grad()
def expected_codes(student: SuperResolutionNetwork, path: str, x: Tensor) -> tuple[Tensor, float]:
    """(codes, offset) that the package's own quantizer has for x."""
    quantizer = activation_quantizers(student)[path]
    if isinstance(quantizer, LSQActivation):
        lower, upper = (limit * quantizer.step for limit in integer_limits(quantizer.bits, quantizer.nonnegative))
    else:
        assert isinstance(quantizer, DualBound)
        lower, upper = quantizer.bounds(x)
    codes, offset = integer_codes(x, lower, upper, 2**quantizer.bits - 1)
    return codes, float(offset)


# ------------------------------------------------------------------------------------------------------------ rounding


def test_rounding_agrees_with_the_package_to_the_bit(tab: Tab) -> None:
    random = np.random.default_rng(0)
    count = 10_000
    bits = random.integers(2, 9, count)
    lower = random.normal(0, 10.0 ** random.integers(-3, 4, count)).astype(np.float32)
    width = np.abs(random.normal(0, 10.0 ** random.integers(-6, 4, count))).astype(np.float32)
    upper = np.where(random.random(count) < 0.1, -lower, lower + width * random.choice([1, -1], count, p=[0.9, 0.1]))
    values = (lower + (upper - lower) * random.uniform(-0.5, 1.5, (8, count))).astype(np.float32)
    steps = (upper - lower) / (2**bits - 1)
    values[0] = np.round(values[0] / steps) * steps + steps / 2  # ties, or next to them
    upper, values = upper.astype(np.float32), np.nan_to_num(values.T.copy())
    got = tab.array(
        """(values, lower, upper, bits) => {
            [values, lower, upper, bits] = [values, lower, upper, bits].map(unpack);
            const some = i => values.subarray(8 * i, 8 * i + 8);
            const cases = Array.from(bits, (width, i) => ddtb.fakeQuantize(some(i), lower[i], upper[i], width));
            return Float32Array.from(cases.flatMap(one => [...one]));
        }""",
        *map(packed, (values, lower, upper, bits.astype(np.uint8))),
    )
    want = np.empty_like(values)
    for width in set(bits):  # each case is an image with bounds of its own
        x, *bounds = (torch.from_numpy(each[bits == width]) for each in (values[..., None, None], lower, upper))
        own = (bound.view(-1, 1, 1, 1) for bound in bounds)
        want[bits == width] = fake_quantize(x, *own, int(width)).flatten(1).numpy()
    np.testing.assert_array_equal(got.view(np.int32), want.reshape(-1).view(np.int32))


@pytest.mark.parametrize("arguments", ["[1, 2], -1, 1, 2", "ones, -1, 1, 9", "ones, NaN, 1, 2"])
def test_rounding_refuses_what_it_cannot_round(tab: Tab, arguments: str) -> None:
    assert "expected" in tab.error(f"async (ones = Float32Array.of(1)) => ddtb.fakeQuantize({arguments})")


# ------------------------------------------------------------------------------------------------------ layer by layer


@pytest.mark.parametrize("name", [*QUANTIZED, *TINY])
def test_each_layer_given_the_package_s_input(tab: Tab, students: dict[str, Any], name: str) -> None:
    """Codes agree but for ties, integer sums agree in all."""
    student = students[name]
    lr, _ = photo(19, 21)
    inputs = quantizer_inputs(student, ddtb.images.to_tensor(lr))
    differ = total = 0
    for path, x in inputs.items():
        codes, offset = expected_codes(student, path, x)
        function = "async (name, path, x, h, w) => (await network(name)).quantize(path, unpack(x), h, w)"
        got = tab.array(function, name, path, packed(rows(x)), *x.shape[2:])
        differ += int((got != rows(codes).reshape(-1)).sum())
        total += got.size
        block, _, part = path.rpartition(".")
        if part != "output":
            convolution = f"{block}.body.{2 if part == 'hidden' else 0}"
            whole = F.conv2d(codes.double() + offset, whole_weights(student, convolution), padding=1)
            np.testing.assert_array_equal(sums(tab, name, convolution, codes, int(offset)), rows(whole).reshape(-1))
    assert differ <= total / 10_000


def sums(tab: Tab, name: str, path: str, codes: Tensor, offset: int) -> np.ndarray:
    function = "async (name, path, codes, ...how) => (await network(name)).sums(path, unpack(codes), ...how)"
    return tab.array(function, name, path, packed(rows(codes.to(torch.uint8))), *codes.shape[2:], offset)


@pytest.mark.parametrize("name", QUANTIZED_X4)
def test_the_fingerprint_is_the_package_s(tab: Tab, students: dict[str, Any], name: str) -> None:
    fast = ddtb.deploy.to_integer(students[name])
    digest = hashlib.sha256()
    for index, (path, layer) in enumerate(integer_convolutions(fast).items()):
        given = numbered_input(layer, index)
        got = sums(tab, name, path, given.values, -int(given.zero)).reshape(*given.values.shape[2:], -1)
        digest.update(got.transpose(2, 0, 1).astype("<i4").tobytes())
    assert digest.hexdigest() == ddtb.deploy.fingerprint(fast)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_whole_block(tab: Tab, students: dict[str, Any], name: str) -> None:
    """Convolution, bias, ReLU and rounding one after the other; a tie at the start flips some codes behind it."""
    student = students[name]
    lr, _ = photo(40, 24, student.scale)
    tab.upscale(name, lr)
    inputs = quantizer_inputs(student, ddtb.images.to_tensor(lr))
    for path in list(inputs)[:2]:
        codes, offset = expected_codes(student, path, inputs[path])
        got = tab.array("async (name, path) => (await network(name)).codes(path)", name, path)
        assert (got != rows(codes).reshape(-1)).mean() <= 1e-3
        assert tab.run("async (name, path) => (await network(name)).bounds(path).offset", name, path) == offset
        features = tab.array("async (name, path) => (await network(name)).activation(path)", name, path)
        assert np.isclose(features, rows(inputs[path]).reshape(-1), rtol=0, atol=2e-4).mean() > 0.97


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (2, 16), (17, 33)])
@pytest.mark.parametrize("name", ["paper_2_-30.0", "paper_3_4.0", "paper_4_-90.0"])
def test_a_tap_beyond_the_picture_contributes_nothing(
    tab: Tab, students: dict[str, Any], name: str, size: tuple[int, int]
) -> None:
    """Also where the bounds leave zero out, so that no code stands for it."""
    torch.manual_seed(0)
    codes = torch.randint(0, 2 ** int(name.split("_")[1]), (1, 8, *size))
    for offset in (0, -1, 5, -21):
        want = F.conv2d(codes.double() + offset, whole_weights(students[name], "body.1.body.2"), padding=1)
        np.testing.assert_array_equal(sums(tab, name, "body.1.body.2", codes, offset), rows(want).reshape(-1))


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("code", ["lowest", "highest"])
def test_the_largest_sums_do_not_overflow(tab: Tab, students: dict[str, Any], name: str, code: str) -> None:
    bits, sign = EXTREME[name]
    codes = torch.full((1, 64, 5, 20), 0 if code == "lowest" else 2**bits - 1)
    whole = whole_weights(students[name], "body.0.body.0")
    assert whole[:-2].eq(sign * (2**bits - 1)).all() or whole[:-2].eq(sign).all()
    got = sums(tab, name, "body.0.body.0", codes, 0)
    np.testing.assert_array_equal(got, rows(F.conv2d(codes.double(), whole, padding=1)).reshape(-1))


def test_gates_are_live(tab: Tab, students: dict[str, Any]) -> None:
    name = "edsr_x4_ddtb_2bit"
    lr, _ = photo(32, 32, index=1)
    tab.upscale(name, lr)
    want = gate_outputs(students[name], ddtb.images.to_tensor(lr))
    first = next(iter(want))  # what it sees does not depend on a tie
    betas = "async (name, path) => (({ lower, upper }) => [lower, upper])((await network(name)).betas(path))"
    assert tab.run(betas, name, first) == pytest.approx(want[first].flatten().tolist(), abs=1e-5)
    assert all(0 < beta < 2 for path in want for beta in tab.run(betas, name, path))
    tab.upscale(name, lr, gates=False)
    assert tab.run(betas, name, first) == [1, 1]
    assert tab.run("async (name, path) => (await network(name)).betas(path)", name, "body.1.input") is None


def test_bounds_can_be_replaced(tab: Tab, students: dict[str, Any]) -> None:
    name, path = "paper_2_-30.0", "body.1.input"
    lr, _ = photo(12, 12, 2)
    changed = tab.upscale(name, lr, bounds={path: [-3, 7]})
    student = tiny(*TINY[name])
    nn.init.constant_(student.get_parameter(f"{path}.lower"), -3)
    nn.init.constant_(student.get_parameter(f"{path}.upper"), 7)
    assert np.abs(changed.astype(int) - ddtb.upscale(student, lr)).max() <= 1
    assert (changed != tab.upscale(name, lr)).any()


# ---------------------------------------------------------------------------------------------------- the whole network


def test_full_precision_to_one_grey_level(tab: Tab, students: dict[str, Any]) -> None:
    # At the border, the one convolution that stands for the upsampler is another one.
    for index, size in enumerate([(40, 33), (1, 1), (1, 6), (7, 1), (2, 2), (17, 16), (70, 70)]):
        lr, _ = photo(*size, index=index % 4)
        got, want = tab.upscale("edsr_x4", lr), ddtb.upscale(students["edsr_x4"], lr)
        assert np.abs(got.astype(int) - want).max() <= 1
        assert (got != want).mean() < 0.01


@pytest.mark.parametrize("name", [*TINY, "zero"])
def test_small_networks_as_a_whole(tab: Tab, students: dict[str, Any], name: str) -> None:
    for size in ((13, 18), (1, 5), (16, 1)):
        lr, _ = photo(*size, 2)
        assert (tab.upscale(name, lr) == ddtb.upscale(students[name], lr)).mean() > 0.99


@pytest.mark.parametrize("name", [*QUANTIZED_X4, CONVOLUTIONS])
def test_photographs(tab: Tab, students: dict[str, Any], name: str) -> None:
    """Values on a tie flip and flip others, so that two sums of the same numbers give other pictures; as good ones."""
    differences = []
    for index in range(4):
        lr, hr = photo(64, 64, index=index)
        ours, theirs = tab.upscale(name, lr), ddtb.upscale(students[name], lr)
        differences.append(ddtb.metrics.psnr(ours, hr) - ddtb.metrics.psnr(theirs, hr))
    assert np.abs(differences).max() <= 0.15
    assert abs(np.mean(differences)) <= 0.03


# ------------------------------------------------------------------------------------------------------ what goes wrong


UNSOUND = {"altered": "checksum", "cut": "cut short", "empty": "cut short"}


@pytest.mark.parametrize(("name", "why"), [*UNSOUND.items(), *((name, "The engine runs EDSR") for name in UNSUPPORTED)])
def test_a_checkpoint_that_is_not_sound_is_refused(tab: Tab, name: str, why: str) -> None:
    assert why in tab.error("name => ddtb.load(name)", name)
    assert tab.upscale("paper_2_-30.0", photo(4, 4, 2)[0]).shape == (8, 8, 3)


def test_a_network_that_is_not_there(tab: Tab) -> None:
    assert "edsr_x9" in tab.error("name => ddtb.load(name)", "edsr_x9")


def test_cancelling(tab: Tab) -> None:
    lr, _ = photo(32, 32)
    large = np.tile(lr, (8, 8, 1))
    function = """async (name, image) => {
        const one = await network(name), stop = new AbortController(), seen = [];
        const onProgress = done => { seen.push(done); stop.abort(); };
        let ended = 0;
        const run = one.upscale(picture(image), { signal: stop.signal, onProgress }).catch(error => error.name);
        stop.signal.addEventListener("abort", () => { ended = performance.now(); });
        const waiting = one.upscale(new ImageData(4, 4));
        return [await run, performance.now() - ended, seen[0], (await waiting).width];
    }"""
    name, milliseconds, progress, width = tab.run(function, "edsr_x4_ddtb_2bit", picture(large))
    assert (name, width) == ("AbortError", 16)
    assert milliseconds < 1000 and 0 < progress < 0.5
    aborted = "async name => (await network(name)).upscale(new ImageData(4, 4), { signal: AbortSignal.abort() })"
    assert "AbortError" in tab.error(aborted, "edsr_x4_ddtb_2bit")


def test_progress_ends_at_one(tab: Tab) -> None:
    function = """async (name, image) => {
        const seen = [];
        await (await network(name)).upscale(picture(image), { onProgress: done => seen.push(done) });
        return seen;
    }"""
    seen = tab.run(function, "edsr_x4_ddtb_2bit", picture(photo(48, 48)[0]))
    assert seen == sorted(seen) and seen[-1] == 1 and all(0 < done <= 1 for done in seen)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("upscale(null)", "ImageData"),
        ("upscale({ width: 4, height: 4, data: new Uint8ClampedArray(3) })", "ImageData"),
        ("upscale({ width: 1, height: 1, data: Float32Array.of(0, 0, 0, 1) })", "8 bits"),
        ("upscale({ width: 10000, height: 10000, data: { length: 4e8 } })", "10000×10000"),
        ("upscale(new ImageData(1, 1), { bounds: { here: [0, 1] } })", "here"),
        ("upscale(new ImageData(1, 1), { bounds: { 'body.0.input': [1, 0] } })", "1,0"),
        ("activation('body.9.input')", "body.9.input"),
        ("sums('body.0.body.0', new Uint8Array(3), 1, 1)", "1×1×8"),
        ("sums('body.0.body.0', new Uint8Array(8).fill(4), 1, 1)", "0 to 3"),
        ("sums('body.0.body.0', new Uint8Array(8), 1, 1, 0.5)", "0.5"),
        ("sums('head.0', new Uint8Array(8), 1, 1)", "head.0"),
    ],
)
def test_bad_input_gets_a_sentence_and_the_network_goes_on(tab: Tab, call: str, why: str) -> None:
    name = "paper_2_-30.0"
    lr, _ = photo(4, 4, 2)
    before = tab.upscale(name, lr)
    assert why in tab.error(f"async name => (await network(name)).{call}", name)
    np.testing.assert_array_equal(tab.upscale(name, lr), before)


def test_codes_of_a_run_that_did_not_keep_them(tab: Tab, students: dict[str, Any]) -> None:
    function = """async (name, edge) => {
        const one = await network(name);
        await one.upscale(new ImageData(edge, edge));
        return one.codes("body.0.hidden");
    }"""
    assert "32,768" in tab.error(function, "paper_2_-30.0", 200)
    assert "no codes" in tab.error(function, "edsr_x4", 4)
    fresh = "async name => (await ddtb.load(name)).codes('body.0.hidden')"
    assert "upscale" in tab.error(fresh, "edsr_x4_ddtb_2bit")


def test_a_browser_without_webassembly(browser: Any, tmp_path: Path) -> None:
    address = write_page(tmp_path, {"edsr_x4": b""})
    without = Tab(browser, address, before="delete globalThis.WebAssembly")
    assert "WebAssembly" in without.run("async () => ddtb.unsupported")
    assert "WebAssembly" in without.error("() => ddtb.load('edsr_x4')")
    assert not without.problems
    without.context.close()


def test_facts(tab: Tab, students: dict[str, Any]) -> None:
    for name in ("edsr_x4", "edsr_x4_ddtb_2bit", "edsr_x2_ddtb_3bit", "convolutions_2_-30.0"):
        facts, student = tab.run("async name => (await network(name)).facts", name), students[name]
        assert facts["name"] == name
        assert facts["points"] == [point.path for point in student.points.activations]
        assert facts["bits"] == (student.quantization.bits if student.quantization else 32)
        size = (480 * student.scale, 270 * student.scale)
        cost = ddtb.complexity(student, size)
        assert facts["operations"] * 480 * 270 == cost.bops - cost.gate_bops
        assert facts["metadata"] == student.metadata
        assert facts["bytes"] == student.source.stat().st_size
