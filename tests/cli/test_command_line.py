"""The command line: train, evaluate, upscale and count from the shell, and one line for whatever goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from ddtb_lite import (
    build,
    checkpoints,
    complexity,
    evaluate,
    images,
    inference,
    initialize,
    load,
    quantize,
    save,
    upscale,
)
from ddtb_lite.cli import benchmark_command, evaluate_command, main, parser
from ddtb_lite.cli.arguments import pairs
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.reproduction import progress, results, runner
from ddtb_lite.reproduction.grid import experiments
from ddtb_lite.reproduction.ratios import Ratio
from ddtb_lite.reproduction.throughput import Throughput
from ddtb_lite.support import resources
from ddtb_lite.training.run import Run

torch.set_num_threads(1)  # tiny networks: threads cost more than they bring

COMMANDS = ("download", "train", "evaluate", "upscale", "complexity", "compare", "benchmark")
TINY = ["--architecture", "n_blocks=1", "n_feats=8"]
STEPS = ["--preset", "smoke", "--set", "steps=2", "patch_size=48", "batch_size=2", "calibration_batches=1"]
STUDENT_STEPS = [*STEPS, "falling_bits=[]", "warmup_steps=1", "precision=fp32"]
RESULT_KEYS = {
    "run", "config", "seed", "data", "versions", "device", "commit", "seconds", "curve", "checkpoint", "scores",
    "command",
}  # fmt: skip


def picture(seed: int = 0, height: int = 56, width: int = 52) -> np.ndarray:
    random = np.random.default_rng(seed)
    smooth = images.resize(random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8), 4)
    return smooth[:height, :width].copy()


def folder_of_pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for index in range(count):
        images.write(folder / f"picture_{index}.png", picture(index))
    return folder


def network(scale: int = 4, name: str = "edsr", **architecture: int) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    return build(name, scale, **(architecture or {"n_blocks": 1, "n_feats": 8}))


class Place:
    """A folder with what the commands need: images, a full-precision checkpoint, a student's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = folder_of_pictures(root / "images")
        self.network = root / "network.safetensors"
        self.student = root / "student.safetensors"
        full = network()
        save(full, self.network)
        student = quantize(full, "ddtb", 2, gate_ratio=0.5)
        initialize(student, torch.rand(2, 3, 16, 16) * 255)
        save(student, self.student)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(autouse=True)
def _no_other_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DDTB_DATA", str(tmp_path / "data"))


