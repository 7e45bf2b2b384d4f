"""Training every head's autoencoder at once: heads x seeds x settings in one compiled program.

`sae.train` is written for one head; here it is mapped over items, a few at a time, so that their
parameters and Adam's moments stay in the processor's cache (on an accelerator: all at once). Items
are spread over the devices of a mesh; one device is the mesh of size one.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits_jax import devices, sae

AT_ONCE = 4  # autoencoders trained together on a CPU core; measured on 10 x 10 inputs, 200 codes
SMALL = 100_000  # parameters that stay in a core's cache: so few are trained all at once


def fit(
    key: jax.Array,
    x: Float[Array, "G N R"],
    config: sae.SaeConfig,
    settings: sae.Settings | None = None,
    *,
    d_model: int | None = None,
    n_seeds: int = 1,
) -> tuple[sae.SaeParams, Float[Array, "S P G steps"]]:
    """Train an autoencoder for every head, seed and setting.

    Args:
        key: split over heads and seeds; the same seed starts alike under every setting.
        x: N examples for each of G heads. For one autoencoder shared by all heads, as published,
            pass [1, N G, D].
        config: shape and length of training, the same for all.
        settings: penalties and learning rates; each a number, or an array of P of them.
        d_model: D, where x is in a narrower basis; default R.
        n_seeds: S.

    Returns:
        Parameters with leading axes [S P G], and the loss before every step. Each equals what
        `sae.train` gives alone, up to rounding.
    """
    settings = settings or sae.Settings()
    leaves = np.broadcast_arrays(*map(np.atleast_1d, jax.tree.leaves(settings)))
    leaves = [jnp.asarray(leaf, jnp.float32) for leaf in leaves]
    settings = jax.tree.unflatten(jax.tree.structure(settings), leaves)
    shape = (n_seeds, len(leaves[0]), x.shape[0])
    fitted = _fit(key, x, settings, shape, config, d_model or x.shape[-1])
    fitted = devices.gather(fitted, math.prod(shape))
    return jax.tree.map(lambda v: v.reshape(*shape, *v.shape[1:]), fitted)


@functools.partial(jax.jit, static_argnames=("shape", "config", "d_model"))
def _fit(key, x, settings, shape, config, d_model):
    """All autoencoders as one list of items (key, head, setting)."""
    keys = jax.random.split(key, (shape[0], 1, shape[2]))
    n_items = math.prod(shape)
    seed, setting, head = jnp.unravel_index(jnp.arange(n_items), shape)

    def train(item, constants):
        key, head, setting = item
        x, settings = constants
        own = jax.tree.map(lambda v: v[setting], settings)
        return sae.train(key, x[head], own, config, d_model)

    items = keys[seed, 0, head], head, setting
    return devices.spread(train, items, (x, settings), _at_once(x, n_items, config))


def _at_once(x: Float[Array, "G N R"], n_items: int, config: sae.SaeConfig) -> int | None:
    """How many autoencoders train together: all, unless they would leave a core's cache."""
    small = n_items * 2 * config.n_codes * x.shape[-1] <= SMALL
    return None if small or jax.default_backend() != "cpu" else AT_ONCE


@functools.partial(jax.jit, static_argnames="config")
def activations(
    params: sae.SaeParams, x: Float[Array, "G N R"], config: sae.SaeConfig
) -> Float[Array, "S P G N F"]:
    """Activations of the codes of every autoencoder of `fit`, on its own head's inputs."""
    encode = jax.vmap(lambda p, x: sae.encode(p, x, config))
    return jax.vmap(jax.vmap(lambda p: encode(p, x)))(params)
