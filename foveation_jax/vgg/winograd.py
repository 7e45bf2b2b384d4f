"""3 x 3 convolution by Winograd's minimal filtering F(4 x 4, 3 x 3): the vgg route's time on a CPU.

XLA's CPU convolution is several times slower than its matrix product; Lavin & Gray (arXiv
1509.09308) turn one into the other. Tiles of 6 x 6 pixels d give 4 x 4 outputs y of the kernel g:

    y = A^T [(G g G^T) * (B^T d B)] A

where * is elementwise over 36 places, a matrix product over channels at each: 36 multiplications
an output tile in place of 144. Accelerators keep their own convolution.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax.runs.precision import einsum, science

TILE = 4  # outputs a side; 6 inputs
B = np.array(
    [
        [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
    ]
)  # fmt: skip
G = np.array(
    [
        [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
    ],
    np.float32,
)  # fmt: skip
A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def convolve(
    x: Float[Array, "N Y X C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "N P Q D"]:
    """Cross-correlation without padding, P = Y - 2 and Q = X - 2.

    Winograd's form on a CPU, the platform's convolution elsewhere; the same to 1e-4 of the values.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_winograd, default=_direct)


def _direct(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=numbers, precision=science()
    )


def _winograd(x, kernel):
    """The module's equation over all tiles at once, sizes padded to whole tiles and cut back."""
    count, height, width, channels = x.shape
    rows, columns = (-(-(side - 2) // TILE) for side in (height, width))
    pads = [(0, TILE * n + 2 - side) for n, side in ((rows, height), (columns, width))]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    down = [x[:, i : i + TILE * (rows - 1) + 1 : TILE] for i in range(TILE + 2)]
    down = _combine(B, down)  # [6, N, R, X, C]
    across = [down[:, :, :, j : j + TILE * (columns - 1) + 1 : TILE] for j in range(TILE + 2)]
    tiles = _combine(B, across).reshape((TILE + 2) ** 2, -1, channels)
    weights = einsum("qj,pi,ijcd->qpcd", G, G, kernel)
    weights = weights.reshape(len(tiles), channels, -1)
    products = einsum("tsc,tcd->tsd", tiles, weights)
    products = products.reshape(TILE + 2, TILE + 2, count, rows, columns, -1)
    outputs = _combine(A, list(products))  # [4, 6, N, R, S, D]
    outputs = _combine(A, [outputs[:, p] for p in range(TILE + 2)])
    y = outputs.transpose(2, 3, 0, 4, 1, 5).reshape(count, TILE * rows, TILE * columns, -1)
    return y[:, : height - 2, : width - 2]


def _combine(matrix: np.ndarray, parts: list[Array]) -> Array:
    """`matrix` times a list of arrays, its zeros left out; stacked.

    Written to memory: fused into the next step, the sums would take a minute to compile.
    """
    sums = [
        sum(float(weight) * part for weight, part in zip(row, parts, strict=True) if weight)
        for row in matrix
    ]
    return jax.lax.optimization_barrier(jnp.stack(sums))
