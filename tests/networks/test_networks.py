"""The full-precision networks: sizes, names, forward passes, and where they can be quantized."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddtb_lite.conversion import QuantizedConv2d, quantize, set_phase
from ddtb_lite.initializer import initialize
from ddtb_lite.networks import NETWORKS, Discriminator, SuperResolutionNetwork, build
from ddtb_lite.networks.rdn import Concatenation
from ddtb_lite.quantizers import ActivationQuantizer

SMALL = {
    "edsr": {"n_blocks": 2, "n_feats": 8},
    "rdn": {"D": 2, "C": 3, "G": 8},
    "srresnet": {"n_blocks": 2, "n_feats": 8},
    "srgan": {"n_blocks": 2, "n_feats": 8},
}


def small(name: str, scale: int) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    return build(name, scale, **SMALL[name])


def full_size(name: str, scale: int) -> SuperResolutionNetwork:
    with torch.device("meta"):
        return build(name, scale)


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("name", "scale", "count"),
    [
        ("edsr", 2, 1_369_859),
        ("edsr", 3, 1_369_859 - 64 * 256 * 9 - 256 + 64 * 576 * 9 + 576),
        ("edsr", 4, 1_517_571),
        ("rdn", 2, 22_123_395),
        ("rdn", 3, 22_123_395 - 64 * 256 * 9 - 256 + 64 * 576 * 9 + 576),
        ("rdn", 4, 22_271_107),
        ("srresnet", 2, 1_395_072),
        ("srresnet", 3, 1_395_072 - 64 * 256 * 9 + 64 * 576 * 9),
        ("srresnet", 4, 1_542_528),
        ("srgan", 4, 1_542_528),
    ],
)
def test_convolution_parameters(name: str, scale: int, count: int) -> None:
    network = full_size(name, scale)
    assert sum(p.numel() for conv in convolutions(network).values() for p in conv.parameters()) == count
    if name in ("edsr", "rdn"):
        assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("name", "count"), [("edsr", 1_179_648), ("rdn", 21_925_888), ("srresnet", 1_179_648)])
def test_quantized_weights(name: str, count: int) -> None:
    network = full_size(name, 4)
    for variant in ("paper", "official"):
        weights = network.quantization_points(variant).weights
        assert sum(convolutions(network)[path].weight.numel() for path in weights) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_depth_and_width_are_read_off_a_state_dict(name: str) -> None:
    assert NETWORKS[name].architecture_of(small(name, 2).state_dict()) == SMALL[name] == small(name, 2).architecture
    assert NETWORKS[name].options() == full_size(name, 2).architecture


def test_a_new_network_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(NETWORKS["edsr"]):
        name = "wide"
        gate_ratio, percentile = 0.5, 98

        def __init__(self, scale: int, n_blocks: int = 2, n_feats: int = 12, n_more: int = 1) -> None:
            super().__init__(scale, n_blocks, n_feats + n_more)
            self.architecture = {"n_blocks": n_blocks, "n_feats": n_feats, "n_more": n_more}

    monkeypatch.setitem(NETWORKS, "wide", Wide)
    network = build("wide", 2, n_more=4)
    assert network(torch.zeros(1, 3, 5, 5)).shape == (1, 3, 10, 10)
    with pytest.raises(ValueError, match="wide has no option 'D'; it takes n_blocks, n_feats, n_more"):
        build("wide", 2, D=4)
    how = quantize(network, "ddtb", 2).quantization
    assert how is not None and (how.gate_ratio, how.percentile) == (0.5, 98)


# ------------------------------------------------------------------------------------------------ names


def both(*names: str) -> set[str]:
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


@pytest.mark.parametrize(("scale", "tail"), [(2, ["0"]), (3, ["0"]), (4, ["0", "2"])])
def test_edsrs_names_are_those_of_edsr_pytorch(scale: int, tail: list[str]) -> None:
    expected = both("head.0", "body.16", "tail.1", *[f"tail.0.{index}" for index in tail])
    for block in range(16):
        expected |= both(f"body.{block}.body.0", f"body.{block}.body.2")
    assert set(full_size("edsr", scale).state_dict()) == expected


@pytest.mark.parametrize(("scale", "tail"), [(2, ["0", "2"]), (3, ["0", "2"]), (4, ["0", "2", "4"])])
def test_rdns_names_are_those_of_edsr_pytorch(scale: int, tail: list[str]) -> None:
    expected = both("SFENet1", "SFENet2", "GFF.0", "GFF.1", *[f"UPNet.{index}" for index in tail])
    for block in range(16):
        expected |= both(f"RDBs.{block}.LFF", *[f"RDBs.{block}.convs.{index}.conv.0" for index in range(8)])
    assert set(full_size("rdn", scale).state_dict()) == expected


@pytest.mark.parametrize("name", ["srresnet", "srgan"])
def test_srresnets_names(name: str) -> None:
    names = set(full_size(name, 4).state_dict())
    expected = {
        "conv_input.weight",
        "relu.weight",
        "conv_mid.weight",
        "bn_mid.running_var",
        "conv_output.weight",
    }
    for block in range(16):
        for part in (
            "conv1.weight",
            "in1.weight",
            "in1.running_mean",
            "relu.weight",
            "conv2.weight",
            "in2.bias",
        ):
            expected.add(f"residual.{block}.{part}")
    assert expected <= names
    assert not [name for name in names if "conv" in name and name.endswith("bias")]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_published_edsr_checkpoints_with_mean_shift_load(scale: int) -> None:
    network = small("edsr", scale)
    published = {name: torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
    mean = 255 * torch.tensor([0.4488, 0.4371, 0.4040])
    for shift, bias in (("sub_mean", -mean), ("add_mean", mean)):
        published |= {f"{shift}.weight": torch.eye(3).view(3, 3, 1, 1), f"{shift}.bias": bias}
    names = set(published)
    network.load_state_dict(published)
    assert set(published) == names  # the caller's dictionary stays as it is
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, published[name])
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict({**published, "other.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({name: value for name, value in published.items() if name != "head.0.bias"})


@pytest.mark.parametrize("change", [{"sub_mean.bias": torch.zeros(3)}, {"add_mean.weight": 2 * torch.eye(3)}])
def test_another_mean_shift_is_refused(change: dict[str, Tensor]) -> None:
    """A network that was trained on values of 0…1, say, would give other images in silence."""
    network = small("edsr", 2)
    with pytest.raises(RuntimeError, match="_mean is not DIV2K's mean color in 0…255, the only one that is supported"):
        network.load_state_dict(network.state_dict() | change)


# --------------------------------------------------------------------------------------------- forward


def reference_upsampler(x: Tensor, scale: int, parameters: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    for weight, bias in parameters:
        x = F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 2 if scale == 4 else scale)
    return x


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsrs_forward_pass(scale: int) -> None:
    network = small("edsr", scale).double()
    w = network.state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    x = 255 * torch.rand(2, 3, 6, 9, dtype=torch.float64)
    mean = (255 * torch.tensor([0.4488, 0.4371, 0.4040])).double().view(1, 3, 1, 1)  # kept in float32
    shallow = deep = conv(x - mean, "head.0")
    for block in range(2):
        deep = deep + conv(conv(deep, f"body.{block}.body.0").relu(), f"body.{block}.body.2")
    features = conv(deep, "body.2") + shallow
    layers = [f"tail.0.{2 * index}" for index in range(2 if scale == 4 else 1)]
    upsampled = reference_upsampler(features, scale, [(w[f"{n}.weight"], w[f"{n}.bias"]) for n in layers])
    torch.testing.assert_close(network.features(x), features)
    torch.testing.assert_close(network(x), conv(upsampled, "tail.1") + mean)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_rdns_forward_pass(scale: int) -> None:
    network = small("rdn", scale).double()
    w = network.state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    x = 255 * torch.rand(2, 3, 6, 9, dtype=torch.float64)
    shallow = conv(x, "SFENet1")
    block_outputs = [conv(shallow, "SFENet2")]
    for block in range(2):
        dense = block_outputs[-1]
        for index in range(3):
            dense = torch.cat([dense, conv(dense, f"RDBs.{block}.convs.{index}.conv.0").relu()], 1)
        block_outputs.append(block_outputs[-1] + conv(dense, f"RDBs.{block}.LFF"))
    features = conv(conv(torch.cat(block_outputs[1:], 1), "GFF.0"), "GFF.1") + shallow
    layers = [f"UPNet.{2 * index}" for index in range(2 if scale == 4 else 1)]
    upsampled = reference_upsampler(features, scale, [(w[f"{n}.weight"], w[f"{n}.bias"]) for n in layers])
    torch.testing.assert_close(network.features(x), features)
    torch.testing.assert_close(network(x), conv(upsampled, f"UPNet.{2 * len(layers)}"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("older", [False, True], ids=["-1…1", "0…255"])
def test_srresnets_forward_pass(scale: int, training: bool, older: bool) -> None:
    network = small("srresnet", scale).double()
    if older:
        network.load_state_dict(without_pixel_range(network))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.weight)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight)
    network.train(training)
    w = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def conv(x: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        if training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        shape = (1, -1, 1, 1)
        scaled = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)

    def prelu(x: Tensor, name: str) -> Tensor:
        return torch.where(x > 0, x, w[f"{name}.weight"] * x)

    x = 255 * torch.rand(2, 3, 6, 9, dtype=torch.float64)
    shallow = deep = prelu(conv(x if older else x / 127.5 - 1, "conv_input"), "relu")
    for block in range(2):
        name = f"residual.{block}"
        hidden = prelu(norm(conv(deep, f"{name}.conv1"), f"{name}.in1"), f"{name}.relu")
        deep = deep + norm(conv(hidden, f"{name}.conv2"), f"{name}.in2")
    features = norm(conv(deep, "conv_mid"), "bn_mid") + shallow
    torch.testing.assert_close(network.features(x), features)
    upsampled = features
    for index in range(2 if scale == 4 else 1):
        upsampled = F.pixel_shuffle(conv(upsampled, f"upscale.{3 * index}"), 2 if scale == 4 else scale)
        upsampled = prelu(upsampled, f"upscale.{3 * index + 2}")
    output = conv(upsampled, "conv_output")
    torch.testing.assert_close(network(x), output if older else 127.5 * (output + 1))


def without_pixel_range(network: SuperResolutionNetwork) -> dict[str, Tensor]:
    """A state dict from before there was a choice."""
    return {name: value for name, value in network.state_dict().items() if name != "pixel_range"}


@pytest.mark.parametrize("name", ["srresnet", "srgan"])
def test_the_pixel_range_is_part_of_a_networks_state(name: str) -> None:
    new, older, other = small(name, 2), small(name, 2), small(name, 2)
    assert new.state_dict()["pixel_range"].tolist() == [-1, 1]
    older.load_state_dict(without_pixel_range(new))
    assert older.pixel_range.tolist() == [0, 255]
    assert older.state_dict().keys() == new.state_dict().keys() - {"pixel_range"}  # as it always was
    x = 255 * torch.rand(2, 3, 6, 9)
    with torch.no_grad():
        assert not torch.allclose(new.eval()(x), older.eval()(x), atol=1)
        for each in (new, older, new):
            other.load_state_dict(each.state_dict())
            assert torch.equal(other.eval()(x), each(x))


@pytest.mark.parametrize("stored", [[0.0, 1.0], [-1.0], [-1.0, 1.0, 0.0], [255.0, 0.0]])
def test_another_pixel_range_is_refused(stored: list[float]) -> None:
    network = small("srresnet", 2)
    with pytest.raises(RuntimeError, match=r"pixel_range is \[.*\], expected -1…1 or 0…255; update"):
        network.load_state_dict(network.state_dict() | {"pixel_range": torch.tensor(stored)})


def test_pixels_stay_fine_under_autocast() -> None:
    """bf16 has 128 numbers between 1/2 and 1: steps of half a grey level. A sum of them must not be rounded again."""
    network = small("srresnet", 2).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(255 * torch.rand(1, 3, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (3, 50), (33, 2)])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_image_size(name: str, scale: int, size: tuple[int, int]) -> None:
    network = small(name, scale).eval()
    height, width = size
    with torch.no_grad():
        image = 255 * torch.rand(3, 3, height, width)
        output = network(image)
        assert output.shape == (3, 3, scale * height, scale * width)
        torch.testing.assert_close(output, network.upsample(network.features(image)))
        torch.testing.assert_close(output[1:2], network(image[1:2]), rtol=1e-4, atol=1e-3)


# -------------------------------------------------------------------------------------- concatenation


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_concatenation_is_torch_cat_with_its_gradients(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, n, 3, 4).to(memory_format=layout).requires_grad_() for n in (3, 2, 5)]

    def loss(results: list[Tensor]) -> Tensor:
        return sum((result.sin() ** 2).sum() * (index + 1) for index, result in enumerate(results))  # type: ignore

    concatenate = Concatenation(10)
    results = [leaves[0]]
    for leaf in leaves[1:]:
        results.append(concatenate(results[-1], leaf))
    expected = [torch.cat(leaves[:count], 1) for count in (1, 2, 3)]
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert results[2].is_contiguous(memory_format=layout) and results[2].data_ptr() == results[1].data_ptr()
    gradients, right = (torch.autograd.grad(loss(each), leaves) for each in (results, expected))
    assert all(torch.equal(*pair) for pair in zip(gradients, right, strict=True))


def test_a_concatenation_rounds_nothing() -> None:
    concatenate, wide = Concatenation(5), torch.full((1, 2, 2, 2), 1 / 3)
    dense = concatenate(wide.bfloat16(), wide)
    assert torch.equal(dense, torch.cat([wide.bfloat16(), wide], 1)) and dense.dtype == torch.float32
    with pytest.raises(ValueError, match="float64 cannot be concatenated to torch.float32"):
        concatenate(dense, wide[:, :1].double())


def concatenating(block: nn.Module, x: Tensor) -> Tensor:
    """A residual dense block that copies all features at each convolution."""
    dense = x
    for convolution in block.convs:
        dense = torch.cat([dense, convolution(dense)], 1)
    return block.output(block.LFF(block.fusion_input(dense))) + block.skip(x)


def dense_network(method: str | None, fully: bool = False) -> SuperResolutionNetwork:
    """A small RDN whose gates, if it is DDTB's, are live."""
    network = small("rdn", 2)
    if method is not None:
        network = quantize(network, method, 4, gate_ratio=1.0, fully=fully)
        initialize(network, 255 * torch.rand(4, 3, 8, 8))
        set_phase(network, "live")
    return network


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("method", "fully"), [(None, False), ("ddtb", False), ("ddtb", True), ("minmax", False)])
def test_dense_blocks_equal_concatenating_ones(
    method: str | None, fully: bool, autocast: bool, layout: torch.memory_format
) -> None:
    """Outputs, statistics and gradients to the bit; those of bounds and gates come from sums in another order."""
    network = dense_network(method, fully).to(memory_format=layout)  # type: ignore[call-overload]
    x = (255 * torch.rand(3, 3, 7, 6)).to(memory_format=layout)
    copies = [network, copy.deepcopy(network)]
    for name in copies[1].block_names():
        block = copies[1].get_submodule(name)
        block.forward = partial(concatenating, block)  # type: ignore[method-assign]
    results: list[list[Tensor]] = []
    for each in copies:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            trained = each.train()(x)
            trained.float().square().mean().backward()
            with torch.inference_mode():
                results.append([trained, each.eval()(x), *(buffer.clone() for buffer in each.buffers())])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    for (name, parameter), other in zip(copies[0].named_parameters(), copies[1].parameters(), strict=True):
        if name.endswith((".upper", ".lower")) or ".gate." in name:
            limit = 1e-4 * float(other.grad.abs().max())
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=limit)
        else:
            assert torch.equal(parameter.grad, other.grad), name


