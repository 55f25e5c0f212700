"""Looking inside a network: what the book draws, and what an error message names. Data only, no drawing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .conversion import activation_quantizers
from .networks import QuantizationPoints, SuperResolutionNetwork
from .quantizers import DualBound
from .support.hooks import eval_mode, inputs_watched, outputs_watched


def quantizer_inputs(
    network: SuperResolutionNetwork,
    batch: Tensor,
    reduce: Callable[[Tensor], Tensor] = Tensor.clone,
    points: QuantizationPoints | None = None,
) -> dict[str, Tensor]:
    """What arrives at each quantization point, by path, for a batch N×3×H×W of values 0…255.

    `network` is quantized or in full precision; in the latter case the points are those of variant "paper", or
    `points`, such as a student's. `reduce` says what to keep of each activation N×C×H×W, by default all of it.
    """
    seen: dict[str, Tensor] = {}

    def keep(path: str, x: Tensor) -> None:
        seen[path] = reduce(x)

    places = {point.path: network.get_submodule(point.path) for point in (points or network.points).activations}
    with torch.no_grad(), eval_mode(network), inputs_watched(places, keep):
        network(batch.to(network.device))
    return seen


def activation_ranges(network: SuperResolutionNetwork, batch: Tensor) -> dict[str, Tensor]:
    """(minimum, maximum) of each image's activation at each quantization point: N×2 by path."""

    def extremes(x: Tensor) -> Tensor:
        return torch.stack([x.flatten(1).amin(1), x.flatten(1).amax(1)], dim=1)

    return quantizer_inputs(network, batch, extremes)


def quantization_errors(
    student: SuperResolutionNetwork, activations: dict[str, Tensor], relative: bool = True
) -> dict[str, float]:
    """Mean squared error of each activation quantizer on given activations, by path.

    With the activations of the full-precision network (`quantizer_inputs(teacher, batch)`) different methods are
    compared on the same data. `relative` divides by the activation's variance: 1 is as good as its mean. What is met
    exactly has error 0, also where nothing but one value arrives.
    """
    errors = {}
    with torch.no_grad(), eval_mode(student):
        for path, quantizer in activation_quantizers(student).items():
            x = activations[path]
            error = (quantizer(x) - x).double().pow(2).mean()
            if relative and error != 0:
                error = error / x.double().var(correction=0)
            errors[path] = error.item()
    return errors


def gate_outputs(student: SuperResolutionNetwork, batch: Tensor) -> dict[str, Tensor]:
    """(β_lower, β_upper) of each gate for each image: N×2 by path; no gates, no entries.

    A gate answers as it would if it were live, also where it is bypassed so far.
    """
    outputs = {}
    quantizers = activation_quantizers(student)
    with torch.no_grad(), eval_mode(student):
        inputs = quantizer_inputs(student, batch)
        for path, quantizer in quantizers.items():
            if isinstance(quantizer, DualBound) and quantizer.gate is not None:
                beta_upper, beta_lower = quantizer.gate(inputs[path])
                outputs[path] = torch.stack([beta_lower, beta_upper], dim=1)
    return outputs


def bounds(student: SuperResolutionNetwork) -> dict[str, tuple[float, float]]:
    """(lower, upper) of each of DDTB's quantizers by path, the gate's factors left out."""
    return {
        path: (quantizer.lower.item(), quantizer.upper.item())
        for path, quantizer in activation_quantizers(student).items()
        if isinstance(quantizer, DualBound)
    }


def explain_divergence(network: SuperResolutionNetwork, step: int, batch: Tensor) -> str:
    """One sentence that names what is not finite: parameters, the first layer that turns `batch` bad, gradients, and
    bounds that met.

    `batch` holds images N×3×H×W, 0…255.
    """
    broken = [name for name, parameter in network.named_parameters() if not torch.isfinite(parameter).all()]
    faults = [f"{name} is not finite" for name in broken]
    if not broken and (layer := _first_not_finite(network, batch)):
        faults.append(f"the output of {layer} is not finite")
    if not faults:
        faults = [f"the gradient of {name} is not finite" for name in _gradients_not_finite(network)]
    if network.quantization is not None:
        faults += [
            f"the bounds of {path} have met ({lower:.3g} to {upper:.3g})"
            for path, (lower, upper) in bounds(network).items()
            if upper <= lower
        ]
    shown = "; ".join(faults[:8]) or "a batch gave values too large to add up, but no parameter is broken yet"
    more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
    return (
        f"The loss or its gradient is not finite at step {step}: {shown}{more}. "
        "Start again in another folder, with a lower learning rate or another seed."
    )


def _gradients_not_finite(network: SuperResolutionNetwork) -> list[str]:
    """The parameters whose gradient in the last step held NaN or infinity."""
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    return [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]


def _first_not_finite(network: SuperResolutionNetwork, batch: Tensor) -> str | None:
    """The path of the first module whose output for `batch` holds NaN or infinity, None if there is none."""
    found: list[str] = []

    def look(path: str, _input: Tensor, output: object) -> None:
        tensors = [each for each in (output if isinstance(output, tuple) else (output,)) if isinstance(each, Tensor)]
        if not found and not all(torch.isfinite(tensor).all() for tensor in tensors):
            found.append(path)

    parts = {path: module for path, module in network.named_modules() if path}
    with torch.no_grad(), eval_mode(network), outputs_watched(parts, look):
        network(batch.to(network.device))
    return found[0] if found else None
