"""Refinement of a texture on the pooled statistics: gradient descent by a fixed number of steps.

Portilla & Simoncelli (2000) and Freeman & Simoncelli (2011) descend from noise in hundreds of
steps; from a one-pass texture a few suffice. The error of a texture t of the image x is

    E = sum over families of the mean over windows and statistics of h((s(t) - s(x)) / scale)

over the families of `texture_statistics`, scale the deviation of the statistic over the image's own
windows, h(e) = e^2 for small errors and linear for large ones, so that no single window is mended
by spots. One family is to stay the start's: the correlation of every octave with the image's, what
is left of places, which descent would bring back. Only the luma changes: colours keep what the
route gave them. Steps are L-BFGS of limited length without a line search, one gradient each; the
best picture met is kept. Changes are counted in units that grow with the width of the window, as a
pixel's share in its means falls, so that all rings come down alike, and that fall with spatial
frequency as the contrast of photographs does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Complex, Float

from foveation_jax.runs.mesh import each_image
from foveation_jax.runs.precision import exact
from foveation_jax.transforms import pyramid
from foveation_jax.transforms.disarray import periphery, window_width
from foveation_jax.transforms.texture_statistics import (
    FLOOR,
    LUMA,
    deviations,
    octave_cells,
    octaves_of,
    pooled_statistics,
    window_weights,
)
from foveation_jax.windows.pooling import pool
from foveation_jax.windows.pooling_windows import PoolingWindows

Bands = tuple[Complex[Array, "O _ _"], ...]
PLACES = "places"  # correlation with the image by octave; in no table of statistics
# Least scale of each family: where an image's windows hardly differ, errors below it are not seen.
LEAST = {
    "mean": 0.01, "colours": 1e-3, "variance": 1e-3, "skew": 0.2, "kurtosis": 0.5, "energy": 0.2,
    "sparseness": 0.03, "positions": 0.05, "orientations": 0.05, "scales": 0.05, "phase": 0.05,
    PLACES: 0.05,
}  # fmt: skip
WEIGHT = {
    "phase": 5.0,
    "energy": 3.0,
    "positions": 2.0,
    "scales": 1.5,
    PLACES: 8.0,
}  # 1 for the others
BEND = 1.0  # deviations from which errors count linearly
CELLS = 1.5  # ring in whose windows the cells of pooling fit: a quarter as many as by default
LONGEST = 3.0  # norm of a step: a hundredth of the range at 256 x 256 pixels
SOLVER = optax.chain(
    optax.scale_by_lbfgs(10), optax.clip_by_global_norm(LONGEST), optax.scale(-1.0)
)


@functools.partial(jax.jit, static_argnames=("n_scales", "steps"))
def refine(
    textures: Float[Array, "N Y X C"],
    images: Float[Array, "N Y X C"],
    windows: PoolingWindows,
    n_scales: int,
    steps: int,
) -> Float[Array, "N Y X C"]:
    """Textures after `steps` steps towards the statistics of the images' windows.

    Gradients of what follows pass to `textures` as if refinement were not there.

    Args:
        textures: where to start, colours in [0, 1].
        images: whose statistics are wanted.
        windows: of the images' size.
        n_scales: octaves of the statistics.
        steps: number of steps.

    Property: the error of every image is no larger than at the start; pixels that
    no window of the periphery covers stay as they are.
    """
    grids = octave_cells(windows, n_scales, CELLS)
    octaves = octaves_of(n_scales) | {PLACES: np.arange(n_scales)}
    weights = {f: window_weights(windows, grids, k) for f, k in octaves.items()}
    width = periphery(windows) * window_width(windows)
    mask = (width / jnp.maximum(width.mean(), 1e-6))[..., None]

    def split(picture):
        return pyramid.decompose(picture @ jnp.asarray(LUMA, picture.dtype), n_scales)

    def statistics(picture, originals):
        parts = split(picture)
        found = pooled_statistics(jnp.moveaxis(picture, -1, 0), grids, parts)
        return found | {PLACES: _places(parts.bands, originals, grids)}

    def applied(start, change):
        spectrum = jnp.fft.rfft2(change) * _natural(windows.size)
        change = jnp.fft.irfft2(spectrum, s=windows.size)[..., None]
        return jnp.clip(start + mask * change, 0, 1)

    def one(start, image):
        originals = split(image).bands
        wanted = statistics(image, originals)
        wanted |= {PLACES: _places(split(start).bands, originals, grids)}
        scales = {f: deviations(table[None], weights[f]) + LEAST[f] for f, table in wanted.items()}

        def error(change):
            found = statistics(applied(start, change), originals)
            return sum(
                WEIGHT.get(f, 1.0) * _mean_error(found[f], wanted[f], scales[f], weights[f])
                for f in wanted
            )

        return applied(start, _best(error, jnp.zeros_like(start[..., 0]), steps))

    stopped = jax.lax.stop_gradient((textures, images))
    with exact():
        refined = each_image(one, *stopped)
    return textures + jax.lax.stop_gradient(refined - textures)


def _best(error, change: Float[Array, "Y X"], steps: int) -> Float[Array, "Y X"]:
    """The change of least error among the one given and those after each of `steps` steps."""

    def step(state, _):
        change, solved, best, least = state
        value, slope = jax.value_and_grad(error)(change)
        best, least = jax.tree.map(
            lambda new, old: jnp.where(value < least, new, old), (change, value), (best, least)
        )
        update, solved = SOLVER.update(slope, solved, change)
        return (change + update, solved, best, least), None

    state = change, SOLVER.init(change), change, jnp.inf
    (_, _, best, _), _ = jax.lax.scan(step, state, length=steps + 1)
    return best


def _mean_error(found, wanted, scale, weight):
    error = (found - wanted) / scale[None, None]
    bent = 2 * BEND**2 * (jnp.sqrt(1 + (error / BEND) ** 2) - 1)
    return (weight * bent).sum() / jnp.maximum(weight.sum(), 1e-6)


def _places(bands: Bands, originals: Bands, grids):
    """Correlation of every octave's bands of luma with the image's, by window, [E, T, octaves]."""
    found = []
    for own, of_it, grid in zip(bands, originals, grids, strict=True):
        maps = jnp.stack([own.real * of_it.real, own.real**2, of_it.real**2]).sum(1)
        both, ours, its = jnp.moveaxis(pool(grid, maps, True), -1, 0)
        found.append(both / jnp.sqrt((ours + FLOOR) * (its + FLOOR)))
    return jnp.stack(found, -1)


def _natural(size: tuple[int, int]) -> np.ndarray:
    """1 / sqrt(1 + (f / f0)^2) on a half plane, f0 an eighth of a cycle a pixel."""
    y, x = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None]
    return (1 / np.sqrt(1 + 64 * (y**2 + x**2))).astype(np.float32)
