"""Measures of pictures against Reference, summed over the fovea and each ring of pooling windows.

A zone is a ring, or several, that share one sigma. Pictures come in chunks, each read once a pass,
so that a folder of any size will do.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax import metrics
from foveation_jax.metrics.structural import TAPS
from foveation_jax.runs.mesh import each_image
from foveation_jax.transforms.foveated_blur import blend_blurs
from foveation_jax.transforms.uniform_blur import blur
from foveation_jax.windows import geometry
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

# Metric -> its map, the border in pixels in which it has no windows, its value for equal images.
MAPS = {"ssim": (metrics.ssim_map, TAPS // 2, 1.0), "mse": (lambda a, b: (a - b) ** 2, 0, 0.0)}

# What is blurred, Reference and target, all [N, Y, X, C], and the fixations [N, 2].
Chunk = tuple[Array | np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class View:
    """What pictures are seen with; `fixation` is None where each has its own, as chunks say."""

    scale: float
    size: tuple[int, int]
    fixation: tuple[float, float] | None
    field_of_view: float
    windows: PoolingWindows

    @classmethod
    def of(cls, scale, size, fixation, field_of_view, drawn=False) -> "View":
        """Rings are counted for `fixation`, the centre for None; for a corner where it is drawn."""
        seen = (0.0, 0.0) if drawn else geometry.farthest_seeing(fixation, size)
        windows = pooling_windows(scale, size, seen, published=False, field_of_view=field_of_view)
        size = tuple(map(int, size))
        return cls(scale, size, None if drawn else seen, field_of_view, windows)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a record that say what it was matched on."""
        return {f: getattr(self, f) for f in ("scale", "size", "fixation", "field_of_view")}


def whole_chunk(reference, target, view: View) -> Callable[[], Iterable[Chunk]]:
    """Images at hand as one chunk: Reference is what is blurred."""
    return lambda: [(reference, reference, target, fixations_of(view, len(reference)))]


def fixations_of(view: View, count: int) -> Float[np.ndarray, "N 2"]:
    """The view's fixation for each of `count` pictures."""
    fixation = geometry.centre(view.size) if view.fixation is None else view.fixation
    return np.tile(np.asarray([fixation], np.float32), (count, 1))


def of_target(system, metric, view: View, chunks) -> tuple[np.ndarray, np.ndarray]:
    """Areas and moments (sums of the measure over them) of the target's pictures, [N, 1 + E]."""
    found = _over(
        chunks, lambda _, a, b, at: target_moments(a, b, at, view.windows, system, metric)
    )
    areas, moments = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
    return areas, moments


def of_blur(system, metric, view: View, chunks, sigmas) -> np.ndarray:
    """The same moments of the blur of `sigmas` pixels, one a ring."""
    sigmas = jnp.asarray(sigmas, jnp.float32)
    found = _over(
        chunks, lambda i, a, _, at: blur_moments(i, a, at, sigmas, view.windows, system, metric)
    )
    return np.concatenate(found).astype(np.float64)


def by_zone(eccentricity, centres, areas, moments):
    """Each image's share of the zones' mean measures [N, Z], and the zones' shares of pixels [Z].

    Every ring counts to the zone that is nearest in ln eccentricity, the fovea to the innermost.
    """
    distance = np.abs(np.log(centres + 1e-9)[:, None] - np.log(eccentricity + 1e-9)[None])
    zone = np.eye(len(eccentricity))[distance.argmin(1)]
    zone = np.concatenate([zone[:1], zone]) if areas.shape[1] > len(centres) else zone
    area = (areas @ zone).mean(0)
    return (moments @ zone) / np.maximum(area, 1e-9)[None], area / area.sum()


def _over(chunks, function) -> list:
    """`function` of every chunk; a shorter last one is filled up, so that one program does."""
    found, length = [], 0
    for chunk in chunks():
        count = len(chunk[0])
        length = length or count
        places = np.minimum(np.arange(length), count - 1)
        filled = chunk if count == length else [part[places] for part in chunk]
        found.append(jax.tree.map(lambda part, n=count: np.asarray(part)[:n], function(*filled)))
    return found


@functools.partial(jax.jit, static_argnames=("system", "metric"))
def target_moments(reference, target, fixations, windows, system, metric):
    """Area and moment of the fovea and each ring, of every picture."""

    def one(a, b, fixation):
        return _moments(a, b, _rings(windows, fixation), system, metric)

    pictures = (jnp.asarray(reference), jnp.asarray(target), jnp.asarray(fixations))
    return each_image(one, *pictures)


@functools.partial(jax.jit, static_argnames=("system", "metric"))
def blur_moments(images, reference, fixations, sigmas, windows, system, metric):
    """The moments of every picture's blur of `sigmas` pixels, one a ring."""

    def one(image, a, fixation):
        rings = _rings(windows, fixation)
        if system == "uniform_blur":
            blurred = blur(image, sigmas[0])
        else:
            blurred = blend_blurs(image, sigmas, rings)
        return _moments(a, blurred, rings, system, metric)[1]

    return each_image(one, *map(jnp.asarray, (images, reference, fixations)))


def _rings(windows: PoolingWindows, fixation) -> Float[Array, "E Y X"]:
    return dataclasses.replace(windows, fixation=fixation).pixel_factors()[0]


def _moments(a, b, rings, system, metric):
    """Area of the fovea and each ring and sum of the measure over it; or 1 and the whole metric."""
    if system == "uniform_blur":
        value = metrics.METRICS[metric](a[None], b[None])
        return jnp.ones_like(value), value
    metric_map, border, _ = MAPS[metric]
    inside = tuple(slice(border, n - border) for n in rings.shape[1:])
    zones = jnp.concatenate([jnp.clip(1 - rings.sum(0, keepdims=True), 0, 1), rings])
    zones = zones[:, *inside]
    values = metric_map(a[None], b[None])[0].mean(-1)[inside]
    return zones.sum((1, 2)), (zones * values[None]).sum((1, 2))
