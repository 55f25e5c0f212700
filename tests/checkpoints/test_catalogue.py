"""Networks that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_networks import small

import ddtb_lite
from ddtb_lite import checkpoints
from ddtb_lite.checkpoints import find, pretrained, shipped


def test_a_shipped_network_is_the_one_in_its_file() -> None:
    network = ddtb_lite.pretrained("edsr_x4_ddtb_2bit")
    assert network.quantization is not None and not network.training
    assert (network.name, network.scale) == ("edsr", 4)
    assert (network.quantization.method, network.quantization.bits) == ("ddtb", 2)
    image = torch.rand(1, 3, 8, 8) * 255
    again = checkpoints.load(shipped("edsr_x4_ddtb_2bit"))
    with torch.no_grad():
        assert torch.equal(network(image), again(image))


def test_without_a_name_it_is_the_recommended_one() -> None:
    network = pretrained()
    assert network.quantization is not None and network.quantization.variant == "convolutions"
    assert (network.name, network.scale, network.quantization.bits) == ("edsr", 4, 2)


@pytest.mark.parametrize("name", ["edsr_x8", "", "../checkpoints/edsr_x4", "edsr_x4.safetensors"])
def test_another_name_lists_those_there_are(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there are: .*edsr_x4_ddtb_2bit, .*edsr_x4_pams_3bit"):
        pretrained(name)


def test_a_name_is_found_unless_a_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = shipped("edsr_x4")
    monkeypatch.chdir(tmp_path)
    assert find("edsr_x4") == carried
    checkpoints.save(small(), "mine.safetensors")
    assert find("mine.safetensors") == Path("mine.safetensors")
    assert find(tmp_path / "mine.safetensors") == tmp_path / "mine.safetensors"
    Path("mine.safetensors").rename("edsr_x4")
    assert find("edsr_x4") == Path("edsr_x4")


@pytest.mark.parametrize("path", ["edsr_x4.safetensors", "weights/edsr_x4", "edsr.pt", "/edsr_x4"])
def test_what_looks_like_a_path_is_not_taken_for_a_name(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"There is no checkpoint {path}"):
        find(path)


def test_neither_file_nor_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for word in ("edsr_x5", "runs"):
        with pytest.raises(FileNotFoundError, match=rf"'{word}'.*edsr_x4_ddtb_2bit"):
            find(word)
