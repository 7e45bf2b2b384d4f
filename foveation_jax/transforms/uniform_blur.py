"""Uniform-Blur: one Gaussian over the whole image, matched to Foveation-Texture (arXiv 2006.07991).

The kernel is the sampled Gaussian, exp(-d^2 / 2 sigma^2) normalised, over all offsets d that the
image allows; edges mirror (the edge pixel counts twice, scipy's "reflect"). Written as two small
matrices, rows and columns, it is exact for every sigma, differentiable in sigma, and one shape.
"""

from os import PathLike

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.precision import einsum
from foveation_jax.transforms.matched import Match, choose
from foveation_jax.windows import geometry

SMALLEST_SIGMA = 0.05  # pixels; below it a sampled Gaussian is the identity


def gaussian_matrix(sigma: Float[Array, ""], n: int) -> Float[Array, "n n"]:
    """Matrix that blurs a line of n samples with deviation `sigma` (samples); rows add to 1."""
    i = jnp.arange(n)
    there = i[:, None] - i[None, :]
    mirrored = jnp.minimum(i[:, None] + i[None, :] + 1, 2 * n - 1 - i[:, None] - i[None, :])
    far = 2 * n - mirrored
    spread = 2 * jnp.maximum(sigma, SMALLEST_SIGMA) ** 2
    weights = sum(jnp.exp(-(offset**2) / spread) for offset in (there, mirrored, far))
    return weights / weights.sum(1, keepdims=True)


def blur(image: Float[Array, "Y X C"], sigma: Float[Array, ""]) -> Float[Array, "Y X C"]:
    """One image blurred by a Gaussian of `sigma` pixels. sigma 0 gives the image back."""
    rows, columns = (gaussian_matrix(sigma, n) for n in image.shape[:2])
    return einsum("yp,pqc,xq->yxc", rows, image, columns, optimize=True)


@jax.jit
def blur_batch(images: Float[Array, "N Y X C"], sigma: Float[Array, ""]) -> Float[Array, "N Y X C"]:
    """Every image of a batch blurred by a Gaussian of `sigma` pixels."""
    return jax.vmap(blur, (0, None))(images, sigma)


def uniform_blur(
    images: Float[Array, "N Y X C"],
    key,
    *,
    sigma: float | Float[Array, ""] | None = None,
    matched: str | PathLike | Match | None = None,
    scale: float = 0.4,
    field_of_view: float = geometry.FIELD_OF_VIEW,
) -> Float[Array, "N Y X C"]:
    """The system: images blurred alike everywhere.

    Args:
        images: colours in [0, 1].
        key: unused; systems share one signature.
        sigma: deviation in pixels, 0 or more; may be traced. By default the matched one.
        matched: record of a match (or its file); by default the shipped one, with a warning that
            says on what it was matched.
        scale: of the texture that the blur stands in for; the record's must agree.
        field_of_view: degrees that the width subtends; turns the record's degrees into pixels.

    Raises:
        InputError: a negative sigma, or a record that does not fit.
    """
    if sigma is None:
        size = images.shape[1:3]
        view = {"scale": scale, "size": size, "field_of_view": field_of_view}
        degrees = choose("uniform_blur", matched, view).sigma_deg[0]
        sigma = degrees * geometry.pixels_per_degree(size, field_of_view)
    elif not isinstance(sigma, jax.core.Tracer):
        check_allowed("sigma, in pixels,", sigma, Range(0))
    return blur_batch(images, jnp.float32(sigma))
