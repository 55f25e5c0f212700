"""An SRResNet that computes what an EDSR does: a start from which a few hundred steps suffice."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from .edsr import EDSR
from .srresnet import SRResNet

Kind = TypeVar("Kind", bound=nn.Module)


@torch.no_grad()
def imitate(network: SRResNet, edsr: EDSR, images: Tensor) -> None:
    """Give `network` weights with which, in eval mode, it enlarges as `edsr` does.

    SRResNet has all that EDSR has. A 9×9 convolution holds a 3×3 one; a PReLU of slope 0 is a ReLU, and one of slope 1
    changes nothing; nor does batch norm that multiplies by the deviation it divides by. Only biases are missing: what
    they add is left out of the features until a batch norm can add it. Where zeros pad an image that is not the same,
    so pixels near a border differ; and so do colors, if there are fewer than 3·scale² features to hold the biases of
    EDSR's upsampler. `images` (N×3×H×W, 0…255) are what batch norm takes means and deviations from.
    Raises `ValueError` if scale, depth or width differ.
    """
    if (network.scale, network.architecture) != (edsr.scale, edsr.architecture):
        raise ValueError(
            f"SRResNet ×{network.scale} of {network.architecture} starts from an EDSR of the same scale, depth and "
            f"width, not from ×{edsr.scale} of {edsr.architecture}."
        )
    convolutions = _all(nn.Conv2d, edsr)
    for ours, theirs in zip(_all(nn.Conv2d, network), convolutions, strict=True):
        border = (ours.kernel_size[0] - theirs.kernel_size[0]) // 2
        ours.weight.copy_(nn.functional.pad(theirs.weight, 4 * [border]))
    for name, module in network.named_modules():
        if isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, 0 if name.startswith("residual.") else 1)

    # EDSR's features are `contrast` times ours, once what is `missing` from these has been added.
    darkest, brightest = network.pixel_range.tolist()
    contrast = 255 / (brightest - darkest)
    missing = _answer(convolutions[0], -contrast * darkest - edsr.mean.flatten()) / contrast
    hooks = []
    # Those of the body: the first of each block and the one behind the blocks read features, every other a ReLU.
    for index, norm in enumerate(norms := _all(nn.BatchNorm2d, network)):
        added = _answer(convolutions[1 + index], contrast * missing * (index % 2 == 0)) / contrast
        if norm is norms[-1]:
            added = added + missing + _brightening(edsr, contrast, darkest)
        hooks.append(norm.register_forward_pre_hook(partial(_pass_on, added)))
    training = network.training
    network.eval()(images)
    network.train(training)
    for hook in hooks:
        hook.remove()


def _all(kind: type[Kind], network: nn.Module) -> list[Kind]:
    return [module for module in network.modules() if isinstance(module, kind)]


def _answer(convolution: nn.Conv2d, color: Tensor) -> Tensor:
    """What a convolution makes of an endless area of one color."""
    assert convolution.bias is not None
    return convolution.weight.sum((2, 3)) @ color + convolution.bias


def _pass_on(added: Tensor, norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
    """Make batch norm take mean and deviation from this input, and only add to it."""
    variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean + added)


def _brightening(edsr: EDSR, contrast: float, darkest: float) -> Tensor:
    """What to add to the features in place of the biases of EDSR's upsampler, which is linear."""
    features = edsr.architecture["n_feats"]
    inner = slice(2 * edsr.scale, 3 * edsr.scale)  # of five pixels the third, which no border reaches

    def enlarged(colors: Tensor) -> Tensor:
        areas = colors[:, :, None, None].expand(-1, -1, 5, 5)
        return edsr.upsample(areas)[:, :, inner, inner].flatten(1)

    dark = enlarged(edsr.mean.new_zeros(1, features))
    effects = enlarged(contrast * torch.eye(features).to(dark)) - dark
    # With more features than colors that one of them becomes there are many answers: the smallest.
    return torch.linalg.lstsq(effects.T, (dark + contrast * darkest).T, driver="gelsd").solution.flatten()
