"""Control systems: what foveation does beside texture, and texture beside foveation.

* `raw`: the image, no stage 1.
* `cortical_magnification`: log-polar resampling to a cortical sheet and back (Schwartz 1980).
* `contrast_sensitivity_blur`: each place loses the frequencies it cannot see (Geisler & Perry
1998). * Foveation-Texture with `scramble=True` (texture.py): statistics of the wrong window.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import each_image
from foveation_jax.transforms.foveated_blur import blend_blurs
from foveation_jax.windows import geometry

BLUR_LEVELS = 8
SUPERSAMPLING = 4
POLE = 2e-3  # pixels that a pixel nearer to the fixation than that is moved to the right


def raw(images: Float[Array, "N Y X C"], key) -> Float[Array, "N Y X C"]:
    """The images themselves."""
    return images


def cortical_magnification(
    images: Float[Array, "N Y X C"],
    key,
    *,
    fixation: geometry.Fixation = None,
    field_of_view: float = geometry.FIELD_OF_VIEW,
    half_eccentricity: float = 2.0,
) -> Float[Array, "N Y X C"]:
    """Images resampled to a cortical sheet and back.

    The sheet's axes are ln(1 + r / e2) and polar angle, in steps that are one pixel wide at the
    fixation and grow as 1 + r / e2; a sheet cell is the mean over its area, and pixels read the
    sheet by linear interpolation, at the fixation itself the mean of the innermost ring. So
    pixels change without a jump as the fixation passes over them, and have finite gradients.

    Args:
        images: colours in [0, 1].
        key: unused; systems share one signature.
        fixation: (y, x) in pixels, the centre by default. May be traced, on the image.
        field_of_view: degrees that the width subtends.
        half_eccentricity: e2 in degrees, at which magnification has halved.

    Raises:
        InputError: an e2 out of range.
    """
    size = images.shape[1:3]
    per_degree = geometry.pixels_per_degree(size, field_of_view)
    if not (1 <= half_eccentricity * per_degree < math.inf):
        raise InputError(
            f"half_eccentricity is {half_eccentricity} degrees: it must be finite and cover a "
            "pixel or more."
        )
    seen = geometry.farthest_seeing(fixation, size)
    fixation = seen if fixation is None else fixation
    corners = [(y - seen[0], x - seen[1]) for y in (0, size[0]) for x in (0, size[1])]
    half = half_eccentricity * per_degree
    n_angles = math.ceil(2 * math.pi * half)
    n_radii = math.ceil(half * math.log1p(max(math.hypot(*c) for c in corners) / half)) + 1
    point = jnp.asarray(fixation, jnp.float32)
    return _to_cortex_and_back(images, point, jnp.float32(half), (n_radii, n_angles))


@functools.partial(jax.jit, static_argnames="sheet")
def _to_cortex_and_back(images, fixation, half, sheet):
    fine = [(jnp.arange(n * SUPERSAMPLING) + 0.5) / SUPERSAMPLING for n in sheet]
    radius = half * jnp.expm1(fine[0] / half)[:, None]
    angle = (fine[1] * 2 * math.pi / sheet[1])[None]
    at = [fixation[0] + radius * jnp.sin(angle), fixation[1] + radius * jnp.cos(angle)]
    y = (jnp.arange(images.shape[1]) - fixation[0])[:, None]
    x = (jnp.arange(images.shape[2]) - fixation[1])[None]
    y, x = jnp.broadcast_arrays(y, x)
    x = jnp.where(y**2 + x**2 < POLE**2, x + POLE, x)  # at the pole itself is no angle
    ring = half * jnp.log1p(jnp.sqrt(y**2 + x**2) / half) + 0.5
    back = [
        ring + jnp.minimum(ring - 1, 0),  # row 0 is the pole, half a cell before the first ring
        jnp.mod(jnp.arctan2(y, x) / (2 * math.pi), 1) * sheet[1] + 0.5,
    ]

    def one(plane):
        cortex = jax.scipy.ndimage.map_coordinates(plane, at, order=1, mode="nearest")
        cortex = cortex.reshape(sheet[0], SUPERSAMPLING, sheet[1], SUPERSAMPLING).mean((1, 3))
        cortex = jnp.concatenate([cortex[:1].mean(1, keepdims=True).repeat(sheet[1], 1), cortex])
        cortex = jnp.concatenate([cortex[:, -1:], cortex, cortex[:, :1]], 1)
        return jax.scipy.ndimage.map_coordinates(cortex, back, order=1, mode="nearest")

    return jax.vmap(jax.vmap(one, -1, -1))(images)


def contrast_sensitivity_blur(
    images: Float[Array, "N Y X C"],
    key,
    *,
    fixation: geometry.Fixation = None,
    field_of_view: float = geometry.FIELD_OF_VIEW,
    half_eccentricity: float = 2.3,
    decay: float = 0.106,
    threshold: float = 1 / 64,
) -> Float[Array, "N Y X C"]:
    """Images without the spatial frequencies that the eye cannot see at each eccentricity.

    Contrast threshold CT(f, e) = threshold exp(decay f (e + e2) / e2) reaches 1 at the cut-off
    f_c(e) = e2 ln(1 / threshold) / (decay (e + e2)) cycles a degree (Geisler & Perry 1998, with
    their constants as defaults). The blur is the Gaussian that halves f_c: sigma = sqrt(ln 2 / 2) /
    (pi f_c) degrees, interpolated between 8 levels.

    Args:
        images: colours in [0, 1].
        key: unused; systems share one signature.
        fixation: (y, x) in pixels, the centre by default. May be traced, on the image.
        field_of_view: degrees that the width subtends.
        half_eccentricity: e2, degrees.
        decay: alpha, degrees.
        threshold: CT_0, lowest contrast threshold, in (0, 1).

    Raises:
        InputError: a constant out of range.
    """
    check_allowed("half_eccentricity", half_eccentricity, Range(0, open=(0,)))
    check_allowed("decay", decay, Range(0, open=(0,)))
    check_allowed("threshold", threshold, Range(0, 1, open=(0, 1)))
    size = images.shape[1:3]
    per_degree = geometry.pixels_per_degree(size, field_of_view)
    geometry.check_fixation(fixation)
    fixation = geometry.centre(size) if fixation is None else fixation
    log_ecc, _ = geometry.polar(
        jnp.arange(size[0], dtype=jnp.float32),
        jnp.arange(size[1], dtype=jnp.float32),
        jnp.asarray(fixation, jnp.float32),
        per_degree,
    )
    cutoff = half_eccentricity * -math.log(threshold)
    cutoff = cutoff / (decay * (jnp.exp(log_ecc) + half_eccentricity))
    return _graded_blur(images, math.sqrt(math.log(2) / 2) / math.pi * per_degree / cutoff)


@jax.jit
def _graded_blur(images, sigma: Float[Array, "Y X"]):
    """Blur by `sigma` pixels, linear between levels that are even steps of sigma apart."""
    levels = jnp.linspace(sigma.min(), sigma.max(), BLUR_LEVELS)
    place = (sigma - levels[0]) / jnp.maximum(levels[1] - levels[0], 1e-6)
    weights = jnp.maximum(1 - jnp.abs(place[None] - jnp.arange(BLUR_LEVELS)[:, None, None]), 0)
    return each_image(lambda image: blend_blurs(image, levels, weights), images)
