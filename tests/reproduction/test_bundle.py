"""Bundles: what is sent is read with suspicion, scored again, and filed whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddtb_lite import build, checkpoints, datasets, evaluate, initialize, quantize
from ddtb_lite.cli import main
from ddtb_lite.reproduction import acceptance, bundle, progress, results
from ddtb_lite.reproduction.experiment import Change, Experiment
from ddtb_lite.reproduction.grid import experiments
from ddtb_lite.support import resources
from ddtb_lite.training import Recipe

TEACHER, STUDENT = "edsr_x4", "edsr_x4_ddtb_2bit"
SMALL = (("n_blocks", 1), ("n_feats", 8))
USUAL = Change()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an honest bundle: a small teacher and its student, as training would have left them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        small_grid(patched)
        torch.manual_seed(0)
        full = build("edsr", 4, n_blocks=1, n_feats=8)
        teacher = store(folder, TEACHER, full, None)
        student = quantize(checkpoints.load(teacher), "ddtb", 2)
        initialize(student, torch.rand(2, 3, 16, 16) * 255)
        store(folder, STUDENT, student, teacher)
        path = folder / "bundle.zip"
        bundle.write(path, folder, [TEACHER, STUDENT], {"plan": "made up"})
        return dict(bundle.read(path).files)


def small_grid(patched: pytest.MonkeyPatch, teacher: Any = SMALL, student: Change = USUAL) -> None:
    """In place of the experiments two of them, on a network that is scored in a moment."""
    known = {
        TEACHER: Experiment(TEACHER, "full precision", "edsr", 4, architecture=teacher),
        STUDENT: Experiment(STUDENT, "main results", "edsr", 4, 2, "ddtb", TEACHER, architecture=SMALL, change=student),
    }
    patched.setattr(acceptance, "experiments", lambda: known)


def store(folder: Path, name: str, network: Any, teacher: Path | None) -> Path:
    (folder / name).mkdir()
    config = {
        "model": "edsr",
        "scale": 4,
        "architecture": network.architecture,
        "quantization": None if network.quantization is None else vars(network.quantization),
        "recipe": json.loads(json.dumps(vars(Recipe.preset("smoke", network)))),
        "training_data": ["photos_train"],
        "teacher": str(teacher.name) if teacher else None,
        "source_sha256": hashlib.sha256(teacher.read_bytes()).hexdigest() if teacher else None,
    }
    file = folder / name / f"{name}.safetensors"
    checkpoints.save(network, file, half=True, metadata={"run": name, **config})
    results.write(
        folder / name / f"{name}.json",
        run=name,
        config=config,
        seed=0,
        data={"training": datasets.fingerprint("photos_train"), "photos": datasets.fingerprint("photos")},
        curve=[],
        seconds=1.0,
        checkpoint=None,
        scores={"photos": evaluate(checkpoints.load(file), "photos", progress=False)},
        command="made up",
        precision="fp32",
    )
    return file


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's data that may be written to, and the small experiments."""
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    monkeypatch.setattr(resources, "published", lambda name: tmp_path / "checkout" / "data" / name)
    small_grid(monkeypatch)
    return tmp_path / "checkout" / "data" / "accepted"


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """A bundle of these files with checksums that fit."""
    path.write_bytes(bundle.archive_of({name: data for name, data in files.items() if name != bundle.SUMS}))
    return path


