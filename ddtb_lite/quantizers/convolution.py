"""The convolution of a student: its weight passes a quantizer."""

from __future__ import annotations

from torch import Tensor, nn

from .base import WeightQuantizer


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weight passes a quantizer in each forward pass; the bias stays in full precision."""

    weight_quantizer: WeightQuantizer

    @classmethod
    def from_float(cls, convolution: nn.Conv2d, weight_quantizer: WeightQuantizer) -> QuantizedConv2d:
        """A quantized convolution that computes what `convolution` does, with the same parameters.

        Raises `ValueError` for a subclass with arithmetic of its own, such as a convolution that is quantized already.
        """
        if type(convolution) is not nn.Conv2d:
            raise ValueError(f"The convolution is a {type(convolution).__name__}, expected a plain nn.Conv2d.")
        quantized = cls(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            padding_mode=convolution.padding_mode,
            device="meta",  # no memory and no random numbers for weights that are replaced at once
        )
        quantized.weight, quantized.bias = convolution.weight, convolution.bias
        quantized.weight_quantizer = weight_quantizer
        weight_quantizer.initialize(convolution.weight.detach())
        return quantized

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight_quantizer(self.weight), self.bias)
