"""Foveation-Texture by disarray: what the periphery holds is moved, not replaced by noise.

Eidolons (Koenderink, Valsecchi, van Doorn, Wagemans & Gegenfurtner 2017): octave k of the image is
read at x + d_k(x),

    d_k = sum over j >= k of A_j n_j,    sum over j of A_j^2 = (reach w)^2,    A_j ~ 4^j to EXTENT w

with w the width of the pooling windows at x and n_j a random field of unit deviation, smooth over
2 * 2^j pixels and free of divergence, so nothing is swollen at the cost of its neighbour. The sum
D = d_0 is then evened, d_k sqrt(c / (D^2 + 1/2)), D^2 in units of its mean a axis: no patch where
fields happen to vanish stays in its place.

A thing that is alone in a flat window, a lamp on a wall, is what that window's moments tell the
place of: a little nearer to the window's edge and its kurtosis k_R is another. So every field is
multiplied by 1 / (1 + sum over windows of w_R(x) (k_R / LONE)^4); photographs have k about 4. The
power holds such a thing also at the margin of its window, where w_R is small.

Fields bend things over the width of a window and hardly within less, so straight lines do not curl;
octave k follows every field coarser than itself, so the octaves of an edge stay together. Edges
thus keep what noise has to imitate, orientation, phase and sparseness, and lose their places. What
the fields carry from one window into the next is put back in closed form (window_matching.py).

Octaves are differences of Gaussians on grids half as fine each, read by cubic splines; filters,
prefilters and grids of one axis are small matrices, so any size will do and edges are mirrored.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from foveation_jax.runs.mesh import each_image
from foveation_jax.runs.precision import einsum
from foveation_jax.transforms.texture_statistics import LUMA, skew_and_kurtosis
from foveation_jax.transforms.window_matching import match_windows
from foveation_jax.windows import geometry
from foveation_jax.windows.pooling import Cells, cells, spread
from foveation_jax.windows.pooling_windows import PoolingWindows

REACH = 0.09  # root mean square displacement along an axis, in widths of the pooling window
EXTENT = 0.4  # widths of the window at which fields stop growing
EVEN = 0.5  # of D^2 in units of its mean along an axis: displacements that are raised to it
LONE = 20.0  # kurtosis of luma in a window at which what it holds moves half as far
LEVELLED = 3.007  # keeps the mean square: 2 / E[r^2 / (r^2 + EVEN)], r^2 exponential of mean 2


@functools.partial(jax.jit, static_argnames=("n_scales", "scramble"))
def disarray_texture(
    images: Float[Array, "N Y X C"],
    key: PRNGKeyArray,
    windows: PoolingWindows,
    n_scales: int,
    reach: float | Float[Array, ""] = REACH,
    scramble: bool = False,
) -> Float[Array, "N Y X C"]:
    """Images whose periphery is in disarray, with the means and energies of every window.

    Args:
        images: colours in [0, 1], even sides of 16 pixels or more.
        key: draws the fields, the same for the whole batch.
        windows: pooling windows of the images' size.
        n_scales: octaves of the pyramid in which windows are matched.
        reach: root mean square displacement along an axis, in widths of the window.
        scramble: give each window the energies of another window of its ring, a control.

    Returns:
        Images in [0, 1]. Property: pixels that no window of the periphery covers are the image's.
    """
    field_key, order_key = jax.random.split(key)
    fields = displacements(field_key, windows, reach)
    order = None
    if scramble:
        order = jnp.broadcast_to(jnp.arange(windows.n_wedges)[None], windows.kept.shape)
        order = jax.random.permutation(order_key, order, axis=1, independent=True)
    outside = periphery(windows)[..., None]
    grid = cells(windows, windows.size)

    def one(image):
        moved = disarray(image, fields * freedom(image, grid)[None, None])
        matched = match_windows(moved, image, windows, n_scales, order)
        return jnp.clip(image + outside * (matched - image), 0, 1)

    return each_image(one, images)


def periphery(windows: PoolingWindows) -> Float[Array, "Y X"]:
    """Share of every pixel that windows of the periphery cover, 0 in the fovea."""
    rings, wedges = windows.pixel_factors()
    return (rings * einsum("et,tyx->eyx", windows.kept, wedges)).sum(0)


def window_width(windows: PoolingWindows) -> Float[Array, "Y X"]:
    """Width of the windows at every pixel, scale * eccentricity, in pixels."""
    y, x = (jnp.arange(n, dtype=jnp.float32) for n in windows.size)
    log_ecc, _ = geometry.polar(y, x, windows.fixation, windows.pixels_per_degree)
    return windows.scale * jnp.exp(log_ecc) * windows.pixels_per_degree


def displacements(
    key: PRNGKeyArray, windows: PoolingWindows, reach: float | Float[Array, ""] = REACH
) -> Float[Array, "octaves 2 Y X"]:
    """d_k in pixels down and to the right, fine to coarse; 0 in the fovea."""
    width = window_width(windows)
    fields = unit_fields(key, windows.size)
    length = 2.0 ** jnp.arange(len(fields))[:, None, None]
    weight = length**2 / jnp.sqrt(1 + (length / (EXTENT * width[None] + 1e-3)) ** 8)
    weight = weight / jnp.sqrt((weight**2).sum(0, keepdims=True))
    square = ((fields * weight[:, None]).sum(0) ** 2).sum(0)
    amplitude = reach * width * periphery(windows) * jnp.sqrt(LEVELLED / (square + EVEN))
    moved = fields * (weight * amplitude[None])[:, None]
    return jnp.cumsum(moved[::-1], 0)[::-1]


def freedom(image: Float[Array, "Y X C"], grid: Cells) -> Float[Array, "Y X"]:
    """The module's factor of the fields, 1 in the fovea; small around what is alone in a window."""
    _, kurtosis = skew_and_kurtosis(einsum("yxc,c->yx", image, LUMA.astype(image.dtype)), grid)
    return 1 / (1 + spread(grid, (kurtosis / LONE) ** 4)[0])


