"""Separable filtering of [N, Y, X, C] batches: by two small matrices, one an axis, or tap by tap.

A 1-D filter with its edge rule is a banded matrix, so filtering both axes is two matrix products:
exact at the edges, fast on a matrix unit, and on two CPU cores faster than a depthwise convolution.
Its work for a pixel grows with the image, that of a sum of shifted images, one a tap, does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax.runs.precision import einsum


def gaussian_taps(taps: int, sigma: float) -> np.ndarray:
    """`taps` (odd) samples of a Gaussian with deviation `sigma` in pixels, normalised to sum 1."""
    offsets = np.arange(taps) - taps // 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


def valid_matrix(size: int, taps: np.ndarray, stride: int = 1) -> np.ndarray:
    """[outputs, size] matrix of the filter at every `stride`-th place where it fits whole."""
    starts = np.arange(0, size - len(taps) + 1, stride)
    matrix = np.zeros((len(starts), size))
    for k, tap in enumerate(taps):
        matrix[np.arange(len(starts)), starts + k] = tap
    return matrix


def mirror_matrix(size: int, taps: np.ndarray) -> np.ndarray:
    """[size, size] matrix of the filter, the edge pixel repeated in the mirror (d c b a | a b c d).

    Its rows sum to 1, so constant images stay as they are. `size` is at least len(taps) // 2.
    """
    reach = len(taps) // 2
    inner = valid_matrix(size + 2 * reach, taps)
    matrix = inner[:, reach : size + reach].copy()
    matrix[:, :reach] += inner[:, :reach][:, ::-1]
    matrix[:, size - reach :] += inner[:, size + reach :][:, ::-1]
    return matrix


def filter_axes(
    images: Float[Array, "N Y X C"], rows: np.ndarray, columns: np.ndarray
) -> Float[Array, "N P Q C"]:
    """Applies `rows` [P, Y] along Y and `columns` [Q, X] along X, in full float precision.

    Variances are differences of near-equal moments, so reduced precision on an accelerator would
    show in them.
    """
    rows, columns = (jnp.asarray(m, images.dtype) for m in (rows, columns))
    half = einsum("py,nyxc->npxc", rows, images)
    return einsum("qx,npxc->npqc", columns, half)


def slide(
    images: Float[Array, "N Y X C"], taps: np.ndarray, mirrored: bool
) -> Float[Array, "N P Q C"]:
    """`images` filtered by `taps` along both axes, as a sum of shifted images.

    Args:
        images: a batch.
        taps: an odd number of weights.
        mirrored: edges repeat in the mirror, and the size stays; otherwise only windows that lie
            in the image count.

    Property: `filter_axes` with `mirror_matrix` or `valid_matrix` says the same, up to rounding.
    """
    for axis in (1, 2):
        if mirrored:
            reach = [(len(taps) // 2,) * 2 if a == axis else (0, 0) for a in range(4)]
            images = jnp.pad(images, reach, mode="symmetric")
        left = images.shape[axis] - len(taps) + 1
        shifted = (jax.lax.slice_in_dim(images, k, k + left, axis=axis) for k in range(len(taps)))
        images = sum(float(tap) * part for tap, part in zip(taps, shifted, strict=True))
    return images
