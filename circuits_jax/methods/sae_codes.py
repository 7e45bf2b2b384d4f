r"""Discrete sparse-autoencoder codes: the method of arXiv 2405.12522, made to win.

Cost: one forward pass over the B positive prompts and the endings of the negative ones, from where
they differ (`capture/forked.py`), and the reading of what it left behind at the endings
(`capture/slope_attribution.py`), together 1 + 2 Q / T passes where Q of T tokens are the ending,
and Q / T more for edges to the metric; no backward pass through the model; `steps` full batches of
2 B rows for each head's autoencoder. Not for heads that do the same on both prompts of a pair: what
a pair shares is not looked at.

As published, one shared autoencoder sees raw outputs, pooled over tokens, and a head's score counts
the codes that only positives use. Ours, with x_gb the movement of head g's output in pair b at the
token where that matters most (`capture/head_outputs.py: read_outputs`), in units of the head's root
mean square:

    rows     + x_gb / 2 for the positive and - x_gb / 2 for the negative prompt
    codes    one autoencoder a head, in the isometric basis of its rows; one code of F is active
             for each row (`topk`, k = 1), so a row is an integer and how strongly the code said it
    score    the mean over pairs of |what the code says|, in the model's units, where the two
             prompts of the pair have different codes (`codes.evidence`)
    edges    what passes: the movement of the writer, at every token, written into the direction in
             which the reader's queries, keys or values (or an MLP, or the logits) read the stream,
             on to what the task's metric looks at (`edges_to`; all else needs no answers), where
             the writer's codes tell the two prompts apart; as of heads the mean size over pairs,
             with the sign of the mean (`edges="passes"`). Or, of two heads together, the
             geometric mean of what their codes say (`edges="together"`), which also ranks those
             between which nothing passes
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.capture.head_outputs import (
    GraphReading,
    paired_outputs,
    read_graph,
    read_outputs,
    read_spans,
)
from circuits_jax.circuits.circuit import Scores, span_details
from circuits_jax.circuits.graph import Graph, graph_of, head_edges
from circuits_jax.codes import codes, fit, sae
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.spans import spans_of
from circuits_jax.runs import devices
from circuits_jax.runs.checks import Range, check_all, check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import PromptPairs, Task, task_warning
from circuits_jax.tasks.spans import check_schema


@dataclasses.dataclass(frozen=True)
class SaeCodes:
    """Options of the method.

    Attributes:
        position: what is encoded: how a head moves at its `peak`, where that matters most; or, as
            published, its output: `mean` over the tokens that both of a pair have, or at the
            `last`.
        read_weight: at the peak, how much what is read counts against how far a head moves, in
            [0, 1]; 0 is movement alone.
        shared: one autoencoder for all heads, as published, in place of one a head.
        basis: `isometric` (the span of a head's examples) or `full` (R^D).
        score: `evidence`, or as published: `unique`, `unique_fraction`, or `endpoints`, in how many
            of the best `n_edges` edges a head takes part.
        edges: what passes along them, `passes`, for all edges of the graph, whose MLPs and
            embedding have codes of their own; or how strong the codes of two heads are `together`,
            which is all that there is where outputs are encoded that are not at their `peak`.
        edges_to: what passes is on its way to the `metric` of the task, along its slope between
            the two prompts, which it must have; or to the `prediction`, along p+ - p-, for which no
            answers are looked at. Where an answer has several tokens it is the prediction.
        spans: score heads by token span too, each encoded at its peak inside the span: `changed`,
            `slots` or templates (`tasks/spans.py`); "" for no spans. One pass and one fit a span
            more.
        softmax: over heads of a `layer`, of `all` layers, or `none`.
        n_codes, activation, k, steps, l1, learning_rate: see `sae.SaeConfig` and `sae.Settings`.

    Raises:
        InputError: a value that is not allowed.
    """

    position: Literal["peak", "mean", "last"] = "peak"
    read_weight: float = 0.65
    shared: bool = False
    basis: Literal["isometric", "full"] = "isometric"
    score: Literal["evidence", "unique", "unique_fraction", "endpoints"] = "evidence"
    n_edges: int = 100
    edges: Literal["passes", "together"] = "passes"
    edges_to: Literal["metric", "prediction"] = "metric"
    spans: str = ""
    softmax: Literal["none", "layer", "all"] = "none"
    n_codes: int = 16
    activation: Literal["relu", "topk"] = "topk"
    k: int = 1
    steps: int = 50
    l1: float = 0.02
    learning_rate: float = 2e-2

    def __post_init__(self):
        limits = {"n_codes": Range(1), "steps": Range(1), "l1": Range(0.0), "n_edges": Range(0)}
        limits |= {"learning_rate": Range(1e-9), "read_weight": Range(0, 1)}
        check_all(self, limits)
        if self.activation == "topk":
            check_allowed("k", self.k, Range(1, self.n_codes))
        check_schema(self.spans)
        if self.spans and self.position != "peak":
            raise InputError(
                f"spans is {self.spans!r} with position {self.position!r}; allowed with spans is "
                "position='peak', which is looked for inside each"
            )

    @property
    def sae_config(self) -> sae.SaeConfig:
        """Shape and length of training."""
        return sae.SaeConfig(self.n_codes, self.activation, self.k, self.steps)

    @property
    def settings(self) -> sae.Settings:
        """Penalty and learning rate."""
        return sae.Settings(self.l1, self.learning_rate)


PUBLISHED = SaeCodes(
    position="mean",
    shared=True,
    basis="full",
    score="unique",
    edges="together",
    n_codes=200,
    activation="relu",
    steps=500,
    learning_rate=1e-3,
)


@struct.dataclass
class Coded:
    """What the autoencoders of some nodes, L layers of H, say: scores as `scored` gives them.

    Attributes:
        losses: before every step, of every autoencoder.
        finite: whether all rows were; others count as 0 here.
    """

    head_scores: Float[Array | np.ndarray, "L H"]
    edge_scores: Float[Array | np.ndarray, "G G"]
    codes: Int[Array | np.ndarray, "B G"]
    strengths: Float[Array | np.ndarray, "B G"]
    losses: Float[Array | np.ndarray, "steps A"]
    finite: Bool[Array | np.ndarray, ""]


def sae_codes(
    model: LanguageModel, task: Task, key: jax.Array, options: SaeCodes | None = None
) -> Scores:
    """Score heads and directed head pairs by the codes of their outputs.

    Args:
        model: a loaded model.
        task: prompts of its `learn` pairs are used, and for edges to the metric their answers and
            foils; held-out pairs are not looked at.
        key: for the start of the autoencoders.
        options: see `SaeCodes`.

    Returns:
        Scores, with `details`: `codes` [2 B, G] (positives first; F where no code is active),
        `strengths` [2 B, G] (norm of what the codes say) and `losses` [steps, autoencoders]; with a
        softmax, `noise` (see `Scores`). Where edges are what passes, also `graph_effects` [writers,
        readers], signed, in units of the metric or of p+ - p-, and `node_scores` [writers], of MLPs
        and the embedding as of heads, in the order of `graph.Graph`. With spans, the details of
        `circuit.span_details`.

    Warns:
        TaskWarning: nothing passes on to the metric, so that no edge has an effect.
    """
    options = options or SaeCodes()
    scores = _scores_of_heads(model, task, key, options)
    if not options.spans:
        return scores
    details = {**scores.details, **_by_span(model, task, key, options)}
    return Scores(scores.head_scores, scores.edge_scores, details)


def _scores_of_heads(model: LanguageModel, task: Task, key: jax.Array, options: SaeCodes) -> Scores:
    """`sae_codes` without spans."""
    pairs, width = task.learn, model.config.head_width
    if options.position != "peak":
        return score_outputs(key, paired_outputs(model, pairs, options.position), options, width)
    if options.edges == "passes":
        return _graph_scores(model, task, key, options)
    rows = paired_differences(read_outputs(model, pairs, read_weight=options.read_weight))
    return score_outputs(key, rows, options, width, functools.partial(_broken, model, pairs))


def _broken(model: LanguageModel, pairs: PromptPairs) -> str:
    """Why what is read is not finite: the sentence says where in the model that begins."""
    return (
        model.first_not_finite([*pairs.positives, *pairs.negatives])
        or "what is read of the heads is not finite, though all that they say is"
    )


def _by_span(model: LanguageModel, task: Task, key: jax.Array, options: SaeCodes) -> dict[str, Any]:
    """Details by token span: in each, heads are scored as they are over all tokens."""
    pairs, width = task.learn, model.config.head_width
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")
    spans = spans_of(model, task, options.spans, sides)
    inside = spans.inside(sides[0].tokens.shape[1])
    moved = read_spans(model, pairs, inside, read_weight=options.read_weight)
    broken = functools.partial(_broken, model, pairs)
    rows = [paired_differences(one) for one in moved]
    found = [score_outputs(key, one, options, width, broken).head_scores for one in rows]
    return span_details(spans.names, np.stack(found))


def _graph_scores(model: LanguageModel, task: Task, key: jax.Array, options: SaeCodes) -> Scores:
    """Scores of all nodes and edges of the graph; of heads, those of the method without it."""
    pairs, keys = task.learn, (key, jax.random.fold_in(key, 1))
    metric = task.metric if options.edges_to == "metric" else ""
    reading = read_graph(model, pairs, read_weight=options.read_weight, metric=metric)
    shapes = [(2 * x.shape[0], *x.shape[1:]) for x in (reading.heads, reading.others)]
    widths = model.config.head_width, model.config.d_model
    items = [starts(*one) for one in zip(keys, shapes, (options,) * 2, widths, strict=True)]
    # What is read is not waited for: there is something to compile meanwhile.
    graph = graph_of(model.config)
    found = _graph_coded(reading, items, _of_program(options), widths, graph)
    (heads, others), effects, nodes, edges = devices.fetched(found)
    broken = functools.partial(_broken, model, pairs)
    scores, _ = (checked(one, options, broken) for one in (heads, others))
    if metric and scores.head_scores.any() and not effects.any():
        sentence = (
            f"no edge: nothing that heads move passes on to the metric {metric}, which may have no "
            "slope between the prompts of a pair; edges_to='prediction' needs none"
        )
        task_warning.warn([sentence])
    details = {**scores.details, "graph_effects": effects, "node_scores": nodes}
    return Scores(scores.head_scores, edges, details)


@functools.partial(jax.jit, static_argnames=("options", "widths", "graph"))
def _graph_coded(
    reading: GraphReading,
    items: Sequence[fit.Items],
    options: SaeCodes,
    widths: tuple[int, int],
    graph: Graph,
) -> tuple[list[Coded], Float[Array, "writers readers"], Float[Array, " writers"], Array]:
    """From what is read to codes of heads, codes of others, and scores of all edges and nodes."""
    both = zip((reading.heads, reading.others), items, widths, strict=True)
    found = [coded(paired_differences(x), start, options, width) for x, start, width in both]
    # From heads first, then the embedding and MLPs, to the order of the graph.
    order = np.argsort(np.concatenate([graph.head_writers, [0], graph.mlp_writers]))
    nodes = jnp.concatenate([jnp.ravel(one.head_scores) for one in found])[order]
    codes_of_all = jnp.concatenate([one.codes for one in found], axis=1)[:, order]
    told = jnp.not_equal(*jnp.split(codes_of_all, 2))  # apart, by their codes
    passes = reading.passes * told[:, :, None] * graph.is_edge[None]
    effects = jnp.sign(jnp.mean(passes, axis=0)) * jnp.mean(jnp.abs(passes), axis=0)
    edges = carried(jnp.abs(head_edges(graph, effects)), found[0].edge_scores)
    return found, effects, nodes, edges


def carried(passes: Float[Array, "G G"], together: Float[Array, "G G"]) -> Float[Array, "G G"]:
    """Scores of pairs of heads: what passes, and where nothing does, what codes say together.

    The latter a thousandth as much, so that pairs which MLPs alone join come after all others.
    """
    unit = jnp.max(passes, initial=0) / jnp.maximum(jnp.max(together, initial=0), 1e-30)
    return passes + 1e-3 * jnp.where(unit > 0, unit, 1) * together


@jax.jit
def paired_differences(moved: Float[Array, "B L H D"]) -> Float[Array, "B2 L H D"]:
    """Half of each movement for the positive prompt, and minus that for the negative."""
    half = moved / 2
    return jnp.concatenate([half, -half])


def checked_differences(
    model: LanguageModel, pairs: PromptPairs, moved: Float[Array, "B L H D"]
) -> Float[Array, "B2 L H D"]:
    """`paired_differences` of what `read_outputs` gave for the pairs.

    Raises:
        InputError: a movement is not finite; the sentence says where in the model that begins.
    """
    rows = paired_differences(moved)
    if not jnp.isfinite(rows).all():
        raise InputError(_broken(model, pairs))
    return rows


def coded(
    outputs: Float[Array, "B L H D"], items: fit.Items, options: SaeCodes, head_width: int
) -> Coded:
    """From rows to codes and scores, for use under `jit`: no host, and so no check, in between."""
    _, *heads, d_model = outputs.shape
    finite = jnp.isfinite(outputs)
    x, scale = inputs(jnp.where(finite, outputs, 0), options, head_width)
    params, losses = fit.trained(x, items, options.sae_config, d_model)
    head_scores, edges, code, strengths = scored(params, x, scale, tuple(heads), options)
    return Coded(head_scores, edges, code, strengths, losses[0, 0].T, finite.all())


_coded = jax.jit(coded, static_argnames=("options", "head_width"))


def checked(found: Coded, options: SaeCodes, broken: Callable[[], str]) -> Scores:
    """Scores of what the host was told.

    Raises:
        InputError: a row is not finite, `broken` says why; or a loss is not.
    """
    if not found.finite:
        raise InputError(broken())
    fit.check_losses(found.losses.T[None, None])
    details = {"codes": found.codes, "strengths": found.strengths, "losses": found.losses}
    if options.softmax != "none":
        details["noise"] = np.float32(0)  # a small share is no rounding: all heads share a sum of 1
    return Scores(found.head_scores, found.edge_scores, details)


def score_outputs(
    key: jax.Array,
    outputs: Float[Array | np.ndarray, "B L H D"],
    options: SaeCodes,
    head_width: int,
    broken: Callable[[], str] = lambda: "an output of a head is not finite",
) -> Scores:
    """Scores from the rows of B / 2 positive prompts and then of their B / 2 negative ones.

    `head_width` is K, which bounds the rank of a head's outputs; `broken` says why one is not
    finite.
    """
    items = starts(key, outputs.shape, options, head_width)
    found = _coded(outputs, items, _of_program(options), head_width)
    return checked(devices.fetched(found), options, broken)


def starts(key: jax.Array, shape: tuple[int, ...], options: SaeCodes, head_width: int) -> fit.Items:
    """The autoencoders of outputs of a shape [B *heads D], before training."""
    x_shape = input_shape(shape, options, head_width)
    return fit.starts(key, x_shape, options.sae_config, options.settings)


def _of_program(options: SaeCodes) -> SaeCodes:
    """The options without what a program takes as a number, so that it is one for all of them."""
    options = dataclasses.replace(options, read_weight=0.0, edges_to="prediction", spans="")
    return dataclasses.replace(options, l1=0.0, learning_rate=1.0)


@functools.partial(jax.jit, static_argnames=("options", "head_width"))
def inputs(
    outputs: Float[Array | np.ndarray, "B *heads D"], options: SaeCodes, head_width: int
) -> tuple[Float[Array, "_ N R"], Float[Array, " _"]]:
    """What the autoencoders see, and the unit that it is in.

    [G, B, R], each head in units of its own root mean square over rows and components; or
    [1, G B, D] for a shared autoencoder, as it is, in units of 1.
    """
    x = outputs.reshape(outputs.shape[0], -1, outputs.shape[-1]).swapaxes(0, 1)
    if options.shared:
        return x.reshape(1, -1, x.shape[-1]), jnp.ones(1)
    scale = jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(x), axis=(1, 2)), 1e-30))
    x = x / scale[:, None, None]
    if options.basis == "isometric":
        x = sae.isometric_basis(x, input_shape(outputs.shape, options, head_width)[-1])
    return x, scale


def input_shape(shape: tuple[int, ...], options: SaeCodes, head_width: int) -> tuple[int, int, int]:
    """Shape of what the autoencoders see of outputs of a shape [B *heads D]."""
    n_rows, *heads, d_model = shape
    if options.shared:
        return 1, math.prod(heads) * n_rows, d_model
    if options.basis == "full":
        return math.prod(heads), n_rows, d_model
    paired = options.position == "peak"  # the two of a pair are opposite
    return math.prod(heads), n_rows, min(n_rows // 2 if paired else n_rows, head_width, d_model)


def said(params: sae.SaeParams, h: Float[Array, "G N F"]) -> Float[Array, "G N"]:
    """Norm of what the codes of a prompt say of the head's output: |h W_d|; 0 if none is active."""
    return jnp.linalg.norm(einsum("gnf,gfr->gnr", h, params.decoder[0, 0]), axis=-1)


@functools.partial(jax.jit, static_argnames=("heads", "options"))
def scored(
    params: sae.SaeParams,
    x: Float[Array, "_ N R"],
    scale: Float[Array, " _"],
    heads: tuple[int, int],
    options: SaeCodes,
) -> tuple[Float[Array, "L H"], Float[Array, "G G"], Int[Array, "B G"], Float[Array, "B G"]]:
    """Scores of heads and of directed edges by the definition that the options name; the codes."""
    h = fit.activations(params, x, options.sae_config)[0, 0]
    strength = said(params, h) * scale[:, None]
    code, strength = (y.reshape(heads[0] * heads[1], -1).T for y in (sae.code(h), strength))
    positive, negative = jnp.split(code, 2)
    weight = jnp.split(strength, 2)[0]
    if options.score == "evidence":
        pairs = codes.evidence_pairs(positive, negative, weight)
    else:
        pairs = codes.unique_pairs(positive, negative)
    edges = codes.directed(pairs, heads)
    head_scores = {
        "evidence": lambda: codes.evidence(positive, negative, weight),
        "unique": lambda: codes.unique(positive, negative),
        "unique_fraction": lambda: codes.unique_fraction(positive, negative),
        "endpoints": lambda: codes.endpoint_counts(edges, options.n_edges),
    }[options.score]()
    head_scores = head_scores.reshape(heads)
    if options.softmax != "none":
        axis = {"layer": 1, "all": None}[options.softmax]
        head_scores = jax.nn.softmax(head_scores, axis=axis)
    return head_scores, edges, code, strength
