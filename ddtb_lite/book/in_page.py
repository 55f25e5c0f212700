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
from ..inference import upscale
from ..networks import SuperResolutionNetwork
from .explorers import component, curtain, data_url
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
    buttons = "".join(
        f'<button type="button" data-bounds="{word}" aria-pressed="{str(word == "two").lower()}">{text}</button>'
        for word, text in (("two", "two bounds"), ("one", "one bound, ±"))
    )
    at = 100 * (quality["2 bits"] - quality["bicubic"]) / (quality["full precision"] - quality["bicubic"])
    gauge = (
        f'<div class="gauge" data-part="gauge" data-bicubic="{quality["bicubic"]:.3f}" '
        f'data-full="{quality["full precision"]:.3f}" style="--at:{at:.0f}%"><b data-part="quality">{quality["2 bits"]:.1f} dB</b>'
        f"<i></i><span>bicubic {quality['bicubic']:.1f}</span><span>full precision {quality['full precision']:.1f}</span></div>"
    )
    sources = {label: data_url(image, exact=True) for label, image in versions.items()}
    pictures = curtain(sources, photo.shape[1], photo.shape[0], (0, 1))
    alternative = f"histogram of an activation with bounds {lower:.1f} and {upper:.1f}"
    return component(
        ("quantizer", "histogram", "swipe", "engine", "hero"),
        identifier,
        f'<div class="sides-by-side" data-ddtb><div class="swipe">{pictures}</div><div>'
        f'<img class="stored" src="{data_url(histogram_picture(shown, lower, upper, 3))}" alt="{alternative}">'
        f'<div class="controls" hidden><div class="choice">{buttons}</div><div data-part="plot"></div>'
        '<dl><div class="levels"><dt>levels in use</dt><dd data-part="levels"></dd></div>'
        '<div><dt>error / variance</dt><dd data-part="error"></dd></div></dl></div>'
        f'{gauge}<p data-part="status" role="status">stored</p></div></div>',
        caption,
        {
            **histogram_data(shown),
            "network": name,
            "path": path,
            "start": [lower, upper],
            "versions": list(sources.items()),
            "live": 1,
            "small": data_url(small, exact=True),
            "scale": scale,
        },
    )


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
    choose = "".join(
        f'<button type="button" data-photo="{index}" aria-label="{html.escape(name)}"><img src="{source}" alt=""></button>'
        for index, (name, source) in enumerate(ours.items())
    )
    kinds = "".join(
        f'<button type="button" data-kind="{html.escape(kind)}" aria-pressed="{str(kind == label).lower()}">'
        f"{html.escape(kind)}</button>"
        for kind in (*networks, "bicubic")
    )
    stage = (
        '<div class="stage" hidden><canvas class="before" role="img"></canvas>'
        '<canvas class="after" role="img" data-live="result"></canvas><div class="frame"></div>'
        '<input type="range" min="0" max="100" step="any" value="50" aria-label="position of the curtain">'
        '<div class="line"></div><span class="tag before"></span><span class="tag after"></span></div>'
    )
    told = {"time": "time, here", "operations": "bit operations", "size": "pixels"}
    numbers = "".join(f'<div><dt>{text}</dt><dd data-part="{name}">–</dd></div>' for name, text in told.items())
    windows = "".join(f'<div><canvas></canvas><span class="tag {side}"></span></div>' for side in ("before", "after"))
    return component(
        ("quantizer", "swipe", "engine", "bicubic", "file-head", "lens", "upscaler"),
        identifier,
        '<div data-part="controls" hidden><div class="row"><label class="file">choose a picture'
        '<input type="file" accept="image/*" data-live></label><span>drop one here, paste one, or take one of ours</span>'
        f'{choose}</div><div class="row" role="group" aria-label="enlarged by">{kinds}'
        '<label><input type="checkbox" data-part="gates" checked> gates</label></div></div>'
        f'<div data-part="view" class="swipe"><img class="stored" src="{data_url(stored)}" '
        f'alt="{html.escape(first)}, enlarged, {html.escape(label)}">{stage}</div>'
        '<p data-part="message" role="status">Nothing leaves your machine: the network has come to you.</p>'
        '<div class="row" data-part="ask" hidden><button type="button" data-part="all">enlarge all of it</button>'
        '<button type="button" data-part="middle">only its middle</button></div>'
        '<div class="row"><progress data-part="progress" max="1" value="0" aria-label="progress"></progress>'
        '<button type="button" data-part="cancel" disabled>cancel</button></div>'
        f'<div class="below"><div data-part="lens" class="lens" role="group" tabindex="0">{windows}</div>'
        f'<div class="facts"><dl>{numbers}</dl><label>left of the line <select data-part="other"><option>bicubic</option></select></label>'
        '<br><a data-part="download" download>download the result</a></div></div>',
        caption,
        {"ours": list(ours.items()), "networks": list(networks.items()), "scale": scale},
    )