def unit_fields(key: PRNGKeyArray, size: tuple[int, int]) -> Float[Array, "octaves 2 Y X"]:
    """n_j: the curl of noise smoothed by 2 * 2^j pixels, unit deviation along each axis."""
    y, x = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None]
    sigma = 2 * 2.0 ** np.arange(_octaves(size))[:, None, None]
    curl = 1j * np.stack(np.broadcast_arrays(x, -y))
    filters = np.exp(-2 * (np.pi * sigma) ** 2 * (y**2 + x**2))[:, None] * curl[None]
    # White noise of unit deviation through |filter|: the mean square of the filter is the variance.
    twice = np.where((x > 0) & (x < 0.5), 2, 1)
    power = (twice * np.abs(filters) ** 2).sum((-2, -1), keepdims=True) / math.prod(size)
    filters = (filters / np.sqrt(power)).astype(np.complex64)
    white = jnp.fft.rfft2(jax.random.normal(key, (len(filters), *size)))
    return jnp.fft.irfft2(white[:, None] * filters, s=size)


def disarray(
    image: Float[Array, "Y X C"], fields: Float[Array, "octaves 2 Y X"]
) -> Float[Array, "Y X C"]:
    """Every octave of the image read where its field points; fields of 0 give the image back."""
    rows, columns = (octave_matrices(n, len(fields)) for n in image.shape[:2])
    made = 0.0
    for k in reversed(range(len(fields))):
        down, right = rows[k], columns[k]
        octave = _both(down.at, right.at, image) - _both(down.coarser, right.coarser, image)
        y, x = (jnp.minimum(octave_grid(n, k), n - 1) for n in image.shape[:2])
        field = fields[k][:, y][:, :, x] / 2**k
        grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, field.shape[1:]), indexing="ij"))
        made = made + read_spline(octave, grid + field)
        if k:
            made = _both(down.finer, right.finer, made)
    return made


def _octaves(size: tuple[int, int]) -> int:
    """Octaves down to grids of some 8 samples a side."""
    return max(1, round(math.log2(min(size))) - 2)


def _both(rows, columns, planes):
    return einsum("py,yxc,qx->pqc", rows, planes, columns)


