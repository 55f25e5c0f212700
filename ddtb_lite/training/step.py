"""What happens on the device in one training step: patches, losses, gradients, new weights."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from ..quantizers import ActivationQuantizer
from ..support import distributed
from .adversarial import Adversary
from .cuda_graph import StepGraph, recorder_for
from .losses import Objective, agreeing
from .optimizer import LossScale, moments, restore_moments
from .patches import PatchSampler


class TrainingStep:
    """Draws a batch, and moves the parameters of `objective.network` against the gradient with Adam.

    Nothing in it waits for the device, and on a GPU it is recorded as a CUDA graph. `adversary`, if there is one,
    takes its own step after the network's.
    """

    def __init__(self, objective: Objective, sampler: PatchSampler, batch_size: int, device: torch.device) -> None:
        self.objective, self.sampler, self.batch_size, self.device = objective, sampler, batch_size, device
        self.batch: tuple[Tensor, Tensor] | None = None
        self.loss_scale = LossScale(device) if objective.dtype == torch.float16 else None
        # Processes talk to each other within a step, which has not been recorded anywhere yet.
        self.graph = StepGraph(recorder_for(device) if distributed.world_size() == 1 else None)

    @property
    def adversary(self) -> Adversary | None:
        return self.objective.adversary

    def reset_optimizer(self) -> None:
        """A new optimizer, without memory of earlier gradients."""
        network = self.objective.network
        own = activation_bounds(network)
        known = set(own)
        weights = [parameter for parameter in network.parameters() if parameter not in known]
        on_gpu = self.device.type == "cuda"
        groups: list[dict] = [{"params": weights}, {"params": own}]
        for group in groups:
            # A graph reads its learning rate from a tensor.
            group["lr"] = torch.zeros((), device=self.device) if on_gpu else 0.0
        # Fused, because only such an optimizer can skip a step while the host does not wait.
        self.optimizer = torch.optim.Adam(groups, fused=True, capturable=on_gpu)
        self.parallelize()

    def parallelize(self) -> None:
        """Let processes share the objective; due again whenever other parameters get gradients."""
        self.parallel_objective = distributed.parallel(self.objective, self.objective.idle_parameters())

    def __call__(self, rates: tuple[float, float], situation: Hashable) -> dict[str, Tensor]:
        """One step at learning rates (weights, bounds); returns the losses.

        The next call overwrites them. Beside them is "discarded": 1 if the loss or a
        gradient was not finite and the network has not moved, else 0. `situation` names
        what else decides how the step is computed, such as the bit-width.
        """
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        batch = self.sampler.sample(self.batch_size)
        low, high = (distributed.own_part(patches) for patches in batch)
        if self.batch is None or self.device.type == "cpu":
            self.batch = low, high
        else:  # a graph reads its patches from the same place each time
            self.batch[0].copy_(low)
            self.batch[1].copy_(high)
        return self.graph(self._step, (situation, self.optimizer))

    def _step(self) -> dict[str, Tensor]:
        assert self.batch is not None
        losses = self.parallel_objective(*self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(losses)
        values = distributed.mean(torch.stack(list(losses.values())).detach())
        finite = self._is_finite(values[0])
        self._update(finite)
        means = dict(zip(losses, values, strict=True))
        means["discarded"] = (~finite).float()
        if self.adversary is not None:
            means["discriminator"] = self.adversary.update(self.objective.sr, self.batch[1])
        return means

    def _backward(self, losses: dict[str, Tensor]) -> None:
        """Gradients of the loss, and of a mismatch as far as the two agree, for each parameter tensor.

        ODM's loss is L1 alone; here it is all that the recipe sums up, for this method as for any. With a loss scale
        gradients pass through float16 enlarged, and are made small again.
        """
        factor = 1 if self.loss_scale is None else self.loss_scale.factor
        mismatch = self._mismatch_gradients(losses["mismatch"], factor) if "mismatch" in losses else {}
        (losses["loss"] * factor).backward()
        if self.loss_scale is not None:
            torch._foreach_div_(self._gradients(), factor)
        for parameter, gradient in mismatch.items():
            if parameter.grad is not None:
                parameter.grad.add_(agreeing(parameter.grad, gradient), alpha=self.objective.mismatch_weight)

    def _mismatch_gradients(self, mismatch: Tensor, factor: Tensor | int) -> dict[nn.Parameter, Tensor]:
        parameters = [parameter for parameter in self.objective.network.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(mismatch * factor, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        return {parameter: distributed.mean(each) / factor for parameter, each in pairs if each is not None}

    def _gradients(self) -> list[Tensor]:
        return [each.grad for each in self.objective.network.parameters() if each.grad is not None]

    def _is_finite(self, loss: Tensor) -> Tensor:
        """Whether the loss and all gradients are finite, a 0-d boolean tensor."""
        return torch.isfinite(torch.stack(torch._foreach_norm([loss, *self._gradients()])).sum())

    def _update(self, finite: Tensor) -> None:
        """Move the parameters, or leave them and Adam's memory as they are if the step was not `finite`."""
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(finite)

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, the network apart, by dotted name."""
        tensors = {"sampler": self.sampler.state()}
        parts = {"optimizer": moments(self.optimizer)}
        if self.adversary is not None:
            parts["adversary"] = self.adversary.state()
        if self.loss_scale is not None:
            parts["loss_scale"] = self.loss_scale.state()
        return tensors | {f"{kind}.{name}": value for kind, part in parts.items() for name, value in part.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.reset_optimizer()
        self.sampler.set_state(state["sampler"])
        parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "adversary": {}, "loss_scale": {}}
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            if rest:
                parts[kind][rest] = value
        restore_moments(self.optimizer, parts["optimizer"])
        if self.adversary is not None:
            self.adversary.restore(parts["adversary"])
        if self.loss_scale is not None and parts["loss_scale"]:  # none if the run was in another precision so far
            self.loss_scale.restore(parts["loss_scale"])


def activation_bounds(network: nn.Module) -> list[nn.Parameter]:
    """What trains with the bounds' learning rate, of all activation quantizers."""
    quantizers = [module for module in network.modules() if isinstance(module, ActivationQuantizer)]
    return [parameter for quantizer in quantizers for parameter in quantizer.bound_parameters()]
