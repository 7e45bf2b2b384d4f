"""One seed, one circuit: how the command, the jobs, Python and the notebook make their keys.

A seed gives a stream of random numbers for each purpose, so that a purpose gets the same numbers
whatever else is run:

    method       the start of the autoencoders, and all else that a method draws
    evaluation   random circuits and random edges
    draws        orders of pairs, in sweeps and in the paper's table

Bootstraps go on from `method`. Prompts are drawn by `make_task` from the seed itself.
"""

import numbers
from typing import Any, Literal

import jax
import jax.numpy as jnp

from circuits_jax.runs.errors import InputError

Stream = Literal["method", "evaluation", "draws"]
STREAMS: tuple[Stream, ...] = ("method", "evaluation", "draws")
SEEDS = 2**64  # seeds below it are told apart


def stream(seed: Any, name: Stream) -> jax.Array:
    """The key of one purpose.

    Args:
        seed: 0 to 2^64 - 1; None is 0. Or a key of JAX, which is taken as it is.
        name: see the module.

    Raises:
        InputError: neither a seed nor a key.
    """
    if isinstance(seed, jax.Array) and _is_key(seed):
        return seed
    seed = 0 if seed is None else seed
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise InputError(
            f"the key is a {type(seed).__name__}; allowed is a seed, such as 0, or a key, such as "
            "jax.random.key(0)"
        )
    seed = int(seed)
    if not 0 <= seed < SEEDS:
        raise InputError(f"the seed is {seed}; allowed is 0 to 2**64 - 1")
    low, high = seed % 2**32, seed // 2**32
    key = jax.random.key(low)
    if high:  # JAX keeps the lower 32 bits alone
        key = jax.random.fold_in(key, high)
    return jax.random.fold_in(key, STREAMS.index(name))


def _is_key(array: jax.Array) -> bool:
    """A typed key, or the raw two words of one."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array.shape == ()
    return array.dtype == jnp.uint32 and array.shape == (2,)
