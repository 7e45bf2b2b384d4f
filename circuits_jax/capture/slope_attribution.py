r"""What later layers read of a head, on to the prediction: one pass over kept activations.

The two prompts of a pair differ by d z_g(t) in what head g says at token t, and in the prediction
by p+ - p-, the difference of the two next-token distributions after the last token. How much of the
one is due to the other is read off what the forward pass computed for the positive prompt, from
the last layer to the first, with no gradient of the model, and for heads no label. A weight w(t)
in R^D says how much of the residual stream at token t is read after a layer:

    start      w = W_U (p+ - p-) at the last token, through the final norm, its scale held still;
               for edges to a metric, its slope between the two logits in place of p+ - p-
    head       what is read of z:  R(t) = W_O w(t);  flow_g(t) = < d z_g(t), R(t) >
    values     a head hands on what it attends to: token s gets  W_V sum_t A(t, s) R(t)
    patterns   and where it attends: with c(t, s) = < R(t), v(s) > and
               a(t, s) = M(t, s) (c(t, s) - sum_s M(t, s) c(t, s) / sum_s M(t, s)), queries get
               W_Q sum_s a k(s) and keys W_K sum_t a q(t), turned back by their rotary angles
    norm       a multiplication by what it multiplied by, held still
    MLP        every neuron by the slope d act(u) / d u, and each factor of a gated product gets
               half (arXiv 2508.21258)
    experts    their neurons count by the router's weights of the positive prompt; these, and which
               experts are chosen, are held still: what is due to another choice is not read

d is positive minus negative, and 0 at tokens without a partner (`lm/alignment.py`). A pair's
prompts begin alike, and nothing moves there in a causal model: what is kept and read is of the
endings, the last Q columns of T (`forked.py`).

Functions of one number or one row are read by their slope between the two prompts, so that a step
that was taken, or an all but hard pattern that turned, counts in full. For the softmax that is
exact with M the logarithmic mean of A and the other pattern, (A - A') / (log A - log A'); M is the
mean of three, A' by the negative prompt's queries, by its keys, and by both. Products are read at
the positive prompt, which patching starts from. In a model whose norms, patterns and activations
are linear or the same in both prompts, flow summed over tokens is the exact effect of patching the
head, measured along p+ - p-.

Cost: the weights of attention and MLPs once more, on the endings of the positive prompts, and their
patterns three times; no backward pass. The memory is that of what is kept of the endings, [L B Q E]
above all. Not for models whose attention scores or logits are capped far from linearly: caps are
read as if they were not there.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.capture.forked import ForkedBatch
from circuits_jax.capture.movement import Moved, embedding_movement, movement
from circuits_jax.capture.writers import all_writers, along
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import (
    NORMS,
    Attention,
    LayerData,
    TokenBatch,
    layer_data,
    turned,
)
from circuits_jax.runs.passes import layer_run
from circuits_jax.runs.precision import einsum, matmul
from circuits_jax.tasks import Targets, metric_values

NEVER = 1e-30  # a pattern's share that counts as none
STEPS = 8  # points between the logits of a pair at which a metric's slope is taken


@struct.dataclass
class Flow:
    """Of one layer, or of all on a leading axis: how heads moved, and how much of it is read.

    Attributes:
        moved: the movement, relative to the residual stream, as z.
        distance: its norm as an output, |moved W_O|.
        read: the flow, in units of p+ - p-.
    """

    moved: Float[Array, "*L B Q H K"]
    distance: Float[Array, "*L B Q H"]
    read: Float[Array, "*L B Q H"]


@struct.dataclass
class GraphFlow:
    """How all that writes moves, and what passes from it to all that reads.

    Attributes:
        heads: of [L B Q H].
        others: of the embedding and then of every MLP, as of layers of one head, D wide.
        passes: in units of p+ - p-, or of a metric; nothing where there is no edge.
    """

    heads: Flow
    others: Flow
    passes: Float[Array, "B writers readers"]


def flows(config: DecoderConfig, params: Any, batch: ForkedBatch) -> Flow:
    """How every head moves at every token of the endings, and how much of that is read.

    Args:
        config: the decoder's settings.
        params: its parameters.
        batch: B pairs, the positive prompts first.

    Returns:
        [L B Q H] arrays, 0 at tokens without a partner. All 0 where the two prompts are the same.
    """
    moved, logits, scale = _recorded(config, params, batch)
    weight = start(config, params, batch, prediction_direction(logits), scale)

    def step(weight, layer):
        own, data, moved = layer
        own = jax.tree.map(lambda x: x.astype(jnp.float32), own)
        return read_layer(config, own, data, batch.first, moved, weight)[:2]

    layers = params["layers"], layer_data(config), moved
    return jax.lax.scan(step, weight, layers, reverse=True)[1]


def graph_flows(
    config: DecoderConfig,
    params: Any,
    batch: ForkedBatch,
    goal: Targets | None = None,
    metric: str = "",
) -> GraphFlow:
    """`flows`, of MLPs and the embedding too, and what passes through every edge of the graph.

    What a writer moves is written into the direction in which a reader reads the stream, token by
    token, and summed over tokens; writers and readers are those of `circuits/graph.py`. What passes
    is read on to the prediction as flows are, or with a `goal` to the `metric`: to first order it
    is then the metric's drop where the edge is cut. To the prediction, a writer's edges sum to its
    flow.
    """
    moved, logits, scale = _recorded(config, params, batch)
    directions = [prediction_direction(logits)]
    if goal is not None:
        directions.append(metric_direction(logits, goal, metric))
    weights = [start(config, params, batch, one, scale) for one in directions]
    embedding = embedding_movement(config, params, batch)

    def heads_of(layer):
        own, moved = layer
        own = jax.tree.map(lambda x: x.astype(jnp.float32), own)
        heads = einsum("bqhk,hkd->hbqd", moved.z, own["attention"]["o"])
        return jax.vmap(functools.partial(onward, config, own, moved))(heads)

    given = params["layers"], moved
    writers = all_writers(embedding[0], moved.mlp, heads_of, given, config.n_heads)
    last = jax.tree.map(lambda x: x[..., -config.d_model :], writers)
    at_logits = along(last, weights[-1][None, :, -1:])  # all that is read after the last layer

    def step(weights, layer):
        own, data, moved = layer
        own = jax.tree.map(lambda x: x.astype(jnp.float32), own)
        mlp = jnp.sum(moved.mlp * weights[0], axis=-1)
        read = functools.partial(read_layer, config, own, data, batch.first, moved)
        found = [read(weight, apart=weight is weights[-1]) for weight in weights]
        _, flow, _ = found[0]
        *_, directions = found[-1]
        return [weight for weight, *_ in found], (flow, mlp, along(writers, directions))

    layers = params["layers"], layer_data(config), moved
    weights, (heads, mlps, passes) = jax.lax.scan(step, weights, layers, reverse=True)
    passes = jnp.moveaxis(passes, 0, 2).reshape(*at_logits.shape[:2], -1)
    read = jnp.concatenate([jnp.sum(embedding[0] * weights[0], axis=-1)[None], mlps])
    relative = jnp.concatenate([embedding[1][None], moved.mlp_relative])
    others = Flow(
        relative[..., None, :], jnp.linalg.norm(relative, axis=-1)[..., None], read[..., None]
    )
    return GraphFlow(heads, others, jnp.concatenate([passes, at_logits], axis=2))


def _recorded(
    config: DecoderConfig, params: Any, batch: ForkedBatch
) -> tuple[Moved, Float[Array, "B 2 V"], Float[Array, "B 1"]]:
    """What is kept of all layers; both logits, and what the positive's final norm multiplied by."""
    stream, moved = interpose.record(
        config, params, batch, lambda record: movement(config, record, batch)
    )
    last = jnp.concatenate([x[:, -1:] for x in batch.endings(stream)], axis=1)
    logits, scales = interpose.record_final(config, params, last)
    return moved, logits, scales[:, 0]


