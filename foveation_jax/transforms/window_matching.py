"""Closed form by window: a picture takes the means, energies and colours of another's windows.

In every band of a steerable pyramid and in every pooling window the picture is multiplied by
chol(S) chol(S')^-1, S and S' the covariances over colours of the wanted and of the present band;
the low-pass residual takes the window's mean. Then the same once more for the pixels: mean and
covariance over colours of every window. Matrices are spread by the windows, which add to 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax import pyramid
from foveation_jax.pooling import Cells, cells, pool, spread
from foveation_jax.windows import PoolingWindows

PRIOR = 0.02  # of the present variance, added to both covariances: how much may be amplified
FLOOR = 1e-7  # added to variances: a twelfth of a grey level
LOWER = np.tril_indices(3)
FULL = np.array([[0, 1, 3], [1, 2, 4], [3, 4, 5]])  # entry of LOWER at (c, d)


def match_windows(
    picture: Float[Array, "Y X C"],
    wanted: Float[Array, "Y X C"],
    windows: PoolingWindows,
    n_scales: int,
) -> Float[Array, "Y X C"]:
    """`picture` with the band energies, means and colour covariances of `wanted`, by window.

    Args:
        picture: what is changed, even sides.
        wanted: whose statistics it takes, of the same size.
        windows: of that size.
        n_scales: octaves of the pyramid.

    Property: a picture that is wanted stays as it is, and so does any in the fovea.
    """
    with jax.default_matmul_precision("highest"):
        planes, target = jnp.moveaxis(picture, -1, 0), jnp.moveaxis(wanted, -1, 0)
        whole = pyramid.periodic_part(jnp.stack([planes, target]))
        split = pyramid.decompose(whole, n_scales, 4, False)
        bands = [split.high[:, :, None], *split.bands]
        grids = [cells(windows, band.shape[-2:]) for band in (*bands, split.low)]
        high, *bands = [_carry(*band, grid) for band, grid in zip(bands, grids[:-1], strict=True)]
        present, low = split.low
        low = present + spread(grids[-1], pool(grids[-1], low - present))
        made = pyramid.reconstruct(pyramid.Pyramid(high[:, 0], tuple(bands), low))
        made = made + target - whole[1]  # the jumps between opposite edges are the target's
        return jnp.moveaxis(_carry_pixels(made, target, grids[0]), 0, -1)


def _carry(present: Float[Array, "C O Y X"], wanted: Float[Array, "C O Y X"], grid: Cells):
    """One octave; its bands have no mean."""
    moments = [_second_moments(z, grid) for z in (present, wanted)]
    gain = _gain(*moments, grid)  # [E, T, O, C, C], less the identity
    fields = spread(grid, gain.reshape(*grid.mass.shape, -1))
    fields = fields.reshape(-1, 3, 3, *present.shape[2:])
    return present + jnp.einsum("ocdyx,doyx->coyx", fields, present)


def _carry_pixels(present: Float[Array, "C Y X"], wanted: Float[Array, "C Y X"], grid: Cells):
    """Means and covariances of the pixels: x + G (x - mean') + mean - mean'."""
    means = [pool(grid, z) for z in (present, wanted)]
    moments = [
        _second_moments(z[:, None], grid)[:, :, 0] - m[..., :, None] * m[..., None, :]
        for z, m in zip((present, wanted), means, strict=True)
    ]
    gain = _gain(*moments, grid)
    shift = means[1] - means[0] - (gain * means[0][..., None, :]).sum(-1)
    fields = spread(grid, jnp.concatenate([gain.reshape(*grid.mass.shape, 9), shift], -1))
    matrix = fields[:9].reshape(3, 3, *present.shape[1:])
    return present + (matrix * present[None]).sum(1) + fields[9:]


def _second_moments(z: Float[Array, "C O Y X"], grid: Cells) -> Float[Array, "E T O C C"]:
    """E_R[z z^T] over every window."""
    products = z[LOWER[0]] * z[LOWER[1]]
    moments = pool(grid, products.reshape(-1, *z.shape[2:]))
    moments = moments.reshape(*moments.shape[:2], 6, z.shape[1])
    return jnp.moveaxis(moments, -1, 2)[..., FULL]


def _gain(present, wanted, grid: Cells):
    """chol(wanted) chol(present)^-1 - 1 by window, 0 for windows that lie off the image."""
    eye = jnp.eye(3).reshape((1,) * (present.ndim - 2) + (3, 3))
    ridge = eye * (PRIOR * jnp.trace(present, axis1=-2, axis2=-1) + FLOOR)[..., None, None]
    roots = [jnp.linalg.cholesky(s + ridge) for s in (present, wanted)]
    # root gain^T: (chol(present)^T)^-1 chol(wanted)^T
    gain = jax.scipy.linalg.solve_triangular(
        roots[0], jnp.swapaxes(roots[1], -1, -2), lower=True, trans=1
    )
    inside = grid.mass.reshape(*grid.mass.shape, *(1,) * (gain.ndim - 2)) > 1e-3
    return jnp.where(inside, jnp.swapaxes(gain, -1, -2) - eye, 0.0)
