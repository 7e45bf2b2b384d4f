"""Sample stimuli for the page: images as every system lets them through, and every probe.

Strips of 8-bit pictures, made of the first test images of different classes.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from foveation_jax.claims.results import Strip, title
from foveation_jax.probes import cue_conflict
from foveation_jax.probes.evaluate import PROBES, first_of_each_class, show, thin
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

SHOWN_LEVELS = 5


def sample_strips(
    shown: Mapping[str, UInt8[np.ndarray, "N Y X 3"]],
    labels: Int[np.ndarray, " N"],
    class_names: tuple[str, ...],
    *,
    mean: Float[np.ndarray, "3"],
    windows: PoolingWindows,
    n_images: int,
    fixations: Float[np.ndarray, "N 2"] | None = None,
) -> tuple[Strip, ...]:
    """Strips of `n_images` images by system, then of the first one by probe and level.

    Args:
        shown: system -> the same images as it lets them through; probes are of the first system.
        labels: classes of the images.
        class_names: of the classes.
        mean: colour in [0, 1] of high-pass stimuli.
        windows: pooling windows of the images' size.
        n_images: classes that are shown, one image each; 0 for no strips.
        fixations: where each image is looked at; None where all are looked at as `windows` say.
    """
    rows = first_of_each_class(labels, 1)
    rows = rows[np.linspace(0, len(rows) - 1, min(n_images, len(rows))).astype(int)]
    own = {row: _windows_at(windows, fixations, row) for row in rows}
    strips = [
        Strip(
            class_names[labels[row]],
            tuple(map(title, shown)),
            np.stack([images[row] for images in shown.values()]),
            own[row],
        )
        for row in rows
    ]
    images = next(iter(shown.values()))
    return (*strips, *(_of_probe(name, images, labels, rows[0], mean, windows, own[rows[0]])
                       for name in PROBES if n_images))  # fmt: skip


def _windows_at(windows, fixations, row) -> PoolingWindows | None:
    """Those windows about an image's own fixation; None where it has none."""
    if fixations is None:
        return None
    place, degrees = tuple(fixations[row].tolist()), windows.size[1] / windows.pixels_per_degree
    return pooling_windows(float(windows.scale), windows.size, place, False, degrees)


def _of_probe(name, images, labels, row, mean, windows, own) -> Strip:
    """Some levels of a probe, on one image, whose own windows, if any, are drawn over it."""
    kind, axis = PROBES[name].decoys, PROBES[name].axis(windows)
    decoy = cue_conflict.decoy_indices(labels, kind)[row] if kind else row
    places = thin(len(axis), -(-(len(axis) - 1) // (SHOWN_LEVELS - 1)))
    levels = PROBES[name].levels(windows)[places]
    pair = (jnp.asarray(images[i][None]) for i in (row, decoy))
    image, other = pair
    stimuli = [show(name, image, level, other, jnp.asarray(mean), windows)[0] for level in levels]
    captions = tuple(_caption(name, x) for x in axis[places])
    return Strip(name, captions, np.asarray(jnp.stack(stimuli)), own)


def _caption(probe: str, x: float) -> str:
    """A level in words, with its unit; x is of the probe's axis."""
    if PROBES[probe].scale == "steps" and x in (0, np.inf):
        return "whole"
    return PROBES[probe].caption.format(x)
