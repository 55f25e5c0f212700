"""Two processes train what one process trains. This file is also the program that they run."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ddtb_lite import Recipe, build, images, quantize, train
from ddtb_lite.cli import main
from ddtb_lite.gate import DynamicGate
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.quantizers import METHODS
from ddtb_lite.reproduction.progress import last_step
from ddtb_lite.support import distributed
from ddtb_lite.training.run import Run

torch.set_num_threads(1)

SMALL = {"edsr": {"n_blocks": 2, "n_feats": 8}, "srresnet": {"n_blocks": 1, "n_feats": 8}}
RECIPE = Recipe(
    "test",
    steps=6,
    batch_size=4,
    patch_size=32,
    learning_rate=2e-4,
    bound_learning_rate=2e-3,
    halve_every=None,
    calibration_batches=2,
    warmup_steps=1,
    feature_weight=10.0,
    validation_images=2,
    validate_every=3,
    save_every=6,
    precision="fp32",
    compile=False,
)
# One step at 4 bits with gates at rest, one of warm-up, four with live gates.
FALLING = RECIPE.override(falling_bits=((4, 1),))


def picture(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return images.resize(random.integers(0, 256, (12, 11, 3), dtype=np.uint8), 4)


# Bright and dark pictures: the two halves of a batch have quite different statistics.
DATA = [(str(seed), picture(seed) // (1 + 7 * (seed % 2))) for seed in range(6)]


def full_precision(name: str = "edsr") -> SuperResolutionNetwork:
    torch.manual_seed(1)
    return build(name, 2, **SMALL[name])


def student(method: str, name: str = "edsr", variant: str = "paper") -> SuperResolutionNetwork:
    return quantize(full_precision(name), method, 2, gate_ratio=0.5, variant=variant)


Case = tuple[SuperResolutionNetwork, SuperResolutionNetwork | None, Recipe]
CASES: dict[str, Callable[[], Case]] = {
    "full_precision": lambda: (full_precision(), None, RECIPE),
    "batch_norm": lambda: (full_precision("srresnet"), None, RECIPE),
    "ddtb": lambda: (student("ddtb"), full_precision(), FALLING),
    "official": lambda: (student("ddtb", variant="official"), full_precision(), FALLING),
    "ddtb_batch_norm": lambda: (student("ddtb", "srresnet"), full_precision("srresnet"), RECIPE),
    "minmax": lambda: (student("minmax"), full_precision(), FALLING),
    "fqsr": lambda: (student("fqsr"), full_precision(), RECIPE),
    "mismatch": lambda: (student("fqsr"), full_precision(), RECIPE),
}


def run(case: str, out: Path) -> dict[str, Tensor]:
    """Train one case in the folder `out`; the weights with which it ends."""
    network, teacher, recipe = CASES[case]()
    with pytest.MonkeyPatch.context() as patched:
        if case == "mismatch":  # a gradient that does not come from the backward pass in which processes take means
            method = replace(METHODS["fqsr"], quantization_loss_weight=0.0, cooperative_loss_weights={"": 0.5})
            patched.setitem(METHODS, "fqsr", method)
        train(network, DATA, recipe, teacher=teacher, out=out, progress=False, device="cpu")
    return network.state_dict()


# ------------------------------------------------------------------------- what each of the two processes does


def batch_norm_error() -> float:
    """Largest difference to nn.BatchNorm2d on the whole batch: outputs, gradients, running statistics, in float64."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    batch = random(4, 3, 5, 5) * torch.tensor([1.0, 9.0, 2.0, 5.0]).view(4, 1, 1, 1) + 100
    weight, bias, toward = random(3), random(3), random(4, 3, 5, 5)
    found: list[list[Tensor]] = []
    for kind in (nn.BatchNorm2d, distributed.BatchNorm2d):
        whole = kind is nn.BatchNorm2d
        norm = kind(3).double()
        norm.load_state_dict({**norm.state_dict(), "weight": weight, "bias": bias})
        x = (batch if whole else distributed.own_part(batch)).clone().requires_grad_()
        y = norm(x)
        (y * (toward if whole else distributed.own_part(toward))).sum().backward()
        assert x.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
        own = [distributed.own_part(each) if whole else each for each in (y.detach(), x.grad)]
        parameters = [norm.weight.grad, norm.bias.grad]
        if not whole:
            parameters = [distributed.mean(each) * 2 for each in parameters]
        found.append([*own, *parameters, norm.running_mean, norm.running_var, norm.num_batches_tracked.double()])  # type: ignore[list-item, union-attr]
    return max((first - second).abs().max().item() for first, second in zip(*found, strict=True))


