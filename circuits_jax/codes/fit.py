"""Training every head's autoencoder at once: heads x seeds x settings in one compiled program.

`sae.train` is written for one head; here it is mapped over items, a few at a time, so that their
parameters and Adam's moments stay in the processor's cache (on an accelerator: all at once). Items
are spread over the devices of a mesh; one device is the mesh of size one.
"""

import functools
import math

import jax
import numpy as np
from jaxtyping import Array, Float

from circuits_jax.codes import sae
from circuits_jax.runs import mesh
from circuits_jax.runs.errors import InputError

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
        key: of the starts of heads and seeds; the same seed starts alike under every setting.
        x: N examples for each of G heads. For one autoencoder shared by all heads, as published,
            pass [1, N G, D].
        config: shape and length of training, the same for all.
        settings: penalties and learning rates; each a number, or an array of P of them.
        d_model: D, where x is in a narrower basis; default R.
        n_seeds: S.

    Returns:
        Parameters with leading axes [S P G], and the loss before every step. Each equals what
        `sae.train` gives alone from its start, [S G] of `sae.init`, up to rounding.

    Raises:
        InputError: a loss is not finite.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    shape, arguments = _arguments(rng, x.shape, config, settings, d_model, n_seeds)
    params, losses = mesh.gather(_fit(x, *arguments), *shape)
    _check_losses(np.asarray(losses))
    return params, losses


def _check_losses(losses: Float[np.ndarray, "S P G steps"]) -> None:
    """Refuse codes of a training that broke: they would all say that nothing is active."""
    if not np.isfinite(losses).all():
        seed, setting, head, step = np.argwhere(~np.isfinite(losses))[0]
        raise InputError(
            f"the loss of autoencoder {head} of {losses.shape[2]} (seed {seed}, setting {setting})"
            f" is not finite at step {step}; lower learning_rate or l1"
        )


def compile_ahead(
    x: jax.ShapeDtypeStruct,
    config: sae.SaeConfig,
    settings: sae.Settings | None = None,
    *,
    d_model: int | None = None,
    n_seeds: int = 1,
) -> None:
    """Compile what `fit` runs, before there is an x.

    For while a device is busy with what x is made of. Once compiled, it takes a millisecond.
    """
    rng = np.random.default_rng(0)  # any start: no key, which a busy device would have to make
    _, arguments = _arguments(rng, x.shape, config, settings, d_model, n_seeds)
    _fit.lower(x, *arguments).compile()


def _arguments(rng, x_shape, config, settings, d_model, n_seeds):
    """(S, P, G), and what `_fit` takes after x."""
    settings = settings or sae.Settings()
    values = np.broadcast_arrays(*map(np.atleast_1d, jax.tree.leaves(settings)))
    shape = (n_seeds, len(values[0]), x_shape[0])
    seed, setting, head = np.unravel_index(np.arange(math.prod(shape)), shape)
    starts = sae.init_leaves(rng, x_shape[-1], config, (n_seeds, x_shape[0]))
    starts = [leaf[seed, head] for leaf in starts]
    leaves = [value[setting].astype(np.float32) for value in values]
    items = jax.device_put((starts, leaves, head.astype(np.int32)))
    return shape, (items, config, d_model or x_shape[-1])


@functools.partial(jax.jit, static_argnames=("config", "d_model"))
def _fit(x, items, config, d_model):
    """All autoencoders as items: leaves of their starts and of their settings, and their heads."""

    def train(item, x):
        start, settings, head = item
        start, settings = sae.SaeParams(*start), sae.Settings(*settings)
        return sae.train(start, x[head], settings, config, d_model)

    return mesh.spread(train, items, x, _at_once(x, len(items[-1]), config))


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
