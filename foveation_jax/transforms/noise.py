"""Noise in an image's own colours: the source of texture in Foveation-Texture.

CORAL (Sun, Feng & Saenko 2016) gives white noise the mean and covariance over colours of an image,
as arXiv 2006.07991 does before encoding it. It is linear in the channels and acts on every pixel
alike, so it commutes with any filter, the steerable pyramid too: one noise field serves a batch.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foveation_jax.runs.eigen import eigh
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.precision import matmul
from foveation_jax.windows.pooling import cells, pool, spread
from foveation_jax.windows.pooling_windows import PoolingWindows

# Added to the products of z-scored colours summed over pixels, as the published code does: beside
# so many pixels it only guards the inverse.
RIDGE = 1.0
FLOOR = 1e-5


def check_key(key) -> None:
    """Raises InputError unless `key` is one key of jax.random, typed or raw."""
    try:
        shape = jax.random.key_data(key).shape
    except TypeError:
        shape = None
    if shape is None or len(shape) != 1:
        held = f"{shape[0]} keys" if shape else repr(key)
        raise InputError(f"key is {held}: it must be one key, such as jax.random.key(0).")


def white_noise(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Independent Gaussian samples, mean 0 and deviation 1."""
    return jax.random.normal(key, shape)


def coral(noise: Float[Array, "Y X C"], image: Float[Array, "Y X C"]) -> Float[Array, "Y X C"]:
    """Noise with the colours of an image, as published.

    z-score both by channel, whiten the noise by (Z^T Z + I)^-1/2, colour it by the image's
    (Z^T Z + I)^1/2, rescale by the image's mean and deviation. Property: the noise takes the
    image's covariance over colours, and noise that is a permutation of the image's pixels comes
    back as it is.
    """
    centred_noise, _, _ = _standardise(noise)
    centred_image, mean, deviation = _standardise(image)
    whiten = _power(_correlation(centred_noise), -0.5)
    colour = _power(_correlation(centred_image), 0.5)
    carry = matmul(whiten, colour)
    return matmul(centred_noise, carry) * deviation + mean


@jax.jit
def regional_coral(
    noise: Float[Array, "Y X C"], image: Float[Array, "Y X C"], windows: PoolingWindows
) -> Float[Array, "Y X C"]:
    """White noise that takes the image's colour mean and covariance window by window.

    x = mean_R + chol(cov_R) n, both spread by the windows; the fovea, where nothing reads the
    noise, takes those of the whole image.

    Args:
        noise: white noise; its own moments count as 0 and I.
        image: colours in [0, 1].
        windows: of the image's size.
    """
    planes, white = jnp.moveaxis(image, -1, 0), jnp.moveaxis(noise, -1, 0)
    channels, size = len(planes), planes.shape[1:]
    grid = cells(windows, size)
    products = (planes[:, None] * planes[None]).reshape(-1, *size)
    moments = jnp.concatenate([planes, products])
    whole = moments.mean((1, 2))
    regional = pool(grid, moments)
    inside = (grid.mass > 1e-3)[..., None]
    base = _affine(whole, channels)
    table = _affine(jnp.where(inside, regional, whole[None, None]), channels) - base[None, None]
    fields = spread(grid, table) + base[:, None, None]
    root = fields[channels:].reshape(channels, channels, *size)
    return jnp.moveaxis(fields[:channels] + (root * white[None]).sum(1), 0, -1)


def _affine(moments: Float[Array, "*batch K"], channels: int) -> Float[Array, "*batch K"]:
    """First and second moments to mean and Cholesky root, in one row."""
    mean, second = moments[..., :channels], moments[..., channels:]
    second = second.reshape(*second.shape[:-1], channels, channels)
    covariance = second - mean[..., :, None] * mean[..., None, :]
    root = cholesky(covariance, FLOOR)
    return jnp.concatenate([mean, root.reshape(*mean.shape[:-1], -1)], -1)


def cholesky(covariance: Float[Array, "*batch C C"], floor: float) -> Float[Array, "*batch C C"]:
    """Lower root of covariance + floor I that exists even where rounding left it indefinite.

    Cholesky-Crout row by row, for few channels, with the two bounds that every true covariance
    keeps: a channel leaves at least `floor` unexplained, and earlier channels explain no more of it
    than there is. Property: finite for every finite input; on a positive one
    `jnp.linalg.cholesky`'s; row c's squares add to the variance of channel c.
    """
    rows = []
    for i in range(covariance.shape[-1]):
        left, row = covariance[..., i, i] + floor, []
        for j, known in enumerate(rows):
            shared = covariance[..., i, j] - sum(a * b for a, b in zip(row, known, strict=False))
            most = jnp.sqrt(jnp.maximum(left, floor))
            row.append(jnp.clip(shared / known[j], -most, most))
            left = left - row[j] ** 2
        rows.append([*row, jnp.sqrt(jnp.maximum(left, floor))])
    zero = jnp.zeros_like(rows[0][0])
    full = [jnp.stack([*row, *[zero] * (len(rows) - len(row))], -1) for row in rows]
    return jnp.stack(full, -2)


def inverse_root(root: Float[Array, "*batch C C"]) -> Float[Array, "*batch C C"]:
    """L^-1 of lower roots L by forward substitution, row by row, for few channels.

    Not `solve_triangular`: a CPU's jaxlib gets no batch of matrices (see `runs/eigen.py`).
    """
    units, rows = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape), []
    for i in range(root.shape[-1]):
        left = units[..., i, :] - sum(root[..., i, j, None] * row for j, row in enumerate(rows))
        rows.append(left / root[..., i, i, None])
    return jnp.stack(rows, -2)


def _standardise(pixels):
    """z-scores by channel, with the mean and deviation that they lost."""
    mean = pixels.mean((0, 1), keepdims=True)
    deviation = jnp.sqrt(pixels.var((0, 1), keepdims=True) + FLOOR**2)
    return (pixels - mean) / deviation, mean, deviation


def _correlation(centred):
    flat = centred.reshape(-1, centred.shape[-1])
    return matmul(flat.T, flat) + RIDGE * jnp.eye(flat.shape[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _power(matrix: Float[Array, "C C"], exponent: float) -> Float[Array, "C C"]:
    """A power of a symmetric matrix whose eigenvalues are `RIDGE` or more, up to rounding."""
    values, vectors = _eigen(matrix)
    return matmul(vectors * values[None] ** exponent, vectors.T)


def _eigen(matrix: Float[Array, "C C"]) -> tuple[Float[Array, " C"], Float[Array, "C C"]]:
    values, vectors = eigh(matrix)
    return jnp.maximum(values, RIDGE), vectors


@_power.defjvp
def _power_jvp(exponent, matrices, changes):
    """Divided differences of the power (Daleckii & Krein), its slope where eigenvalues are equal.

    `eigh`'s own derivative is not finite there: in a grey image two of three eigenvalues are equal.
    """
    values, vectors = _eigen(matrices[0])
    powers, slopes = values**exponent, exponent * values ** (exponent - 1)
    step = values[:, None] - values[None]
    near = jnp.abs(step) < 1e-3 * (values[:, None] + values[None])
    rise = (powers[:, None] - powers[None]) / jnp.where(near, 1.0, step)
    rise = jnp.where(near, (slopes[:, None] + slopes[None]) / 2, rise)
    turned = matmul(vectors.T, matmul(changes[0], vectors))
    back = matmul(vectors, matmul(rise * turned, vectors.T))
    return _power(matrices[0], exponent), back
