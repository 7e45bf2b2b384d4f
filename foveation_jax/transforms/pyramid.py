"""Complex steerable pyramid in the Fourier domain, with an exact inverse.

Simoncelli & Freeman (1995), Portilla & Simoncelli (2000): an image splits into a high-pass
residual, `n_scales` octaves of `n_orientations` oriented bands and a low-pass residual. With radial
frequency
rho = 1 at the Nyquist frequency of an axis, angle theta and order p = n_orientations - 1:

    hi(z) = sin(pi/2 z), lo(z) = cos(pi/2 z), z = clip(log2 rho + 1 + k, 0, 1)   at octave k
    band b of octave k = (-i)^p sqrt(c) cos(theta - pi b / n_orientations)^p hi_(k+1) lo_k ... lo_0

Sum over bands of the squared responses is 1 at every frequency (a tight frame), so the inverse is
the adjoint. Octaves are sampled on a grid half as fine each (Fourier crop), sample i of n at pixel
i Y / n; amplitudes do not change with the grid. Edges wrap around. Planes are real and even-sized,
so everything runs on real FFTs: the imaginary part of a complex band is one more real filter, the
quadrature (-i)^(p+1) |cos|^p sign, and costs what a real band costs.
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from foveation_jax.metrics.levels import check_finite
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError

STEP = 8  # pixels, of which the sides of filled-up images are multiples


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pyramid:
    """Coefficients of planes [*batch, Y, X]; a pytree.

    Attributes:
        high: high-pass residual, [*batch, Y, X].
        bands: one array an octave, fine to coarse, [*batch, O, Y_k, X_k], real or complex.
        low: low-pass residual on the coarsest grid.
    """

    high: Float[Array, "*batch Y X"]
    bands: tuple[Inexact[Array, "*batch O _ _"], ...]
    low: Float[Array, "*batch Yl Xl"]


def default_scales(size: tuple[int, int]) -> int:
    """Octaves above a low-pass residual of 32 samples a side (3 at 256 pixels), at least 1."""
    return max(1, round(math.log2(min(size))) - 5)


def check_size(size: tuple[int, int], n_scales: int) -> None:
    """Refuse a size that the pyramid cannot take.

    Raises:
        InputError: an odd side, a side below 16, or more octaves than the size carries.
    """
    if min(size) < 16 or size[0] % 2 or size[1] % 2:
        raise InputError(f"size is {tuple(size)}: the pyramid takes even sides of 16 or more.")
    most = int(math.log2(min(size))) - 2
    if not 1 <= n_scales <= most:
        raise InputError(f"n_scales is {n_scales}: size {tuple(size)} carries 1 to {most}.")


def fill_up(images: Float[Array, "N Y X C"]) -> Float[Array, "N Y2 X2 C"]:
    """Images of any size, mirrored beyond their last rows and columns to multiples of 8.

    So octaves halve evenly and windows find cells of their own grid; what is made of the images is
    cut back to their size.

    Raises:
        InputError: a side below 16.
    """
    size = images.shape[1:3]
    if min(size) < 16:
        raise InputError(f"size is {tuple(size)}: a texture takes sides of 16 pixels or more.")
    more = [(0, -n % STEP) for n in size]
    return jnp.pad(images, ((0, 0), *more, (0, 0)), mode="symmetric")


def decompose(
    planes: Float[Array, "*batch Y X"],
    n_scales: int,
    n_orientations: int = 4,
    complex_bands: bool = True,
) -> Pyramid:
    """Split planes into oriented bands.

    Args:
        planes: real values of any unit, even sides.
        n_scales: octaves.
        n_orientations: O, 2 to 16.
        complex_bands: False leaves out the quadrature parts: half the time, same inverse.

    Raises:
        InputError: a size or count that the pyramid cannot take, or a value that is not finite.

    Property: reconstruct(decompose(planes)) = planes to 1e-6 of their range, and without the
    residuals the real bands of a sum are the sum of the real bands.
    """
    check_size(planes.shape[-2:], n_scales)
    check_finite("planes", planes)
    return _decompose(planes, n_scales, n_orientations, complex_bands)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _decompose(planes, n_scales, n_orientations, complex_bands) -> Pyramid:
    size = planes.shape[-2:]
    masks = _masks(size, n_scales, n_orientations)
    spectrum = jnp.fft.rfft2(planes, norm="forward")
    high = _inverse(_filter(spectrum, masks.high), size)
    spectrum = _filter(spectrum, masks.low[0])
    bands = []
    phase = (-1j) ** (n_orientations - 1)
    for mask, sign, low in zip(masks.band, masks.sign, masks.low[1:], strict=True):
        grid = mask.shape[-2], 2 * (mask.shape[-1] - 1)
        spectrum = _crop(spectrum, grid)
        turned = (spectrum * phase)[..., None, :, :]
        band = _inverse(_filter(turned, mask), grid)
        if complex_bands:
            band = jax.lax.complex(band, _inverse(_filter(-1j * turned, mask * sign), grid))
        bands.append(band)
        spectrum = _filter(spectrum, low)
    grid = _next_grid(grid)
    return Pyramid(high, tuple(bands), _inverse(_crop(spectrum, grid), grid))


def reconstruct(pyramid: Pyramid) -> Float[Array, "*batch Y X"]:
    """Planes from their pyramid: the adjoint of `decompose`; reads the real parts of the bands.

    Raises:
        InputError: a coefficient that is not finite.
    """
    for name, part in (("high", pyramid.high), ("low", pyramid.low)):
        check_finite(f"the pyramid's {name}-pass residuals", part)
    for octave, band in enumerate(pyramid.bands):
        check_finite(f"the pyramid's bands of octave {octave}", band)
    return _reconstruct(pyramid)


@jax.jit
def _reconstruct(pyramid: Pyramid) -> Float[Array, "*batch Y X"]:
    size = pyramid.high.shape[-2:]
    n_orientations = pyramid.bands[0].shape[-3]
    masks = _masks(size, len(pyramid.bands), n_orientations)
    spectrum = jnp.fft.rfft2(pyramid.low, norm="forward")
    for k in reversed(range(len(pyramid.bands))):
        band = pyramid.bands[k].real
        spectrum = _filter(_pad(spectrum, band.shape[-2:]), masks.low[k + 1])
        bands = jnp.fft.rfft2(band, norm="forward")
        spectrum = spectrum + _filter(bands, masks.band[k]).sum(-3) * 1j ** (n_orientations - 1)
    spectrum = _filter(_pad(spectrum, size), masks.low[0])
    high = jnp.fft.rfft2(pyramid.high, norm="forward")
    spectrum = spectrum + _filter(high, masks.high)
    return _inverse(spectrum, size)


def refine(
    plane: Float[Array, "Y X"], grid: tuple[int, int], sigma: float
) -> Float[Array, "Yf Xf"]:
    """A plane smoothed by a Gaussian of `sigma` of its own samples, read on a finer band's grid.

    Property: a constant plane stays constant; the mean never changes.
    """
    size = plane.shape
    y, x = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None]
    gaussian = np.exp(-2 * (np.pi * sigma) ** 2 * (y**2 + x**2)).astype(np.float32)
    spectrum = jnp.fft.rfft2(plane, norm="forward") * gaussian
    return _inverse(_pad(spectrum, grid), grid)


@dataclass(frozen=True)
class _Masks:
    """Filters on rfft2 half planes, less their phase.

    high and low[0] are of the image, band[k] and low[k + 1] of octave k; sign[k] is the side of a
    band's orientation that a frequency lies on.
    """

    high: np.ndarray
    low: tuple[np.ndarray, ...]
    band: tuple[np.ndarray, ...]
    sign: tuple[np.ndarray, ...]


@functools.lru_cache(maxsize=32)
def _masks(size, n_scales, n_orientations) -> _Masks:
    check_allowed("n_orientations", n_orientations, Range(2, 16))
    order = n_orientations - 1
    norm = 2**order * math.factorial(order) / math.sqrt(n_orientations * math.factorial(2 * order))
    turns = np.pi * np.arange(n_orientations)[:, None, None] / n_orientations
    octave, _ = _polar_frequency(size, size, 0)
    high, low = np.sin(octave), [np.cos(octave)]
    band, sign, grid = [], [], size
    for k in range(n_scales):
        octave, angle = _polar_frequency(size, grid, k + 1)
        cosine = np.cos(angle - turns)
        band.append((norm * cosine**order * np.sin(octave)).astype(np.float32))
        sign.append(np.sign(cosine).astype(np.float32))
        low.append(np.cos(octave).astype(np.float32))
        grid = _next_grid(grid)
    low[0] = low[0].astype(np.float32)
    return _Masks(high.astype(np.float32), tuple(low), tuple(band), tuple(sign))


def _polar_frequency(size, grid, k):
    """pi/2 clip(log2 rho + 1 + k, 0, 1) and angle on the half plane of a grid of image `size`."""
    y = np.fft.fftfreq(grid[0], 1 / grid[0])[:, None] / (size[0] / 2)
    x = np.arange(grid[1] // 2 + 1)[None] / (size[1] / 2)
    radius = np.maximum(np.hypot(y, x), 1e-9)
    return np.pi / 2 * np.clip(np.log2(radius) + 1 + k, 0, 1), np.arctan2(y, x)


def _next_grid(grid):
    """The even grid that holds the lower half of the frequencies."""
    return tuple(2 * -(-n // 4) for n in grid)


def _filter(spectrum, mask):
    """Spectra times a mask of their trailing axes."""
    return spectrum * mask.reshape((1,) * (spectrum.ndim - mask.ndim) + mask.shape)


def _inverse(spectrum, grid):
    return jnp.fft.irfft2(spectrum, s=grid, norm="forward")


def _crop(spectrum, grid):
    """Keep the lower frequencies of a half plane (the dropped ones are zero)."""
    if spectrum.shape[-2] == grid[0]:
        return spectrum[..., : grid[1] // 2 + 1]
    half, columns = grid[0] // 2, grid[1] // 2 + 1
    top, bottom = spectrum[..., :half, :columns], spectrum[..., -half:, :columns]
    return jnp.concatenate([top, bottom], axis=-2)


def _pad(spectrum, grid):
    """Inverse of `_crop`: zeros for the frequencies that the finer grid adds."""
    if spectrum.shape[-2] == grid[0]:
        return spectrum
    half, rows = spectrum.shape[-2] // 2, grid[0] - spectrum.shape[-2]
    columns = grid[1] // 2 + 1 - spectrum.shape[-1]
    gap = jnp.zeros((*spectrum.shape[:-2], rows, spectrum.shape[-1]), spectrum.dtype)
    spectrum = jnp.concatenate([spectrum[..., :half, :], gap, spectrum[..., half:, :]], axis=-2)
    return jnp.pad(spectrum, [(0, 0)] * (spectrum.ndim - 1) + [(0, columns)])


def periodic_part(planes: Float[Array, "*batch Y X"]) -> Float[Array, "*batch Y X"]:
    """Planes less the smooth part that carries the jumps between opposite edges (Moisan 2011).

    p = u - s with laplacian(s) = the jumps; p joins at the edges, so its pyramid mixes no colours
    of one edge into the opposite one. Property: a plane that already joins (rows 0 and -1 equal,
    columns 0 and -1 equal) comes back unchanged.
    """
    size = planes.shape[-2:]
    rows = planes[..., -1, :] - planes[..., 0, :]
    columns = planes[..., :, -1] - planes[..., :, 0]
    jumps = jnp.zeros_like(planes).at[..., 0, :].add(rows).at[..., -1, :].add(-rows)
    jumps = jumps.at[..., :, 0].add(columns).at[..., :, -1].add(-columns)
    waves = [2 * np.cos(2 * np.pi * np.arange(n) / n) for n in size]
    laplacian = waves[0][:, None] + waves[1][None, : size[1] // 2 + 1] - 4
    laplacian[0, 0] = -np.inf  # s has mean zero
    inverse = (1 / laplacian).astype(np.float32)
    return planes - _inverse(_filter(jnp.fft.rfft2(jumps, norm="forward"), inverse), size)


def lowpass_octaves(planes: Float[Array, "*batch Y X"], n_scales: int) -> tuple:
    """Planes less their high-pass residual and all octaves finer than k, [*batch, Y_k, X_k] each.

    Plane k is what `reconstruct` makes of the octaves from k on and the low-pass residual, on the
    grid of octave k: the partially reconstructed images of Portilla & Simoncelli (2000).
    """
    spectrum = jnp.fft.rfft2(planes, norm="forward")
    masks, made = _masks(planes.shape[-2:], n_scales, 4), []
    for low, band in zip(masks.low[:-1], masks.band, strict=True):
        grid = band.shape[-2], 2 * (band.shape[-1] - 1)
        spectrum = _crop(_filter(spectrum, low**2), grid)
        made.append(_inverse(spectrum, grid))
    return tuple(made)


def upsample(
    plane: Float[Array, "*batch Y X"], grid: tuple[int, int]
) -> Float[Array, "*batch Yf Xf"]:
    """A plane read on a finer grid, no frequency added: sample i of n stays at i / n."""
    return _inverse(_pad(jnp.fft.rfft2(plane, norm="forward"), grid), grid)
