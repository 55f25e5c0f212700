"""Components that run a network in the reader's browser, with the engine of the built book.

Where there is no engine, in Jupyter, in Colab, or in a browser that lacks what it needs, what is stored stays, and a
sentence says why.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np
from IPython.display import HTML

from .. import diagnostics, images, metrics
from ..conversion import require_quantization
from ..inference import upscale
from ..networks import SuperResolutionNetwork
from .explorers import buttons, component, curtain, data_url, template
from .lab import Sample, histogram_data, histogram_picture, some


def hero(
    identifier: str,
    name: str,
    student: SuperResolutionNetwork,
    teacher: SuperResolutionNetwork,
    photo: np.ndarray,
    path: str,
    caption: str,
) -> HTML:
    """A part of a photograph at two bits, computed in the page, and two bounds to drag on an activation's histogram.

    `student` is the shipped network `name`, `path` one of its quantizers of two bits without a gate, `photo` a uint8
    image whose sides are multiples of the scale. All quantizers follow the one that is shown.
    """
    scale = student.scale
    small = images.lower_resolution(photo, scale)
    versions = {
        "bicubic": images.resize(small, scale),
        "2 bits": upscale(student, small),
        "full precision": upscale(teacher, small),
        "original": photo,
    }
    quality = {label: metrics.psnr(image, photo, border=scale) for label, image in list(versions.items())[:3]}
    x = some(diagnostics.quantizer_inputs(student, images.to_tensor(small))[path])
    lower, upper = diagnostics.bounds(student)[path]
    limit = max(abs(lower), abs(upper))
    shown = Sample(path, x.numpy(), {2: {"trained": (lower, upper, 3), "one": (-1.25 * limit, 1.25 * limit, 3)}})
    # Qualities are measured against the original's own pixels.
    sources = {label: data_url(image, exact=label == "original") for label, image in versions.items()}
    bicubic, ours, full = quality.values()
    body = template(
        "hero",
        pictures=curtain(sources, photo.shape[1], photo.shape[0], (0, 1)),
        picture=data_url(histogram_picture(shown, lower, upper, 3), exact=True),
        alternative=f"histogram of an activation with bounds {lower:.1f} and {upper:.1f}",
        choice=buttons("bounds", {"two": "two bounds", "one": "one bound, ±"}, "two"),
        bicubic=f"{bicubic:.1f}",
        full=f"{full:.1f}",
        quality=f"{ours:.1f}",
        at=f"{100 * (ours - bicubic) / (full - bicubic):.0f}",
    )
    data = {
        **histogram_data(shown),
        "network": name,
        "start": [lower, upper],
        "versions": list(sources.items()),
        "live": 1,
        "small": data_url(small, exact=True),
        "scale": scale,
    }
    return component(("quantizer", "histogram", "swipe", "engine", "hero"), identifier, body, caption, data)


def upscaler(
    identifier: str,
    photos: Mapping[str, np.ndarray],
    networks: Mapping[str, str],
    stored: np.ndarray,
    scale: int,
    caption: str,
) -> HTML:
    """The reader's own image, enlarged in the page by one of `networks`, the names of shipped networks by label.

    `photos`, uint8 and small, are there to begin with; `stored` is the first one enlarged by the first network, for a
    page without scripts.
    """
    ours = {name: data_url(photo, exact=True) for name, photo in photos.items()}
    first, label = next(iter(ours)), next(iter(networks))
    thumbnails = "".join(
        f'<button type="button" data-photo="{index}" aria-label="{html.escape(name)}">'
        f'<img src="{source}" alt="{html.escape(name)}"></button>'
        for index, (name, source) in enumerate(ours.items())
    )
    body = template(
        "upscaler",
        photos=thumbnails,
        kinds=buttons("kind", {kind: kind for kind in (*networks, "bicubic")}, label),
        stored=data_url(stored),
        alternative=html.escape(f"{first}, enlarged, {label}"),
    )
    data = {"ours": list(ours.items()), "networks": list(networks.items()), "scale": scale}
    parts = ("swipe", "engine", "bicubic", "file-head", "lens", "upscaler")
    return component(parts, identifier, body, caption, data)


# What a block of EDSR does, from left to right; names of quantization points among it are buttons.
BLOCK = ("input", "conv", "ReLU", "hidden", "conv", "output", "+")


def inside(
    identifier: str, student: SuperResolutionNetwork, names: tuple[str, str], photo: np.ndarray, caption: str
) -> HTML:
    """A diagram of EDSR; click a block, and see what enters and leaves its quantizers for a small `photo`, uint8.

    `student` is the shipped network of the first of `names`, quantized at the paper's points; the second name is its
    teacher's. An image that the reader gives to `upscaler` on the same page replaces the photo.
    """
    quantization = require_quantization(student)
    first = student.block_names()[0]
    points = {point.path for point in student.points.activations}
    steps = [
        buttons("point", {each: each}, "input") if f"{first}.{each}" in points else f'<span class="step">{each}</span>'
        for each in BLOCK
    ]
    x = some(diagnostics.quantizer_inputs(student, images.to_tensor(photo))[f"{first}.input"])
    lower, upper = diagnostics.bounds(student)[f"{first}.input"]
    sample = Sample("what enters the first block", x.numpy(), {})
    body = template(
        "inside",
        picture=data_url(histogram_picture(sample, lower, upper, 2**quantization.bits - 1), exact=True),
        blocks=buttons("block", {name: str(index + 1) for index, name in enumerate(student.block_names())}, first),
        steps="<i></i>".join(steps),
    )
    data = {"photo": data_url(photo, exact=True), "student": names[0], "teacher": names[1]}
    return component(("quantizer", "histogram", "engine", "inside"), identifier, body, caption, data)
