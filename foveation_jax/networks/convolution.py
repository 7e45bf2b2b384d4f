"""Convolution that stays fast on a CPU under `vmap` over runs, forwards and backwards.

Under `vmap` over kernels XLA groups a convolution, which its CPU code computes three (forwards) to
five times (backwards) slower than matrix products for 3 x 3 kernels. There the convolution of
patches [N P Q, K K C] is written as the products that it is (`_patches` makes them, `_spread` is
its transpose):

    y = patches(x) kernel        d kernel = patches(x)^T dy        d x = spread(dy kernel^T)

Images are taken a few at a time, so that patches stay in the cache and are never all in memory; the
gradient makes them anew. Patches of few channels are slow to make: of such images, squares of
`stride` pixels a side become the channels first. Accelerators keep their own convolution.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

PATCH_VALUES = 2**18  # patches held at a time in one run
FEW_CHANNELS = 4


def convolve(
    x: Float[Array, "N Y X C"], kernel: Float[Array, "K K C D"], stride: int, padding: int
) -> Float[Array, "N P Q D"]:
    """Cross-correlation every `stride` pixels with `padding` zeros around.

    P = floor((Y + 2 padding - K) / stride) + 1; the same values whatever the platform, to rounding.
    """
    folds = stride > 1 and x.shape[-1] <= FEW_CHANNELS
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: (_folded if folds else _products)(x, kernel, stride, padding),
        default=lambda x, kernel: _direct(x, kernel, stride, padding),
    )


def _direct(x, kernel, stride, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, pads, dimension_numbers=numbers)


def _folded(x, kernel, stride, padding):
    """The same as a convolution with stride 1, squares of pixels being the channels."""
    n, *size, channels = x.shape
    side = -(-len(kernel) // stride)  # of the kernel, in squares
    squares = [_places(extent, len(kernel), stride, padding) + side - 1 for extent in size]
    fill = [(padding, k * stride - y - padding) for k, y in zip(squares, size, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*f, 0) for f in fill), (0, 0, 0)])
    x = x.reshape(n, squares[0], stride, squares[1], stride, channels)
    x = x.swapaxes(2, 3).reshape(n, *squares, -1)
    kernel = jnp.pad(kernel, [(0, side * stride - len(kernel))] * 2 + [(0, 0)] * 2)
    kernel = kernel.reshape(side, stride, side, stride, channels, -1).swapaxes(1, 2)
    return _products(x, kernel.reshape(side, side, x.shape[-1], -1), 1, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _products(x, kernel, stride, padding):
    """The module's first equation, a few images at a time."""
    side, features = kernel.shape[0], kernel.shape[-1]
    matrix = kernel.reshape(-1, features)
    groups = _groups(x, x, kernel, stride, padding)
    y = lax.map(lambda x: _patches(x, side, stride, padding) @ matrix, groups)
    return y.reshape(-1, *y.shape[2:])[: len(x)]


def _products_forward(x, kernel, stride, padding):
    return _products(x, kernel, stride, padding), (x, kernel)


def _products_backward(stride, padding, residuals, dy):
    """The module's second and third equations, group by group."""
    x, kernel = residuals
    side, _, channels, features = kernel.shape
    matrix = kernel.reshape(-1, features)

    turned = lax.optimization_barrier(matrix.T)

    def add_group(d_matrix, group):
        x, dy = group
        patches = _patches(x, side, stride, padding).reshape(-1, len(matrix))
        d_matrix += patches.T @ dy.reshape(-1, features)
        columns = (dy @ turned).reshape(*dy.shape[:3], side, side, channels)
        return d_matrix, _spread(columns, x.shape[1:3], stride, padding)

    groups = (_groups(v, x, kernel, stride, padding) for v in (x, dy))
    d_matrix, dx = lax.scan(add_group, jnp.zeros_like(matrix), tuple(groups))
    return dx.reshape(-1, *x.shape[1:])[: len(x)], d_matrix.reshape(kernel.shape)


_products.defvjp(_products_forward, _products_backward)


def _groups(values, x, kernel, stride, padding):
    """[N, ...] -> [groups, images a group, ...], zero images added to fill the last group."""
    height, width = (_places(size, len(kernel), stride, padding) for size in x.shape[1:3])
    total = len(x) * height * width * kernel.size // kernel.shape[-1]
    groups = min(len(x), -(-total // PATCH_VALUES))
    members = -(-len(x) // groups)
    groups = -(-len(x) // members)
    fill = [(0, groups * members - len(x))] + [(0, 0)] * 3
    return jnp.pad(values, fill).reshape(groups, members, *values.shape[1:])


def _places(size, side, stride, padding):
    return (size + 2 * padding - side) // stride + 1


def _patches(x, side, stride, padding):
    """[N, Y, X, C] -> [N, P, Q, K K C]: what each output sees, rows first."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for axis in (2, 1):
        last = stride * (_places(x.shape[axis], side, stride, 0) - 1)
        shifted = [lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(side)]
        x = jnp.stack(shifted, axis=3)
        x = x.reshape(*x.shape[:3], -1)
    return x


def _spread(columns, size, stride, padding):
    """[N, P, Q, K, K, C] -> [N, Y, X, C]: every patch added where it was taken from."""
    zero = jnp.zeros((), columns.dtype)

    def part(i, j):
        pads = [
            (first - padding, full + padding - first - stride * (places - 1) - 1, stride - 1)
            for first, full, places in zip((i, j), size, columns.shape[1:3], strict=True)
        ]
        return lax.pad(columns[:, :, :, i, j], zero, [(0, 0, 0), *pads, (0, 0, 0)])

    return functools.reduce(jnp.add, (part(i, j) for i, j in np.ndindex(*columns.shape[3:5])))
