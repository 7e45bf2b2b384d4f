"""Foveation-Texture by the pyramid route: local texture statistics in a steerable pyramid.

Stage 1 of arXiv 2006.07991 keeps the centre and renders the periphery as texture: in every pooling
window features of noise take the moments of the image's features and are mixed with them. Here the
features are oriented bands of a steerable pyramid, so no weights are needed and the inverse is
exact. In band k and window R with mixing a (0 in the fovea, growing with the window):

    S = E_R[z z^T]                          covariance [C, C] of the image's band over the window
    e = smooth sum of z'^2 one octave coarser,   m ~ e / (e + 8 E_R[e]),   E_R[m^2] = 1
    z' = ((1 - a) z + a chol(S) chol(S_noise)^-1 m n) / sqrt((1 - a)^2 + a^2)

with a and the matrix spread by the windows, which add to 1. The denominator keeps the covariance
at S, as image and noise are independent. Means of band-pass responses vanish; the low-pass
residual, 32 samples a side by default, stays and with it the layout. Octaves are made from coarse
to fine: m sends fine texture to where coarser texture already is, as in photographs (magnitudes
correlate across scales, Portilla & Simoncelli 2000), so smooth walls and skies stay smooth; it
saturates, so that no few spots take all.

Covariance over colours, not colour by colour, keeps the picture in the image's own colours. It also
subsumes CORAL: noise coloured by any lower-triangular A gives the same chol(S) chol(S_noise)^-1 n.
The pyramid wraps around, so it is given the image's periodic part and the smooth rest is added
back.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foveation_jax.runs.mesh import each_image
from foveation_jax.transforms import pyramid
from foveation_jax.transforms.noise import cholesky, inverse_root, white_noise
from foveation_jax.windows.pooling import Cells, cells, pool, spread
from foveation_jax.windows.pooling_windows import PoolingWindows

FLOOR = 1e-7  # added to variances of bands: a twelfth of a grey level
PRIOR_SAMPLES = 16.0  # samples of the whole band that each window's noise moments count for
SMOOTHING = 1.0  # samples of the coarser octave over which its energy is taken
HALF = 8.0  # m is half full at this many times the window's mean energy
ENERGY_FLOOR = 1e-6  # of energies: amplitudes of a thousandth count as smooth
ENTRIES = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))  # K: lower triangle over C x C


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Band:
    """One octave's share of the noise, drawn and measured once for every image of a batch."""

    noise: Float[Array, "C O Y X"]
    whiten: Float[Array, "E T O C C"]
    cells: Cells


@functools.partial(jax.jit, static_argnames=("n_scales", "n_orientations", "scramble"))
def pyramid_texture(
    images: Float[Array, "N Y X C"],
    key: PRNGKeyArray,
    windows: PoolingWindows,
    n_scales: int,
    n_orientations: int = 4,
    scramble: bool = False,
) -> Float[Array, "N Y X C"]:
    """Images whose periphery is texture of the same local statistics.

    Args:
        images: colours in [0, 1], even sides of 16 pixels or more.
        key: draws the noise, one field for the whole batch.
        windows: pooling windows of the images' size.
        n_scales: octaves that turn into texture; the image carries one more.
        n_orientations: bands an octave.
        scramble: give each window the covariance of another window of its ring, a control.

    Returns:
        Images in [0, 1]. Property: windows whose mixing is 0 everywhere give the images back.
    """
    images = jnp.moveaxis(images, -1, 1)
    noise_key, order_key = jax.random.split(key)
    white = white_noise(noise_key, images.shape[1:])
    noise = pyramid.decompose(white, n_scales, n_orientations, False)
    bands = [_measure(n, windows) for n in (noise.high[:, None], *noise.bands)]
    mixing = windows.mixing()
    order = jnp.broadcast_to(jnp.arange(windows.n_wedges)[None], mixing.shape)
    if scramble:
        order = jax.random.permutation(order_key, order, axis=1, independent=True)

    def one(planes):
        periodic = pyramid.periodic_part(planes)
        signal = pyramid.decompose(periodic, n_scales + 1, n_orientations, False)
        made = [signal.bands[-1]]  # the octave above the coarsest textured one, as it is
        for z, band in zip(reversed(signal.bands[:-1]), reversed(bands[1:]), strict=True):
            made.append(_mix(z, band, made[-1], mixing, order))
        high = _mix(signal.high[:, None], bands[0], made[-1], mixing, order)
        textured = pyramid.Pyramid(high[:, 0], tuple(reversed(made)), signal.low)
        return pyramid.reconstruct(textured) + planes - periodic

    result = each_image(one, images)
    return jnp.moveaxis(jnp.clip(result, 0.0, 1.0), 1, -1)


