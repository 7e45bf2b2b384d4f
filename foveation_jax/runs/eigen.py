"""Eigenvectors of many small symmetric matrices, where a CPU has few threads and several devices.

On a CPU jaxlib shares a batch of matrices out among the threads of the pool that it then waits in:
two batches at once, such as on two devices of two cores, may fill the pool with waiting and never
end, and on many cores the heap was found damaged (jax issue 39292, jax 0.10.2). One matrix is
decomposed where it is, so there they are taken one after another; elsewhere together.
"""

import jax
from jaxtyping import Array, Float


def eigh(
    matrices: Float[Array, "*batch N N"],
) -> tuple[Float[Array, "*batch N"], Float[Array, "*batch N N"]]:
    """Eigenvalues, ascending, and eigenvectors as columns, as `jnp.linalg.eigh` has them.

    Of a matrix its lower half is read. Under `vmap` too no batch reaches a CPU's jaxlib.
    Property: vectors diag(values) vectors^T is the matrix, up to rounding.
    """
    return jax.lax.platform_dependent(matrices, cpu=_in_turn, default=_together)


def _together(matrices):
    vectors, values = jax.lax.linalg.eigh(matrices, symmetrize_input=False)
    return values, vectors


_one = jax.custom_batching.sequential_vmap(_together)


def _in_turn(matrices):
    n = matrices.shape[-1]
    values, vectors = jax.lax.map(_one, matrices.reshape(-1, n, n))
    return values.reshape(matrices.shape[:-1]), vectors.reshape(matrices.shape)
