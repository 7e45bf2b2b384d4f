"""Structural similarity: SSIM (Wang, Bovik, Sheikh & Simoncelli 2004) and MS-SSIM (Wang 2003).

Gaussian window of 11 x 11 taps, sigma 1.5 px, K1 = .01, K2 = .03, population moments, a range of 1;
channels are treated apart and averaged. Equal images score 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.metrics.checks import metric
from foveation_jax.metrics.filtering import gaussian_taps, slide
from foveation_jax.metrics.levels import Images

TAPS = 11
WINDOW = gaussian_taps(TAPS, sigma=1.5)
C1 = 0.01**2
C2 = 0.03**2
# Weights of the five scales, finest first (Wang, Simoncelli & Bovik 2003, section 3.2).
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _luminance_and_structure(
    a: Float[Array, "N Y X C"], b: Float[Array, "N Y X C"], mirrored: bool = False
) -> tuple[Float[Array, "N P Q C"], Float[Array, "N P Q C"]]:
    """The two factors of SSIM at each window: l = luminance, cs = contrast times structure."""
    # One pass over all five moments.
    moments = slide(jnp.concatenate([a, b, a * a, b * b, a * b]), WINDOW, mirrored)
    mean_a, mean_b, square_a, square_b, product = jnp.split(moments, 5)
    covariance = product - mean_a * mean_b
    variances = square_a - mean_a**2 + square_b - mean_b**2
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


@metric(TAPS)
def ssim_map(a: Images, b: Images) -> Float[Array, "N Y X C"]:
    """SSIM at every pixel, same size as the images; windows that stick out see mirrored edges.

    Equation 13 of Wang et al. (2004), values in [-1, 1]. Its mean over pixels at least 5 px from
    the edges is `ssim`.
    """
    luminance, structure = _luminance_and_structure(a, b, mirrored=True)
    return luminance * structure


@metric(TAPS)
def ssim(a: Images, b: Images) -> Float[Array, " N"]:
    """Mean SSIM over the windows that lie wholly in the image, in [-1, 1]; 1 for equal images.

    Same numbers as skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1). Symmetric in `a` and `b`.
    """
    luminance, structure = _luminance_and_structure(a, b)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _halve(images: Float[Array, "N Y X C"]) -> Float[Array, "N P Q C"]:
    """Mean of 2 x 2 pixels; odd sides get a zero on both ends, as in pytorch-msssim."""
    pads = [(0, 0), *((s % 2, s % 2) for s in images.shape[1:3]), (0, 0)]
    pooled = jax.lax.reduce_window(
        jnp.pad(images, pads), 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return pooled / 4


@metric((TAPS - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1)
def ms_ssim(a: Images, b: Images) -> Float[Array, " N"]:
    """Multi-scale SSIM over five octaves, in [0, 1]; needs sides of at least 161 px.

    prod_j cs_j^w_j times l_5^w_5 (equation 7 of Wang, Simoncelli & Bovik 2003), negative factors
    clipped at 0, channel by channel, then averaged. 1 for equal images.
    """
    product = jnp.ones((a.shape[0], a.shape[3]), a.dtype)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, structure = _luminance_and_structure(a, b)
        last = scale == len(SCALE_WEIGHTS) - 1
        factor = jnp.mean(luminance * structure if last else structure, axis=(1, 2))
        product *= _clipped_power(factor, weight)
        a, b = _halve(a), _halve(b)
    return jnp.mean(product, axis=1)


def _clipped_power(base: Float[Array, "N C"], exponent: float) -> Float[Array, "N C"]:
    """max(base, 0)^exponent with a gradient of 0, not NaN, where the base is clipped."""
    safe = jnp.where(base > 0, base, 1.0)
    return jnp.where(base > 0, safe**exponent, 0.0)
