"""What all writers of the graph move, kept once, and how far it goes along what readers read."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from circuits_jax.runs import mesh
from circuits_jax.runs.precision import einsum


@struct.dataclass
class Writers:
    """How all that writes moves. They are large and used L times, in this order without a copy.

    Pairs come first, tokens and D are one, and a layer is written to its place: at an axis of its
    own, as a TPU keeps rows by eights, and moves all of them where one writes between two.

    Attributes:
        heads: of every layer.
        others: the embedding, and then the MLP of every layer.
    """

    heads: Float[Array, "B L H QD"]
    others: Float[Array, "B L1 QD"]


def all_writers(
    embedding: Float[Array, "B Q D"],
    mlps: Float[Array, "L B Q D"],
    heads_of: Callable[[Any], Array],
    layers: Any,
    n_heads: int,
) -> Writers:
    """The embedding, MLPs, and what `heads_of` gives of each of the layers, [H B Q D]."""
    n_layers, n = mlps.shape[:2]
    others = jnp.concatenate([embedding[None], mlps]).reshape(1 + n_layers, n, -1)
    kept = mesh.shared_by_model(
        jnp.zeros((n, n_layers, n_heads, others.shape[-1]), embedding.dtype)
    )

    def write(kept, at):
        number, layer = at
        own = jnp.moveaxis(heads_of(layer), 1, 0).reshape(n, n_heads, -1)
        return jax.lax.dynamic_update_index_in_dim(kept, own, number, axis=1), None

    heads = jax.lax.scan(write, kept, (jnp.arange(n_layers), layers))[0]
    return Writers(heads, jnp.moveaxis(others, 1, 0))


def along(writers: Writers, directions: Float[Array, "R B Q D"]) -> Float[Array, "B writers R"]:
    """What writers move along each direction, summed over tokens; in the order of the graph."""
    n_directions, n = directions.shape[:2]
    directions = mesh.shared_by_model(directions.reshape(n_directions, n, -1))
    heads = einsum("blhn,rbn->blhr", writers.heads, directions)
    others = einsum("bwn,rbn->bwr", writers.others, directions)
    layers = jnp.concatenate([heads, others[:, 1:, None]], axis=2).reshape(n, -1, n_directions)
    return jnp.concatenate([others[:, :1], layers], axis=1)
