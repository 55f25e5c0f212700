"""What must hold before a run begins: found out at once, not when training comes to it."""

from __future__ import annotations

from ..conversion import number_of_gates
from ..networks import SuperResolutionNetwork
from .recipe import Recipe


def check_gates(network: SuperResolutionNetwork, recipe: Recipe) -> None:
    """Raise `ValueError` now for what would stop training at the warm-up of the gates, or leave them unused."""
    if network.quantization is None or network.phase == "live" or not number_of_gates(network):
        return
    if recipe.batch_size < 2:
        raise ValueError(f"batch_size is {recipe.batch_size}, but a gate's batch norm needs at least two images.")
    own = recipe.steps - sum(steps for _, steps in recipe.falling_bits)
    if recipe.warmup_steps >= own:
        raise ValueError(
            f"warmup_steps is {recipe.warmup_steps}, but the student has its own bit-width for {own} steps only: its "
            "gates would never act."
        )


def check_teacher(teacher: SuperResolutionNetwork, network: SuperResolutionNetwork) -> None:
    """Raise `ValueError` for a teacher that is not the full-precision network of the same kind."""
    kinds = [(each.name, each.scale, each.architecture) for each in (teacher, network)]
    if kinds[0] != kinds[1] or teacher.quantization is not None:
        width = "" if teacher.quantization is None else f" at {teacher.quantization.bits} bits"
        raise ValueError(
            f"The teacher is {teacher.name} ×{teacher.scale} {teacher.architecture}{width}, the student "
            f"{network.name} ×{network.scale} {network.architecture}; expected the full-precision network "
            "that the student came from."
        )