def gate_error(variant: str) -> float:
    """Largest difference of a gate that sees one of two images to one that sees both, in float64."""
    batch = 9 * torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found: list[list[Tensor]] = []
    for whole in (True, False):
        torch.manual_seed(0)
        gate = DynamicGate(6, variant=variant).double()
        if whole:
            gate.norm = nn.BatchNorm2d(32).double()  # type: ignore[assignment]
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(distributed, "extremes", lambda lowest, highest: (lowest, highest))
                upper, lower = gate(batch)
        else:
            upper, lower = gate(distributed.own_part(batch))
        (upper + 3 * lower).square().sum().backward()
        betas = [distributed.own_part(beta.detach()) if whole else beta.detach() for beta in (upper, lower)]
        gradients = [each.grad for each in gate.parameters() if each.grad is not None]
        assert len(gradients) == (4 if variant == "paper" else 1)
        gradients = [each if whole else 2 * distributed.mean(each) for each in gradients]
        found.append([*betas, *gradients, *gate.norm.buffers()])
    return max((first - second).abs().max().item() for first, second in zip(*found, strict=True))


def message(action: Callable[[], object]) -> str:
    try:
        action()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def one_bad_share(network: SuperResolutionNetwork, rank: int) -> None:
    """Train a network whose output is NaN at the third step, in process 1 only."""
    advance = Run.advance

    def spoiled(run: Run) -> None:
        bad = run.step == 2 and rank == 1
        hook = run.network.tail[1].register_forward_hook(lambda *_: _[2] * (math.nan if bad else 1))  # type: ignore[index, operator, union-attr]
        advance(run)
        hook.remove()

    Run.advance = spoiled  # type: ignore[method-assign]
    try:
        train(network, DATA, RECIPE, progress=False, device="cpu")
    finally:
        Run.advance = advance  # type: ignore[method-assign]


def work(folder: Path) -> None:
    """Everything that needs two processes; each leaves what it found in a file of its own."""
    rank = distributed.rank()
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for case in CASES:
        tensors |= {f"{case}.{name}": value for name, value in run(case, folder / case).items()}
    with distributed.process_group("cpu"):
        facts["processes"] = distributed.world_size()
        facts["batch norm"] = batch_norm_error()
        facts["gate"] = [gate_error(variant) for variant in ("paper", "official")]
        facts["any process"] = [distributed.any_process(rank == 1), distributed.any_process(False)]
    network = full_precision()
    facts["bad share"] = message(lambda: one_bad_share(network, rank))
    tensors |= {f"bad share.{name}": value for name, value in network.state_dict().items()}
    odd = RECIPE.override(batch_size=3)
    facts["indivisible"] = message(lambda: train(full_precision(), DATA, odd, progress=False, device="cpu"))
    facts["disagreement"] = message(
        lambda: train(full_precision(), DATA, RECIPE, seed=rank, progress=False, device="cpu")
    )
    facts["printed"] = printed(command(folder, "command"))
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    safetensors.torch.save_file(tensors, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(facts))


