"""Spatial-frequency probes: images without their fine or without their coarse detail.

    low_pass  = image * Gaussian                               sigma 0 1 3 5 7 9 15 40
    high_pass = image - image * Gaussian, its mean replaced    sigma inf 3 1.5 1 .7 .55 .45 .4

The kernel has 2 ceil(2 sigma) + 1 taps along each axis and sees the edge pixels repeated beyond the
edges; results are clipped and rounded to 8-bit levels (arXiv 2006.07991). Sigmas are in pixels of
the images given. Published levels are for 256 x 256: low-pass levels, which are a share of the
image, go along with its width (`low_pass_sigmas`); high-pass levels stay in pixels, as they end
where the sampled kernel has but one tap left: scaled to a smaller image most of them would remove
everything.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from foveation_jax.metrics.features import LUMA
from foveation_jax.metrics.levels import Images, check_colours
from foveation_jax.probes.occlusion import PUBLISHED_SIDE
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.precision import einsum
from foveation_jax.transforms import check_images

LOW_PASS = (0.0, 1.0, 3.0, 5.0, 7.0, 9.0, 15.0, 40.0)  # sigma in pixels of a width of 256
HIGH_PASS = (math.inf, 3.0, 1.5, 1.0, 0.7, 0.55, 0.45, 0.4)  # sigma in pixels
SMALLEST_SIGMA = 1e-3  # the kernel is one tap long before

Sigma = float | int | np.floating | Real[Array, ""] | None


def low_pass(images: Images, sigma: Sigma) -> Float[Array, "N Y X 3"]:
    """Images blurred by a Gaussian.

    Args:
        images: colours in [0, 1], or uint8 levels.
        sigma: deviation in pixels, 0 to the longer side; 0 or None leaves the images as they are.
            May be traced.

    Raises:
        InputError: images or a sigma that cannot be.

    Property: constant images stay; the result is within the range of the image, to half a level.
    """
    images = check_images(images)
    sigma = _check_sigma("low_pass", 0.0 if sigma is None else sigma, images.shape[1:3], 0.0)
    return jnp.where(sigma > 0, to_levels_of_8_bits(_blur(images, sigma)), images)


def high_pass(
    images: Images, sigma: Sigma, mean: Float[Array | np.ndarray, " channels"]
) -> Float[Array, "N Y X 3"]:
    """Images minus their blur, each image's mean colour replaced by `mean`.

    Args:
        images: colours in [0, 1], or uint8 levels.
        sigma: deviation of the blur in pixels, 0 to the longer side, or inf or None, which leaves
            the images as they are. May be traced.
        mean: colour [3] in [0, 1]; published: the mean over the system's validation images.

    Raises:
        InputError: images, a sigma or a mean that cannot be.

    Property: adding a constant to an image changes nothing; sigma 0 gives `mean` everywhere.
    """
    images = check_images(images)
    check_mean(mean)
    sigma = _check_sigma(
        "high_pass", math.inf if sigma is None else sigma, images.shape[1:3], math.inf
    )
    detail = images - _blur(images, jnp.where(jnp.isinf(sigma), 0.0, sigma))
    centred = detail - detail.mean((1, 2), keepdims=True)
    filtered = to_levels_of_8_bits(centred + jnp.reshape(mean, (1, 1, 1, 3)))
    return jnp.where(jnp.isinf(sigma), images, filtered)


def grey(images: Images) -> Float[Array, "N Y X 3"]:
    """Luminance .299 R + .587 G + .114 B (ITU-R BT.601) in all three channels."""
    images = check_images(images)
    luminance = jnp.sum(images * LUMA.reshape(1, 1, 1, 3), -1, keepdims=True)
    return jnp.broadcast_to(luminance, images.shape)


def low_pass_sigmas(width: int) -> Float[np.ndarray, " P"]:
    """`LOW_PASS` in pixels of an image of `width` columns: 40 of 256 are 20 of 128."""
    return np.array(LOW_PASS) * width / PUBLISHED_SIDE


def to_levels_of_8_bits(images: Float[Array, "N Y X 3"]) -> Float[Array, "N Y X 3"]:
    """Values clipped to [0, 1] and rounded to multiples of 1 / 255."""
    return jnp.round(jnp.clip(images, 0, 1) * 255) / 255


def blur_matrix(sigma: Float[Array, ""], n: int, reach: int) -> Float[Array, "n n"]:
    """Matrix that blurs a line of n samples, its end samples repeated; rows add to 1.

    Tap d weighs exp(-d^2 / 2 sigma^2) to |d| = ceil(2 sigma), which is at most `reach`. The first
    and last column gather the taps that stick out: the tails of the kernel.
    """
    offsets = jnp.arange(max(reach, n) + 1)
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, SMALLEST_SIGMA)) ** 2)
    weights = jnp.where(offsets <= jnp.ceil(2 * sigma), weights, 0.0)
    tails = jnp.cumsum(weights[::-1])[::-1]
    i = jnp.arange(n)
    matrix = weights[jnp.abs(i[:, None] - i[None])]
    matrix = matrix.at[:, 0].set(tails[i]).at[:, n - 1].set(tails[n - 1 - i])
    return matrix / (2 * tails[0] - weights[0])


def _blur(images, sigma):
    """Both axes blurred, in full precision: the accelerator's short floats would show in detail."""
    reach = 2 * max(images.shape[1:3])
    rows, columns = (blur_matrix(sigma, n, reach) for n in images.shape[1:3])
    half = einsum("yp,npqc->nyqc", rows, images)
    return einsum("xq,nyqc->nyxc", columns, half)


def check_mean(mean) -> None:
    """Raises InputError unless `mean` is one colour [3] in [0, 1]."""
    if jnp.shape(mean) != (3,):
        raise InputError(f"mean has shape {jnp.shape(mean)}: it must be one colour, R G B.")
    if not isinstance(mean, jax.core.Tracer):
        check_colours("mean's colours", np.asarray(mean, np.float64))


def _check_sigma(probe, sigma, size, nothing) -> Float[Array, ""]:
    """`sigma` as a scalar array; a concrete one must lie within 0 and the side, or be `nothing`."""
    if not isinstance(sigma, jax.core.Tracer) and not (0 <= sigma <= max(size) or sigma == nothing):
        allowed = f"within 0 and {max(size)} pixels, the longer side"
        raise InputError(f"{probe} sigma is {sigma}: it must lie {allowed}, or be {nothing:g}.")
    return jnp.asarray(sigma, jnp.float32)