def logarithmic_mean(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """(a - b) / (log a - log b), between the geometric and the arithmetic mean; a where a = b."""
    a, b = jnp.maximum(a, NEVER), jnp.maximum(b, NEVER)
    logs = jnp.log(a) - jnp.log(b)
    same = jnp.abs(logs) < 1e-3
    return jnp.where(same, (a + b) / 2, (a - b) / jnp.where(same, 1, logs))


def prediction_direction(logits: Float[Array, "B 2 V"]) -> Float[Array, "B V"]:
    """p+ - p-, the difference of the two next-token distributions."""
    positive, negative = jnp.unstack(jax.nn.softmax(logits, axis=-1), axis=1)
    return positive - negative


def metric_direction(
    logits: Float[Array, "B 2 V"], goal: Targets, metric: str
) -> Float[Array, "B V"]:
    """The metric's slope between the two prompts: its mean along the line between their logits.

    So a metric that is flat where the answer is sure, as differences of probabilities are, counts
    the step that was taken. Property: < logits+ - logits-, direction > is what the metric says of
    the positive's logits over the negative's, up to the error of `STEPS` midpoints.
    """
    positive, negative = jnp.unstack(logits, axis=1)
    if metric == "kl":
        goal = dataclasses.replace(goal, reference=positive)

    def at(total, share):
        logits = positive + share * (negative - positive)
        slope = jax.grad(lambda x: jnp.sum(metric_values(x, goal, metric)))(logits)
        return total + slope / STEPS, None

    shares = (jnp.arange(STEPS) + 0.5) / STEPS
    return jax.lax.scan(at, jnp.zeros_like(positive), shares)[0]


def start(
    config: DecoderConfig,
    params: Any,
    batch: ForkedBatch,
    direction: Float[Array, "B V"],
    inverse_scale: Float[Array, "B 1"],
) -> Float[Array, "B Q D"]:
    """How the stream after the last layer is read, along a direction of the last token's logits."""
    unembedding = params["embedding"] if config.tied else params["unembedding"].T
    weight = matmul(direction, unembedding.astype(jnp.float32))
    weight = through_norm(config, params, "final_norm", {"final_norm": inverse_scale}, weight)
    whole = jnp.zeros((len(weight), batch.n_ending, config.d_model))
    return whole.at[:, -1].set(weight)


def through_norm(
    config: DecoderConfig, own: Any, name: str, inverse_scales: dict[str, Array], weight: Array
) -> Array:
    """How a norm's input is read, given how its output is; what it multiplies by is held still.

    `own` are parameters of the module that holds the norm.
    """
    kind = config.norm_at(name)
    if kind == "none":
        return weight
    if NORMS[kind].scale:
        scale = own[name]["scale"].astype(jnp.float32)
        weight = weight * scale.reshape(*(1,) * (weight.ndim - scale.ndim), *scale.shape)
    weight = weight * inverse_scales[name]
    return weight - jnp.mean(weight, axis=-1, keepdims=True) if NORMS[kind].centred else weight


def onward(config: DecoderConfig, own: Any, moved: Moved, x: Array) -> Array:
    """What attention's movement x becomes by its post norm: the transpose of `through_norm`."""
    kind = config.norm_at("attention_post_norm")
    if kind == "none":
        return x
    if NORMS[kind].centred:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * moved.inverse_scales["attention_post_norm"]
    return x * own["attention_post_norm"]["scale"][None, None] if NORMS[kind].scale else x


def read_layer(
    config: DecoderConfig,
    own: Any,
    data: LayerData,
    batch: TokenBatch,
    moved: Moved,
    weight: Float[Array, "B Q D"],
    *,
    apart: bool = False,
) -> tuple[Float[Array, "B Q D"], Flow, Float[Array, "readers B Q D"] | None]:
    """How the stream before a layer is read, given how it is after; and the flow of its heads.

    And, if asked for `apart`, how each of its readers reads: the queries, keys and values of every
    head, then the MLP. `batch` are the positive prompts.
    """
    scales = moved.inverse_scales
    mlp = read_mlp(config, own, moved, weight) if config.d_mlp else 0.0
    after_attention = weight if config.parallel else weight + mlp
    written = through_norm(config, own, "attention_post_norm", scales, after_attention)
    w_o = own["attention"]["o"]
    heads = einsum("hkd,bqd->bqhk", w_o, written)
    between, sink = patterns_between(config, own["attention"], data, batch, moved)
    arguments = config, own["attention"], data, batch, moved, between, heads, sink
    normed = functools.partial(through_norm, config, own, "attention_norm", scales)
    reads, directions = normed(read_attention(*arguments)), None
    if apart:  # on top, and not summed: so that heads flow as they do without
        each = jax.vmap(normed)(read_attention(*arguments, apart=True))
        directions = jnp.concatenate([each, jnp.broadcast_to(mlp, weight.shape)[None]])
    gram = einsum("hkd,hmd->hkm", w_o, w_o)  # |z W_O|^2 = z (W_O W_O^T) z^T
    square = einsum("bthk,hkm,bthm->bth", moved.relative, gram, moved.relative)
    flow = Flow(
        moved=moved.relative,
        distance=jnp.sqrt(jnp.maximum(square, 0)),
        read=jnp.sum(moved.z * heads, axis=-1),
    )
    return layer_run(config, weight + mlp + reads), flow, directions


def patterns_between(
    config: DecoderConfig, own: Any, data: LayerData, batch: TokenBatch, moved: Moved
) -> tuple[Float[Array, "B J I Q T"], Float[Array, "B J I Q 1"] | float]:
    """M of the module: the positive prompts' patterns, on the way to the negative ones'.

    And the same of what a sink takes.
    """
    own = {"params": own}
    queries = jnp.concatenate([moved.other_q, moved.q, moved.other_q])
    keys = jnp.concatenate([moved.k, moved.other_k, moved.other_k])
    three = jax.tree.map(lambda x: jnp.tile(x, (3, 1)), batch)
    others = Attention(config).apply(own, queries, keys, data, three, method="pattern")
    others = others.reshape(3, *moved.pattern.shape)
    between = jnp.mean(logarithmic_mean(moved.pattern[None], others), axis=0)
    if not config.sinks:
        return between, 0.0
    taken, other = (1 - jnp.sum(x, axis=-1, keepdims=True) for x in (moved.pattern[None], others))
    return between, jnp.mean(logarithmic_mean(taken, other), axis=0)


def read_attention(
    config: DecoderConfig,
    own: Any,
    data: LayerData,
    batch: TokenBatch,
    moved: Moved,
    between: Float[Array, "B J I Q T"],
    heads: Float[Array, "B Q H K"],
    sink: Float[Array, "B J I Q 1"] | float = 0.0,
    *,
    apart: bool = False,
) -> Float[Array, "*readers B Q D"]:
    """How attention reads its input, as values and through its patterns, given what is read of z.

    All together, or `apart`: the queries of every head, then their keys, then their values.

    For the values alone this is exact: with patterns held still z is linear in the input. With
    the pattern itself for `between`, it is the transpose of the derivative.
    """
    b, n_ending, _, width = heads.shape
    grouped = (b, n_ending, config.n_kv_heads, -1, width)
    heads = heads.reshape(grouped)
    of_group = "bjiqs,bqjik->bsjik" if apart else "bjiqs,bqjik->bsjk"
    values = einsum(of_group, moved.pattern[..., -n_ending:], heads)
    credit = einsum("bqjik,bsjk->bjiqs", heads, moved.v)
    whole = jnp.sum(between, axis=-1, keepdims=True) + sink
    mean = jnp.sum(between * credit, axis=-1, keepdims=True) / jnp.maximum(whole, NEVER)
    scores = between * (credit - mean) * config.attention_scale
    queries = einsum("bjiqs,bsjk->bqjik", scores, moved.k).reshape(b, n_ending, -1, width)
    keys = einsum(of_group, scores[..., -n_ending:], moved.q.reshape(grouped))

    def before_turns(name, x):
        x = turned(config, name, x, data, batch, back=True)
        return through_norm(config, own, f"{name}_norm", moved.inverse_scales, x)

    queries = before_turns("q", queries)
    if apart:
        keys, values = (jnp.moveaxis(x, 3, 0) for x in (keys, values))
        keys = jax.vmap(functools.partial(before_turns, "k"))(keys)
        groups = {"q": queries[None], "k": keys, "v": values}
        each = [einsum("dhk,ibqhk->hibqd", own[name], x) for name, x in groups.items()]
        return jnp.concatenate([x.reshape(-1, *x.shape[2:]) for x in each])
    keys = before_turns("k", keys)
    read = {"q": queries, "k": keys, "v": values}
    # Weights first: with them second, XLA transposes them on a CPU.
    total = sum(einsum("dhk,bqhk->dbq", own[name], x) for name, x in read.items())
    return jnp.moveaxis(total, 0, -1)


def read_mlp(
    config: DecoderConfig, own: Any, moved: Moved, weight: Float[Array, "B Q D"]
) -> Float[Array, "B Q D"]:
    """How the MLP reads the stream.

    Not gated < d x, what is read > = < d mlp, weight >, but for the norms: nothing gets lost.
    """
    scales = moved.inverse_scales
    written = through_norm(config, own, "mlp_post_norm", scales, weight)
    hidden = einsum("btd,ed->bte", written, own["mlp"]["down"])
    read = sum(
        einsum("bte,de->btd", hidden * slopes, own["mlp"][name])
        for name, slopes in moved.slopes.items()
    )
    return through_norm(config, own, "mlp_norm", scales, read)