def _measure(noise: Float[Array, "C O Y X"], windows: PoolingWindows) -> _Band:
    """Windows on the band's grid and chol(S_noise)^-1, S_noise held to the band's mean variance."""
    grid = cells(windows, noise.shape[-2:])
    variance = (noise**2).mean((0, 2, 3))[:, None, None] * jnp.eye(noise.shape[0])[None]
    count = (grid.mass * grid.side**2)[..., None, None, None]
    held = _covariance(noise, grid) * count + PRIOR_SAMPLES * variance[None, None]
    held = held / (count + PRIOR_SAMPLES)
    root = cholesky(held, FLOOR)
    return _Band(noise, inverse_root(root), grid)


def _mix(z: Float[Array, "C O Y X"], band: _Band, coarser, mixing: Float[Array, "E T"], order):
    """The module's z' for one octave; `order` says whose covariance a window takes."""
    covariance = _covariance(z, band.cells)
    covariance = jnp.take_along_axis(covariance, order[..., None, None, None], 1)
    root = cholesky(covariance, FLOOR)
    carry = (root[..., :, :, None] * band.whiten[..., None, :, :]).sum(-2)
    envelope, power = _envelope(coarser, band.cells, z.shape[-2:])
    share = 1 / jnp.sqrt((1 - mixing) ** 2 + mixing**2)
    carry = carry * (mixing * share / jnp.sqrt(power))[..., None, None, None]
    entries = jnp.stack([carry[..., c, d] for c, d in ENTRIES], -1)  # [E, T, O, K]
    lost = 1 - (1 - mixing) * share
    fields = spread(
        band.cells, jnp.concatenate([entries.reshape(*mixing.shape, -1), lost[..., None]], -1)
    )
    field = fields[:-1].reshape(z.shape[1], len(ENTRIES), *z.shape[2:])
    texture = [
        sum(field[:, k] * band.noise[d] for k, (row, d) in enumerate(ENTRIES) if row == c)
        for c in range(z.shape[0])
    ]
    return (1 - fields[-1])[None, None] * z + envelope[None, None] * jnp.stack(texture)


def _envelope(coarser: Float[Array, "C O Yp Xp"], grid: Cells, size: tuple[int, int]):
    """The module's m before normalisation, [Y, X], and its mean square by window, [E, T]."""
    energy = pyramid.refine((coarser**2).sum((0, 1)), size, SMOOTHING)
    energy = jnp.maximum(energy, 0) + ENERGY_FLOOR
    envelope = energy / (energy + HALF * spread(grid, pool(grid, energy[None]))[0])
    power = pool(grid, envelope[None] ** 2)[..., 0]
    return envelope, jnp.where(grid.mass > 1e-3, power, 1.0)


def _covariance(z: Float[Array, "C O Y X"], grid: Cells) -> Float[Array, "E T O C C"]:
    """E_R[z z^T] over every window; bands have no mean."""
    products = jnp.stack([z[c] * z[d] for c, d in ENTRIES])
    moments = pool(grid, products.reshape(-1, *z.shape[2:]))
    moments = moments.reshape(*moments.shape[:2], len(ENTRIES), z.shape[1])
    index = jnp.array([[0, 1, 3], [1, 2, 4], [3, 4, 5]])  # entry of ENTRIES at (c, d)
    return jnp.moveaxis(moments, -1, 2)[..., index]
