"""What must hold before a run begins: found out at once, not when training comes to it."""

from __future__ import annotations

from itertools import pairwise

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


def check_falling_bits(bits: int, recipe: Recipe) -> None:
    """Raise `ValueError` unless the recipe's bit-widths fall down to the network's own, 32 in full precision."""
    widths = [*(each for each, _ in recipe.falling_bits), bits]
    if any(later >= earlier for earlier, later in pairwise(widths)):
        raise ValueError(
            f"falling_bits is {recipe.falling_bits}, which does not fall to the {bits} bits of the network; expected "
            "bit-widths above that, the largest first, or ()."
        )


def check_teacher(teacher: SuperResolutionNetwork, network: SuperResolutionNetwork) -> None:
    """Raise `ValueError` for a teacher that is not another network, in full precision, of the same kind."""
    if teacher is network:
        raise ValueError("The teacher is the network itself, which would move with it; give a copy, or none.")
    kinds = [(each.name, each.scale, each.architecture) for each in (teacher, network)]
    if kinds[0] != kinds[1] or teacher.quantization is not None:
        width = "" if teacher.quantization is None else f" at {teacher.quantization.bits} bits"
        raise ValueError(
            f"The teacher is {teacher.name} ×{teacher.scale} {teacher.architecture}{width}, the student "
            f"{network.name} ×{network.scale} {network.architecture}; expected the full-precision network "
            "that the student came from."
        )
