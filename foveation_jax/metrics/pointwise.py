"""Pixel-by-pixel metrics: MSE, MAE and PSNR. Values in [0, 1], one number an image."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from foveation_jax.metrics.checks import metric
from foveation_jax.metrics.levels import Images


@metric()
def mse(a: Images, b: Images) -> Float[Array, " N"]:
    """Mean squared error over pixels and channels; 0 for equal images, at most 1 on [0, 1]."""
    return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))


@metric()
def mae(a: Images, b: Images) -> Float[Array, " N"]:
    """Mean absolute error over pixels and channels; mae**2 <= mse (Jensen)."""
    return jnp.mean(jnp.abs(a - b), axis=(1, 2, 3))


@metric()
def psnr(a: Images, b: Images) -> Float[Array, " N"]:
    """Peak signal-to-noise ratio in decibels for a peak of 1: -10 log10(mse); inf if equal."""
    error = mse(a, b)
    equal = error == 0  # the logarithm has no slope there
    return jnp.where(equal, jnp.inf, -10.0 * jnp.log10(jnp.where(equal, 1.0, error)))