def changed(files: dict[str, bytes], name: str, change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    content = json.loads(files[name])
    change(content)
    return {**files, name: json.dumps(content).encode()}


# ------------------------------------------------------------------------------------------- what is accepted


def test_an_honest_bundle_is_filed_and_counts(
    sent: dict[str, bytes], checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive(tmp_path / "b.zip", sent)
    assert main(["accept", "--check", str(path)]) == 0 and not checkout.exists()
    assert main(["accept", str(path)]) == 0
    (filed,) = checkout.iterdir()
    assert sorted(str(each.relative_to(filed)) for each in filed.rglob("*.*")) == [
        "checkpoints/edsr_x4.safetensors",
        "checkpoints/edsr_x4_ddtb_2bit.safetensors",
        "results/edsr_x4.json",
        "results/edsr_x4_ddtb_2bit.json",
    ]
    assert "filed already" in failed(path, capsys)


def test_accepted_runs_replace_shorter_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(preset: str) -> dict[str, Any]:
        return {"run": "a", "config": {"recipe": {"preset_name": preset}}}

    pairs = {"paper": "short", "long": "short", "short": "short", "smoke": "short"}
    for theirs, ours in pairs.items():
        own = run(ours)
        monkeypatch.setattr(results, "accepted", lambda theirs=theirs: [{"a": run(theirs)}])
        found = progress.with_accepted({"a": own})["a"]
        assert (found is own) == (theirs in ("short", "smoke"))


# -------------------------------------------------------------------------------------------- what is refused


def failed(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `accept` says of a bundle that it refuses, whole or in part."""
    capsys.readouterr()
    assert main(["accept", str(path)]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out + said.err


def altered_weights(files: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """Other weights in a file that is sound by itself: only scoring again can tell."""
    file = folder / f"{TEACHER}.safetensors"
    file.write_bytes(files[f"checkpoints/{TEACHER}.safetensors"])
    network = checkpoints.load(file)
    with torch.no_grad():
        next(network.parameters()).mul_(1.5)
    checkpoints.save(network, file, half=True, metadata=network.metadata)
    return {**files, f"checkpoints/{TEACHER}.safetensors": file.read_bytes()}


def better_score(content: dict[str, Any], key: str = "psnr", by: float = 0.2) -> None:
    for each in (content["scores"]["photos"], *content["scores"]["photos"]["images"]):
        each[key] += by


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (better_score, "as its PSNR on photos"),
        (lambda content: better_score(content, "ssim", 0.01), "as its SSIM on photos"),
        (lambda content: content["config"]["recipe"].pop("skt_weight"), "than in its checkpoint"),
        (lambda content: content["versions"].update(ddtb_lite=1), "cannot be read"),
        (lambda content: content["scores"].update(Faces=content["scores"]["photos"]), "no test set"),
        (lambda content: content["config"]["recipe"].update(steps=100_000), "than in its checkpoint"),
        (lambda content: content["config"].update(training_data=["DIV2K"]), "than in its checkpoint"),
        (lambda content: content["data"].update(photos="0" * 64), "other images than those of photos"),
        (lambda content: content["data"].update(training="0" * 64), "trained on other images"),
        (lambda content: content["versions"].update(ddtb_lite="99.0"), "newer version"),
        (lambda content: content.update(seed=3), "as its seed"),
        (lambda content: content.update(scores={}), "has no scores"),
        (lambda content: content.update(extra=1), "unknown keys: extra"),
        (lambda content: content.update(run="edsr_x9"), "not a run of this reproduction"),
    ],
)
def test_a_result_that_was_changed_is_refused_and_so_is_its_student(
    change: Callable[[dict[str, Any]], object],
    word: str,
    sent: dict[str, bytes],
    checkout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The checksums are made anew."""
    said = failed(archive(tmp_path / "b.zip", changed(sent, f"results/{TEACHER}.json", change)), capsys)
    assert word in said and "started from edsr_x4, which is refused" in said and "2 of 2 runs were refused" in said
    assert not checkout.exists(), "nothing is filed"


def test_altered_weights_are_found_by_scoring(
    sent: dict[str, bytes], checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(archive(tmp_path / "b.zip", altered_weights(sent, tmp_path)), capsys)
    assert "on photos, and not" in said and not checkout.exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda metadata: metadata["recipe"].update(skt_weight=0.0), "not trained by the recipe of the preset smoke"),
        (lambda metadata: metadata["recipe"].pop("skt_weight"), "does not say skt_weight of its recipe"),
        (lambda metadata: metadata["recipe"].update(preset_name="longest"), "has the preset 'longest'"),
        (lambda metadata: metadata.update(training_data=["photos"]), "not all training sets"),
        (lambda metadata: metadata.update(source_sha256="0" * 64), "started from another edsr_x4"),
    ],
)
def test_what_is_altered_in_result_and_checkpoint_alike(
    change: Callable[[dict[str, Any]], object],
    word: str,
    sent: dict[str, bytes],
    checkout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / f"{STUDENT}.safetensors"
    file.write_bytes(sent[f"checkpoints/{STUDENT}.safetensors"])
    network = checkpoints.load(file)
    assert network.metadata is not None
    change(network.metadata)
    checkpoints.save(network, file, half=True, metadata=network.metadata)
    files = {**sent, f"checkpoints/{STUDENT}.safetensors": file.read_bytes()}
    files = changed(files, f"results/{STUDENT}.json", lambda content: change(content["config"]))
    said = failed(archive(tmp_path / "b.zip", files), capsys)
    assert word in said and "1 of 2" in said
    (filed,) = checkout.iterdir()
    assert [path.name for path in filed.rglob("*.json")] == ["edsr_x4.json"], "what holds is filed"


def test_another_network_is_refused_before_it_is_built(
    sent: dict[str, bytes],
    checkout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A header may describe a network that no memory holds."""
    small_grid(monkeypatch, teacher=(("n_blocks", 2), ("n_feats", 8)))
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("built"))
    said = failed(archive(tmp_path / "b.zip", sent), capsys)
    assert "as its architecture, expected {'n_blocks': 2" in said and not checkout.exists()


def test_a_student_with_other_gates(
    sent: dict[str, bytes],
    checkout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_grid(monkeypatch, student=Change((("gate_ratio", 0.0),)))
    assert "gate_ratio=0.0" in failed(archive(tmp_path / "b.zip", sent), capsys)


def test_a_full_disk_files_nothing(
    sent: dict[str, bytes],
    checkout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, write = archive(tmp_path / "b.zip", sent), Path.write_bytes

    def full(file: Path, data: bytes) -> int:
        if checkout in file.parents and file.name == f"{STUDENT}.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert os.strerror(errno.ENOSPC) in failed(path, capsys)
    assert list(checkout.iterdir()) == []


def test_a_network_that_nobody_knows(
    sent: dict[str, bytes], checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name.replace(STUDENT, "vdsr_x4"): data for name, data in sent.items()}
    files = changed(files, "results/vdsr_x4.json", lambda content: content.update(run="vdsr_x4"))
    assert "vdsr_x4 is not a run of this reproduction" in failed(archive(tmp_path / "b.zip", files), capsys)


def test_checksums_that_do_not_fit(sent: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as target:
        for name, data in sent.items():
            target.writestr(name, data + b" " if name.endswith(".json") else data)
    assert "does not hold what its SHA256SUMS says" in failed(path, capsys)


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/evil.json", "results/../x.json", "results/a.pt", "a.pkl"])
def test_a_path_that_leaves_the_bundle(
    name: str, sent: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(archive(tmp_path / "b.zip", {**sent, name: b"{}"}), capsys)
    assert "expected results/RUN.json" in said


def test_torn_and_strangely_packed_archives(
    sent: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive(tmp_path / "b.zip", sent)
    torn = bytearray(path.read_bytes())
    start = torn.index(b"results/") + len(f"results/{TEACHER}.json")
    torn[start : start + 40] = b"\xff" * 40  # no deflated data begin like this
    path.write_bytes(bytes(torn))
    assert "not a zip archive that can be read" in failed(path, capsys)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as target:
        for name, data in sent.items():
            target.writestr(name, data)
    assert "packed in another way" in failed(path, capsys)


def test_zeros_without_end(
    sent: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten megabytes of zeros stand for ten gigabytes: reading stops at the limit, whatever the header says."""
    monkeypatch.setattr(bundle, "LARGEST_FILE", 2**20)
    path = archive(tmp_path / "b.zip", {"results/zeros.json": bytes(10 * 2**20), bundle.PROVENANCE: b"{}"})
    assert path.stat().st_size < 2**16
    assert "unpacks to too much" in failed(path, capsys)
    lying = bytearray(path.read_bytes())
    central = lying.index(b"PK\x01\x02")
    lying[central + 24 : central + 28] = struct.pack("<I", 10)  # the uncompressed size
    path.write_bytes(bytes(lying))
    assert "error" in failed(path, capsys)


def test_other_bundles(sent: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = {**sent, bundle.PROVENANCE: b'{"format": 2}'}
    assert "has format 2" in failed(archive(tmp_path / "newer.zip", newer), capsys)
    (tmp_path / "text.zip").write_text("not a zip")
    assert "not a zip archive" in failed(tmp_path / "text.zip", capsys)
    assert "There is no bundle" in failed(tmp_path / "nowhere.zip", capsys)
    without = {name: data for name, data in sent.items() if name != bundle.PROVENANCE}
    assert "lacks provenance.json" in failed(archive(tmp_path / "x.zip", without), capsys)
    many = sent | {f"results/r{index}.json": b"{}" for index in range(bundle.MOST_FILES)}
    assert "expected at most 500" in failed(archive(tmp_path / "many.zip", many), capsys)
    empty = {bundle.PROVENANCE: sent[bundle.PROVENANCE]}
    assert "holds no result" in failed(archive(tmp_path / "empty.zip", empty), capsys)


def test_the_tolerance_is_what_was_measured() -> None:
    """No mean moved by more than half of it, nor all by less than an eighth: it is neither tight nor idle."""
    rows = json.loads((resources.data("benchmarks") / "rescoring.json").read_text())["rows"]
    for key, column in (("psnr", "mean"), ("ssim", "mean_ssim")):
        shares = [abs(row[column]) / acceptance.score_within(row["images"])[key] for row in rows]
        assert 1 / 8 < max(shares) < 1 / 2
    assert acceptance.score_within(100)["psnr"] == pytest.approx(0.024)


def test_the_experiments_that_acceptance_knows_are_the_grid() -> None:
    assert acceptance.experiments is experiments