class _Axis:
    """Matrices of one octave along one axis, from the samples of the image.

    The spline coefficients of an octave on its own grid are the product over both axes of `at` less
    that of `coarser`: what the next octave's grid can carry is left to it, read
    as it will be read back, so that octaves which do not move add up to the image. `finer` brings
    samples of this grid to the next finer one.
    """

    def __init__(self, size: int, k: int, last: bool):
        prefilter = _prefilter(len(octave_grid(size, k)))
        self.at = (prefilter @ _gaussian(size, k)).astype(np.float32)
        coarser = (
            np.zeros((len(prefilter), size)) if last else _rise(size, k) @ _gaussian(size, k + 1)
        )
        self.coarser = (prefilter @ coarser).astype(np.float32)
        self.finer = (_rise(size, k - 1) if k else np.eye(size)).astype(np.float32)


@functools.lru_cache(maxsize=32)
def octave_matrices(size: int, n_octaves: int) -> tuple[_Axis, ...]:
    """Matrices of every octave along an axis of `size` pixels, fine to coarse."""
    return tuple(_Axis(size, k, k == n_octaves - 1) for k in range(n_octaves))


def octave_grid(size: int, k: int) -> np.ndarray:
    """Pixels at which octave k is sampled: every 2^k-th, up to the last pixel or just beyond it."""
    return np.arange(0, size - 1 + 2**k, 2**k)


def _rise(size: int, k: int) -> np.ndarray:
    """Samples on the grid of octave k + 1 to samples on that of octave k."""
    coarse = len(octave_grid(size, k + 1))
    return _spline_rows(octave_grid(size, k) / 2 ** (k + 1), coarse) @ _prefilter(coarse)


def _gaussian(size: int, k: int) -> np.ndarray:
    """Gaussian of .75 * 2^k pixels at the samples of octave k, mirrored; none for octave 0."""
    if k == 0:
        return np.eye(size)
    places, reach = octave_grid(size, k), 3 * 2**k
    pixels = np.arange(-reach, places[-1] + reach + 1)
    weights = np.exp(-0.5 * ((places[:, None] - pixels[None]) / (0.75 * 2**k)) ** 2)
    weights /= weights.sum(1, keepdims=True)
    rows = np.zeros((size, len(places)))
    np.add.at(rows, _mirror(pixels, size), weights.T)
    return rows.T


def _prefilter(size: int) -> np.ndarray:
    """Samples to coefficients of the cubic B-spline through them, mirrored at the end samples."""
    return np.linalg.inv(_spline_rows(np.arange(size), size))


def _spline_rows(places: np.ndarray, size: int) -> np.ndarray:
    """Values at `places` of the splines whose coefficients are the unit vectors, [places, size]."""
    base = np.floor(places).astype(int)
    rows = np.zeros((len(places), size))
    for tap, weight in enumerate(_spline_weights(places - base)):
        np.add.at(rows, (np.arange(len(places)), _mirror(base + tap - 1, size)), weight)
    return rows


def _spline_weights(t):
    """Weights of the four coefficients around a place t in [0, 1) past the second of them."""
    s = 1 - t
    inner = (4 - 6 * t**2 + 3 * t**3, 4 - 6 * s**2 + 3 * s**3)
    return [w / 6 for w in (s**3, *inner, t**3)]


def _mirror(index, size: int):
    """Indices beyond the ends reflected about the end samples; one sample stands for itself."""
    index = abs(index) % max(2 * (size - 1), 1)
    return (size - 1) - abs((size - 1) - index)


def coefficients(image: Float[Array, "Y X C"]) -> Float[Array, "Y X C"]:
    """Of the cubic spline through an image, for `read_spline`."""
    rows, columns = (_prefilter(n).astype(np.float32) for n in image.shape[:2])
    return _both(rows, columns, image)


def read_spline(
    coefficients: Float[Array, "Y X C"], at: Float[Array, "2 P Q"]
) -> Float[Array, "P Q C"]:
    """The cubic spline at places (y, x) in samples; continuous slopes, so its gradients are too."""
    base = jnp.floor(at)
    tap = jnp.arange(-1, 3)[:, None, None]
    y, x = (_mirror(b.astype(jnp.int32)[None] + tap, n)
            for b, n in zip(base, coefficients.shape[:2], strict=True))  # fmt: skip
    weights = [jnp.stack(_spline_weights(t)) for t in at - base]
    taps = coefficients[y[:, None], x[None]]  # [4, 4, P, Q, C]
    return einsum("apq,bpq,abpqc->pqc", *weights, taps)