# What a block of EDSR does, from left to right; names of quantization points among it are buttons.
BLOCK = ("input", "conv", "ReLU", "hidden", "conv", "output", "+")


def inside(
    identifier: str, student: SuperResolutionNetwork, names: tuple[str, str], photo: np.ndarray, caption: str
) -> HTML:
    """A diagram of EDSR; click a block, and see what enters and leaves its quantizers for a small `photo`, uint8.

    `student` is the shipped network of the first of `names`, quantized at the paper's points; the second name is its
    teacher's. An image that the reader gives to `upscaler` on the same page replaces the photo.
    """
    blocks = "".join(
        f'<button type="button" data-block="{name}" aria-label="block {index + 1}" '
        f'aria-pressed="{str(index == 0).lower()}">{index + 1}</button>'
        for index, name in enumerate(student.block_names())
    )
    parts = [
        f'<button type="button" data-point="{each}" aria-pressed="{str(each == "input").lower()}">{each}</button>'
        if student.block_names()[0] + f".{each}" in {point.path for point in student.points.activations}
        else f'<span class="step">{each}</span>'
        for each in BLOCK
    ]
    pictures = "".join(
        f'<div><canvas role="img" aria-label="{text}"></canvas>{text}</div>'
        for text in ("full precision", "before the quantizer", "behind it")
    )
    told = {"place": "place", "bounds": "bounds", "gate": "gate, lower and upper β"}
    numbers = "".join(f'<div><dt>{text}</dt><dd data-part="{name}">–</dd></div>' for name, text in told.items())
    path = student.block_names()[0] + ".input"
    x = some(diagnostics.quantizer_inputs(student, images.to_tensor(photo))[path])
    lower, upper = diagnostics.bounds(student)[path]
    picture = histogram_picture(Sample(path, x.numpy(), {}), lower, upper, 2**student.quantization.bits - 1)
    return component(
        ("quantizer", "histogram", "engine", "inside"),
        identifier,
        f'<img class="stored" src="{data_url(picture)}" alt="histogram of what enters the first block, with two bounds">'
        f'<div data-part="controls" hidden data-ddtb><div class="blocks"><span>head</span>{blocks}<span>upsampler</span></div>'
        f'<div class="block">{"<i></i>".join(parts)}</div><div class="pictures">{pictures}</div>'
        '<div data-part="legend"></div><div class="row"><label>channel<input type="range" min="0" max="63" value="0" '
        'data-part="channel"></label><span data-part="number"></span></div><div data-part="plot"></div>'
        f'<dl>{numbers}</dl><div class="row"><button type="button" data-part="start">look inside</button>'
        '<p data-part="message" role="status">Click a block, or a quantizer in it.</p></div></div>',
        caption,
        {"photo": data_url(photo, exact=True), "student": names[0], "teacher": names[1]},
    )
