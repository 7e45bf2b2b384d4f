r"""Scores of edges: products of head scores, and effects of edges to first order.

Edge attribution patching (EAP; Syed et al., arXiv 2310.10348). With m the task's metric, out_u what
writer u adds to the residual stream, and in_v the residual stream as reader v alone sees it, before
its norm (`circuits/graph.py` lists both), the drop of m when v reads u from the paired negative is

    effect(u -> v) = < out_u(positive) - out_u(negative), dm / d in_v >   summed over tokens,

to first order. dm / d in_v is a total derivative: what reads v responds. By the chain rule,

    sum over v of effect(u -> v) = < out_u(positive) - out_u(negative), dm / d out_u >,

which is attribution patching of u itself. `Points` says where the gradients are taken: at the
positive prompt, or as means over lines towards the negative (EAP-IG, arXiv 2403.17806).

No array of gradients for all pairs is ever held. The model is run backward layer by layer; the
gradient by in_v of a head's queries is J^T W_Q dm/dq, with J the norm's Jacobian, for keys and
values alike, and is contracted with the differences of all writers, [writers, T, D], at once: that
and the result, [writers, readers], are the memory for each prompt. Query heads that share keys and
values each have their own: `ungrouped` copies the shared weights, which changes nothing else.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from circuits_jax import interpose
from circuits_jax.capture.ablation import goals, sides
from circuits_jax.capture.writers import all_writers, along
from circuits_jax.circuits.circuit import Scores
from circuits_jax.circuits.graph import INPUTS, Graph, graph_of, head_edges
from circuits_jax.codes.codes import directed
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Attention, Decoder, TokenBatch, norm_of, stacked
from circuits_jax.interpose import Added, Rules, Written
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs import mesh
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import PromptPairs, Targets, metric_values
from circuits_jax.tasks.base import next_logits

NOTHING = 1e-30  # a slope of no direction


def product_edges(head_scores: Float[Array, "L H"]) -> Float[Array, "G G"]:
    """Product of the two heads' scores, from an earlier to a later layer; 0 elsewhere.

    For methods that say nothing of edges themselves: no more than a ranking of pairs by their ends,
    it holds no evidence that one head reads the other. Scores must be 0 or above.
    """
    scores = head_scores.reshape(-1)
    return directed(scores[:, None] * scores[None, :], head_scores.shape)


@struct.dataclass
class Points:
    """Where gradients are taken; every writer counts those at which its row of `rows` is not 0.

    Attributes:
        rows: weight of the point for each writer; sums to 1 over points.
        embedding, heads, mlps: how far the embedding, and what the heads or the MLP of a layer
            write, are moved from the positive's (0) to the negative's (1).
    """

    rows: Float[Array | np.ndarray, "*P writers"]
    embedding: Float[Array | np.ndarray, "*P"]
    heads: Float[Array | np.ndarray, "*P L"]
    mlps: Float[Array | np.ndarray, "*P L"]


def positive_point(graph: Graph, metric: str = "") -> Points:
    """The gradient at the positive prompt, for all; see `distances` for one that is flat there."""
    still = np.zeros((1, graph.n_layers), np.float32)
    return Points(np.ones((1, len(graph.writers)), np.float32), distances(1, metric), still, still)


def distances(steps: int, metric: str) -> Float[np.ndarray, " P"]:
    """How far points are from the positive's: from (steps - 1) / steps down to 0.

    kl has no slope there; its points are midway between these and the ones before.
    """
    middle = 0.5 if metric == "kl" else 0
    return (1 - (np.arange(1, steps + 1) - middle) / steps).astype(np.float32)


@struct.dataclass
class Outputs:
    """What all parts of a model write for some prompts."""

    embedding: Float[Array, "B T D"]
    written: Written  # of all layers


def edge_effects(
    model: LanguageModel,
    pairs: PromptPairs,
    metric: str,
    points: Points,
    rules: Rules,
    prompts_at_once: int,
    descent: bool = False,
) -> Float[Array, "writers readers"]:
    """First-order drop of the metric by edge, mean over pairs; prompts are spread over devices.

    With `descent`, the embedding of the points is on that path (`descended`). Tokens without a
    partner in the other prompt of the pair do not move (`lm/alignment.py`).
    """
    config, params = ungrouped(model.config, model.params)
    goal = goals(model, pairs, metric)
    effects = _effects(
        config, params, *sides(model, pairs), goal, points, metric, rules, prompts_at_once, descent
    )
    return jnp.mean(mesh.gather(effects, len(pairs)), axis=0)


def scores_of(graph: Graph, effects: Float[Array, "writers readers"]) -> Scores:
    """Heads by the sum of their edges' effects, edges by their effects; absolute values.

    Details, all signed: `effects` [L, H], `edge_effects` [G, G], `graph_effects` [writers, readers]
    in the order of `graph.Graph`.
    """
    heads = jnp.sum(effects, axis=1)[graph.head_writers].reshape(graph.n_layers, graph.n_heads)
    edges = head_edges(graph, effects)
    details = {"effects": heads, "edge_effects": edges, "graph_effects": effects}
    return Scores(jnp.abs(heads), jnp.abs(edges), details)


def ungrouped(config: DecoderConfig, params: Any) -> tuple[DecoderConfig, Any]:
    """The same model with keys and values of its own for every query head."""
    attention, shared = params["layers"]["attention"], config.n_heads // config.n_kv_heads
    axes = {"k": 2, "v": 2, "k_bias": 1, "v_bias": 1}
    own = {n: jnp.repeat(attention[n], shared, axis=a) for n, a in axes.items() if n in attention}
    if "k_norm" in attention and config.qk_norm_over != "K":
        repeat = functools.partial(jnp.repeat, repeats=shared, axis=1)
        own["k_norm"] = jax.tree.map(repeat, attention["k_norm"])
    layers = params["layers"] | {"attention": attention | own}
    return dataclasses.replace(config, n_kv_heads=config.n_heads), params | {"layers": layers}


@functools.partial(
    jax.jit, static_argnames=("config", "metric", "rules", "prompts_at_once", "descent")
)
def _effects(
    config,
    params,
    positives,
    negatives,
    targets,
    points,
    metric,
    rules,
    prompts_at_once,
    descent=False,
):
    """Effects for every prompt, before they are gathered."""
    rows, structure = jax.tree.flatten((positives, negatives, targets))

    def of_one_prompt(rows, constants):
        params, points = constants
        positive, negative, target = jax.tree.unflatten(structure, [x[None] for x in rows])
        of_prompt = positive, negative, target
        return _effects_of(config, params, points, *of_prompt, metric, rules, descent)

    at_once = config.fitting(prompts_at_once, config.n_layers, positives.tokens.shape[1])
    return mesh.spread(of_one_prompt, rows, (params, points), at_once)


def _effects_of(
    config: DecoderConfig,
    params: Any,
    points: Points,
    positives: TokenBatch,
    negatives: TokenBatch,
    targets: Targets,
    metric: str,
    rules: Rules,
    descent: bool,
) -> Float[Array, "writers readers"]:
    """Effects of all edges on the sum of the metric over prompts."""
    graph = graph_of(config)
    n = len(positives.tokens)
    outputs = _outputs(config, params, stacked((positives, negatives)))
    positive, negative = (
        Outputs(
            outputs.embedding[side], jax.tree.map(lambda x, side=side: x[:, side], outputs.written)
        )
        for side in (slice(n), slice(n, None))
    )
    partnered = (positives.mask & negatives.mask)[:, :, None]

    def where_partnered(x):
        return jnp.where(partnered[..., None] if x.ndim > 4 else partnered, x, 0)

    moved = jax.tree.map(jnp.subtract, positive, negative)
    moved = jax.tree.map(where_partnered, moved)
    differences = _differences(config, params, rules, positive, moved)

    def on_the_line(distance):
        return positive.embedding - _share(distance, moved.embedding)

    def at_point(total, at):
        point, start = at
        start = on_the_line(point.embedding) if start is None else start
        shift = Written(
            -jax.vmap(_share)(point.heads, moved.written.z),
            -jax.vmap(_share)(point.mlps, moved.written.mlp),
        )
        with interpose.linearised(rules):
            reads = functools.partial(_contracted, config, params, positives, targets, metric)
            return total + point.rows[:, None] * reads(start, shift, differences), None

    starts = None
    if descent:
        ends = (positives, positive.embedding), (negatives, negative.embedding)
        steps = len(points.embedding)
        starts = descended(config, params, *ends, moved.embedding, partnered, steps)
        starts = starts[1:] if metric == "kl" else starts[:-1]  # which is flat where it begins
    total = jnp.zeros(graph.is_edge.shape)
    return jax.lax.scan(at_point, total, (points, starts))[0] * graph.is_edge


def descended(
    config: DecoderConfig,
    params: Any,
    positive: tuple[TokenBatch, Float[Array, "B T D"]],
    negative: tuple[TokenBatch, Float[Array, "B T D"]],
    moved: Float[Array, "B T D"],
    partnered: Bool[Array, "B T 1"],
    steps: int,
) -> Float[Array, "P B T D"]:
    """Embeddings on the way down from the positive's to where the negative's prediction is made.

    Args:
        config: the decoder's settings.
        params: its parameters.
        positive: the prompts, and their embedding.
        negative: the same.
        moved: what the embeddings differ by: a step has 1 / steps of its length, prompt by prompt.
        partnered: tokens that move.
        steps: P - 1; the first point is the positive's.
    """

    def predicted(batch, embedding):
        def layer(stream, at):
            return interpose.run_layer(config, params, batch, at, stream)[0], None

        numbers = jnp.arange(config.n_layers)
        last, _ = jax.lax.scan(jax.checkpoint(layer), embedding, numbers)
        logits = next_logits(interpose.final_logits(config, params, batch, last))
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    goal = predicted(*negative)

    def distance(embedding):
        return jnp.sum(jnp.square(predicted(positive[0], embedding) - goal))

    def length(x):
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))

    def step(embedding, _):
        slope = jnp.where(partnered, jax.grad(distance)(embedding), 0)
        unit = slope / jnp.maximum(length(slope), NOTHING)
        return embedding - length(moved) / steps * unit.astype(embedding.dtype), embedding

    last, points = jax.lax.scan(step, positive[1], None, length=steps)
    return jnp.concatenate([points, last[None]])


def _share(share: Float[Array, ""], x: Float[Array, "..."]) -> Float[Array, "..."]:
    return share.astype(x.dtype) * x


def _outputs(config: DecoderConfig, params: Any, batch: TokenBatch) -> Outputs:
    """What all parts write in the plain forward pass."""
    embedding = Decoder(config).apply({"params": params}, batch, method="embed")

    def step(stream, layer):
        return interpose.run_layer(config, params, batch, layer, stream)

    return Outputs(embedding, jax.lax.scan(step, embedding, jnp.arange(config.n_layers))[1])


def _differences(config, params, rules, positive: Outputs, moved: Outputs):
    """out_u(positive) - out_u(negative) of every writer.

    Where the family has a norm on what attention writes, by that norm's derivative.
    """

    def heads_of(at):
        layer, z, z_moved = at
        w_o = layer["attention"]["o"]
        heads = einsum("bthk,hkd->hbtd", z_moved, w_o)
        if config.post_norms:
            norm = functools.partial(_normed, config, "attention_post_norm", layer)
            attention = {"params": layer["attention"]}
            whole = Attention(config).apply(attention, z, method="project")
            with interpose.linearised(rules):
                heads = jax.vmap(lambda head: jax.jvp(norm, (whole,), (head,))[1])(heads)
        return heads

    layers = params["layers"], positive.written.z, moved.written.z
    return all_writers(moved.embedding, moved.written.mlp, heads_of, layers, config.n_heads)


def _normed(config, place, layer, x):
    return norm_of(config, place).apply({"params": layer.get(place, {})}, x)


def _contracted(config, params, batch, targets, metric, start, shift, differences):
    """< difference of every writer, gradient by what every reader reads >, [writers, readers]."""

    def forward(stream, at):
        layer, written = at
        after = interpose.run_layer(config, params, batch, layer, stream, _added(written))
        return after[0], stream

    numbers = jnp.arange(config.n_layers)
    last, streams = jax.lax.scan(forward, start, (numbers, shift))

    def value(last):
        logits = interpose.final_logits(config, params, batch, last)
        return jnp.sum(metric_values(logits, targets, metric))

    def backward(gradient, at):
        layer, stream, written = at

        def run(stream, added):
            return interpose.run_layer(config, params, batch, layer, stream, added)[0]

        _, pull_back = jax.vjp(run, stream, _added(written))
        gradient, by_added = pull_back(gradient)
        own = jax.tree.map(lambda x: x[layer], params["layers"])
        reads = _by_residual_stream(config, own, stream, by_added)
        return gradient, jnp.sum(along(differences, reads), axis=0)

    gradient = jax.grad(value)(last)
    at_logits = jnp.sum(along(differences, gradient[None]), axis=0)
    _, layers = jax.lax.scan(backward, gradient, (numbers, streams, shift), reverse=True)
    layers = layers.swapaxes(0, 1).reshape(len(at_logits), -1)
    return jnp.concatenate([layers, at_logits], axis=1)


def _added(written: Written) -> Added:
    zeros = jnp.zeros_like
    return Added((zeros(written.z),) * 3, zeros(written.mlp), written)


def _by_residual_stream(config, layer, stream, by_added: Added) -> Float[Array, "readers B T D"]:
    """Gradients by what queries, keys, values and the MLP of a layer read of the stream."""
    weights = jnp.stack([layer["attention"][name] for name in INPUTS])
    normed = einsum("cbthk,cdhk->chbtd", jnp.stack(by_added.qkv), weights)
    norm = functools.partial(_normed, config, "attention_norm", layer)
    _, pull_back = jax.vjp(norm, stream)
    heads = jax.vmap(lambda one: pull_back(one)[0])(normed.reshape(-1, *stream.shape))
    return jnp.concatenate([heads, by_added.mlp_read[None]])
