"""How good a texture is: Portilla-Simoncelli statistics pooled by window, edges and places by ring.

A texture keeps the statistics of every pooling window and loses the places of things within it.
Families of Portilla & Simoncelli (2000), here in pooling windows (`windows/pooling_windows.py`), of
the luma y and the bands z of its complex steerable pyramid, m = |z|, E_R the mean over window R:

    mean, colours             E_R of the colours, and their covariance
    variance                  of y
    skew, kurtosis            of y and of y low-passed at each octave, about the local mean
    energy                    ln E_R[m^2] of the high-pass residual and of every band
    sparseness                E_R[m]^2 / E_R[m^2]; pi / 4 for noise, less for sparse edges
    positions                 correlation of m with itself one and two samples away
    orientations              correlations of m of one octave
    scales                    correlations of m with the m of the next coarser octave
    phase                     correlations of Re z with the coarser octave, its phase doubled

By ring of eccentricity beside them: coherence of gradients (1 on a straight edge, 0 without a
direction), energy and kurtosis of octaves, and their correlation with the original: what is left of
the places.
"""

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from foveation_jax.metrics.checks import check_pair
from foveation_jax.metrics.filtering import filter_axes, gaussian_taps, mirror_matrix
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import each_image
from foveation_jax.runs.precision import einsum, exact
from foveation_jax.transforms import pyramid
from foveation_jax.windows import geometry
from foveation_jax.windows.pooling import Cells, cells, pool, pool_products, spread
from foveation_jax.windows.pooling_windows import (
    INNER_DEG,
    PoolingWindows,
    pooling_windows,
    ring_width,
)

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
LEVEL = 1 / 255**2  # skew and kurtosis are those seen through noise of one grey level
FLOOR = 1e-6  # added to variances of bands: a quarter of a grey level counts as flat
LEAST_SAMPLES = 9.0  # samples of a band that a window must hold for a statistic of it to count
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2))
ENTRIES = np.array([[0, 1, 1, 2, 2, 2, 3], [0, 0, 1, 0, 1, 2, 3]])  # colour pairs, luma last
OCTAVES = 5  # differences of Gaussians

