"""Networks in standard files: what ONNX Runtime makes of them, what is in them, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import SMALL, small
from torch import Tensor, nn

import ddtb_lite as ddtb
from ddtb_lite.cli import main
from ddtb_lite.conversion import activation_quantizers, attach_gates, gated_paths, set_phase
from ddtb_lite.deploy import IntegerActivation, IntegerConv2d, onnx_layers
from ddtb_lite.deploy.onnx_values import Graph, Value
from ddtb_lite.networks import SuperResolutionNetwork
from ddtb_lite.networks.onnx_network import OnnxNetwork
from ddtb_lite.quantizers import METHODS

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
torch.set_num_threads(1)

NETWORKS = list(SMALL)
UNIFORM = [name for name in METHODS if name not in ("reactnet", "daq")]
# The script that the book shows: an exported file without this package and without PyTorch.
SCRIPT = """\
import sys

import numpy as np
import onnxruntime
from PIL import Image

network = onnxruntime.InferenceSession(sys.argv[1])
picture = np.asarray(Image.open(sys.argv[2]).convert("RGB"), np.float32)
[enlarged] = network.run(None, {"image": picture.transpose(2, 0, 1)[None]})
pixels = enlarged[0].transpose(1, 2, 0).round().clip(0, 255).astype(np.uint8)
Image.fromarray(pixels).save(sys.argv[3])
"""


def images(count: int = 2, height: int = 20, width: int = 20, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255


def student(name: str, method: str, bits: int, **options: object) -> SuperResolutionNetwork:
    quantized = ddtb.quantize(small(name), method=method, bits=bits, **options)  # type: ignore[arg-type]
    ddtb.initialize(quantized, [images(seed=seed) for seed in range(2)])
    if method == "ddtb" and not quantized.quantization.fully:
        attach_gates(quantized, list(activation_quantizers(quantized))[::2])
        set_phase(quantized, "live")
    return quantized.eval()


def exported(network: SuperResolutionNetwork, folder: Path, **options: int) -> OnnxNetwork:
    ddtb.export(network, folder / "network.onnx", **options)
    return OnnxNetwork(folder / "network.onnx")


# -------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_full_precision_at_any_size(name: str, scale: int, tmp_path: Path) -> None:
    network = small(name, scale).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        file = exported(network, tmp_path)
        for x in (images(1, 16, 16), images(3, 7, 12), images(1, 5, 1)):
            torch.testing.assert_close(file(x), network(x), rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", UNIFORM)
def test_students(method: str, name: str, fully: bool, tmp_path: Path) -> None:
    """At 6 bits, where a value between two levels that is rounded otherwise does not change the picture."""
    network = student(name, method, 6, fully=fully)
    file = exported(network, tmp_path)
    x = images(2, 18, 23, seed=9)
    with torch.no_grad():
        difference = (file(x) - network(x)).abs()
        spread = network(x).std()
    assert difference.median() < 0.02 * spread
    assert difference.mean() < 0.05 * spread


def test_gates_are_live_and_look_at_each_image(tmp_path: Path) -> None:
    network = student("srresnet", "ddtb", 3)
    assert gated_paths(network)
    with torch.no_grad():
        for path in gated_paths(network):
            network.get_submodule(path).gate.expand.weight.mul_(20)
    file = exported(network, tmp_path)
    x = images(2, seed=4) * torch.tensor([1.0, 0.1]).view(2, 1, 1, 1)
    with torch.no_grad():
        live = network(x)
        together, alone = file(x), torch.cat([file(each) for each in x.split(1)])
        set_phase(network, "initialized")
        bypassed = network(x)
    apart = (live - bypassed).abs().mean()
    assert (together - live).abs().mean() < 0.1 * apart
    assert (together - alone).abs().mean() < 0.1 * apart


@pytest.mark.parametrize("name", ["srresnet"])
def test_the_released_codes_variant(name: str, tmp_path: Path) -> None:
    network = student(name, "ddtb", 3, variant="official")
    x = images(2, seed=4)
    with torch.no_grad():
        assert (exported(network, tmp_path)(x) - network(x)).abs().mean() < 0.02 * network(x).std()


def test_a_network_on_integers_is_exported_as_it_is(tmp_path: Path) -> None:
    network = student("edsr", "lsq", 2)
    ddtb.export(network, tmp_path / "a.onnx")
    ddtb.export(ddtb.to_integer(network), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


# ---------------------------------------------------------------------------------------------- layers


def run_graph(graph: Graph, result: Value, x: Tensor, opset: int = 25) -> np.ndarray:
    helper = onnx.helper
    shape = [None] * 4
    infos = [helper.make_tensor_value_info(name, 1, shape) for name in ("x", result.name)]
    whole = helper.make_graph(graph.nodes, "layer", infos[:1], infos[1:], list(graph.constants.values()))
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    return runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("method", UNIFORM)
def test_a_layers_integers_are_those_of_to_integer(method: str, bits: int) -> None:
    fast = ddtb.to_integer(student("edsr", method, bits))
    convolutions = [module for module in fast.modules() if isinstance(module, IntegerConv2d)]
    quantizers = [module for module in fast.modules() if isinstance(module, IntegerActivation)]
    for quantizer in quantizers[:3]:
        x = torch.randn(2, 8, 9, 11, generator=torch.Generator().manual_seed(2)) * 60
        with torch.no_grad():
            code = quantizer(x)
        graph = Graph()
        found = onnx_layers.activation(Value(graph, "x"), quantizer)
        integers = torch.from_numpy(run_graph(graph, found.integers, x)).double()
        assert (integers != code.integers()).double().mean() <= 1e-4
        sums = [layer.sums(code) for layer in convolutions[:2]]
        for layer, expected in zip(convolutions, sums, strict=False):
            graph = Graph()
            width = onnx_layers.smallest_width(layer.codes, 25)
            assert width == (2 if bits == 2 else 4)
            weight = onnx_layers.weight_integers(graph, layer.codes, width)
            result = graph.apply("Conv", Value(graph, "x"), weight, pads=[1] * 4)
            assert np.array_equal(run_graph(graph, result, code.integers().float()), expected.numpy())


@pytest.mark.parametrize(
    "codes,width",
    [
        ([-2, -1, 0, 1], 2),
        ([-1, 0, 1, 2], 2),
        ([-3, -1, 1, 3], 2),  # odd: every second number
        ([0, 1, 2, 3], 2),
        ([-3, 0], 2),
        ([5, 5], 2),
        ([-15, 15], 4),
        ([-15, 0, 15], 8),
        ([-6, 9], 4),
        ([-127, 127], 8),
        ([-127, 0, 127], 8),
    ],
)
def test_whole_numbers_survive_their_packing(codes: list[int], width: int) -> None:
    numbers = torch.tensor(codes, dtype=torch.int8).view(-1, 1, 1, 1)
    assert onnx_layers.smallest_width(numbers, 25) == width
    for wider in (each for each in (2, 4, 8) if each >= width):
        graph = Graph()
        value = onnx_layers.weight_integers(graph, numbers, wider)
        one = run_graph(graph, graph.apply("Conv", Value(graph, "x"), value), torch.ones(1, 1, 1, 1))
        assert one.ravel().tolist() == codes


# ------------------------------------------------------------------------------------- what is in a file


def test_older_operators_make_larger_files_with_the_same_result(tmp_path: Path) -> None:
    network = student("edsr", "ddtb", 2)  # with gates
    x, sizes, results = images(1, seed=3), [], []
    for opset in (18, 21, 25):
        file = exported(network, tmp_path, opset=opset)
        model = onnx.load(tmp_path / "network.onnx")
        assert model.opset_import[0].version == opset
        assert {node.domain for node in model.graph.node} == {""}  # the standard's own operators
        sizes.append((tmp_path / "network.onnx").stat().st_size)
        results.append(file(x))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    ddtb.export(network, tmp_path / "default.onnx")
    assert (tmp_path / "default.onnx").stat().st_size == sizes[1]


@pytest.mark.parametrize("opset,width", [(25, 2), (21, 4), (18, 8)])
def test_weights_take_their_bits(opset: int, width: int, tmp_path: Path) -> None:
    ddtb.export(ddtb.pretrained("edsr_x4_ddtb_2bit"), tmp_path / "small.onnx", opset=opset)
    ddtb.export(ddtb.pretrained("edsr_x4"), tmp_path / "large.onnx")
    saved = (tmp_path / "large.onnx").stat().st_size - (tmp_path / "small.onnx").stat().st_size
    # What the weights save, less a tenth for the quantizers' and the gates' own nodes and numbers.
    expected = 32 * 64 * 64 * 9 * (32 - width) / 8
    assert 0.9 * expected < saved < expected


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    file = exported(ddtb.pretrained("edsr_x2_ddtb_3bit"), tmp_path)
    assert (file.provenance["network"], file.scale, file.architecture["n_blocks"]) == ("edsr", 2, 16)
    assert file.provenance["quantization"]["bits"] == 3
    assert file.provenance["metadata"] == json.loads(json.dumps(ddtb.pretrained("edsr_x2_ddtb_3bit").metadata))
    assert file.provenance["version"] == ddtb.__version__


def test_the_book_script_needs_nothing_of_ours(tmp_path: Path) -> None:
    network = ddtb.quantize(small("edsr", 3), bits=2)
    ddtb.initialize(network, [images()])
    ddtb.export(network, tmp_path / "network.onnx")
    picture = np.random.default_rng(0).integers(0, 256, (14, 17, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "small.png")
    (tmp_path / "script.py").write_text(SCRIPT)
    without = "import runpy, sys; sys.modules['ddtb_lite'] = sys.modules['torch'] = None; runpy.run_path(sys.argv[0])"
    prepared = without.replace("runpy.run_path(sys.argv[0])", "sys.argv.pop(0); runpy.run_path(sys.argv[0])")
    files = [str(tmp_path / name) for name in ("script.py", "network.onnx", "small.png", "large.png")]
    subprocess.run([sys.executable, "-I", "-c", prepared, *files], check=True, cwd=tmp_path)
    large = np.asarray(Image.open(tmp_path / "large.png"))
    assert large.shape == (42, 51, 3)
    assert np.array_equal(large, ddtb.upscale(tmp_path / "network.onnx", picture))
    assert len([line for line in SCRIPT.splitlines() if line]) <= 10


def test_the_book_shows_this_script() -> None:
    page = Path(__file__).resolve().parents[2] / "book" / "beyond" / "what-two-bits-buy.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]]
    assert sum(SCRIPT in cell for cell in cells) == 1


# ------------------------------------------------------------------------------------- uses and refusals


def test_the_command_line_exports_evaluates_and_upscales(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(picture).save("pictures/one.png")
    assert main(["export", "edsr_x2_ddtb_2bit", "--out", "network.onnx"]) == 0
    assert f"{(tmp_path / 'network.onnx').stat().st_size:,} bytes" in capsys.readouterr().out
    shipped = str(ddtb.checkpoints.shipped("edsr_x2_ddtb_2bit"))
    rows = []
    for words in (["network.onnx"], [shipped], [shipped, "--integer"]):
        assert main(["evaluate", *words, "--data", "pictures", "--json"]) == 0
        rows.append(json.loads(capsys.readouterr().out)["pictures"]["psnr"])
        assert main(["upscale", *words, "pictures/one.png", "--out", "large.png"]) == 0
        assert Image.open("large.png").size == (80, 96)
        capsys.readouterr()
    assert rows[0] == pytest.approx(rows[1], abs=0.5) and rows[2] == pytest.approx(rows[1], abs=0.5)
    for words, given in (
        (["evaluate", "network.onnx", "--integer"], "--integer"),
        (["evaluate", "bicubic", "--scale", "2", "--integer"], "--integer"),
        (["upscale", "other.onnx", "pictures/one.png", "--out", "x.png"], "other.onnx"),
        (["export", "edsr_x2", "--out", "network.pt"], ".onnx"),
        (["export", "edsr_x2", "--out", "x.onnx", "--opset", "9"], "opset is 9"),
    ):
        assert main(words) == 1
        assert given in capsys.readouterr().err


def test_large_pictures_are_not_cut(tmp_path: Path) -> None:
    file = exported(student("edsr", "ddtb", 2), tmp_path)
    picture = np.random.default_rng(1).integers(0, 256, (30, 26, 3), dtype=np.uint8)
    assert np.array_equal(ddtb.upscale(file, picture, tile=8), ddtb.upscale(file, picture))


@pytest.mark.parametrize("opset", [17, 99, 21.0, True])
def test_unknown_opsets(opset: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"opset is {opset}"):
        ddtb.export(small(), tmp_path / "x.onnx", opset=opset)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_opset_that_the_runtime_does_not_know(tmp_path: Path) -> None:
    ddtb.export(small(), tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    model.opset_import[0].version = 99
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="older opset"):
        OnnxNetwork(tmp_path / "new.onnx")


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    ddtb.export(small(), tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    del model.metadata_props[:]
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "damaged.onnx").write_bytes((tmp_path / "x.onnx").read_bytes()[:500])
    (tmp_path / "empty.onnx").write_bytes(b"")
    onnx.helper.set_model_props(model, {"ddtb_lite": "{}"})
    (tmp_path / "silent.onnx").write_bytes(model.SerializeToString())
    for name, message in (
        ("foreign", "export"),
        ("damaged", "cannot run"),
        ("empty", "cannot run|made by"),
        ("silent", "damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            OnnxNetwork(tmp_path / f"{name}.onnx")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ddtb.upscale(tmp_path / "nowhere.onnx", np.zeros((8, 8, 3), np.uint8))


def test_without_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ddtb.export(small(), tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match=r"pip install .*\[onnx\]"):
        OnnxNetwork(tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RuntimeError, match=r"pip install .*\[onnx\]"):
        ddtb.export(small(), tmp_path / "y.onnx")


def test_what_has_no_integers_is_not_exported(tmp_path: Path) -> None:
    for network in (
        ddtb.quantize(small(), bits=2),  # no bounds yet
        student("edsr", "ddtb", 2, variant="official"),
        student("edsr", "reactnet", 1),
    ):
        with pytest.raises(ValueError, match="integers|bounds"):
            ddtb.export(network, tmp_path / "x.onnx")


class Doubled(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.network(x))


def test_an_operation_without_a_translation_is_named(tmp_path: Path) -> None:
    network = small()
    network.body_output = Doubled(network.body_output)  # type: ignore[assignment]
    with pytest.raises(NotImplementedError, match="tanh"):
        ddtb.export(network, tmp_path / "x.onnx")
