"""How exact products are: the one policy for all devices.

Science (the decoder and what is read of it, autoencoders, stage 1, metrics, matching) is float32 to
the last product. XLA's own default multiplies float32 with 10 bits of mantissa on a GPU and with 7
on a TPU; effects of heads are then off by .2 %, and a texture's covariances lose their positive
definiteness. So every product of the science is made here, or asks for `science()`.

What jax itself is told overrules it (`JAX_DEFAULT_MATMUL_PRECISION`, `jax_default_matmul_precision`
or the context manager of that name). Training of networks chooses for itself: `Recipe.precision`.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def science() -> jax.lax.Precision | None:
    """The `precision` of a product: HIGHEST, or None where jax is told another."""
    told = jax.config.jax_default_matmul_precision is not None
    return None if told else jax.lax.Precision.HIGHEST


def einsum(subscripts: str, *operands: Array | np.ndarray, **options: Any) -> Array:
    """`jnp.einsum` of the science."""
    return jnp.einsum(subscripts, *operands, precision=science(), **options)


def matmul(a: Array | np.ndarray, b: Array | np.ndarray) -> Array:
    """`a @ b` of the science."""
    return jnp.matmul(a, b, precision=science())


def exact() -> contextlib.AbstractContextManager:
    """Where products are not ours to write: all that is traced meanwhile is of the science."""
    return jax.default_matmul_precision(in_use())


def in_use() -> str:
    """For the record of a run: how the science multiplies float32 in it."""
    return jax.config.jax_default_matmul_precision or "highest"
