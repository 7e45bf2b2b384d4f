r"""Discrete sparse-autoencoder codes: the method of arXiv 2405.12522, made to win.

Cost: one forward pass over the B positive prompts and the endings of the negative ones, from where
they differ (`capture/forked.py`), and the reading of what it left behind at the endings
(`capture/slope_attribution.py`), together 1 + 2 Q / T passes where Q of T tokens are the ending; no
backward pass through the model; `steps` full batches of 2 B rows for each head's autoencoder. Not
for heads that do the same on both prompts of a pair: what a pair shares is not looked at.

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
             where the writer's codes tell the two prompts apart; as of heads the mean size over
             pairs, with the sign of the mean (`edges="passes"`). Or, of two heads together, the
             geometric mean of what their codes say (`edges="together"`), which also ranks those
             between which nothing passes
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from circuits_jax.capture.head_outputs import (
    paired_outputs,
    read_graph,
    read_outputs,
    read_spans,
)
from circuits_jax.circuits.circuit import Scores, span_details
from circuits_jax.circuits.graph import graph_of, head_edges
from circuits_jax.codes import codes, fit, sae
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.spans import spans_of
from circuits_jax.runs.checks import Range, check_all, check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import PromptPairs, Task
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
    spans: str = ""
    softmax: Literal["none", "layer", "all"] = "none"
    n_codes: int = 16
    activation: Literal["relu", "topk"] = "topk"
    k: int = 1
    steps: int = 50
    l1: float = 0.02
    learning_rate: float = 2e-2

    def __post_init__(self):
        limits = {"n_codes": Range(1), "steps": Range(1), "l1": Range(0.0)}
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


def sae_codes(
    model: LanguageModel, task: Task, key: jax.Array, options: SaeCodes | None = None
) -> Scores:
    """Score heads and directed head pairs by the codes of their outputs.

    Args:
        model: a loaded model.
        task: prompts of its `learn` pairs are used; answers and foils, and the held-out pairs, are
            not looked at.
        key: for the start of the autoencoders.
        options: see `SaeCodes`.

    Returns:
        Scores, with `details`: `codes` [2 B, G] (positives first; F where no code is active),
        `strengths` [2 B, G] (norm of what the codes say) and `losses` [steps, autoencoders]; with a
        softmax, `noise` (see `Scores`). Where edges are what passes, also `graph_effects` [writers,
        readers], signed, in units of p+ - p-, and `node_scores` [writers], of MLPs and the
        embedding as of heads, in the order of `graph.Graph`. With spans, the details of
        `circuit.span_details`.
    """
    options = options or SaeCodes()
    scores = _scores_of_heads(model, task.learn, key, options)
    if not options.spans:
        return scores
    details = {**scores.details, **_by_span(model, task, key, options)}
    return Scores(scores.head_scores, scores.edge_scores, details)


def _scores_of_heads(
    model: LanguageModel, pairs: PromptPairs, key: jax.Array, options: SaeCodes
) -> Scores:
    """`sae_codes` without spans."""
    if options.edges == "passes" and options.position == "peak":
        return _graph_scores(model, pairs, key, options)
    if options.position == "peak":
        moved = read_outputs(model, pairs, read_weight=options.read_weight)
        # Not waited for yet: there is something to compile meanwhile.
        n_pairs, *rest = moved.shape
        compile_fit((2 * n_pairs, *rest), options, model.config.head_width)
        rows = checked_differences(model, pairs, moved)
        return score_outputs(key, rows, options, model.config.head_width)
    outputs = paired_outputs(model, pairs, options.position)
    return score_outputs(key, outputs, options, model.config.head_width)


def _by_span(model: LanguageModel, task: Task, key: jax.Array, options: SaeCodes) -> dict[str, Any]:
    """Details by token span: in each, heads are scored as they are over all tokens."""
    pairs, width = task.learn, model.config.head_width
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")
    spans = spans_of(model, task, options.spans, sides)
    inside = spans.inside(sides[0].tokens.shape[1])
    moved = read_spans(model, pairs, inside, read_weight=options.read_weight)
    rows = [checked_differences(model, pairs, one) for one in moved]
    found = [score_outputs(key, one, options, width).head_scores for one in rows]
    return span_details(spans.names, np.stack(found))


def compile_fit(shape: tuple[int, ...], options: SaeCodes, head_width: int) -> None:
    """Compile the training on outputs of a shape [B *heads D]."""
    x = jax.ShapeDtypeStruct(input_shape(shape, options, head_width), jnp.float32)
    fit.compile_ahead(x, options.sae_config, options.settings, d_model=shape[-1])


def _graph_scores(
    model: LanguageModel, pairs: PromptPairs, key: jax.Array, options: SaeCodes
) -> Scores:
    """Scores of all nodes and edges of the graph; of heads, those of the method without it."""
    graph = graph_of(model.config)
    reading = read_graph(model, pairs, read_weight=options.read_weight)
    widths = model.config.head_width, model.config.d_model
    # Not waited for yet: there is something to compile meanwhile.
    for x, width in zip((reading.heads, reading.others), widths, strict=True):
        compile_fit((2 * x.shape[0], *x.shape[1:]), options, width)
    rows = [checked_differences(model, pairs, x) for x in (reading.heads, reading.others)]
    keys = key, jax.random.fold_in(key, 1)
    heads, others = (
        score_outputs(k, x, options, width) for k, x, width in zip(keys, rows, widths, strict=True)
    )
    told = np.zeros((len(pairs), len(graph.writers)), bool)  # apart, by their codes
    scores = np.zeros(len(graph.writers), np.float32)
    of_others = np.append(0, graph.mlp_writers)
    for found, writers in ((heads, graph.head_writers), (others, of_others)):
        told[:, writers] = np.not_equal(*np.split(np.asarray(found.details["codes"]), 2))
        scores[writers] = np.ravel(found.head_scores)
    passes = np.asarray(reading.passes) * told[:, :, None] * graph.is_edge
    effects = np.sign(np.mean(passes, axis=0)) * np.mean(np.abs(passes), axis=0)
    edges = carried(np.abs(head_edges(graph, effects)), np.asarray(heads.edge_scores))
    details = {**heads.details, "graph_effects": effects, "node_scores": scores}
    return Scores(heads.head_scores, edges, details)


def carried(
    passes: Float[np.ndarray, "G G"], together: Float[np.ndarray, "G G"]
) -> Float[np.ndarray, "G G"]:
    """Scores of pairs of heads: what passes, and where nothing does, what codes say together.

    The latter a thousandth as much, so that pairs which MLPs alone join come after all others.
    """
    unit = np.max(passes, initial=0) / np.maximum(np.max(together, initial=0), 1e-30)
    return passes + 1e-3 * (unit or 1) * together


def checked_differences(
    model: LanguageModel, pairs: PromptPairs, moved: Float[Array, "B L H D"]
) -> Float[np.ndarray, "B2 L H D"]:
    """`paired_differences` of what `read_outputs` gave for the pairs.

    Raises:
        InputError: a movement is not finite; the sentence says where in the model that begins.
    """
    rows = paired_differences(moved)
    if not np.isfinite(rows).all():
        raise InputError(
            model.first_not_finite([*pairs.positives, *pairs.negatives])
            or "what is read of the heads is not finite, though all that they say is"
        )
    return rows


def paired_differences(moved: Float[Array, "B L H D"]) -> Float[np.ndarray, "B2 L H D"]:
    """Half of each movement for the positive prompt, and minus that for the negative."""
    half = np.asarray(moved) / 2
    return np.concatenate([half, -half])


def score_outputs(
    key: jax.Array,
    outputs: Float[Array | np.ndarray, "B L H D"],
    options: SaeCodes,
    head_width: int,
) -> Scores:
    """Scores from the rows of B / 2 positive prompts and then of their B / 2 negative ones.

    `head_width` is K, which bounds the rank of a head's outputs.
    """
    _, *heads, d_model = outputs.shape
    x, scale = inputs(outputs, options, head_width)
    params, losses = fit.fit(key, x, options.sae_config, options.settings, d_model=d_model)
    head_scores, edge_scores, code, strength = scored(params, x, scale, tuple(heads), options)
    details = {"codes": code, "strengths": strength, "losses": np.asarray(losses)[0, 0].T}
    if options.softmax != "none":
        details["noise"] = np.float32(0)  # a small share is no rounding: all heads share a sum of 1
    return Scores(head_scores, edge_scores, details)


def inputs(
    outputs: Float[Array | np.ndarray, "B *heads D"], options: SaeCodes, head_width: int
) -> tuple[Float[Array, "_ N R"], Float[Array, " _"]]:
    """What the autoencoders see, and the unit that it is in.

    [G, B, R], each head in units of its own root mean square over rows and components; or
    [1, G B, D] for a shared autoencoder, as it is, in units of 1.
    """
    x = np.asarray(outputs).reshape(outputs.shape[0], -1, outputs.shape[-1]).swapaxes(0, 1)
    if options.shared:
        return jax.device_put((x.reshape(1, -1, x.shape[-1]), np.ones(1, np.float32)))
    scale = np.sqrt(np.maximum(np.mean(np.square(x, dtype=np.float64), axis=(1, 2)), 1e-30))
    scale = scale.astype(np.float32)
    x = x / scale[:, None, None]
    if options.basis == "isometric":
        x = sae.isometric_basis(x, input_shape(outputs.shape, options, head_width)[-1])
    return jax.device_put((x, scale))


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
