"""Training every head's autoencoder at once: heads x seeds x settings in one compiled program.

`sae.train` is written for one head; here it is mapped over items, a few at a time, so that their
parameters and Adam's moments stay in the processor's cache (on an accelerator: all at once). Items
are spread over the devices of a mesh; one device is the mesh of size one.
"""

import functools
import math

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

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
    items = starts(key, x.shape, config, settings, n_seeds=n_seeds)
    params, losses = _fit(x, items, config, d_model or x.shape[-1])
    check_losses(np.asarray(losses))
    return params, losses


def check_losses(losses: Float[np.ndarray, "S P G steps"]) -> None:
    """Refuse codes of a training that broke: they would all say that nothing is active."""
    if not np.isfinite(losses).all():
        seed, setting, head, step = np.argwhere(~np.isfinite(losses))[0]
        raise InputError(
            f"the loss of autoencoder {head} of {losses.shape[2]} (seed {seed}, setting {setting})"
            f" is not finite at step {step}; lower learning_rate or l1"
        )


@struct.dataclass
class Items:
    """S x P x G autoencoders to be trained, in this order: all that `trained` takes but rows.

    Attributes:
        starts: leaves of `SaeParams`.
        settings: leaves of `Settings`.
        head: whose rows each sees.
        axes: (S, P, G).
    """

    starts: list[Float[np.ndarray | Array, "SPG ..."]]
    settings: list[Float[np.ndarray | Array, " SPG"]]
    head: Int[np.ndarray | Array, " SPG"]
    axes: tuple[int, int, int] = struct.field(pytree_node=False)


def starts(
    key: jax.Array,
    x_shape: tuple[int, int, int],
    config: sae.SaeConfig,
    settings: sae.Settings | None = None,
    *,
    n_seeds: int = 1,
) -> Items:
    """What `fit` draws for rows of a shape; on the host, so drawn before a device is busy."""
    settings = settings or sae.Settings()
    values = np.broadcast_arrays(*map(np.atleast_1d, jax.tree.leaves(settings)))
    axes = (n_seeds, len(values[0]), x_shape[0])
    seed, setting, head = np.unravel_index(np.arange(math.prod(axes)), axes)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    leaves = sae.init_leaves(rng, x_shape[-1], config, (n_seeds, x_shape[0]))
    return Items(
        [leaf[seed, head] for leaf in leaves],
        [value[setting].astype(np.float32) for value in values],
        head.astype(np.int32),
        axes,
    )


def trained(
    x: Float[Array, "G N R"], items: Items, config: sae.SaeConfig, d_model: int
) -> tuple[sae.SaeParams, Float[Array, "S P G steps"]]:
    """What `fit` returns, for use under `jit`; nothing is checked."""

    def train(item, x):
        start, settings, head = item
        start, settings = sae.SaeParams(*start), sae.Settings(*settings)
        return sae.train(start, x[head], settings, config, d_model)

    each = items.starts, items.settings, items.head
    at_once = _at_once(x, len(items.head), config)
    return mesh.joined(mesh.spread(train, each, x, at_once), *items.axes)


_fit = jax.jit(trained, static_argnames=("config", "d_model"))


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