def command(folder: Path, out: str, **changes: object) -> list[str]:
    """The command line that trains a small network on `DATA`, which it puts into `folder`."""
    (folder / "images").mkdir(exist_ok=True)
    for name, image in DATA:
        images.write(folder / "images" / f"{name}.png", image)
    recipe = {**vars(RECIPE), "feature_weight": 0, **changes}
    del recipe["preset_name"]
    return [
        "train", "--scale", "2", "--architecture", *(f"{name}={value}" for name, value in SMALL["edsr"].items()),
        "--preset", "smoke", "--data", f"{folder}/images", "--device", "cpu", "--test", "--out", f"{folder}/{out}",
        "--set", *(f"{name}={json.dumps(value)}" for name, value in recipe.items()),
    ]  # fmt: skip


def printed(arguments: list[str]) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(arguments) == 0
    return output.getvalue().splitlines()


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ------------------------------------------------------------------------------------------- two equal one


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done their work."""
    folder = tmp_path_factory.mktemp("pair")
    processes = torchrun(__file__, str(folder))
    _, errors = processes.communicate()
    assert processes.returncode == 0, errors
    assert found(folder, "processes") == [2, 2]
    return folder


def found(pair: Path, what: str) -> list[Any]:
    """What both processes say about something."""
    return [json.loads((pair / f"{rank}.json").read_text())[what] for rank in range(2)]


def state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safetensors.safe_open(folder / "state.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["run"])


@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_train_what_one_trains(case: str, pair: Path, tmp_path: Path) -> None:
    """Weights, bounds, running statistics, gradients as Adam remembers them, losses and scores."""
    run(case, tmp_path)
    (expected, facts), (got, other_facts) = state(tmp_path), state(pair / case)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("step.optimizer."):
            # In the moments a wrong factor shows, which the weights would not tell. A value that rounding takes across
            # a bound changes that bound's gradient by a little more than rounding itself does.
            assert (got[name] - value).abs().max() <= 1e-3 * value.abs().max(), name
        elif not name.endswith("gate.reduce.weight"):
            # A convolution before batch norm gets next to no gradient along itself, and Adam makes steps of the noise.
            torch.testing.assert_close(
                got[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
    rows, other_rows = facts["history"]["rows"], other_facts["history"]["rows"]
    assert [row["step"] for row in rows] == [3, 6]
    for row, other in zip(rows, other_rows, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert other[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5)), name
    assert other_facts["identity"] == facts["identity"]
    assert facts["phase"] == ("live" if facts["gates"] else facts["phase"])


def test_both_processes_end_with_the_same_bits(pair: Path) -> None:
    first, second = (safetensors.torch.load_file(pair / f"{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_statistics_run_over_the_whole_batch(pair: Path) -> None:
    assert max(found(pair, "batch norm")) < 1e-11
    assert np.max(found(pair, "gate")) < 1e-11


def test_a_bad_share_keeps_the_step_out_of_all_processes(pair: Path) -> None:
    for text in found(pair, "bad share"):
        assert text.startswith("The loss or its gradient is not finite at step 3: ")
    weights = safetensors.torch.load_file(pair / "0.safetensors")  # process 1 has the same, says the test above
    spoiled = {name: value for name, value in weights.items() if name.startswith("bad share.")}
    assert spoiled and all(value.isfinite().all() for value in spoiled.values())


def test_shares_must_be_equal(pair: Path) -> None:
    text = "batch_size is 3, which 2 processes cannot share evenly; choose a multiple of 2."
    assert found(pair, "indivisible") == [text, text]


def test_processes_must_train_the_same_run(pair: Path) -> None:
    for text in found(pair, "disagreement"):
        assert text.startswith("The processes do not train the same run: give all of them the same command")


def test_a_flag_is_seen_everywhere(pair: Path) -> None:
    assert found(pair, "any process") == [[True, False]] * 2


def test_the_command_line_speaks_once(pair: Path) -> None:
    """Process 0 writes the checkpoint and the result, and says so."""
    first, second = found(pair, "printed")
    assert [Path(line).name for line in first] == ["command.safetensors", "command.json"] and second == []
    assert json.loads((pair / "command" / "command.json").read_text())["config"]["processes"] == 2


def test_alone_nothing_changes() -> None:
    x = torch.randn(3, requires_grad=True)
    with distributed.process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.world_size(), distributed.rank()) == (1, 0)
        assert distributed.own_part(x) is x and distributed.mean(x) is x
        assert not distributed.any_process(False) and distributed.any_process(True)
        layer = nn.Linear(1, 1)
        assert distributed.parallel(layer, []) is layer


TORCHRUN = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}


@pytest.mark.parametrize("missing", [["RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"], *([name] for name in TORCHRUN)])
def test_another_launchers_variables_start_nothing(missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that sets WORLD_SIZE, with RANK or without, has not started processes that train together."""
    for name, value in TORCHRUN.items():
        monkeypatch.delenv(name, raising=False) if name in missing else monkeypatch.setenv(name, value)
    with distributed.process_group("cpu"):
        assert (distributed.launched(), distributed.world_size(), distributed.rank()) == (1, 1, 0)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="started 4 processes, but this machine has 2 GPUs; say --nproc-per-node 2"):
        with distributed.process_group("cuda"):
            pass


