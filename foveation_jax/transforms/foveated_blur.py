"""Foveation-Blur: a Gaussian whose width grows with eccentricity, ring by ring (arXiv 2006.07991).

out = sum_e g_e blur(image, sigma_e) + (1 - sum_e g_e) image

with the ring factors g_e of the pooling windows: the fovea is clear, and neighbouring rings
cross-fade as the windows do. One ring at a time is blurred, so memory does not grow with rings.
"""

from os import PathLike

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import each_image
from foveation_jax.transforms.matched import Match, choose
from foveation_jax.transforms.uniform_blur import blur
from foveation_jax.windows import geometry
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows


def blend_blurs(
    image: Float[Array, "Y X C"], sigmas: Float[Array, " E"], weights: Float[Array, "E Y X"]
) -> Float[Array, "Y X C"]:
    """Space-variant blur: blurs of `sigmas` pixels, weighed by pixel; the rest stays clear."""

    def add(total, sigma_and_weight):
        sigma, weight = sigma_and_weight
        return total + weight[..., None] * (blur(image, sigma) - image), None

    return jax.lax.scan(add, image, (sigmas, weights))[0]


@jax.jit
def foveated_blur_batch(
    images: Float[Array, "N Y X C"], sigmas: Float[Array, " E"], windows: PoolingWindows
) -> Float[Array, "N Y X C"]:
    """Every image of a batch blurred by `sigmas` pixels, one a ring of `windows`.

    Property: equal images inside the fovea; all sigmas equal blur the periphery as `blur` does.
    """
    rings, _ = windows.pixel_factors()
    return each_image(lambda image: blend_blurs(image, sigmas, rings), images)


def foveation_blur(
    images: Float[Array, "N Y X C"],
    key,
    *,
    sigma: tuple[float, ...] | Float[Array, " E"] | None = None,
    matched: str | PathLike | Match | None = None,
    scale: float = 0.4,
    fixation: tuple | Array | None = None,
    field_of_view: float = geometry.FIELD_OF_VIEW,
) -> Float[Array, "N Y X C"]:
    """The system: a clear centre and a periphery blurred by eccentricity.

    Args:
        images: colours in [0, 1].
        key: unused; systems share one signature.
        sigma: deviations in pixels, one a ring from inside out (`windows.ring_edges()`), which may
            be traced; by default the matched ones, read at the centres of rings, the outermost
            holding beyond.
        matched: record of a match (or its file); by default the shipped one, with a warning that
            says on what it was matched.
        scale: s of the rings; the record's must agree.
        fixation: (y, x) in pixels, also off the image; the centre by default. May be traced, on
            the image.
        field_of_view: degrees that the width subtends.

    Raises:
        InputError: a sigma out of range, too many or too few of them, or a record that does not
            fit.
    """
    size = images.shape[1:3]
    windows = pooling_windows(scale, size, fixation, published=False, field_of_view=field_of_view)
    if sigma is None:
        view = {"scale": scale, "size": size, "field_of_view": field_of_view}
        view["fixation"] = geometry.known_fixation(fixation, size)
        sigmas = sigmas_at(choose("foveation_blur", matched, view), windows)
    else:
        sigmas = jnp.asarray(sigma, jnp.float32)
        fits = sigmas.shape == (windows.n_rings,)
        known = not isinstance(sigmas, jax.core.Tracer)
        if not fits or (known and not bool(((sigmas >= 0) & jnp.isfinite(sigmas)).all())):
            raise InputError(
                f"sigma is {sigma}: {windows.n_rings} rings need as many deviations, 0 px or more."
            )
    return foveated_blur_batch(images, sigmas, windows)


def sigmas_at(match: Match, windows: PoolingWindows) -> Float[Array, " E"]:
    """Matched deviations, in pixels, at the rings of `windows`."""
    known = jnp.log(jnp.asarray(match.eccentricity_deg))
    degrees = jnp.interp(jnp.log(ring_centres(windows)), known, jnp.asarray(match.sigma_deg))
    return degrees * windows.pixels_per_degree


def ring_centres(windows: PoolingWindows) -> Float[Array, " E"]:
    """Eccentricity in degrees at the middle of each ring."""
    edges = windows.ring_edges()
    return jnp.sqrt(edges[:-1] * edges[1:])
