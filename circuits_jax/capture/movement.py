"""How the two prompts of a pair differ in what is written, and the slopes of neurons between them.

Positive minus negative, and 0 at tokens without a partner (`lm/alignment.py`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from circuits_jax import interpose
from circuits_jax.capture.forked import ForkedBatch
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Decoder

ROUNDING = 2e-6  # a relative difference of float32 sums


@struct.dataclass
class Moved:
    """Of one layer and B pairs: what differs in a pair, and what the positive prompts computed.

    Attributes:
        z: difference of what each head says; 0 at a token without a partner.
        mlp: the same of what the MLP adds to the stream.
        relative, mlp_relative: the same two, each prompt in units of its residual stream.
        q, k, v: of the positive prompts; queries of their endings.
        other_q, other_k: of the negative prompts; the positive ones' where there is no partner.
        pattern: of the positive prompts.
        slopes: by the name of a weight of the MLP: how much more its neurons say for being given
            more through it.
        inverse_scales: of each norm of the layer, by name: what it multiplied the endings by.
    """

    z: Float[Array, "*L B Q H K"]
    mlp: Float[Array, "*L B Q D"]
    relative: Float[Array, "*L B Q H K"]
    mlp_relative: Float[Array, "*L B Q D"]
    q: Float[Array, "*L B Q H K"]
    k: Float[Array, "*L B T J K"]
    v: Float[Array, "*L B T J K"]
    other_q: Float[Array, "*L B Q H K"]
    other_k: Float[Array, "*L B T J K"]
    pattern: Float[Array, "*L B J I Q T"]
    slopes: dict[str, Float[Array, "*L B Q E"]]
    inverse_scales: dict[str, Array]


def movement(config: DecoderConfig, record: interpose.Record, batch: ForkedBatch) -> Moved:
    """What is kept of a layer."""
    shared = jnp.logical_and(*batch.endings(batch.mask))[..., None, None]
    whole_shared = (batch.first.mask & batch.second(batch.mask))[..., None, None]
    record = jax.tree.map(lambda x: x.astype(jnp.float32), record)
    scale = jnp.maximum(root_mean_square(record.stream), 1e-6)

    def difference(x):
        positive, negative = batch.endings(x)
        partnered = shared if x.ndim == 4 else shared[..., 0]
        return jnp.where(partnered, positive - negative, 0)

    neurons, other = _sides(record.neurons, batch)
    shares, _ = _sides(record.routed, batch)
    other = {name: jnp.where(shared[..., 0], x, neurons[name]) for name, x in other.items()}
    slopes = neuron_slopes(neurons, other, shared[..., 0]) if config.d_mlp else {}
    if config.n_experts:
        slopes = {name: x * shares["neurons"] for name, x in slopes.items()}
    q, other_q = batch.endings(record.q)
    k, other_k = record.k[:, : batch.length], batch.second(record.k)
    ending = slice(batch.length - batch.n_ending, batch.length)
    return Moved(
        z=difference(record.z),
        mlp=difference(record.mlp),
        relative=difference(record.z / scale[..., None]),
        mlp_relative=difference(record.mlp / scale),
        q=q,
        k=k,
        v=record.v[:, : batch.length],
        other_q=jnp.where(shared, other_q, q),
        other_k=jnp.where(whole_shared, other_k, k),
        pattern=record.pattern[..., ending, : batch.length],
        slopes=slopes,
        inverse_scales=_sides(record.inverse_scales, batch)[0],
    )


def embedding_movement(
    config: DecoderConfig, params: Any, batch: ForkedBatch
) -> tuple[Float[Array, "B Q D"], Float[Array, "B Q D"]]:
    """How the embedding differs in a pair, and the same with each prompt in its own units."""
    shared = jnp.logical_and(*batch.endings(batch.mask))[..., None]
    embedding = Decoder(config).apply({"params": params}, batch, method="embed")
    embedding = embedding.astype(jnp.float32)
    relative = embedding / jnp.maximum(root_mean_square(embedding), 1e-6)
    both = (jnp.subtract(*batch.endings(x)) for x in (embedding, relative))
    return tuple(jnp.where(shared, x, 0) for x in both)


def root_mean_square(stream: Float[Array, "B T D"]) -> Float[Array, "B T 1"]:
    """The unit that movements relative to the residual stream are in."""
    return jnp.sqrt(jnp.mean(stream**2, axis=-1, keepdims=True))


def _sides(arrays: dict[str, Array], batch: ForkedBatch) -> tuple[dict[str, Array], ...]:
    """Endings of the positive prompts, and of the negative ones."""
    return tuple({name: batch.endings(x)[i] for name, x in arrays.items()} for i in (0, 1))


def neuron_slopes(
    positive: dict[str, Float[Array, "B Q E"]],
    negative: dict[str, Float[Array, "B Q E"]],
    shared: Bool[Array, "B Q 1"],
) -> dict[str, Float[Array, "B Q E"]]:
    """How much more neurons say for being given more, by the name of the weight that gives it.

    Both as `interpose.Record` has them, and where tokens have a partner.
    """
    given = positive["given"], negative["given"]
    slopes = activation_slopes(*given, positive["active"], negative["active"], shared)
    if "up" not in positive:
        return {"up": slopes}
    return {"gate": positive["up"] * slopes / 2, "up": positive["active"] / 2}


def activation_slopes(
    u: Float[Array, "B Q E"],
    other: Float[Array, "B Q E"],
    y: Float[Array, "B Q E"],
    other_y: Float[Array, "B Q E"],
    shared: Bool[Array, "B Q 1"],
) -> Float[Array, "B Q E"]:
    """How much more neurons are active, y, for being given more, u, than with the other prompt.

    Where both are given nearly the same: what it is active for all that it is given. And where what
    moves a neuron cancels, so that they differ by rounding, as much again of the slope from the
    least to the most that it is given at any token of the pair that has a partner. In the one,
    neurons that make a step together cancel, and those that sleep are nothing; in the other, those
    that are given the same everywhere.
    """
    slopes, moves = _secants((u, y), (other, other_y))
    given, active, there = (
        jnp.concatenate(x, axis=1) for x in ((u, other), (y, other_y), (shared, shared))
    )

    def at(where):
        return tuple(jnp.take_along_axis(x, where, axis=1) for x in (given, active))

    most = jnp.argmax(jnp.where(there, given, -jnp.inf), axis=1, keepdims=True)
    least = jnp.argmin(jnp.where(there, given, jnp.inf), axis=1, keepdims=True)
    elsewhere, moves_elsewhere = _secants(at(most), at(least))
    cancels = jnp.abs(u - other) <= ROUNDING * (jnp.abs(u) + jnp.abs(other))
    cancels &= moves_elsewhere & shared  # without a partner nothing moves, and nothing cancels
    tiny = jnp.abs(u) < 1e-6
    whole = jnp.where(tiny, 0.5, y / jnp.where(tiny, 1, u))
    return jnp.where(moves, slopes, jnp.where(cancels, (whole + elsewhere) / 2, whole))


def _secants(
    here: tuple[Array, Array], there: tuple[Array, Array]
) -> tuple[Float[Array, "*shape"], Bool[Array, "*shape"]]:
    """(y - y') / (u - u') of two (u, y), and where u and u' differ by more than rounding."""
    (u, y), (other, other_y) = here, there
    moves = jnp.abs(u - other) >= 1e-4 * (jnp.abs(u) + jnp.abs(other)) + 1e-6
    return (y - other_y) / jnp.where(moves, u - other, 1), moves