Families = dict[str, Float[Array, "E T K"]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextureStatistics:
    """A texture beside its original, by ring of eccentricity (E) from inside out; a pytree.

    Attributes:
        edges: degrees at which neighbouring rings weigh one half, [E + 1].
        coherence: of gradients, original and texture, [2, E].
        correlation: of each octave with the original's (octave k: difference of Gaussians of
            2^(k-1) and 2^k pixels), [E, octaves].
        energy: of each octave, texture over original, [E, octaves].
        kurtosis: of each octave, original and texture, [2, E, octaves].
        variance: of the windows' luma, texture over original, [E].
        colours: correlation over windows of the colour covariances, [E].
        errors: family -> root mean square error over windows in deviations of the original over
            windows, [E]; NaN in a ring whose windows lie off the image or hold too few samples.
    """

    edges: Float[Array, " edges"]
    coherence: Float[Array, "2 E"]
    correlation: Float[Array, "E octaves"]
    energy: Float[Array, "E octaves"]
    kurtosis: Float[Array, "2 E octaves"]
    variance: Float[Array, " E"]
    colours: Float[Array, " E"]
    errors: dict[str, Float[Array, " E"]]


def texture_statistics(
    images: Shaped[Array | np.ndarray, "..."],
    seen: Shaped[Array | np.ndarray, "..."],
    *,
    scale: float = 0.4,
    fixation: tuple | Array | None = None,
    field_of_view: float = geometry.FIELD_OF_VIEW,
    n_scales: int | None = None,
) -> TextureStatistics:
    """Compare textures with the photographs that they were made of.

    Args:
        images: originals [N, Y, X, 3], colours in [0, 1] or uint8, sides of 32 pixels or more.
        seen: their textures, of the same shape.
        scale: width of the pooling windows over their eccentricity.
        fixation: (y, x) in pixels; the centre by default.
        field_of_view: degrees that the width subtends.
        n_scales: octaves of the pyramid; by default all but 32 x 32 samples.

    Raises:
        InputError: batches of different shapes, or a size that the pyramid cannot take.

    Property: an image beside itself has errors 0 and correlations 1. Differentiable in `seen`.
    """
    images, seen = check_pair("texture_statistics", images, seen, 32)
    size = images.shape[1:3]
    whole = tuple(n + -n % pyramid.STEP for n in size)
    octaves = pyramid.default_scales(whole) if n_scales is None else n_scales
    pyramid.check_size(whole, octaves)
    if images.shape[-1] != 3:
        raise InputError(f"images have shape {images.shape}: they must be [N, Y, X, 3].")
    windows = pooling_windows(scale, size, fixation, False, field_of_view)
    return _compare(images, seen, windows, octaves)


@functools.partial(jax.jit, static_argnames="n_scales")
def _compare(images, seen, windows: PoolingWindows, n_scales: int) -> TextureStatistics:
    with exact():
        filled = [jnp.moveaxis(pyramid.fill_up(batch), -1, 1) for batch in (images, seen)]
        whole = dataclasses.replace(windows, size=filled[0].shape[2:])
        grids = octave_cells(whole, n_scales)
        tables = each_image(lambda image: pooled_statistics(image, grids), jnp.concatenate(filled))
        halves = {f: jnp.split(table, 2) for f, table in tables.items()}
        pooled = [{f: half[i] for f, half in halves.items()} for i in range(2)]
        weight = {f: window_weights(whole, grids, k) for f, k in octaves_of(n_scales).items()}
        errors = {f: _errors(pooled[0][f], pooled[1][f], weight[f]) for f in pooled[0]}
        covered = weight["variance"]
        variance = [einsum("etk,netk->e", covered, p["variance"]) for p in pooled]
        before, after = (p["colours"].swapaxes(0, 1) for p in pooled)
        return TextureStatistics(
            edges=windows.ring_edges(),
            variance=_ratio(variance[1], variance[0]),
            colours=_correlate(before, after, jnp.broadcast_to(covered[:, None], before.shape)),
            errors=errors,
            **_by_ring(images @ LUMA, seen @ LUMA, windows),
        )


def octave_cells(windows: PoolingWindows, n_scales: int, ring: float = 0.5) -> tuple[Cells, ...]:
    """The windows on the image's grid and on every coarser octave's: what statistics pool over.

    `ring` says how wide their cells may be, see `cells`.
    """
    grids = [windows.size]
    for _ in range(n_scales - 1):
        rows, columns = grids[-1]
        grids.append((2 * -(-rows // 4), 2 * -(-columns // 4)))
    return tuple(cells(windows, grid, ring) for grid in grids)


def octaves_of(n_scales: int) -> dict[str, np.ndarray]:
    """Family -> octave of each of its statistics, in the order of `pooled_statistics`.

    One octave has no coarser one beside it: then there are no families across scales.
    """
    every, pairs = np.arange(n_scales), np.arange(n_scales - 1)
    marginal = np.concatenate([[0], every])
    families = {
        "mean": np.zeros(3, int),
        "colours": np.zeros(6, int),
        "variance": np.zeros(1, int),
        "skew": marginal,
        "kurtosis": marginal,
        "energy": np.concatenate([[0], every.repeat(4)]),
        "sparseness": every.repeat(4),
        "positions": every.repeat(4 * len(SHIFTS)),
        "orientations": every.repeat(6),
        "scales": pairs.repeat(16) + 1,
        "phase": pairs.repeat(32) + 1,
    }
    return {name: octaves for name, octaves in families.items() if len(octaves)}


def window_weights(
    windows: PoolingWindows, grids: tuple[Cells, ...], octaves: np.ndarray
) -> Float[Array, "E T K"]:
    """How much each window counts for statistics of the given octaves.

    That is the share of it that lies on the image, and 0 where it holds too few samples.
    """
    radius = INNER_DEG * jnp.exp(
        ring_width(windows.scale) * (windows.first_ring + 1 + jnp.arange(windows.n_rings))
    )
    whole = radius**2 * ring_width(windows.scale) * (2 * math.pi / windows.n_wedges)
    whole = whole * windows.pixels_per_degree**2
    samples = [grid.mass * grid.side**2 for grid in grids]
    share = jnp.minimum(samples[0] / whole[:, None], 1.0)
    return jnp.stack([share * (samples[k] >= LEAST_SAMPLES) for k in octaves], -1)


def pooled_statistics(
    image: Float[Array, "C Y X"],
    grids: tuple[Cells, ...],
    split: pyramid.Pyramid | None = None,
) -> Families:
    """The families of one image, by ring and wedge of the windows.

    Args:
        image: colours in [0, 1].
        grids: windows on the image and on each octave, from `octave_cells`.
        split: the pyramid of its luma, where that is at hand.

    Property: with one window over the whole image the statistics are plenoptic's.
    """
    n_scales = len(grids)
    luma = einsum("c,cyx->yx", jnp.asarray(LUMA, image.dtype), image)
    split = split or pyramid.decompose(luma, n_scales)
    families = {name: [] for name in octaves_of(n_scales)}
    planes, (c, d) = jnp.concatenate([image, luma[None]]), ENTRIES
    mean = pool(grids[0], planes, True)
    product = pool_products(grids[0], planes, planes, True)[..., c, d]
    covariance = product - mean[..., c] * mean[..., d]
    families["mean"].append(mean[..., :3])
    families["colours"].append(covariance[..., :-1])
    families["variance"].append(covariance[..., -1:])
    lows = pyramid.lowpass_octaves(luma, n_scales)
    for plane, grid in zip((luma, *lows), (grids[0], *grids), strict=True):
        skew, kurtosis = skew_and_kurtosis(plane, grid)
        families["skew"].append(skew)
        families["kurtosis"].append(kurtosis)
    families["energy"].append(jnp.log(pool(grids[0], split.high[None] ** 2) + FLOOR))
    for k, (z, grid) in enumerate(zip(split.bands, grids, strict=True)):
        coarser = None
        if k + 1 < n_scales:
            wide = split.bands[k + 1]
            wide = jax.lax.complex(
                pyramid.upsample(wide.real, z.shape[-2:]), pyramid.upsample(wide.imag, z.shape[-2:])
            )
            m = _magnitude(wide)
            doubled = jnp.concatenate([wide.real**2 - wide.imag**2, 2 * wide.real * wide.imag])
            coarser = m, doubled / jnp.concatenate([m, m])
        _add_octave(families, z.real, _magnitude(z), coarser, grid)
    return {name: jnp.concatenate(parts, -1) for name, parts in families.items()}


def _add_octave(families, real, m, coarser, grid: Cells):
    """Statistics of one octave; `coarser`: m and the doubled phase of the next, on its grid."""
    shifted = jnp.stack([jnp.roll(m, shift, (1, 2)) for shift in SHIFTS], 1)
    mean, product = pool(grid, m, True), pool_products(grid, m, m, True)
    energy = jnp.diagonal(product, axis1=-2, axis2=-1)
    variance = energy - mean**2 + FLOOR
    families["energy"].append(jnp.log(energy + FLOOR))
    families["sparseness"].append(mean**2 / (energy + FLOOR))
    near = pool_products(grid, m[:, None], shifted, True)[..., 0, :] - mean[..., None] ** 2
    families["positions"].append(_flat(near / variance[..., None]))
    first, second = np.tril_indices(len(m), -1)
    pair = product[..., first, second] - mean[..., first] * mean[..., second]
    families["orientations"].append(pair / jnp.sqrt(variance[..., first] * variance[..., second]))
    if coarser is not None:
        wide, doubled = coarser
        wide_mean = pool(grid, wide, True)
        across = pool(grid, wide**2, True) - wide_mean**2 + FLOOR
        covariance = pool_products(grid, m, wide, True) - _outer(mean, wide_mean)
        families["scales"].append(_flat(covariance / jnp.sqrt(_outer(variance, across))))
        # Re z and the parts of the doubled phase have no mean.
        power = _outer(*(pool(grid, v**2, True) + FLOOR for v in (real, doubled)))
        phase = pool_products(grid, real, doubled, True) / jnp.sqrt(power)
        families["phase"].append(_flat(phase))


def _outer(a, b):
    return a[..., :, None] * b[..., None, :]


def _flat(a):
    """The last two axes as one, the first of them slowest."""
    return a.reshape(*a.shape[:-2], -1)


def _magnitude(z):
    """|z| with a gradient of 0 where z is 0."""
    return jnp.sqrt(z.real**2 + z.imag**2 + 1e-12)


def skew_and_kurtosis(plane: Float[Array, "Y X"], grid: Cells):
    """Third and fourth central moments over powers of the variance, [E, T, 1] each.

    Windows differ in mean by many deviations of a smooth sky, which raw fourth moments in float32
    would not survive: the windows' means, spread, are taken off first.
    """
    whole = plane.mean()
    local = spread(grid, pool(grid, plane[None], True) - whole)[0] + whole
    x = plane - local
    m1, m2, m3, m4 = jnp.moveaxis(pool(grid, jnp.stack([x, x**2, x**3, x**4]), True), -1, 0)
    variance = m2 - m1**2
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    held = jnp.maximum(variance, 0) + LEVEL
    kurtosis = (fourth + 3 * LEVEL * (2 * variance + LEVEL)) / held**2
    return (third / held**1.5)[..., None], kurtosis[..., None]


def deviations(tables: Float[Array, "N E T K"], weight: Float[Array, "E T K"]):
    """Deviation of every statistic over images and windows, [K]."""
    total = jnp.maximum(weight.sum((0, 1)) * len(tables), 1e-6)
    mean = einsum("etk,netk->k", weight, tables) / total
    square = einsum("etk,netk->k", weight, (tables - mean[None, None, None]) ** 2) / total
    return jnp.sqrt(square + 1e-12)


def _errors(original, texture, weight) -> Float[Array, " E"]:
    """Root mean square error by ring, in deviations of the original."""
    error = ((texture - original) / deviations(original, weight)[None, None, None]) ** 2
    counts = weight.sum((1, 2)) * len(original)
    return jnp.sqrt(_ratio(einsum("etk,netk->e", weight, error), counts))


def _ratio(a, b):
    """The ratio, NaN where b is 0: a ring that no window covers has no statistics."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), jnp.nan)


def _correlate(a, b, weight) -> Float[Array, " E"]:
    """Correlation over all axes but the first."""
    axes = tuple(range(1, a.ndim))
    total = jnp.maximum(weight.sum(axes, keepdims=True), 1e-6)
    a, b = (v - (weight * v).sum(axes, keepdims=True) / total for v in (a, b))
    products = [(weight * u * v).sum(axes) for u, v in ((a, b), (a, a), (b, b))]
    return _ratio(products[0], jnp.sqrt(products[1] * products[2] + 1e-30) * (products[1] > 0))


def _by_ring(original: Float[Array, "N Y X"], texture: Float[Array, "N Y X"], windows):
    """Coherence and the statistics of octaves, by ring."""
    rings, _ = windows.pixel_factors()
    rings = rings / jnp.maximum(rings.sum((1, 2), keepdims=True), 1e-6)

    def mean(maps):
        return einsum("eyx,nkyx->ek", rings, maps) / maps.shape[0]

    octaves = [difference_of_gaussians(luma) for luma in (original, texture)]
    energies = [mean(v**2) for v in octaves]
    product = mean(octaves[0] * octaves[1])
    fourths = [mean(v**4) for v in octaves]
    tensors = [mean(structure_tensor(luma)) for luma in (original, texture)]
    return {
        "coherence": jnp.stack([t[:, 0] / (t[:, 1] + 1e-12) for t in tensors]),
        "correlation": product / jnp.sqrt(energies[0] * energies[1] + 1e-20),
        "energy": energies[1] / (energies[0] + 1e-20),
        "kurtosis": jnp.stack([f / (e**2 + 1e-20) for f, e in zip(fourths, energies, strict=True)]),
    }


def difference_of_gaussians(luma: Float[Array, "N Y X"]) -> Float[Array, "N octaves Y X"]:
    """Octave k: Gaussian of 2^(k-1) pixels less that of 2^k; 5, or as many as the size carries."""
    octaves = min(OCTAVES, int(math.log2(min(luma.shape[1:]))) - 3)
    blurs = [_gaussian(luma, 2.0 ** (k - 1)) for k in range(octaves + 1)]
    return jnp.stack([a - b for a, b in itertools.pairwise(blurs)], 1)


def structure_tensor(luma: Float[Array, "N Y X"]) -> Float[Array, "N 2 Y X"]:
    """|J1 - J2| and J1 + J2 of the eigenvalues of the structure tensor, [N, 2, Y, X].

    Gaussians of 1 pixel before and 3 after it. The ratio of their means is the coherence, with
    every gradient weighed by its energy: flat parts have none.
    """
    padded = jnp.pad(_gaussian(luma, 1.0), ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    right = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    yy, xx, yx = (_gaussian(v, 3.0) for v in (down**2, right**2, down * right))
    return jnp.stack([jnp.sqrt((yy - xx) ** 2 + 4 * yx**2 + 1e-16), yy + xx], 1)


def _gaussian(planes: Float[Array, "N Y X"], sigma: float) -> Float[Array, "N Y X"]:
    taps = gaussian_taps(2 * math.ceil(4 * sigma) + 1, sigma)
    rows, columns = (mirror_matrix(n, taps) for n in planes.shape[1:])
    return filter_axes(planes[..., None], rows, columns)[..., 0]
