"""What chosen heads and MLPs do with one pair of prompts, all from one pass over both.

Nodes are the writers of `circuits.graph`'s order (the embedding, then each layer's heads and MLP).

    pattern    where a head attends, in either prompt
    movement   how far what the node writes moves between the prompts, in units of the stream
    read       how much of that is read, on to the prediction (`slope_attribution.py`)
    direct     what every writer adds, at the last token, to the logits of answer and foil: its
               output through the final norm and the unembedding, the norms' scales held still
               (direct logit attribution). Logits count from their mean over the vocabulary, as a
               constant changes no prediction. What is left to the whole are biases.
    passed     of every writer's movement, what a node reads of it by its queries, keys or values
               and passes on to the prediction: < d write(t), what is read of the stream at t >

`read` and `passed` are shares of all that moves the prediction along p+ - p-.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from circuits_jax import interpose
from circuits_jax.capture.forked import ForkedBatch
from circuits_jax.capture.movement import movement
from circuits_jax.capture.slope_attribution import prediction_direction, read_layer, start
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import NORMS, Decoder, layer_data, norm_of
from circuits_jax.runs.precision import einsum, matmul


class Chosen(NamedTuple):
    """Nodes by where they are.

    `heads` of each layer, padded with 0; of every node its layer, its slot there (the last is the
    MLP's), and its head, where it is one.
    """

    heads: Int[np.ndarray, "L slots"]
    layer: Int[np.ndarray, " nodes"]
    slot: Int[np.ndarray, " nodes"]
    head: Int[np.ndarray, " nodes"]
    is_head: Bool[np.ndarray, " nodes"]


def chosen(config: DecoderConfig, writers: Int[np.ndarray, " nodes"]) -> Chosen:
    """Nodes by their number among the writers; the embedding, 0, is none."""
    layer, head = np.divmod(np.asarray(writers) - 1, config.n_heads + 1)
    is_head = head < config.n_heads
    own = [head[is_head & (layer == at)] for at in range(config.n_layers)]
    n_slots = max(map(len, own), default=0)
    heads = np.stack([np.pad(one, (0, n_slots - len(one))) for one in own])
    slot = np.full(len(layer), n_slots)
    for at in range(config.n_layers):
        here = is_head & (layer == at)
        slot[here] = np.arange(here.sum())
    return Chosen(heads, layer, slot, np.where(is_head, head, 0), is_head)


class PairViews(NamedTuple):
    """Of one pair, positive and negative prompt in turn, both in T columns.

    Attributes:
        pattern: of heads; 0 of MLPs.
        distance, read: at every column.
        direct: of every writer and last of biases, to the logits of answer and foil.
        logits: of answer and foil, before a cap where the family has one.
        most_ids, most: tokens that the node adds most to, and how much.
        least_ids, least: that it takes most from.
        sources: writers whose movement passes most through queries, keys and values; of an MLP
            through the first, which is its input.
        passed: how much does.
        at: the column where most of it does.
    """

    pattern: Float[Array, "nodes 2 T T"]
    distance: Float[Array, "nodes T"]
    read: Float[Array, "nodes T"]
    direct: Float[Array, "2 writers 2"]
    logits: Float[Array, "2 2"]
    most_ids: Int[Array, "nodes 2 _"]
    most: Float[Array, "nodes 2 _"]
    least_ids: Int[Array, "nodes 2 _"]
    least: Float[Array, "nodes 2 _"]
    sources: Int[Array, "nodes 3 _"]
    passed: Float[Array, "nodes 3 _"]
    at: Int[Array, "nodes 3 _"]


@functools.partial(jax.jit, static_argnames=("config", "n_tokens", "n_sources"))
def pair_views(
    config: DecoderConfig,
    params: Any,
    batch: ForkedBatch,
    nodes: Chosen,
    is_edge: Bool[Array, "2 L writers"],
    answers: Float[Array, "2 V"],
    n_tokens: int,
    n_sources: int,
) -> PairViews:
    """All that the module says.

    Args:
        config: the decoder's settings.
        params: its parameters.
        batch: one row, with both prompts whole.
        nodes: which.
        is_edge: from which writers a layer's heads, and its MLP, read.
        answers: how much each token counts as answer, and as foil; rows of sum 1, or 0.
        n_tokens: tokens to name on either side.
        n_sources: writers to name.
    """
    pair = _recorded(config, params, batch)
    moves, says = _written(config, params, batch, pair)
    last = pair.stream[None, :, -1]
    logits, scale = interpose.record_final(config, params, last)
    direct, logits_of, named = _direct(
        config, params, says, last[0], scale, answers, _numbers(config, nodes), n_tokens
    )
    weight = start(config, params, batch, prediction_direction(logits), scale[:, 0])
    total = jnp.sum((last[0, 0] - last[0, 1]) * weight[0, -1])
    share = 1 / jnp.where(total == 0, 1, total)
    read, distance, sources = _read_back(
        config, params, batch, pair, moves, weight, nodes, is_edge, n_sources
    )
    which = jnp.where(nodes.is_head, nodes.head, config.n_heads)
    there = nodes.is_head[:, None] | (jnp.arange(3) == 0)[None]
    slots = jnp.where(there, 3 * nodes.slot[:, None] + jnp.arange(3)[None], 0)
    strongest, passed, at = (x[nodes.layer[:, None], slots] for x in sources)
    there = there[..., None]
    pattern = pair.patterns[nodes.layer, :, nodes.head] * nodes.is_head[:, None, None, None]
    return PairViews(
        pattern=pattern,
        distance=distance[nodes.layer, which],
        read=read[nodes.layer, which] * share,
        direct=direct,
        logits=logits_of,
        sources=jnp.where(there & (passed != 0), strongest, -1),
        passed=jnp.where(there, passed, 0) * share,
        at=at,
        **named,
    )


class _Recorded(NamedTuple):
    """Of the pass over both prompts; of each layer where it begins with L.

    Attributes:
        stream: what the final norm reads.
        moved: how heads moved between the prompts.
        patterns: where heads attend.
        mlp, relative: outputs of MLPs, and these in units of the stream.
        z_last, post_scales: at the last token, what heads mix, and the scales of norms after them.
    """

    stream: Float[Array, "2 T D"]
    moved: Any
    patterns: Float[Array, "L 2 H T T"]
    mlp: Float[Array, "L 2 T D"]
    relative: Float[Array, "L 2 T D"]
    z_last: Float[Array, "L 2 H K"]
    post_scales: Any


def _recorded(config: DecoderConfig, params: Any, batch: ForkedBatch) -> _Recorded:
    length = batch.length

    def of_layer(record):
        whole = record.pattern.reshape(config.n_heads, 2 * length, -1)
        patterns = jnp.stack([whole[:, :length, :length], whole[:, length:, length:]])
        scale = jnp.sqrt(jnp.mean(jnp.square(record.stream), axis=-1, keepdims=True))
        relative = record.mlp / jnp.maximum(scale, 1e-6)
        scales = {n: x for n, x in record.inverse_scales.items() if n == "attention_post_norm"}
        mlp, relative, z = (_each(batch, x) for x in (record.mlp, relative, record.z))
        scales = jax.tree.map(lambda x: _each(batch, x)[:, -1], scales)
        return movement(config, record, batch), patterns, mlp, relative, z[:, -1], scales

    stream, kept = interpose.record(config, params, batch, of_layer)
    return _Recorded(_each(batch, stream), *kept)


def _each(batch: ForkedBatch, x: Array) -> Array:
    """Of each prompt, [2 T ...]."""
    return jnp.concatenate(batch.endings(x.astype(jnp.float32)))


def _apart(batch: ForkedBatch, x: Float[Array, "*n 2 T D"]) -> Float[Array, "*n T D"]:
    """From the negative to the positive prompt; 0 without a partner."""
    shared = jnp.logical_and(*batch.endings(batch.mask))[0, :, None]
    return jnp.where(shared, x[..., 0, :, :] - x[..., 1, :, :], 0)


def _written(
    config: DecoderConfig, params: Any, batch: ForkedBatch, pair: _Recorded
) -> tuple[Float[Array, "writers T D"], Float[Array, "writers 2 D"]]:
    """What writers write: how it moves, and at the last token."""

    def of_heads(own, z, scales):
        heads = einsum("thk,hkd->htd", z, own["attention"]["o"].astype(jnp.float32))
        return held_norm(config, own, "attention_post_norm", scales, heads)

    layers = params["layers"]
    embedded = _each(batch, Decoder(config).apply({"params": params}, batch, method="embed"))
    moved = jax.vmap(of_heads)(layers, pair.moved.z[:, 0], _row(pair.moved.inverse_scales))
    moves = jnp.concatenate([moved, _apart(batch, pair.mlp)[:, None]], axis=1)
    moves = moves.reshape(-1, *moves.shape[2:])
    said = jax.vmap(of_heads)(layers, pair.z_last, pair.post_scales)
    says = jnp.concatenate([said, pair.mlp[:, None, :, -1]], axis=1).reshape(-1, 2, config.d_model)
    return (
        jnp.concatenate([_apart(batch, embedded)[None], moves]),
        jnp.concatenate([embedded[None, :, -1], says]),
    )


def _read_back(config, params, batch, pair, moves, weight, nodes, is_edge, n_sources):
    """From the last layer to the first: `read` and `distance`, [L H+1 T], and `sources`.

    `weight` [1 T D] is what the prediction reads of the stream. Sources are three arrays
    [L 3*slots+1 n_sources]: writers, what passes, and at which column most of it.
    """
    n_heads = config.n_heads

    def step(weight, layer):
        own, data, moved, heads, edges, mlp = layer
        own = jax.tree.map(lambda x: x.astype(jnp.float32), own)
        before, flow, each = read_layer(config, own, data, batch.first, moved, weight, apart=True)
        by_part = heads[:, None] + n_heads * jnp.arange(3)[None]  # queries, keys and values
        reads = jnp.take(each, jnp.append(by_part, 3 * n_heads), axis=0)[:, 0]
        sources = jnp.concatenate([jnp.repeat(edges[:1], 3 * len(heads), 0), edges[1:]])
        passed = einsum("wtd,rtd->rwt", moves, reads) * sources[..., None]
        read = jnp.concatenate([flow.read[0].T, jnp.sum(mlp * weight[0], axis=-1)[None]])
        return before, (read, flow.distance[0].T, *_strongest(passed, n_sources))

    edges, mlp = is_edge.swapaxes(0, 1), _apart(batch, pair.mlp)
    xs = params["layers"], layer_data(config), pair.moved, nodes.heads, edges, mlp
    _, (read, distance, *sources) = jax.lax.scan(step, weight, xs, reverse=True)
    mlps = jnp.linalg.norm(_apart(batch, pair.relative), axis=-1)
    return read, jnp.concatenate([distance, mlps[:, None]], axis=1), sources


def _row(tree: Any) -> Any:
    """The one row of every [L B ...] array."""
    return jax.tree.map(lambda x: x[:, 0], tree)


def _numbers(config: DecoderConfig, nodes: Chosen) -> Int[Array, " nodes"]:
    """Of nodes, among the writers."""
    width = config.n_heads + 1
    return 1 + nodes.layer * width + jnp.where(nodes.is_head, nodes.head, config.n_heads)


def held_norm(
    config: DecoderConfig,
    own: Any,
    name: str,
    inverse_scales: dict[str, Float[Array, "... 1"]],
    x: Float[Array, "*parts D"],
) -> Float[Array, "*parts D"]:
    """A norm's output of parts of its input, what it multiplies by held still, without its bias.

    Parts that sum to the input have outputs that sum to the norm's, but for the bias.
    `slope_attribution.through_norm` is the transpose.
    """
    kind = config.norm_at(name)
    if kind == "none":
        return x
    x = x - jnp.mean(x, axis=-1, keepdims=True) if NORMS[kind].centred else x
    scales = inverse_scales[name]
    x = x * scales.reshape((1,) * (x.ndim - scales.ndim) + scales.shape)
    if not NORMS[kind].scale:
        return x
    return x * own[name]["scale"].astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))


def _direct(config, params, says, stream, scale, answers, nodes, n_tokens):
    """Direct logit attribution of [writers 2 D] parts of the last token's stream [2 D]."""
    unembedding = (params["embedding"].T if config.tied else params["unembedding"]).astype(
        jnp.float32
    )
    counted = answers - jnp.sum(answers, axis=1, keepdims=True) / answers.shape[1]
    directions = matmul(counted, unembedding.T)  # [2 D], of answer and foil
    parts = held_norm(config, params, "final_norm", {"final_norm": scale[0]}, says)
    direct = einsum("wsd,ad->swa", parts, directions)
    norm = norm_of(config, "final_norm")
    normed = norm.apply({"params": params.get("final_norm", {})}, stream)
    whole = matmul(normed, directions.T)
    if config.unembedding_bias:
        whole = whole + matmul(counted, params["unembedding_bias"].astype(jnp.float32))[None]
    biases = whole - jnp.sum(direct, axis=1)
    added = matmul(parts[nodes], unembedding)
    added = added - jnp.mean(added, axis=-1, keepdims=True)
    (most, most_ids), (least, least_ids) = (jax.lax.top_k(x, n_tokens) for x in (added, -added))
    named = {"most_ids": most_ids, "most": most, "least_ids": least_ids, "least": -least}
    return jnp.concatenate([direct, biases[:, None]], axis=1), whole, named


def _strongest(passed, n_sources):
    """Writers of the largest passed[reader, writer, T] in size, how much, and where most of it."""
    whole = jnp.sum(passed, axis=-1)
    _, which = jax.lax.top_k(jnp.abs(whole), n_sources)
    at = jnp.take_along_axis(jnp.argmax(jnp.abs(passed), axis=-1), which, axis=1)
    return which, jnp.take_along_axis(whole, which, axis=1), at
