"""Cue-conflict probes: another scene in the centre than around it (arXiv 2006.07991).

    stimulus = W decoy + (1 - W) image

with W the sum of the fovea and the rings of pooling windows next to it, k in all: 8 levels at s =
.4, from none to all, at which W takes 0, 1.55, 3.43, 7.59, 16.80, 37.19, 80.78 and 100 % of the
area (its mean over the pixels). Or W is a hard square, the scotoma of `occlusion`, in 17 levels. A
network that says the decoy's class goes by the centre, one that says the image's by the periphery.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from foveation_jax.metrics.levels import Images
from foveation_jax.probes.occlusion import Level, check_level, hidden_areas, hidden_mask
from foveation_jax.runs.checks import check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.precision import einsum
from foveation_jax.transforms import check_images
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

SCALE = 0.4
DECOYS = ("window", "square")


def window_conflict(
    images: Images,
    decoys: Images,
    level: Level,
    windows: PoolingWindows | None = None,
) -> Float[Array, "N Y X 3"]:
    """Images whose centre shows the decoys, cross-faded as the pooling windows are.

    Args:
        images: what the periphery shows, in [0, 1] or uint8 levels.
        decoys: what the centre shows, likewise.
        level: k, what the centre takes: 0 nothing, 1 the fovea, then ring by ring to everything (7
            at s = .4); may be traced.
        windows: pooling windows of that image size; the published ones of s = .4 by default.

    Raises:
        InputError: images, decoys, windows or a level that do not fit.

    Property: level 0 gives the images, the last one the decoys.
    """
    images, decoys = _check_pair("window_conflict", images, decoys)
    windows = default_windows(images.shape[1:3]) if windows is None else windows
    if windows.size != images.shape[1:3]:
        raise InputError(
            f"window_conflict: windows are of size {windows.size}, images of {images.shape[1:3]}."
        )
    weight = centre_weight(windows, level)[None, :, :, None]
    return weight * decoys + (1 - weight) * images


def square_conflict(
    images: Images,
    decoys: Images,
    level: Level,
) -> Float[Array, "N Y X 3"]:
    """Images whose centre, a square with hard edges, shows the decoys.

    Args:
        images: what the periphery shows, in [0, 1] or uint8 levels.
        decoys: what the centre shows, likewise.
        level: 1 (all image) to 17 (all decoy), as the scotoma of `occlude`; may be traced.

    Raises:
        InputError: images, decoys or a level that do not fit.

    Property: level 1 gives the images, 17 the decoys; each pixel is one of the two.
    """
    images, decoys = _check_pair("square_conflict", images, decoys)
    centre = hidden_mask("scotoma", images.shape[1:3], level)
    return jnp.where(centre[None, :, :, None], decoys, images)


def default_windows(size: tuple[int, int]) -> PoolingWindows:
    """The published pooling windows, s = .4 and 26 degrees, for images of `size` = (Y, X)."""
    return pooling_windows(SCALE, size)


def window_levels(windows: PoolingWindows) -> tuple[int, ...]:
    """Levels of `window_conflict`: 0, the fovea, one a ring; at the last one all is decoy."""
    outermost = int(np.flatnonzero(np.asarray(windows.kept).any(1)).max(initial=-1))
    return tuple(range(outermost + 3))


def centre_weight(windows: PoolingWindows, level: Level) -> Float[Array, "Y X"]:
    """W: what the fovea and the first level - 1 rings weigh at each pixel, in [0, 1].

    Computed as 1 minus the rings beyond, so that the last level is 1 to the bit. Windows that
    joined the fovea (slivers in the corners) count with it, as in the published masks.

    Raises:
        InputError: a level below 0 or beyond all rings.
    """
    traced = isinstance(windows.kept, jax.core.Tracer)
    highest = windows.n_rings + 1 if traced else window_levels(windows)[-1]
    check_level("window_conflict", level, 0, highest)
    beyond = (jnp.arange(windows.n_rings) >= level - 1).astype(jnp.float32)
    outside = einsum("e,eyx->yx", beyond, _rings(windows))
    weight = jnp.clip(1 - outside, 0.0, 1.0)
    return jnp.where(level > 0, weight, 0.0)


@jax.jit
def _rings(windows: PoolingWindows) -> Float[Array, "E Y X"]:
    """Each ring's windows together, without slivers."""
    rings, wedges = windows.pixel_factors()
    return rings * einsum("et,tyx->eyx", windows.kept, wedges)


def centre_areas(windows: PoolingWindows) -> Float[np.ndarray, " P"]:
    """Mean of W over the pixels at each level: the fraction of the area that the decoy takes."""
    rings = np.asarray(_rings(windows).mean((1, 2)), np.float64)
    beyond = [rings[level - 1 :].sum() for level in window_levels(windows)[1:]]
    return np.array([0.0, *(1 - np.array(beyond))])


def square_areas(size: tuple[int, int]) -> Float[np.ndarray, " P"]:
    """Fraction of the pixels that the decoy takes at each of the 17 levels of `square_conflict`."""
    return hidden_areas("scotoma", size)


def decoy_indices(labels: Int[np.ndarray, " N"], kind: str) -> Int[np.ndarray, " N"]:
    """Which image is the decoy of each image.

    The i-th image of class c gets the i-th image (counted anew where there are fewer) of

        window  class c + 1 mod L
        square  class c + 1 + (i mod (L - 1)) mod L: all others in turn

    Args:
        labels: class of every image, 0 to L - 1, in any order.
        kind: window or square.

    Raises:
        InputError: an unknown kind, one class only, or a class without an image.

    Property: a decoy is never of its image's class. Where all classes have the same number of
    images, the window's decoys are a permutation of the images.
    """
    check_allowed("decoy kind", kind, DECOYS)
    counts = np.bincount(labels)
    if len(counts) < 2 or not counts.all():
        raise InputError(
            f"labels hold {counts.tolist()} images of class 0, 1, ...: decoys need two or more "
            "classes and an image of each."
        )
    by_class, starts = np.argsort(labels, kind="stable"), np.cumsum(counts) - counts
    rank = np.empty_like(by_class)
    rank[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    step = 1 + (rank % (len(counts) - 1) if kind == "square" else 0)
    partner = (labels + step) % len(counts)
    return by_class[starts[partner] + rank % counts[partner]]


def _check_pair(probe, images, decoys):
    images, decoys = check_images(images), check_images(decoys, "decoys")
    if images.shape != decoys.shape:
        raise InputError(
            f"{probe}: images have shape {images.shape}, decoys {decoys.shape}: these must agree."
        )
    return images, decoys
