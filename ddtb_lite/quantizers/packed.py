"""What stands for a weight quantizer in a student whose weights were loaded packed."""

from __future__ import annotations

from torch import Tensor, nn

from .base import WeightQuantizer


class PackedWeight(WeightQuantizer):
    """Stands where a loaded student's weight quantizer was: the weight is quantized and passes as it is."""

    lowest_bits = 1

    def quantize(self, weight: Tensor) -> Tensor:
        return weight


def is_packed(network: nn.Module) -> bool:
    """Whether the network was loaded with packed weights, so that it can be run but not trained."""
    return any(isinstance(module, PackedWeight) for module in network.modules())
