"""A student that computes on whole numbers, as its quantizers say it could."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..conversion import QuantizedConv2d, activation_quantizers, quantized_convolutions, require_quantization
from ..cost import FULL_BITS, convolutions
from ..networks import SuperResolutionNetwork
from ..quantizers import ActivationQuantizer, DualBound
from .codes import Codes, encode
from .convolution import EXACT_IN_FLOAT32, Shape, exact_sums, fast_convolution, fast_path_fits, prepared
from .grids import Grid, activation_grid, weight_codes

_CHANNELS = "its channels have levels of their own, and numbers with different steps cannot be added up"
# Methods that do not come down to one whole number a value, and why.
WITHOUT_INTEGERS = {"reactnet": _CHANNELS, "daq": _CHANNELS}


# The fields of a grid that lie where the network lies.
NUMBERS = ("shift", "inverse_step", "lowest", "highest", "zero", "step", "offset")


class IntegerActivation(nn.Module):
    """Real values N×C×H×W in, `Codes` out: the codes of the quantizer that it stands for.

    Without a gate the grid is fixed, and these are its numbers. With one the quantizer is still there, and its gate
    gives each image a grid of its own.
    """

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.bits = quantizer.bits
        self.quantizer = quantizer if getattr(quantizer, "gate", None) is not None else None
        released = isinstance(quantizer, DualBound) and quantizer.variant == "official"  # one level more
        levels = 2**self.bits - (not released)
        self.stride = 1
        if self.quantizer is None:
            grid = activation_grid(quantizer, torch.empty(0))
            self.stride = grid.stride
            for name in NUMBERS:
                self.register_buffer(name, getattr(grid, name))
        self.largest = levels * self.stride

    def grid(self, x: Tensor) -> Grid:
        """The grid for the activation `x`."""
        if self.quantizer is not None:
            return activation_grid(self.quantizer, x)
        return Grid(stride=self.stride, **{name: getattr(self, name) for name in NUMBERS})

    def forward(self, x: Tensor) -> Codes:
        return encode(x, self.grid(x), self.largest)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class IntegerConv2d(nn.Module):
    """A convolution of whole numbers: `codes` (int8, out×in×h×w) times `step` is the quantized weight.

    Given `Codes`, it adds up products of integers and then multiplies once, by both steps, and adds the bias. The
    first convolution of a fully quantized network is given the picture itself, real numbers, and multiplies those. With
    `exact` set it never takes the fast path.
    """

    codes: Tensor
    step: Tensor
    exact: bool = False

    def __init__(self, convolution: QuantizedConv2d) -> None:
        super().__init__()
        weight_bits = convolution.weight_quantizer.bits
        codes, step = weight_codes(convolution.weight_quantizer.quantize(convolution.weight.detach()), weight_bits)
        self.bits = weight_bits
        self.in_channels, self.out_channels = convolution.in_channels, convolution.out_channels
        self.kernel_size, self.stride = convolution.kernel_size, convolution.stride
        self.padding = tuple(int(each) for each in convolution.padding)
        self.register_buffer("codes", codes)
        self.register_buffer("step", torch.tensor(step, dtype=convolution.weight.dtype, device=codes.device))
        self.bias = convolution.bias
        self._prepared: Tensor | None = None

    @property
    def shape(self) -> Shape:
        return Shape(self.stride, self.padding)

    def forward(self, x: Codes | Tensor) -> Tensor:
        if not isinstance(x, Codes):
            return F.conv2d(x, self.codes * self.step, self.bias, self.stride, self.padding)
        if not self.exact and x.values.dtype == torch.uint8 and fast_path_fits(self.codes, x.values.device):
            result = self._fast(x)
        else:
            scaled = exact_sums(x.integers(), self.codes, self.shape).mul_(x.step.double() * self.step.double())
            result = scaled.to(x.step.dtype)
            result = result if self.bias is None else result + self.bias.view(-1, 1, 1)
        return result if x.offset is None else result + self._weights_on(x) * (self.step * x.offset)

    def _weights_on(self, x: Codes) -> Tensor:
        """For every output the sum of the weights that lie on the picture: at its border some lie on the padding."""
        ones = torch.ones_like(x.values[:1, :1])
        return exact_sums(ones, self.codes.sum(1, keepdim=True), self.shape).to(self.step.dtype)

    def _fast(self, x: Codes) -> Tensor:
        weight = self._layout()
        zeros = x.zero.flatten().tolist()
        scales = (x.step.double() * self.step.double()).flatten().tolist()
        if len(zeros) == 1:
            return fast_convolution(x.values, int(zeros[0]), weight, self.shape, scales[0], self.bias)
        images = zip(x.values.split(1), zeros, scales, strict=True)
        return torch.cat([fast_convolution(each, int(z), weight, self.shape, s, self.bias) for each, z, s in images])

    def sums(self, x: Codes, path: str = "exact") -> Tensor:
        """The integer sums alone, int32: what the convolution adds up before it multiplies by the steps.

        `path` is "exact", or "fast" for the sums as oneDNN makes them. Raises `ValueError` if there is no fast path
        here, or if float32, in which it returns its sums, could not hold them.
        """
        if path == "exact":
            return exact_sums(x.integers(), self.codes, self.shape).to(torch.int32)
        largest = int((x.values.to(torch.int32) - x.zero.to(torch.int32)).abs().max())
        most = largest * int(self.codes.to(torch.int32).abs().sum((1, 2, 3)).max())
        fits = x.values.dtype == torch.uint8 and most < EXACT_IN_FLOAT32 and x.zero.numel() == 1
        if not (fits and fast_path_fits(self.codes, x.values.device)):
            raise ValueError("There is no fast path for these sums on this machine: use path='exact'.")
        return fast_convolution(x.values, int(x.zero), self._layout(), self.shape).to(torch.int32)

    def _layout(self) -> Tensor:
        if self._prepared is None:
            self._prepared = prepared(self.codes, self.shape)
        return self._prepared

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}  # oneDNN's layouts cannot be copied

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, bits={self.bits}"


def to_integer(student: SuperResolutionNetwork) -> SuperResolutionNetwork:
    """The same network on integers, in eval mode: quantizers yield codes and quantized convolutions add up integers.

    What the student keeps in full precision stays so, and so do the sums of residual and shortcut: their operands are
    codes with steps of their own, which meet as real values. On x86 CPUs the convolutions take oneDNN's path for bytes,
    elsewhere an exact one that is not fast. `evaluate` and `upscale` take the result; under `torch.autocast` head and
    upsampler run in bf16 while the integers stay what they are. It cannot be trained or saved: the student can.

    A fully quantized student needs a few words more. Its shortcuts are quantizers of 8 bits that feed no convolution: a
    code of 8 bits is what would be kept in memory, and the sum takes its real value. Its first convolution reads the
    picture, 8 bits a color less a mean, and multiplies these real numbers by its whole numbers.

    Raises `ValueError` for a full-precision network, for a student without bounds or with bounds that are not finite,
    for methods without one grid of whole numbers (ReActNet, DAQ), for variant "official" of EDSR and RDN, where
    some convolutions multiply activations in full precision, and for weights that no signed byte holds.
    """
    quantization = require_quantization(student)
    if student.phase == "new":
        raise ValueError(
            "This quantized network has no bounds yet: call ddtb_lite.initialize(student, batches), or train it."
        )
    if quantization.method in WITHOUT_INTEGERS:
        reason = WITHOUT_INTEGERS[quantization.method]
        raise ValueError(f"A student of {quantization.method} cannot run on integers: {reason}. Run it as it is.")
    small = (4 * student.scale, 4 * student.scale)
    for path, layer in convolutions(student, small).items():
        if layer.weight_bits < FULL_BITS and layer.activation_bits == FULL_BITS:
            raise ValueError(
                f"{path} multiplies quantized weights by activations in full precision, as variant "
                f"{quantization.variant!r} of {student.name} has it, so it is no convolution of integers. Quantize "
                'with variant="paper" or "convolutions".'
            )
    for name, value in student.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} is not finite: the training has diverged, or the file is damaged.")
    with torch.no_grad():
        fast = copy.deepcopy(student).eval().requires_grad_(False)
        for path, quantizer in activation_quantizers(fast).items():
            fast.set_submodule(path, IntegerActivation(quantizer))
        for path, convolution in quantized_convolutions(fast).items():
            try:
                fast.set_submodule(path, IntegerConv2d(convolution))
            except ValueError as error:
                raise ValueError(f"{path} cannot become a convolution of integers: {error}.") from error
    return fast


def integer_convolutions(network: SuperResolutionNetwork) -> dict[str, IntegerConv2d]:
    """The convolutions of integers by path, in the order of the quantization points; `ValueError` if there are none."""
    modules = {path: network.get_submodule(path) for path in network.points.weights}
    found = {path: module for path, module in modules.items() if isinstance(module, IntegerConv2d)}
    if not found:
        raise ValueError("This network does not run on integers: call ddtb_lite.to_integer(student) first.")
    return found