def failed(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail: exit status 1 and one line, which is returned without "error: "."""
    assert main([str(argument) for argument in arguments]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and output.err.count("\n") == 1 and output.err.endswith("\n")
    assert "Traceback" not in output.err + output.out
    message = output.err.removeprefix("error: ").strip()
    assert len(message) > 10
    return message


# ------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    output = capsys.readouterr().out
    assert left.value.code == 0
    assert output.startswith(f"usage: python -m ddtb_lite {command}")
    assert output.count("\n") > 5


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    output = capsys.readouterr().out
    assert left.value.code == 0
    for command in COMMANDS:
        assert re.search(rf"\n    {command}\s", output)


def test_options_that_others_rely_on() -> None:
    options = parser().parse_args(
        "train --model edsr --scale 4 --method ddtb --bits 2 --preset short --data A B --teacher t.safetensors "
        "--device cpu --seed 3 --out runs/x".split()
    )
    assert (options.model, options.scale, options.method, options.bits) == ("edsr", 4, "ddtb", 2)
    assert (options.data, options.teacher, options.seed, options.out) == (["A", "B"], "t.safetensors", 3, "runs/x")
    assert parser().parse_args(["train", "--out", "x"]).bits is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["retrain"],
        ["train"],
        ["train", "--out", "x", "--method", "unknown"],
        ["train", "--out", "x", "--model", "vgg"],
        ["train", "--out", "x", "--scale", "5"],
        ["train", "--out", "x", "--bits", "two"],
        ["train", "--out", "x", "--preset", "eternal"],
        ["complexity", "--method", "unknown"],
        ["compare", "--methods", "unknown"],
        ["upscale", "a.safetensors"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    errors = capsys.readouterr().err
    assert left.value.code == 2
    assert "usage:" in errors and errors.splitlines()[-1].startswith("python -m ddtb_lite") and "error:" in errors


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["bicubic", "--scale", "4"], "leave out --publish"),
        (["edsr_x4_ddtb_2bit", "--integer"], "leave out --integer"),
        (["edsr_x4_ddtb_2bit", "--protocol", "rgb"], "--protocol"),
        (["edsr_x4_ddtb_2bit", "--border", "0"], "--border"),
    ],
)
def test_only_scores_of_the_protocol_are_published(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remedy in failed(["evaluate", *arguments, "--publish"], capsys)


# ------------------------------------------------------------------------------------------- end to end


def test_from_training_to_a_picture(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full-precision network, its student, scores, pictures and complexity, each from the files before it."""
    data = str(place.images)
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    common = ["--data", data, "--device", "cpu", "--test", data]
    assert main(["train", *TINY, *STEPS, *common, "--seed", "3", "--out", str(teacher)]) == 0
    output = capsys.readouterr()
    checkpoint = teacher / "teacher.safetensors"
    assert output.err == ""
    assert output.out.splitlines()[-2:] == [str(checkpoint), str(teacher / "teacher.json")]
    assert {path.name for path in teacher.iterdir()} == {
        "teacher.safetensors", "teacher.json", "state.safetensors", "best.safetensors", "log.csv",
    }  # fmt: skip

    arguments = ["train", "--bits", "2", "--gate-ratio", "0.5", "--teacher", str(checkpoint), *STUDENT_STEPS, *common]
    assert main([*arguments, "--out", str(student)]) == 0
    capsys.readouterr()

    result = results.read(student / "student.json")
    assert set(result) == RESULT_KEYS
    assert (result["run"], result["seed"], result["checkpoint"]) == (
        "student", 0, "data/checkpoints/student.safetensors",
    )  # fmt: skip
    assert result["config"]["quantization"] == {
        "method": "ddtb", "bits": 2, "variant": "paper", "gate_ratio": 0.5, "percentile": 99, "fully": False,
    }  # fmt: skip
    assert result["config"]["recipe"]["steps"] == 2 and result["config"]["recipe"]["preset_name"] == "smoke"
    assert [row["step"] for row in result["curve"]] == [2] and result["curve"][0]["phase"] == "live"
    assert result["seconds"] >= 0 and result["device"].startswith("CPU")
    assert set(result["versions"]) >= {"ddtb_lite", "python", "torch", "numpy"}
    assert str(tmp_path) not in json.dumps(result)
    assert result["config"]["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    of_teacher = results.read(teacher / "teacher.json")
    assert of_teacher["seed"] == 3 and of_teacher["config"]["source_sha256"] is None

    network = load(student / "student.safetensors")
    assert network.metadata and network.metadata["run"] == "student"
    expected = evaluate(network, place.images, progress=False)
    (scores,) = result["scores"].values()
    assert scores["psnr"] == pytest.approx(expected.psnr, abs=1e-4)
    assert [row["name"] for row in scores["images"]] == ["picture_0", "picture_1", "picture_2"]

    stored = tmp_path / "scores.json"
    arguments = ["evaluate", str(student / "student.safetensors"), "--data", data, "--device", "cpu"]
    assert main([*arguments, "--json", "--out", str(stored)]) == 0
    (printed,) = json.loads(capsys.readouterr().out).values()
    assert printed["psnr"] == expected.psnr and printed["ssim"] == expected.ssim and len(printed["images"]) == 3
    assert set(results.read(stored)) == RESULT_KEYS
    assert results.read(stored)["checkpoint"] is None, "not a network that the repository carries"
    assert main(arguments) == 0
    assert f"mean       {expected.psnr:6.2f}  {expected.ssim:6.4f}" in capsys.readouterr().out

    single = tmp_path / "picture.png"
    source = place.images / "picture_1.png"
    assert main(["upscale", str(student / "student.safetensors"), str(source), "--out", str(single)]) == 0
    assert capsys.readouterr().out == f"{single}\n"
    assert np.array_equal(images.read(single), upscale(network, images.read(source)))
    many = tmp_path / "many"
    assert main(["upscale", str(student / "student.safetensors"), data, "--out", str(many), "--tile", "20"]) == 0
    assert sorted(path.name for path in many.iterdir()) == [f"picture_{index}.png" for index in range(3)]
    assert images.read(many / "picture_2.png").shape == (224, 208, 3)
    named_like_a_data_set = tmp_path / "photos"
    named_like_a_data_set.mkdir()
    (named_like_a_data_set / "mine.png").write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["upscale", str(student / "student.safetensors"), "photos", "--out", "large"]) == 0
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["mine.png"]
    capsys.readouterr()

    assert main(["complexity", str(student / "student.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    cost = complexity(network, (1920, 1080))
    assert [float(line[28:43].replace(",", "")) for line in lines] == [
        round(cost.params), round(cost.hlfe_params), round(cost.gate_params),
        round(cost.bops / 1e12, 2), round(cost.gate_bops / 1e6, 2),
    ]  # fmt: skip


def test_complexity_of_the_papers_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complexity", "--bits", "2"]) == 0
    assert "76,472" in capsys.readouterr().out
    assert main(["complexity", "--model", "srresnet", "--output-size", "640", "480"]) == 0
    assert "1,542,528" in capsys.readouterr().out


def test_bicubic(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "bicubic", "--scale", "2", "--data", str(place.images), "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out).values()
    assert scores["psnr"] == evaluate("bicubic", place.images, scale=2, progress=False).psnr


def test_start_copies_what_fits(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ×2 network starts from a ×4 one: everything is taken over but the upsampler's first convolution."""
    seen: dict[str, Tensor] = {}

    def watched(network: SuperResolutionNetwork, *_: object, **__: object) -> None:
        seen.update({name: value.clone() for name, value in network.state_dict().items()})
        raise RuntimeError("seen enough")

    monkeypatch.setattr(runner, "train", watched)
    main(["train", "--scale", "2", *TINY, "--start-from", str(place.network), "--out", str(tmp_path / "x")])
    source = load(place.network).state_dict()
    shared = {name for name, value in seen.items() if name in source and value.shape == source[name].shape}
    assert shared >= {"head.0.weight", "body.0.body.0.weight", "body.0.body.2.bias", "body.1.weight"}
    assert all(torch.equal(seen[name], source[name]) for name in shared)


def test_the_same_command_continues(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["train", *TINY, *STEPS, "--data", str(place.images), "--test", "--out", str(out)]
    assert main(arguments) == 0
    first = results.read(out / "run.json")
    assert first["scores"] == {}
    assert main(arguments) == 0
    assert results.read(out / "run.json")["curve"] == first["curve"]
    capsys.readouterr()
    message = failed([*arguments, "--seed", "1"], capsys)
    assert "holds another run (different seed); choose another folder" in message


def test_publishing_never_replaces_a_longer_run(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for folder in ("results", "checkpoints"):
        (data / folder).mkdir(parents=True)
    shutil.copy(resources.data("datasets.toml"), data)
    monkeypatch.setattr(resources, "repository", lambda: tmp_path)
    out = tmp_path / "run"
    arguments = ["train", *TINY, *STEPS, "--data", str(place.images), "--test", "--out", str(out), "--publish"]
    assert main(arguments) == 0
    published = data / "results" / "run.json"
    assert published.read_bytes() == (out / "run.json").read_bytes()
    assert (data / "checkpoints" / "run.safetensors").read_bytes() == (out / "run.safetensors").read_bytes()
    assert main(arguments) == 0, "a run of the same length replaces the one before"
    assert main([*arguments[:-2], str(tmp_path / "again"), "--publish", "--seed", "1"]) == 0
    assert results.read(data / "results" / "again.json")["checkpoint"] is None
    assert not (data / "checkpoints" / "again.safetensors").exists(), "of another seed only the scores are carried"
    assert (tmp_path / "again" / "again.safetensors").is_file()

    longer = json.loads(published.read_text(encoding="utf-8"))
    longer["config"]["recipe"]["steps"] = 59_000
    published.write_text(json.dumps(longer), encoding="utf-8")
    capsys.readouterr()
    assert "run in data/results was trained for 59,000 steps" in failed(arguments, capsys)
    assert json.loads(published.read_text(encoding="utf-8")) == longer


def test_a_run_that_diverges_leaves_a_result_without_scores(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance = Run.advance

    def spoil(run: Run) -> None:
        advance(run)
        next(run.network.parameters()).data.fill_(math.nan)

    monkeypatch.setattr(Run, "advance", spoil)
    out = tmp_path / "run"
    words = ["train", *TINY, *STEPS, "--set", "steps=3", "--data", place.images, "--test", "--out", out]
    assert "The loss or its gradient is not finite at step" in failed(words, capsys)
    result = results.read(out / "run.json")
    assert (result["config"]["diverged_at"], result["scores"], result["checkpoint"]) == (3, {}, None)
    assert not (out / "run.safetensors").exists()
    assert "done (smoke): diverged at step 3" in progress.listing(
        [replace(experiments()["edsr_x2"], name="run")], "smoke", str(tmp_path), {"run": result}, []
    )


def test_the_recorded_command_is_the_one_that_ran(place: Place, tmp_path: Path) -> None:
    arguments = ["train", *TINY, *STEPS, "--data", "photos_x", "--test", "--out", str(tmp_path / "run")]
    os.symlink(place.images, tmp_path / "photos_x")
    arguments[arguments.index("photos_x")] = str(tmp_path / "photos_x")
    assert main(arguments) == 0
    command = results.read(tmp_path / "run" / "run.json")["command"]
    assert command.startswith("python -m ddtb_lite train --architecture n_blocks=1 n_feats=8 --preset smoke")


def test_benchmark_prints_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ratios = {"step_vs_fp32": Ratio(0.5, "steps"), "peak_memory_vs_naive": Ratio(0.25, "memory")}
    monkeypatch.setattr(benchmark_command, "benchmark", lambda device: ratios)
    assert main(["benchmark", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"step_vs_fp32": 0.5, "peak_memory_vs_naive": 0.25, "throughput": []}
    assert main(["benchmark"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["step_vs_fp32", "0.50", "steps"]


def test_benchmark_of_a_gpu_prints_throughput(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In place of the GPU a stand-in: what is measured there, test_throughput.py measures on a CPU."""
    step = Throughput("EDSR ×4", "bf16", 0.002, 0.05, 0.001, 0.0005, 0)
    monkeypatch.setattr(benchmark_command, "benchmark", lambda device: {"step_vs_fp32": Ratio(0.5, "steps")})
    monkeypatch.setattr(benchmark_command, "paper_steps", lambda device: [step])
    monkeypatch.setattr(benchmark_command.results, "environment", lambda device: {"device": device})
    assert main(["benchmark", "--device", "cuda", "--out", str(tmp_path / "gpu.json")]) == 0
    assert capsys.readouterr().out.splitlines()[1] == str(step)
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["environment"] == {"device": "cuda"}
    assert written["throughput"] == [vars(step)] and written["step_vs_fp32"] == 0.5


def test_an_interruption(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_command.evaluation, "evaluate", interrupted)
    assert main(["evaluate", str(place.network)]) == 130
    assert capsys.readouterr().err == "Stopped.\n"


# -------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("bits", [-2, 0, 1, 9, 33])
def test_wrong_bit_widths(bits: int, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x"
    for arguments in (
        ["complexity", "--bits", str(bits)],
        ["train", "--bits", str(bits), "--teacher", place.network, "--data", place.images, "--out", out],
    ):
        assert f"bits is {bits}, expected a whole number from 2 to 8" in failed(arguments, capsys)
    assert not out.exists()


def test_bits_of_a_binary_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bits is 2, expected 1" in failed(["complexity", "--method", "reactnet", "--bits", "2"], capsys)


@pytest.mark.parametrize("kind", ["missing", "folder", "truncated", "text", "empty", "foreign", "altered", "picture"])
def test_checkpoints_that_cannot_be_used(
    kind: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    content = place.network.read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        altered = bytearray(content)
        altered[-1] ^= 1
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "text": b"not a checkpoint",
                "empty": b"",
                "foreign": safetensors.torch.save({"x": torch.zeros(2)}),
                "altered": bytes(altered),
                "picture": (place.images / "picture_0.png").read_bytes(),
            }[kind]
        )
    out = tmp_path / "out"
    for arguments in (
        ["evaluate", path, "--data", place.images],
        ["upscale", path, place.images, "--out", out],
        ["complexity", path],
        ["train", "--bits", "2", "--teacher", path, "--data", place.images, "--out", out],
        ["train", *TINY, "--start-from", path, "--data", place.images, "--out", out],
        ["compare", "--teacher", path, "--data", place.images],
    ):
        assert "x.safetensors" in failed(arguments, capsys)
    assert not out.exists()


def test_checkpoints_of_other_networks(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    rest = ["--data", place.images, "--out", out]
    message = failed(["train", "--bits", "2", "--scale", "2", "--teacher", place.network, *rest], capsys)
    assert "edsr ×4, but --model and --scale say edsr ×2" in message
    message = failed(["train", "--bits", "2", "--model", "rdn", "--teacher", place.network, *rest], capsys)
    assert "edsr ×4, but --model and --scale say rdn ×4" in message
    message = failed(["train", "--bits", "2", "--teacher", place.student, *rest], capsys)
    assert "quantized already" in message
    message = failed(["train", "--bits", "2", *rest], capsys)
    assert "--teacher NETWORK" in message
    message = failed(["evaluate", place.network, "--scale", "2", "--data", place.images], capsys)
    assert "scale is 2, but this network's is 4" in message
    assert not out.exists()


def test_options_that_would_be_ignored(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A teacher without --bits, a width that the teacher's file decides, or a method for full precision."""
    rest = [*STEPS, "--data", place.images, "--test", "--out", tmp_path / "out"]
    for options in (["--method", "pams"], ["--fully"], ["--gate-ratio", "0.5"], ["--variant", "official"]):
        message = failed(["train", *TINY, *options, *rest], capsys)
        assert options[0] in message and "--bits" in message
        assert options[0] in failed(["complexity", *options], capsys)
        assert options[0] in failed(["complexity", place.network, *options], capsys)
    for options in (["--bits", "3"], ["--model", "rdn"], ["--scale", "2"], ["--architecture", "n_blocks=2"]):
        assert f"leave out {options[0]}" in failed(["complexity", place.student, *options], capsys)
    message = failed(["compare", "--teacher", place.network, "--scale", "2", "--data", place.images], capsys)
    assert "edsr ×4, but --model and --scale say edsr ×2" in message
    assert "not from 2 bits" in failed(["train", "--start-from", place.student, *rest], capsys)
    assert "--bits" in failed(["train", *TINY, "--teacher", place.network, *rest], capsys)
    wide = ["--architecture", "n_blocks=2"]
    assert "architecture" in failed(["train", "--bits", "2", *wide, "--teacher", place.network, *rest], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["complexity", "--architecture", "scale=2"], "--architecture is for depth and width, not for scale"),
        (["complexity", "--architecture", "name=rdn"], "--architecture is for depth and width, not for name"),
        (["train", "--out", "x", "--set", "self=1"], "A recipe has no field self"),
        (["train", "--out", "x", "--set", "preset_name=paper"], "A recipe has no field preset_name"),
    ],
)
def test_names_that_are_no_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in failed(words, capsys)


def test_values_of_settings() -> None:
    given = ["steps=5", "fixed_bounds=none", "halve_every=null", "precision=fp32", "falling_bits=[[4,1]]"]
    assert pairs(given) == {
        "steps": 5,
        "fixed_bounds": None,
        "halve_every": None,
        "precision": "fp32",
        "falling_bits": [[4, 1]],
    }


def test_a_repeated_option_adds_to_the_first() -> None:
    words = "train --out x --set steps=10 --set patch_size=48 --data A --data B C --architecture n_blocks=2"
    options = parser().parse_args(words.split())
    assert options.set == ["steps=10", "patch_size=48"] and options.data == ["A", "B", "C"]
    assert options.architecture == ["n_blocks=2"] and options.test is None
    assert parser().parse_args(["train", "--out", "x", "--test"]).test == []
    assert parser().parse_args(["train", "--out", "x"]).data == ["photos_train"], "the default is as it was"


def test_an_image_is_not_replaced_by_its_enlargement(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in place.images.iterdir()}
    assert "would be overwritten" in failed(["upscale", place.network, place.images, "--out", place.images], capsys)
    first = next(iter(before))
    assert "would be overwritten" in failed(["upscale", place.network, first, "--out", first], capsys)
    assert {path: path.read_bytes() for path in place.images.iterdir()} == before


def test_equal_images_have_no_psnr_in_json(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "bicubic", "--scale", "1", "--data", str(place.images), "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail).values()
    assert scores["psnr"] is None and scores["ssim"] == pytest.approx(1)


def test_sets_whose_folders_have_one_name_are_not_merged(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [folder_of_pictures(tmp_path / name, 1) for name in ("a", "b")]
    for folder in folders:
        (folder / "val").mkdir()
        next(folder.glob("*.png")).rename(folder / "val" / "picture.png")
    sets = [folder / "val" for folder in folders]
    message = failed(["evaluate", "bicubic", "--scale", "2", "--data", *sets, "--out", tmp_path / "two.json"], capsys)
    assert "the same name" in message and not (tmp_path / "two.json").exists()


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "empty file", "gif"])
def test_files_that_are_no_images(kind: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    images.write(folder / "a.png", picture())
    bad = folder / "b.png"
    content = (folder / "a.png").read_bytes()
    contents = {
        "text": b"not an image",
        "truncated": content[: len(content) // 2],
        "empty file": b"",
        "gif": b"GIF89a" + bytes(50),
    }
    if kind != "missing":
        bad.write_bytes(contents[kind])
    target = tmp_path / "out.png"
    assert "b.png" in failed(["upscale", place.network, bad, "--out", target], capsys)
    assert not target.exists()
    if kind != "missing":
        assert "b.png" in failed(["evaluate", place.network, "--data", folder], capsys)
        assert "b.png" in failed(["train", *TINY, *STEPS, "--data", folder, "--out", tmp_path / "run"], capsys)


def test_a_folder_is_enlarged_but_for_what_is_no_image(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of_pictures(tmp_path / "images")
    (folder / "picture_1.png").write_bytes(b"not an image")
    message = failed(["upscale", place.network, folder, "--out", tmp_path / "large"], capsys)
    assert "1 of 3 images" in message and "picture_1.png" in message
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == ["picture_0.png", "picture_2.png"]


def test_a_folder_takes_the_network_to_its_device_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []

    def counted(network: SuperResolutionNetwork) -> SuperResolutionNetwork:
        copies.append(network)
        return deepcopy(network)

    # In place of a GPU the CPU under its other name: another device, as long as nothing has been moved there.
    monkeypatch.setattr(inference, "_target", lambda _, device: torch.device("cpu:0" if device is None else device))
    monkeypatch.setattr(inference, "copy", SimpleNamespace(deepcopy=counted))
    assert main(["upscale", str(place.network), str(place.images), "--out", str(tmp_path / "large")]) == 0
    assert len(list((tmp_path / "large").iterdir())) == 3 and len(copies) == 1


def test_a_shipped_name_stands_for_its_checkpoint(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, file = "edsr_x4_ddtb_2bit", checkpoints.shipped("edsr_x4_ddtb_2bit")
    shown = {}
    for network in (name, str(file)):
        assert main(["complexity", network]) == 0
        shown[network, "complexity"] = capsys.readouterr().out
        assert main(["evaluate", network, "--data", str(place.images), "--json"]) == 0
        shown[network, "evaluate"] = capsys.readouterr().out
    for command in ("complexity", "evaluate"):
        assert shown[name, command] == shown[str(file), command] != ""
    small, large = tmp_path / "photo.png", tmp_path / "large.png"
    images.write(small, picture(height=8, width=9))
    assert main(["upscale", name, str(small), "--out", str(large)]) == 0
    assert images.read(large).shape == (32, 36, 3)
    student = ["train", "--bits", "2", *STUDENT_STEPS, "--teacher", "edsr_x4", "--data", str(place.images), "--test"]
    assert main([*student, "--out", str(tmp_path / "run")]) == 0
    config = results.read(tmp_path / "run" / "run.json")["config"]
    assert config["teacher"] == "edsr_x4"
    assert config["source_sha256"] == hashlib.sha256(checkpoints.shipped("edsr_x4").read_bytes()).hexdigest()
    capsys.readouterr()
    assert "edsr_x4_ddtb_2bit" in failed(["complexity", "edsr_x5"], capsys), "the names there are"


def test_folders_without_images(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    for arguments in (
        ["evaluate", place.network, "--data", empty],
        ["upscale", place.network, empty, "--out", tmp_path / "out"],
        ["train", *TINY, "--data", empty, "--out", tmp_path / "run"],
    ):
        assert "holds no image" in failed(arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_data_sets_that_are_not_there(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no data set 'Set6'" in failed(["evaluate", place.network, "--data", "Set6"], capsys)
    message = failed(["evaluate", place.network, "--data", "Set5"], capsys)
    assert "python -m ddtb_lite download Set5" in message
    assert "no data set 'Set6'" in failed(["download", "Set6"], capsys)
    assert "Set5" in failed(["train", *TINY, "--data", "Set5", "--out", tmp_path / "run"], capsys)


def test_a_missing_test_set_is_noticed_before_training(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of training must not end with the news that the scores cannot be had."""
    out = tmp_path / "run"
    arguments = ["train", *TINY, *STEPS, "--data", place.images, "--test", "Set6", "--out", out]
    assert "Set6" in failed(arguments, capsys)
    assert not (out / "state.safetensors").exists()


@pytest.mark.parametrize("out", [".", "run/.", "run/../run"])
def test_out_is_any_way_to_name_a_folder(
    out: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run" if out == "." else tmp_path)
    assert main(["train", *TINY, *STEPS, "--data", str(place.images), "--test", "--out", out]) == 0
    assert (tmp_path / "run" / "run.safetensors").exists() and (tmp_path / "run" / "run.json").exists()


def test_images_that_are_too_small(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    images.write(small / "tiny.png", picture(0, 16, 18))
    message = failed(["train", *TINY, *STEPS, "--data", small, "--out", tmp_path / "run"], capsys)
    assert "48×48 pixels or larger" in message
    message = failed(["evaluate", place.network, "--data", small], capsys)
    assert "Image tiny of small is 16×18 pixels, expected at least" in message
    message = failed(["evaluate", "bicubic", "--scale", "40", "--border", "0", "--data", small], capsys)
    assert "expected at least 40 each way" in message


def test_places_that_cannot_be_written(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    source = place.images / "picture_0.png"
    assert "there is no folder" in failed(
        ["upscale", place.network, source, "--out", tmp_path / "nowhere" / "x.png"], capsys
    )
    for arguments in (
        ["train", *TINY, *STEPS, "--data", place.images, "--out", blocked],
        ["train", *TINY, *STEPS, "--data", place.images, "--out", blocked / "run"],
        ["upscale", place.network, place.images, "--out", blocked],
        ["upscale", place.network, place.images, "--out", blocked / "many"],
        ["upscale", place.network, source, "--out", blocked / "x.png"],
        ["evaluate", place.network, "--data", place.images, "--out", blocked / "x.json"],
    ):
        assert "file" in failed(arguments, capsys)
    with pytest.MonkeyPatch.context() as patched:  # noticed before anything is trained or scored
        patched.setattr(evaluate_command.evaluation, "evaluate", lambda *_, **__: pytest.fail("something was scored"))
        patched.setattr(runner, "train", lambda *_, **__: pytest.fail("something was trained"))
        patched.setattr(resources, "repository", lambda: tmp_path / "nowhere")
        for arguments in (
            ["evaluate", place.network, "--data", place.images, "--out", tmp_path / "nowhere" / "x.json"],
            ["train", *TINY, *STEPS, "--data", place.images, "--out", tmp_path / "run", "--publish"],
        ):
            assert "there is no folder" in failed(arguments, capsys)
    assert "expected an extension among" in failed(
        ["upscale", place.network, source, "--out", tmp_path / "x.gif"], capsys
    )
    assert "expected an extension among" in failed(["upscale", place.network, source, "--out", tmp_path], capsys)
    assert blocked.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    source = place.images / "picture_0.png"
    failed(["upscale", place.network, source, "--out", locked / "x.png"], capsys)
    failed(["train", *TINY, *STEPS, "--data", place.images, "--out", locked / "run"], capsys)
    assert not list(locked.iterdir())


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("steps=0", "steps"),
        ("steps=many", "steps"),
        ("steps=1.5", "steps"),
        ("steps=null", "steps"),
        ("batch_size=2.5", "batch_size"),
        ("patch_size=50", "patch_size"),
        ("patch_size=1000", "1000×1000"),
        ("learning_rate=NaN", "learning_rate"),
        ("learning_rate=fast", "learning_rate"),
        ("precision=fp8", "precision"),
        ("falling_bits=4", "falling_bits"),
        ("falling_bits=[[33,1]]", "bits is 33"),
        ("falling_bits=[[4,1],[3,1]]", "falling_bits"),
        ("epochs=3", "epochs"),
        ("steps", "NAME=VALUE"),
    ],
)
def test_settings_that_make_no_sense(
    setting: str, word: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", *TINY, *STEPS, setting, "--data", place.images, "--out", tmp_path / "run"]
    assert word in failed(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["complexity", "--architecture", "n_blocks=0"], "n_blocks is 0"),
        (["complexity", "--architecture", "n_blocks=few"], "n_blocks is 'few'"),
        (["complexity", "--architecture", "depth=3"], "depth"),
        (["complexity", "--architecture", "n_blocks"], "NAME=VALUE"),
        (["complexity", "--bits", "2", "--gate-ratio", "1.5"], "gate_ratio is 1.5"),
        (["complexity", "--bits", "2", "--gate-ratio", "nan"], "gate_ratio is nan"),
        (["complexity", "--bits", "2", "--percentile", "50"], "percentile is 50"),
        (["complexity", "--bits", "2", "--method", "pams", "--gate-ratio", "0.3"], "PAMS does without --gate-ratio"),
        (["complexity", "--bits", "2", "--method", "pams", "--percentile", "95"], "PAMS does without --percentile"),
        (["complexity", "--output-size", "0", "1080"], "output_size"),
        (["evaluate", "bicubic"], "scale"),
        (["evaluate", "bicubic", "--scale", "0"], "scale"),
        (["evaluate", "bicubic", "--scale", "2", "--protocol", "hsv"], "protocol"),
        (["evaluate", "bicubic", "--scale", "2", "--border", "-1"], "border"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in failed(list(arguments), capsys)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "cuda"])
def test_devices_that_are_not_there(
    device: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for arguments in (
        ["evaluate", place.network, "--data", place.images],
        ["upscale", place.network, place.images / "picture_0.png", "--out", tmp_path / "x.png"],
        ["train", *TINY, *STEPS, "--data", place.images, "--out", tmp_path / "run"],
        ["benchmark"],
    ):
        failed([*arguments, "--device", device], capsys)


def test_tiles_that_make_no_sense(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = place.images / "picture_0.png"
    arguments = ["upscale", place.network, source, "--out", tmp_path / "x.png", "--tile", "0"]
    assert "tile is 0" in failed(arguments, capsys)


def test_images_that_would_overwrite_each_other(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of_pictures(tmp_path / "images", 1)
    images.write(folder / "picture_0.bmp", picture(1))
    message = failed(["upscale", place.network, folder, "--out", tmp_path / "out"], capsys)
    assert "differ only in their suffix" in message


def test_a_network_that_has_diverged(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = network()
    with torch.no_grad():
        broken.head[0].weight.fill_(math.nan)  # type: ignore[index, operator, union-attr]
    save(broken, tmp_path / "x.safetensors")
    assert "NaN or infinite" in failed(["evaluate", tmp_path / "x.safetensors", "--data", place.images], capsys)
    source, target = place.images / "picture_0.png", tmp_path / "x.png"
    assert "NaN or infinite" in failed(["upscale", tmp_path / "x.safetensors", source, "--out", target], capsys)
    assert not target.exists()
    rest = [*STUDENT_STEPS, "--data", place.images, "--out", tmp_path / "run"]
    message = failed(["train", "--bits", "2", "--teacher", tmp_path / "x.safetensors", *rest], capsys)
    assert "head.0.weight" in message


def test_a_full_disk(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    source = place.images / "picture_0.png"
    for arguments in (
        ["upscale", place.network, source, "--out", tmp_path / "x.png"],
        ["evaluate", place.network, "--data", place.images, "--out", tmp_path / "x.json"],
        ["train", *TINY, *STEPS, "--data", place.images, "--out", tmp_path / "run"],
    ):
        assert "No space left on device" in failed(arguments, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and not list((tmp_path / "run").iterdir())


def test_any_other_error_is_a_bug_and_shows_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only errors that were meant for the user become one line."""

    def broken(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(benchmark_command, "benchmark", broken)
    with pytest.raises(TypeError):
        main(["benchmark"])
