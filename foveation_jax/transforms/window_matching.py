"""Closed form by window: a picture takes the means, energies and colours of another's windows.

In every band of a steerable pyramid and in every pooling window each opponent colour is multiplied
by the root of the wanted over the present energy; the low-pass residual takes the window's mean.
Then the pixels take the mean and the covariance over colours S of every window: they are
multiplied by chol(S) chol(S')^-1, S' the present covariance. Gains are spread by the windows, which
add to 1.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from foveation_jax.runs.precision import einsum, exact, matmul
from foveation_jax.transforms import pyramid
from foveation_jax.transforms.noise import cholesky, inverse_root
from foveation_jax.windows.pooling import Cells, cells, pool, pool_products, spread
from foveation_jax.windows.pooling_windows import PoolingWindows

PRIOR = 0.02  # of the present variance, added to both covariances: how much may be amplified
FLOOR = 1e-7  # added to variances: a twelfth of a grey level
LEVEL = 1 / 255**2  # added to variances of pixels: flat windows stay flat
# Orthonormal opponent colours. Triangular roots there leave grey pictures grey.
OPPONENT = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])


def match_windows(
    picture: Float[Array, "Y X C"],
    wanted: Float[Array, "Y X C"],
    windows: PoolingWindows,
    n_scales: int,
    order: Int[Array, "E T"] | None = None,
) -> Float[Array, "Y X C"]:
    """`picture` with the band energies, means and colour covariances of `wanted`, by window.

    Args:
        picture: what is changed, even sides.
        wanted: whose statistics it takes, of the same size.
        windows: of that size.
        n_scales: octaves of the pyramid.
        order: wedge whose energies each window takes in its own ring's stead, a control; means of
            windows stay their own and pixels are then not matched.

    Property: a picture that is wanted stays as it is, and so does any in the fovea.
    """
    with exact():
        opponent = jnp.asarray(OPPONENT, picture.dtype)
        planes, target = (jnp.moveaxis(v @ opponent.T, -1, 0) for v in (picture, wanted))
        whole = pyramid.periodic_part(jnp.stack([planes, target]))
        split = pyramid.decompose(whole, n_scales, 4, False)
        bands = [split.high[:, :, None], *split.bands]
        grids = [cells(windows, band.shape[-2:]) for band in (*bands, split.low)]
        high, *bands = [
            _carry(have, want, grid, order)
            for (have, want), grid in zip(bands, grids[:-1], strict=True)
        ]
        present, low = split.low
        low = present + spread(grids[-1], pool(grids[-1], low - present))
        made = pyramid.reconstruct(pyramid.Pyramid(high[:, 0], tuple(bands), low))
        made = made + target - whole[1]  # the jumps between opposite edges are the target's
        made = _carry_pixels(made, target, grids[0]) if order is None else made
        return jnp.moveaxis(made, 0, -1) @ opponent


def _carry(present: Float[Array, "C O Y X"], wanted: Float[Array, "C O Y X"], grid: Cells, order):
    """One octave; its bands have no mean."""
    have, want = (
        pool(grid, (z**2).reshape(-1, *z.shape[2:])) for z in (present, wanted)
    )  # [E, T, C O]
    if order is not None:
        want = jnp.take_along_axis(want, order[..., None], 1)
    ridge = PRIOR * have + FLOOR
    gain = jnp.sqrt((want + ridge) / (have + ridge)) - 1
    return present * (1 + spread(grid, gain)).reshape(present.shape)


def _carry_pixels(present: Float[Array, "C Y X"], wanted: Float[Array, "C Y X"], grid: Cells):
    """Means and covariances of the pixels: x + G (x - mean') + mean - mean'."""
    means = [pool(grid, z) for z in (present, wanted)]
    have, want = (
        pool_products(grid, z, z) - m[..., :, None] * m[..., None, :]
        for z, m in zip((present, wanted), means, strict=True)
    )
    gain = _gain(have, want, grid)
    shift = means[1] - means[0] - (gain * means[0][..., None, :]).sum(-1)
    fields = spread(grid, jnp.concatenate([gain.reshape(*grid.mass.shape, 9), shift], -1))
    matrix = fields[:9].reshape(3, 3, *present.shape[1:])
    return present + einsum("cdyx,dyx->cyx", matrix, present) + fields[9:]


def _gain(present: Float[Array, "E T C C"], wanted: Float[Array, "E T C C"], grid: Cells):
    """chol(wanted) chol(present)^-1 - 1 by window, 0 for windows that lie off the image."""
    eye = jnp.eye(3)[None, None]
    ridge = eye * PRIOR * jnp.maximum(jnp.diagonal(present, axis1=-2, axis2=-1), 0)[..., None]
    roots = [cholesky(s + ridge, LEVEL) for s in (present, wanted)]
    gain = matmul(roots[1], inverse_root(roots[0]))
    inside = grid.mass[..., None, None] > 1e-3
    return jnp.where(inside, gain - eye, 0.0)
