"""Training: a network, images and a recipe come in, a trained network and the history of its run go out.

`recipe` holds every number of section 8, `loop` goes through the steps, `run` is what changes meanwhile, `step` one
step on the device, which `cuda_graph` records; `losses` and `adversarial` say what is minimized, `patches` what is
seen, `validation` what is kept, `run_folder` what survives a killed process.
"""

from __future__ import annotations

from .loop import train, training_images
from .recipe import Recipe
from .run import Diverged, History, Run

__all__ = ["Diverged", "History", "Recipe", "Run", "train", "training_images"]
