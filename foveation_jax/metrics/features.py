"""Metrics of local features of the grey image: GMSD (Xue 2013), pixel VIF (Sheikh & Bovik 2006)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax.metrics.checks import metric
from foveation_jax.metrics.filtering import filter_axes, gaussian_taps, valid_matrix
from foveation_jax.metrics.levels import Images

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def _grey(images: Float[Array, "N Y X C"]) -> Float[Array, "N Y X 1"]:
    """Luma of colour images; one channel stays as it is, other counts are averaged."""
    channels = images.shape[3]
    weights = LUMA if channels == 3 else np.full(channels, 1 / channels, np.float32)
    return jnp.sum(images * weights[None, None, None], axis=3, keepdims=True)


def _gradient_magnitude(grey: Float[Array, "N Y X 1"]) -> Float[Array, "N Y X 1"]:
    """Length of the Prewitt gradient (divided by 3), zeros beyond the edges."""
    padded = jnp.pad(grey, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = padded.shape[1:3]
    smooth, slope = np.ones(3) / 3, np.array([-1.0, 0.0, 1.0])
    dy = filter_axes(padded, valid_matrix(height, slope), valid_matrix(width, smooth))
    dx = filter_axes(padded, valid_matrix(height, smooth), valid_matrix(width, slope))
    return _root(dx**2 + dy**2)


def _root(squared: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root whose slope at 0 is 0, where it would be infinite."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


@metric(3)
def gmsd(a: Images, b: Images) -> Float[Array, " N"]:
    """Gradient-magnitude similarity deviation: 0 for equal images, larger is worse; below 1.

    Deviation over pixels of (2 g_a g_b + t) / (g_a^2 + g_b^2 + t), g the Prewitt gradients at half
    size, t = 170 / 255^2 (equations 4 to 6 of Xue, Zhang, Mou & Bovik, arXiv 1308.3052).
    """
    stability = 170 / 255**2
    gradients = []
    for images in (a, b):
        odd = max(s % 2 for s in images.shape[1:3])
        grey = jnp.pad(_grey(images), ((0, 0), (0, odd), (0, odd), (0, 0)))
        halves = [valid_matrix(s, np.ones(2) / 2, stride=2) for s in grey.shape[1:3]]
        gradients.append(_gradient_magnitude(filter_axes(grey, *halves)))
    g_a, g_b = gradients
    similarity = (2 * g_a * g_b + stability) / (g_a**2 + g_b**2 + stability)
    return _root(jnp.var(similarity, axis=(1, 2, 3)))


@metric(41)
def vif(a: Images, b: Images) -> Float[Array, " N"]:
    """Visual information fidelity of `a` given the reference `b`, pixel version; 1 if equal.

    Information that `a` keeps of `b` over the information in `b`, both seen through visual noise of
    variance 2 (on 0 to 255), summed over four scales (Sheikh & Bovik 2006, equation 15; the
    authors' pixel-domain form). Above 1 when `a` has more contrast. *Not* symmetric. Sides of at
    least 41 px.
    """
    grey_a, grey_b = 255 * _grey(a), 255 * _grey(b)
    kept = total = jnp.zeros(a.shape[0])
    for scale in range(4):
        taps = 2 ** (4 - scale) + 1
        window = gaussian_taps(taps, taps / 5)
        if scale > 0:
            halves = [valid_matrix(s, window, stride=2) for s in grey_a.shape[1:3]]
            grey_a, grey_b = filter_axes(grey_a, *halves), filter_axes(grey_b, *halves)
        scale_kept, scale_total = _information(grey_a, grey_b, window)
        kept, total = kept + scale_kept, total + scale_total
    # An image without any information is kept whole.
    return (kept + 1e-8) / (total + 1e-8)


def _information(
    a: Float[Array, "N Y X 1"], b: Float[Array, "N Y X 1"], window: np.ndarray
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Information (in units of log10) at one scale: shared by `a` and `b`, and in `b` alone.

    Model in a window: a = gain b + noise of variance `residual`.
    """
    noise, tiny = 2.0, 1e-8
    mats = [valid_matrix(s, window) for s in a.shape[1:3]]
    # Nothing changes but rounding: squares are smaller, and their differences more exact.
    a, b = (x - jnp.mean(x, axis=(1, 2), keepdims=True) for x in (a, b))
    moments = filter_axes(jnp.concatenate([a, b, a * a, b * b, a * b]), *mats)
    mean_a, mean_b, square_a, square_b, product = jnp.split(moments, 5)
    variance_a = jax.nn.relu(square_a - mean_a**2)
    variance_b = jax.nn.relu(square_b - mean_b**2)
    covariance = product - mean_a * mean_b
    informative = (variance_a >= tiny) & (variance_b >= tiny) & (covariance > 0)
    gain = jnp.where(informative, covariance / (variance_b + tiny), 0.0)
    residual = jnp.maximum(variance_a - gain * covariance, tiny)
    kept = jnp.log10(1 + gain**2 * variance_b / (residual + noise))
    return jnp.sum(kept, (1, 2, 3)), jnp.sum(jnp.log10(1 + variance_b / noise), (1, 2, 3))
