"""Window-weighted means over pooling windows, and their spreading back, by factored contractions.

A sum over the window of ring e and wedge t, sum_yx g_e h_t v, is a contraction with the wedges of
maps that the rings have weighed: N_rings + N_wedges maps are read, never N_rings * N_wedges.
Windows vary slowly, so maps are first averaged over square cells no wider than the narrowest
window, and what is spread back is interpolated linearly between the centres of cells; the windows
still add to 1 at every pixel. `pool` of a constant map and `spread` of a constant table return the
constant.
"""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.metrics.levels import check_finite
from foveation_jax.runs.precision import einsum, matmul
from foveation_jax.windows.pooling_windows import INNER_DEG, PoolingWindows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cells:
    """Windows on the cells of one grid; a pytree.

    Attributes:
        rings, wedges: factors at the centres of cells.
        mass: cells that each window covers.
        side: samples of the grid along the side of a cell.
    """

    rings: Float[Array, "E Yc Xc"]
    wedges: Float[Array, "T Yc Xc"]
    mass: Float[Array, "E T"]
    side: int = field(metadata={"static": True})


def cells(windows: PoolingWindows, grid: tuple[int, int], ring: float = 0.5) -> Cells:
    """Windows on the cells of a grid whose sample i of n lies at pixel i size / n (a band).

    Args:
        windows: of an image of any size.
        grid: samples (rows, columns) along the image's sides.
        ring: cells are no wider than a window of this ring, counted from the innermost; half a
            ring in by default, which is as narrow as they are.
    """
    side = _cell_side(windows, grid, ring)
    centres = [
        (jnp.arange(samples // side) * side + (side - 1) / 2) * (pixels / samples)
        for samples, pixels in zip(grid, windows.size, strict=True)
    ]
    rings, wedges = windows.factors(*centres)
    return Cells(rings, wedges, einsum("eyx,tyx->et", rings, wedges), side)


def pool(cells: Cells, maps: Float[Array, "K Y X"], at_once: bool = False) -> Float[Array, "E T K"]:
    """Mean of K maps over every window; 0 for a window that lies off the image.

    Args:
        cells: windows on the maps' grid.
        maps: what is averaged.
        at_once: one product in place of one a ring: half the time where maps are many and
            gradients are taken, at the memory of E T maps of cells.
    """
    check_finite("maps", maps)
    side = cells.side
    rows, columns = (n // side for n in maps.shape[1:])
    maps = maps.reshape(-1, rows, side, columns * side)
    maps = sum(maps[:, :, i] for i in range(side))
    maps = maps.reshape(-1, rows, columns, side)
    means = sum(maps[..., i] for i in range(side)) / side**2
    return _over_windows(cells, means, at_once)


def pool_products(
    cells: Cells,
    a: Float[Array, "*batch K Y X"],
    b: Float[Array, "*batch L Y X"],
    at_once: bool = False,
) -> Float[Array, "E T *batch K L"]:
    """Mean over every window of each product of a map of `a` with a map of `b`.

    Cells are summed by small matrix products, a tenth of the time of maps of products.

    Property: `pool` of the products, to rounding.
    """
    side = cells.side
    a, b = (v.reshape(*v.shape[:-2], v.shape[-2] // side, side, -1, side) for v in (a, b))
    means = einsum("...kyaxb,...lyaxb->...klyx", a, b) / side**2
    pooled = _over_windows(cells, means.reshape(-1, *means.shape[-2:]), at_once)
    return pooled.reshape(*pooled.shape[:2], *means.shape[:-2])


def _over_windows(cells: Cells, means: Float[Array, "K Yc Xc"], at_once: bool):
    """Means over windows of maps of cells."""
    means = means.reshape(len(means), -1)

    def one_ring(ring):
        weighed = (cells.wedges * ring[None]).reshape(len(cells.wedges), -1)
        return matmul(weighed, means.T)

    if at_once:
        windows = cells.rings[:, None] * cells.wedges[None]
        sums = matmul(windows.reshape(cells.mass.size, -1), means.T)
        sums = sums.reshape(*cells.mass.shape, len(means))
    else:
        sums = jax.lax.map(one_ring, cells.rings)
    return sums / jnp.maximum(cells.mass, 1e-3)[..., None]


def spread(cells: Cells, table: Float[Array, "E T K"]) -> Float[Array, "K Y X"]:
    """One value a window back to the grid: sum over windows of table * window; 0 in the fovea."""
    check_finite("table", table)
    wedges = cells.wedges.reshape(len(cells.wedges), -1)

    def add_ring(maps, ring_and_row):
        ring, row = ring_and_row
        return maps + matmul(row.T, wedges) * ring.reshape(1, -1), None

    maps = jnp.zeros((table.shape[-1], wedges.shape[-1]), table.dtype)
    maps, _ = jax.lax.scan(add_ring, maps, (cells.rings, table))
    return _refine(maps.reshape(-1, *cells.rings.shape[1:]), cells.side)


def _refine(maps: Float[Array, "K Yc Xc"], side: int) -> Float[Array, "K Y X"]:
    """`side` samples a cell, linear between the centres of cells, constant beyond the outermost.

    Columns by a product with the matrix of interpolation weights, then rows by their three taps:
    at any row two of before, here and after count.
    """
    if side == 1:
        return maps
    count, rows, columns = maps.shape
    weights = jax.image.resize(jnp.eye(columns), (columns, columns * side), "linear")
    maps = matmul(maps, weights)
    before = jnp.concatenate([maps[:, :1], maps[:, :-1]], 1)[:, :, None]
    after = jnp.concatenate([maps[:, 1:], maps[:, -1:]], 1)[:, :, None]
    offset = (((jnp.arange(side) + 0.5) / side - 0.5)[None, None, :, None]).astype(maps.dtype)
    fine = maps[:, :, None] * (1 - jnp.abs(offset))
    fine = fine + before * jnp.maximum(-offset, 0) + after * jnp.maximum(offset, 0)
    return fine.reshape(count, rows * side, columns * side)


def _cell_side(windows, grid, ring):
    """The widest power of two that divides the grid and fits in a window of that ring."""
    scale = 4 * math.pi / windows.n_wedges  # the scale may be traced; its wedges are not
    edge = INNER_DEG * math.exp(2 * math.asinh(scale / 2) * (windows.first_ring + ring))
    samples = 2 * math.pi / windows.n_wedges * edge * windows.pixels_per_degree
    samples *= min(n / pixels for n, pixels in zip(grid, windows.size, strict=True))
    side = 1
    while 2 * side <= samples and not any(n % (2 * side) for n in grid):
        side *= 2
    return side