def kept_for_backward(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Elements in all memory that stays allocated for the backward pass, that of `x` and the weights included."""
    pieces: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        pieces[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function(x)  # alive, so that no memory is used twice
    assert kept.requires_grad
    return sum(pieces.values())


def test_a_dense_block_keeps_each_feature_once() -> None:
    """And once more where a ReLU made it."""
    block = small("rdn", 2).RDBs[0]
    x = torch.randn(2, 8, 16, 16).requires_grad_()
    weights = sum(parameter.numel() for name, parameter in block.named_parameters() if name.endswith("weight"))
    assert kept_for_backward(block, x) - weights == (1 + 4 + 3) * x.numel()
    assert kept_for_backward(partial(concatenating, block), x) - weights == (1 + 2 + 3 + 4 + 3) * x.numel()


# --------------------------------------------------------------------------------- quantization points


@pytest.mark.parametrize(
    ("name", "variant", "count"),
    [
        ("edsr", "paper", 48),
        ("rdn", "paper", 146),
        ("srresnet", "paper", 32),
        ("srgan", "paper", 32),
        ("edsr", "official", 48),
        ("rdn", "official", 145),
        ("srresnet", "official", 32),
        ("srgan", "official", 32),
        ("edsr", "convolutions", 32),
        ("rdn", "convolutions", 146),
        ("srresnet", "convolutions", 32),
        ("srgan", "convolutions", 32),
    ],
)
def test_number_of_quantization_points(name: str, variant: str, count: int) -> None:
    network = full_size(name, 4)
    points = network.quantization_points(variant)
    assert len(points.activations) == len({point.path for point in points.activations}) == count
    assert len(points.weights) == len(set(points.weights)) == {"rdn": 16 * 9 + 2}.get(name, 32)


def test_which_points_the_variants_differ_in() -> None:
    edsr, rdn = full_size("edsr", 4), full_size("rdn", 4)
    paths = {
        (network.name, variant): {point.path for point in network.quantization_points(variant).activations}
        for network in (edsr, rdn)
        for variant in ("paper", "official")
    }
    assert paths["edsr", "paper"] - paths["edsr", "official"] == {f"body.{i}.input" for i in range(16)}
    assert paths["edsr", "official"] - paths["edsr", "paper"] == {f"body.{i}.skip" for i in range(16)}
    assert paths["rdn", "paper"] - paths["rdn", "official"] == {"fusion_inputs.1"}
    assert paths["rdn", "official"] < paths["rdn", "paper"]


def test_variant_convolutions_quantizes_what_convolutions_multiply_and_nothing_else() -> None:
    for name in NETWORKS:
        network = small(name, 2)
        student = quantize(network, "minmax", 2, variant="convolutions")
        initialize(student, [255 * torch.rand(2, 3, 8, 8)])
        quantized: list[Tensor] = []
        multiplied: list[Tensor] = []
        for module in student.modules():
            if isinstance(module, ActivationQuantizer):
                module.register_forward_hook(lambda _, __, output, seen=quantized: seen.append(output))
            elif isinstance(module, QuantizedConv2d):
                module.register_forward_hook(lambda _, given, __, seen=multiplied: seen.append(given[0]))
        student(255 * torch.rand(1, 3, 8, 8))
        assert {id(x) for x in quantized} == {id(x) for x in multiplied}, name
        # The same student where the paper's points leave the shortcut alone.
        assert (student.points == student.quantization_points("paper")) == (name != "edsr")


@pytest.mark.parametrize(
    ("variant", "fully"), [("paper", False), ("official", False), ("convolutions", False), ("paper", True)]
)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_points_describe_the_tensors_that_pass_them(name: str, scale: int, variant: str, fully: bool) -> None:
    network = small(name, scale)
    points = network.quantization_points(variant, fully)
    seen: dict[str, Tensor] = {}
    for point in points.activations:
        placeholder = network.get_submodule(point.path)
        assert type(placeholder) is nn.Identity
        placeholder.register_forward_hook(lambda _, inputs, output, path=point.path: seen.setdefault(path, inputs[0]))
    with torch.no_grad():
        network(255 * torch.rand(2, 3, 8, 8))
    for point in points.activations:
        assert seen[point.path].shape[1] == point.channels, point.path
        assert not point.nonnegative or seen[point.path].min() >= 0, point.path
    for path in points.weights:
        assert isinstance(network.get_submodule(path), nn.Conv2d)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_fully_quantized_means_every_convolution(name: str, scale: int) -> None:
    network = small(name, scale)
    points = network.quantization_points(fully=True)
    assert sorted(points.weights) == sorted(convolutions(network))
    shortcuts = [point for point in points.activations if point.skip]
    assert len(shortcuts) == len(network.block_names()) + 1  # each block's and the long one
    assert not any(point.skip for point in network.quantization_points().activations)


@pytest.mark.parametrize("name", NETWORKS)
def test_block_names_are_modules(name: str) -> None:
    network = small(name, 2)
    blocks = [network.get_submodule(path) for path in network.block_names()]
    assert len(blocks) == 2 and len({type(block) for block in blocks}) == 1


# --------------------------------------------------------------------------------------- discriminator


@pytest.mark.parametrize("patch_size", [16, 96])
def test_discriminator(patch_size: int) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(patch_size)
    logits = discriminator(255 * torch.rand(2, 3, patch_size, patch_size))
    assert logits.shape == (2,) and torch.isfinite(logits).all()
    kinds = [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convolutions(discriminator).values()]
    assert kinds == [
        *[(3, 1, 64), (4, 2, 64), (3, 1, 128), (4, 2, 128)],
        *[(3, 1, 256), (4, 2, 256), (3, 1, 512), (4, 2, 512)],
    ]


@pytest.mark.parametrize("patch_size", [0, -16, 17, 100])
def test_discriminator_refuses_other_patches(patch_size: int) -> None:
    with pytest.raises(ValueError, match="expected a positive multiple of 16"):
        Discriminator(patch_size)


# ---------------------------------------------------------------------------------------------- errors


def test_errors() -> None:
    with pytest.raises(ValueError, match="Unknown network 'esdr'; the known ones are edsr, rdn"):
        build("esdr", 4)
    for scale in (0, 1, 5, 8, 2.5, None):
        with pytest.raises(ValueError, match="expected 2, 3 or 4"):
            build("edsr", scale)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="edsr has no option 'blocks'; it takes n_blocks, n_feats"):
        build("edsr", 4, blocks=3)
    with pytest.raises(ValueError, match="rdn has no option 'n_blocks'; it takes C, D, G"):
        build("rdn", 4, n_blocks=3)
    with pytest.raises(ValueError, match="variant is 'papers', expected one of paper, official"):
        small("edsr", 4).quantization_points("papers")


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True])
def test_sizes_are_positive_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="n_blocks is .*expected a positive whole number"):
        build("edsr", 4, n_blocks=value)  # type: ignore[arg-type]
