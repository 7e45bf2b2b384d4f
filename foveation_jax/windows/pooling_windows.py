"""Pooling windows of log-polar shape in closed form, kept as ring and wedge factors.

Stage 1 of Deza & Konkle (arXiv 2006.07991) pools an image over windows that grow with eccentricity
(Freeman & Simoncelli 2011). With eccentricity r in degrees, angle phi, scale s and transition t:

    w = 2 asinh(s / 2)        width of a ring in ln r
    T = round(4 pi / s)       wedges, each 2 pi / T wide
    f(u) = 1 to |u| = (1 - t) / 2, a cos^2 flank to (1 + t) / 2, 0 beyond;  t = 1/2
    g_n(r) = f((ln r - ln e0) / w - (n + 1)),   h_j(phi) = f(wrap(phi + pi - (j - 1/4) D) / D)

Region (n, j) weighs a pixel by g_n h_j. The rings below `first_ring` merge into region 0, the
fovea, so that all regions add to 1 at every pixel. A window is a product, hence N_rings + N_wedges
maps describe N_rings * N_wedges windows, and sums over windows are two small contractions.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.windows import geometry

TRANSITION = 0.5
INNER_DEG = 6 * 26 / 512  # e0: 6 pixels of the published 512 pixels, 26 degrees
FOVEA_DEG = 14 * 26 / 512  # the first ring whose windows are this wide ends the fovea
SLIVER_DEG2 = 140 * (26 / 512) ** 2  # windows with less area above SLIVER_LEVEL join the fovea
SLIVER_LEVEL = 0.1
MIXING_RATE = 1.281  # d, per degree
SCALES = (0.05, 2.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PoolingWindows:
    """The windows of one fixation; a pytree, so fixation and scale take gradients and vmap.

    Attributes:
        scale: s, window width over eccentricity.
        fixation: (y, x) in pixels, anywhere.
        kept: [E, T] 1 for a region of its own, 0 for a sliver that belongs to the fovea.
        cut_area: [E, T] square degrees of each window above .5 inside the image.
        size: (Y, X) of the image.
        pixels_per_degree: pixels a degree.
        first_ring: number n of the innermost ring that is not fovea.
        n_rings, n_wedges: E and T.
        published: whether slivers are merged and a cut window mixes by what the image leaves of it.
    """

    scale: Float[Array, ""]
    fixation: Float[Array, "2"]
    kept: Float[Array, "E T"]
    cut_area: Float[Array, "E T"]
    size: tuple[int, int] = field(metadata={"static": True})
    pixels_per_degree: float = field(metadata={"static": True})
    first_ring: int = field(metadata={"static": True})
    n_rings: int = field(metadata={"static": True})
    n_wedges: int = field(metadata={"static": True})
    published: bool = field(metadata={"static": True})

    @jax.jit
    def factors(
        self, y: Float[Array, " Y"], x: Float[Array, " X"]
    ) -> tuple[Float[Array, "E Y X"], Float[Array, "T Y X"]]:
        """Ring and wedge factors at a grid of positions in pixels (a band, a grid of cells)."""
        log_ecc, angle = geometry.polar(y, x, self.fixation, self.pixels_per_degree)
        return ring_factors(self, log_ecc), wedge_factors(self, angle)

    def pixel_factors(self) -> tuple[Float[Array, "E Y X"], Float[Array, "T Y X"]]:
        """Ring and wedge factors at every pixel of the image."""
        return self.factors(*(jnp.arange(n, dtype=jnp.float32) for n in self.size))

    def masks(self) -> Float[Array, "R Y X"]:
        """Every window as a map in [0, 1], region 0 (the fovea) first, wedge-major, summing to 1.

        R maps of the whole image: for figures and comparisons, not for the hot path. Published
        windows leave the slivers out, so R = 377 301 187 126 103 91 at s = .25 .3 .4 .5 .6 .7.
        """
        rings, wedges = self.pixel_factors()
        kept = np.asarray(self.kept).T.reshape(-1) > 0
        periphery = (wedges[:, None] * rings[None]).reshape(-1, *self.size)[kept]
        fovea = jnp.clip(1 - periphery.sum(0, keepdims=True), 0.0, 1.0)
        return jnp.concatenate([fovea, periphery])

    def ring_edges(self) -> Float[Array, " edges"]:
        """Eccentricities in degrees at which neighbouring rings weigh one half."""
        numbers = self.first_ring + 0.5 + jnp.arange(self.n_rings + 1)
        return INNER_DEG * jnp.exp(ring_width(self.scale) * numbers)

    @jax.jit
    def mixing(self) -> Float[Array, "E T"]:
        """How much texture each region gets: a = 2 / (1 + exp(-d r)) - 1 in [0, 1), 0 for slivers.

        r = sqrt(A / pi) in degrees, A the area of the window above one half. Published: the area
        inside the image, which leaves clear patches along its edges. Otherwise the whole window's,
        so all windows of a ring share one a (.221 .323 .461 .630 .800 at s = .4).
        """
        whole = jnp.broadcast_to(ring_areas(self)[:, None], (self.n_rings, self.n_wedges))
        area = self.cut_area if self.published else whole
        seen = area > 0  # the root's slope is infinite at 0
        radius = jnp.where(seen, jnp.sqrt(jnp.where(seen, area, 1.0) / math.pi), 0.0)
        return (2 / (1 + jnp.exp(-MIXING_RATE * radius)) - 1) * self.kept


def profile(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """f(u): flat top, cos^2 flanks; copies one unit apart add to 1 everywhere."""
    flank = jnp.clip((jnp.abs(u) - (1 - TRANSITION) / 2) / TRANSITION, 0.0, 1.0)
    return jnp.cos(0.5 * math.pi * flank) ** 2 * (flank < 1)


def ring_width(scale) -> Float[Array, ""]:
    """Width of a ring, w = 2 asinh(s / 2), in ln eccentricity."""
    return 2 * jnp.arcsinh(scale / 2)


def ring_factors(windows: PoolingWindows, log_ecc: Float[Array, "Y X"]) -> Float[Array, "E Y X"]:
    """g_n at positions given by ln eccentricity (degrees)."""
    numbers = windows.first_ring + 1 + jnp.arange(windows.n_rings)[:, None, None]
    return profile(((log_ecc - math.log(INNER_DEG)) / ring_width(windows.scale))[None] - numbers)


def wedge_factors(windows: PoolingWindows, angle: Float[Array, "Y X"]) -> Float[Array, "T Y X"]:
    """h_j at positions given by polar angle (radians)."""
    width = 2 * math.pi / windows.n_wedges
    middle = (jnp.arange(windows.n_wedges)[:, None, None] - 0.25) * width
    return profile((jnp.mod(angle[None] - middle, 2 * math.pi) - math.pi) / width)


def ring_areas(windows: PoolingWindows) -> Float[Array, " E"]:
    """Square degrees in which a whole window of each ring exceeds one half.

    In (p, q) = (ring, wedge) units the window is f(p) f(q) and the area element is
    r_n^2 exp(2 w p) w D dp dq; the integral over p is sinh(2 w p*) with f(p*) = 1 / (2 f(q)).
    """
    q = (jnp.arange(256) + 0.5) / 256 - 0.5
    reach = 0.25 + jnp.arccos(jnp.sqrt(0.5 / profile(q))) / math.pi
    width = ring_width(windows.scale)
    unit = 2 * math.pi / windows.n_wedges * jnp.sinh(2 * width * reach).mean()
    radius = INNER_DEG * jnp.exp(width * (windows.first_ring + 1 + jnp.arange(windows.n_rings)))
    return radius**2 * unit


def pooling_windows(
    scale: float,
    size: tuple = (512, 512),
    fixation: geometry.Fixation = None,
    published: bool = True,
    field_of_view: float = geometry.FIELD_OF_VIEW,
) -> PoolingWindows:
    """The pooling windows of an image.

    Args:
        scale: s in [.05, 2]; .4 in most of arXiv 2006.07991.
        size: (rows, columns), pixels.
        fixation: (y, x) in pixels, also off the image; the centre by default. Under jit and vmap it
            may be traced, on the image; the counts are then those of a corner.
        published: merge corner slivers into the fovea and mix cut windows by their cut area, as the
            published masks do; False keeps every window and gives a cut one the mixing of its ring.
        field_of_view: degrees that the width subtends.

    Returns:
        Windows whose counts are fixed; `dataclasses.replace(windows, scale=s, fixation=p)` moves
        them under `jax.grad` or `jax.vmap` with those counts.

    Raises:
        InputError: a scale, size, fixation or field of view out of range, or a traced fixation of
            published windows, whose slivers are counted on the host.
    """
    traced = isinstance(fixation, jax.core.Tracer)
    _check(scale, size)
    point = geometry.farthest_seeing(fixation, size)
    if traced and published:
        raise InputError("published windows need a fixation of two numbers: it is traced.")
    per_degree = geometry.pixels_per_degree(size, field_of_view)
    view = float(scale), tuple(map(int, size)), point, bool(published), per_degree
    windows = _build(*view, jax.sharding.get_abstract_mesh())
    return dataclasses.replace(windows, fixation=fixation) if traced else windows


def _check(scale, size):
    check_allowed("scale", scale, Range(*SCALES))
    if len(size) != 2 or not all(side in Range(2, whole=True) for side in size):
        raise InputError(f"size is {size!r}: it must be (rows, columns), whole numbers from 2 on.")


@functools.lru_cache(maxsize=64)
def _build(scale, size, fixation, published, per_degree, _mesh) -> PoolingWindows:
    """Count rings and wedges on the host, then find slivers and cut areas if they are asked for.

    Arrays made inside a `shard_map` are of its mesh, and of no use in another's.
    """
    width, n_wedges = 2 * math.asinh(scale / 2), round(4 * math.pi / scale)
    corners = np.array([(y, x) for y in (0, size[0] - 1) for x in (0, size[1] - 1)])
    far = np.hypot(*(corners - fixation).T).max() / per_degree
    first = 0
    while scale * INNER_DEG * math.exp(width * (first + 1)) < FOVEA_DEG:
        first += 1
    # Ring n reaches down to u = n + 1 - (1 + t) / 2 in ring units: the outermost one touches `far`.
    reach = (math.log(far / INNER_DEG) / width) - 1 + (1 + TRANSITION) / 2
    n_rings = max(1, math.ceil(reach) - first)
    with jax.ensure_compile_time_eval():
        ones = jnp.ones((n_rings, n_wedges))
        windows = PoolingWindows(
            jnp.float32(scale), jnp.asarray(fixation, jnp.float32), ones, ones,
            size, per_degree, first, n_rings, n_wedges, published,
        )  # fmt: skip
        if not published:
            return windows
        rings, wedges = (np.asarray(factor) for factor in windows.pixel_factors())
    above = [_areas_above(rings, wedges, level) for level in (SLIVER_LEVEL, 0.5)]
    kept = (above[0] / per_degree**2 >= SLIVER_DEG2).astype(np.float32)
    cut_area = (above[1] / per_degree**2).astype(np.float32)
    with jax.ensure_compile_time_eval():
        return dataclasses.replace(windows, kept=jnp.asarray(kept), cut_area=jnp.asarray(cut_area))


def _areas_above(rings, wedges, level) -> np.ndarray:
    """Pixels [E, T] in which each window exceeds `level`; visits only the pixels of each ring."""
    inside = [ring > level for ring in rings]
    return np.stack(
        [(wedges[:, i] * ring[i] > level).sum(-1) for ring, i in zip(rings, inside, strict=True)]
    )