# --------------------------------------------------------------------------------------------- interruption


def process_1(out: Path) -> int:
    """The id of the second of the processes that train in a folder."""

    def read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError:  # another user's, or gone in the meantime
            return b""

    (found,) = [
        folder
        for folder in Path("/proc").glob("[0-9]*")
        if str(out).encode() in read(folder / "cmdline") and b"\0RANK=1\0" in read(folder / "environ")
    ]
    return int(found.name)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_kill_terminate_and_go_on(tmp_path: Path) -> None:
    """One process, two of which one is killed, one, two of which one is terminated, one: the run of one alone."""

    def arguments(out: str) -> list[str]:
        return command(tmp_path, out, steps=100, validate_every=50, save_every=4)

    folder = tmp_path / "disturbed"

    def saved_step() -> int:
        return last_step(folder, "smoke") or 0

    def alone_for(steps: int) -> None:
        advance, until = Run.advance, saved_step() + steps

        def stopping(run: Run) -> None:
            if run.step == until:
                raise RuntimeError("cut off")
            advance(run)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Run, "advance", stopping)
            assert main(arguments("disturbed")) == 1

    def two_until_saved() -> tuple[subprocess.Popen[str], int]:
        """torchrun, and the process id of its process 1."""
        before = saved_step()
        processes = torchrun("-m", "ddtb_lite", *arguments("disturbed"))
        while processes.poll() is None and saved_step() == before:
            time.sleep(0.005)
        assert processes.poll() is None, processes.communicate()[1]
        return processes, process_1(folder)

    alone_for(6)
    assert saved_step() == 4

    processes, second = two_until_saved()
    os.kill(second, signal.SIGKILL)
    output, errors = processes.communicate()
    assert processes.returncode == 1 and output == ""
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and told[0].startswith("error: Process 0 of 2 lost another one, which was ended"), errors
    assert told[0].endswith("The same command continues from the last state in the run's folder.")
    assert "exitcode  : -9" in errors  # torchrun says which
    killed_at = saved_step()
    assert 4 < killed_at < 100

    alone_for(5)
    assert saved_step() == killed_at + 4

    processes, second = two_until_saved()
    os.kill(second, signal.SIGTERM)
    output, errors = processes.communicate()
    assert processes.returncode == 1 and output == ""
    stopped_at = saved_step()
    assert killed_at + 4 < stopped_at < 100
    told = [line for line in errors.splitlines() if line.startswith("Training was stopped")]
    assert told == [f"Training was stopped after step {stopped_at}. The same call continues from {folder}."], errors
    assert "exitcode  : 130" in errors

    assert main(arguments("disturbed")) == main(arguments("quiet")) == 0
    (expected, facts), (got, other_facts) = state(tmp_path / "quiet"), state(folder)
    assert [row["step"] for row in other_facts["history"]["rows"]] == [50, 100]
    for row, other in zip(facts["history"]["rows"], other_facts["history"]["rows"], strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-3)
    for name, value in expected.items():
        if name.startswith("network."):
            torch.testing.assert_close(got[name], value, rtol=1e-2, atol=1e-3)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
