"""Max-pooling whose gradient is cheap on a CPU, with PyTorch's rule for ties."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(
    x: Float[Array, "N Y X C"], side: int, stride: int, padding: int = 0
) -> Float[Array, "N P Q C"]:
    """Largest of side x side pixels every `stride`; windows that don't fit are left out.

    One axis after the other: max over a square is the max over columns of the max over rows. Of
    equal values the first in reading order takes the gradient, as in PyTorch. NaN is passed on.
    """
    for axis in (2, 1):
        x = _max_along(x, axis, side, stride, padding)
    return x


def _max_along(x, axis, side, stride, padding):
    """The largest of `side` places every `stride` along one axis, from strided views."""
    count = (x.shape[axis] + 2 * padding - side) // stride + 1
    pads = [(0, 0)] * x.ndim
    pads[axis] = (padding, padding)
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    largest = None
    for i in range(side):
        view = [slice(None)] * x.ndim
        view[axis] = slice(i, i + stride * (count - 1) + 1, stride)
        value = x[tuple(view)]
        if largest is None:
            largest = value
        else:
            largest = jnp.where((value <= largest) | jnp.isnan(largest), largest, value)
    return largest
