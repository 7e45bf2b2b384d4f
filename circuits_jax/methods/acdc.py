r"""Automatic circuit discovery (ACDC): remove what can go, from the last head to the first.

ACDC (Conmy et al., arXiv 2304.14997, algorithm 1) at the level of heads. With C the heads that are
kept, at first all, D(C) the mean over prompts of a divergence from the whole model
(`tasks/divergence.py`) with heads outside C replaced (`ablation.trial`), and tau a threshold, for
every head g in reverse topological order, and from high to low index within a layer,

    remove g from C for good   if   D(C \ g) - D(C) < tau.

So tau = 0 keeps every head: D starts at 0, its least value, and a head that changes nothing stays,
as the comparison is strict. tau = inf removes every head. One run decides about one tau; the runs
for a grid of thresholds go side by side. A head's score is the largest threshold at which it
survived; between that and the next one of the grid it is placed by D(C \ g) - D(C) as found there:

    score_g = clip(rise_g(tau_i), tau_i, just below tau_{i+1})    (tau_0 = 0: survived nowhere)

so that the heads that score tau_i or above are those that survived tau_i or a larger one.

ROC AUC against exact patching (SmolLM2-135M, IOI, 5 pairs, thresholds .003 and .03): .89; of 270
heads 33 and 14 survive.

Cost: two forward passes, then for each head and each threshold the layers from the head's own up,
since all heads below are still whole: (L + 1) / (2 L) G P forward passes. No backward pass. Greedy:
of two heads that do the same, one alone may be kept: not for finding backups, nor in a hurry.

With edges="pruned", C is a set of edges, as in the paper; else edges are `product_edges`. The nodes
are heads, each with one edge from every head of an earlier layer, which `interpose.replace_edges`
cuts: the queries, keys and values of the later head hear the earlier one's replacement, all else
hears it as it is. A head's edge to the output is its way to all that is no head, MLPs and logits.
MLPs always stay and are no nodes, nor are queries, keys and values apart: what one head tells
another through an MLP is in its edge to the output. Layer by layer, from the last to the first, and
from high to low index in everything,

    the edge to the output of every head that no head hears any more is tested; where it is removed,
    so are all edges into that head, untested
    every edge into every head of the layer that is left is tested

A head that some head still hears keeps its edge to the output, untested; it is tested only where it
is the last, as removing it is then replacing the head. tau = 0 keeps every edge, tau = inf none.
Edges have scores as heads have above; a head has the largest of its edges, into and out of it.

ROC AUC of heads and of edges: 1 and 1 on the planted induction model; 1 and .5 on the compiled
reverse, where heads tell each other nothing but through MLPs, so that all edges score 0.

Cost with edges="pruned": two forward passes, then for each tested edge and each threshold a pass in
which every head reads a stream of its own, of 2 to 3 forward passes. Tested are at most G edges to
the output and G (G - H) / 2 between heads, of these only those into heads that are left; thresholds
that share a pass wait for the longest. For SmolLM2-135M, 5 pairs, that is up to 35,505 passes of
.5 s on two CPU cores, 5 hours for each threshold, which is why it is not the default.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from circuits_jax import interpose
from circuits_jax.capture.ablation import Ablation, Trial, trial
from circuits_jax.circuits.circuit import Scores
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.interpose import Added, Written
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.edges import product_edges
from circuits_jax.runs import mesh
from circuits_jax.runs.checks import Range, check_all
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import Task
from circuits_jax.tasks.divergence import Divergence, divergences

Edges = Literal["product", "pruned"]


@dataclasses.dataclass(frozen=True)
class Acdc:
    """Options of the method.

    Attributes:
        thresholds: of how much the divergence may rise, rising, from 0; in nats for `kl`.
        divergence: `kl` or `metric`: see `tasks/divergence.py`.
        replacement: what removed heads say, `zero`, `mean` or `resample`.
        edges: remove heads, and score edges by the `product` of their heads' scores; or remove
            edges, so that what is left is `pruned`. See the module for the cost.
        thresholds_at_once: that share a forward pass on one device, at most; fewer where prompts
            are many or long (`mesh.fitting`). With pruned edges each takes G residual streams,
            [G B T D].

    Raises:
        InputError: a value that is not allowed.
    """

    thresholds: tuple[float | int, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    divergence: Divergence = "kl"
    replacement: Ablation = "resample"
    edges: Edges = "product"
    thresholds_at_once: int = 8

    def __post_init__(self):
        check_all(self, {"thresholds_at_once": Range(1)})
        known = [t for t in self.thresholds if not math.isnan(t) and t >= 0]
        if not known or list(self.thresholds) != sorted(set(known)):
            raise InputError(
                f"thresholds is {self.thresholds}; allowed are numbers from 0, each above the last"
            )


def acdc(model: LanguageModel, task: Task, key: jax.Array, options: Acdc | None = None) -> Scores:
    """Score heads, or edges, by the threshold up to which they cannot be removed.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: not used, nothing is random.
        options: see `Acdc`.

    Returns:
        Scores, in units of the divergence, with `details`: `thresholds` [P]; `kept` [P, L, H], the
        circuit at each; `rises` [P, L, H], what removing the head added to the divergence when it
        was its turn; and `divergences` [P] of the circuits. With edges="pruned" also `kept_edges`
        [P, G, G], between heads that are kept, and their `edge_rises`; rises are NaN where nothing
        was tested, and those of heads are of their edges to the output. An edge that scores some
        threshold or above has two heads that do.
    """
    options = options or Acdc()
    prepared = trial(model, task.learn, options.replacement, task.metric)
    found = _circuits(
        model.config,
        model.params,
        prepared,
        jnp.asarray(options.thresholds, jnp.float32),
        task.metric,
        options.divergence,
        options.edges,
        options.thresholds_at_once,
    )
    kept, rises, left = jax.tree.map(np.asarray, mesh.gather(found, len(options.thresholds)))
    scores = _scores(options.thresholds, kept, rises)
    details = {
        "thresholds": np.asarray(options.thresholds, np.float32),
        "kept": kept,
        "rises": rises,
        "divergences": left,
    }
    if options.edges == "product":
        return Scores(scores, product_edges(scores), details)
    return _of_edges(scores, details, model.config.heads)


def _of_edges(
    scores: Float[Array, "G G+1"], details: dict[str, np.ndarray], shape: tuple[int, int]
) -> Scores:
    """Edges between heads apart from those to the output, which stand for the heads themselves."""
    between, to_output = scores[:, :-1], scores[:, -1]
    heads = jnp.maximum(to_output, jnp.maximum(between.max(axis=0), between.max(axis=1)))
    for name, of_edges in (("kept", "kept_edges"), ("rises", "edge_rises")):
        both = details[name]
        split = {name: both[:, :, -1].reshape(-1, *shape), of_edges: both[:, :, :-1]}
        details = details | split
    return Scores(heads.reshape(shape), between, details)


def _scores(
    thresholds: tuple[float | int, ...],
    kept: Bool[np.ndarray, "P ..."],
    rises: Float[np.ndarray, "P ..."],
) -> Float[Array, "..."]:
    """See the module; what was never tested has no rise to place it by.

    NaN where a divergence was not finite, which `decide` makes an infinite rise.
    """
    grid = np.array([0.0, *thresholds, np.inf], np.float32)
    last = (len(kept) - np.argmax(kept[::-1], axis=0)) * kept.any(axis=0)
    at = np.maximum(last - 1, 0)[None]  # survived nowhere: what the first threshold found
    rise = np.nan_to_num(np.take_along_axis(rises, at, axis=0)[0])
    below = np.nextafter(grid[last + 1], np.float32(0))
    scores = np.clip(rise, grid[last], below)
    return jnp.asarray(np.where(np.isinf(rises).any(axis=0), np.float32(np.nan), scores))


@functools.partial(jax.jit, static_argnames=("config", "metric", "kind", "edges", "at_once"))
def _circuits(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    thresholds: Float[Array, " P"],
    metric: str,
    kind: Divergence,
    edges: Edges,
    at_once: int,
):
    """Circuit, rises and divergence for every threshold, before they are gathered."""
    logits, streams = interpose.residual_streams(config, params, trial.batch)
    prune = {"product": _prune_heads, "pruned": _prune_edges}[edges]

    def of_threshold(threshold, constants):
        params, trial, whole, streams = constants

        def decide(state, fewer, logits):
            _, least = state
            left = jnp.mean(divergences(logits, whole, trial.targets, metric, kind))
            removed = left - least < threshold
            state = jax.tree.map(
                lambda new, old: jnp.where(removed, new, old), (fewer, left), state
            )
            rise = left - least
            return state, jnp.where(jnp.isfinite(rise), rise, jnp.inf)  # not NaN: not untested

        (keep, left), rises = prune(config, params, trial, streams, decide)
        return keep > 0, rises, left

    constants = (params, trial, logits, streams)
    at_once = config.fitting(at_once, *trial.batch.tokens.shape)
    return mesh.spread(of_threshold, thresholds, constants, at_once)


State = tuple[Float[Array, "..."], Float[Array, ""]]  # what is kept, and its divergence
Decide = Callable[[State, Array, Float[Array, "B *Q V"]], tuple[State, Float[Array, ""]]]


def _prune_heads(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    streams: Float[Array, "L B T D"],
    decide: Decide,
) -> tuple[State, Float[Array, "L H"]]:
    """Heads that are kept, their divergence, and rises, after all were tested.

    `decide` is given the state, what would be kept without what is tested, and logits with that; it
    gives the state after the decision, and the rise.
    """
    n_layers, n_heads = config.heads

    def test(state, g):
        layer = g // n_heads
        fewer = state[0].at[layer, g % n_heads].set(0)
        return decide(state, fewer, _resumed(config, params, trial, layer, streams[layer], fewer))

    start = jnp.ones(config.heads), jnp.zeros(())
    state, rises = jax.lax.scan(test, start, jnp.arange(n_layers * n_heads)[::-1])
    return state, rises[::-1].reshape(config.heads)


def _prune_edges(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    streams: Float[Array, "L B T D"],
    decide: Decide,
) -> tuple[State, Float[Array, "G G+1"]]:
    """`_prune_heads` for edges: [g, g'] between heads, and in the last column to the output."""
    order, edges = _last_first(config), jnp.asarray(_all_edges(config), jnp.float32)
    to_output = edges.shape[1] - 1

    def test(at, state, rises):
        writer, reader = order[at]
        fewer = state[0].at[writer, reader].set(0)
        deaf = (reader == to_output) & (jnp.arange(to_output + 1) == writer)
        fewer = jnp.where(deaf[None], 0, fewer)  # no one reads what a replaced head hears
        heads, between = fewer[:, -1].reshape(config.heads), fewer[:, :-1]
        logits = interpose.replace_edges(
            config, params, trial.batch, heads, between, trial.replacement
        )
        state, rise = decide(state, fewer, logits)
        return _next(order, state[0], at), state, rises.at[writer, reader].set(rise)

    start = jnp.zeros((), jnp.int32), (edges, jnp.zeros(())), jnp.full(edges.shape, jnp.nan)
    _, state, rises = jax.lax.while_loop(lambda at: at[0] < len(order), lambda at: test(*at), start)
    return state, rises


def _next(
    order: Int[Array, "N 2"], keep: Float[Array, "G G+1"], at: Int[Array, ""]
) -> Int[Array, ""]:
    """Place in the order of the next edge to test after `at`; N after the last.

    Every threshold has a place of its own, so that those that share a pass skip different edges.
    """
    unheard = ~jnp.any(keep[:, :-1] > 0, axis=1, keepdims=True)
    tested = jnp.concatenate([keep[:, :-1] > 0, unheard], axis=1)[order[:, 0], order[:, 1]]
    return jnp.argmax(jnp.append(tested & (jnp.arange(len(order)) > at), True)).astype(jnp.int32)


def _all_edges(config: DecoderConfig) -> Bool[np.ndarray, "G G+1"]:
    """From every head to all of later layers and, in the last column, to the output."""
    layers = np.arange(config.n_layers).repeat(config.n_heads)
    return layers[:, None] < np.append(layers, config.n_layers)[None]


def _last_first(config: DecoderConfig) -> Int[Array, "N 2"]:
    """All edges (writer, reader) in the order in which they are tested; see the module.

    The edges of a layer are those into its heads, after those from its heads to the output.
    """
    writer, reader = np.nonzero(_all_edges(config))
    to_output = reader == config.n_layers * config.n_heads
    layer = np.where(to_output, writer, reader) // config.n_heads
    order = np.lexsort((writer, reader, to_output, layer))[::-1]
    return jnp.asarray(np.stack([writer, reader], axis=1)[order])


def _resumed(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    layer: Array,
    stream: Float[Array, "B T D"],
    keep: Float[Array, "L H"],
) -> Float[Array, "B *Q V"]:
    """`interpose.replace` where all heads below `layer` are kept: those layers are not run."""
    step = functools.partial(_replaced_layer, config, params, trial, keep)
    stream = jax.lax.fori_loop(layer, config.n_layers, step, stream)
    return interpose.final_logits(config, params, trial.batch, stream)


def _replaced_layer(config, params, trial, keep, layer, stream):
    """The residual stream after a layer of which the heads that are not kept are replaced."""
    batch = trial.batch
    z = interpose.z_from(config, params, batch, layer, stream)
    removed = (1 - keep[layer]).astype(z.dtype)[None, None, :, None]
    moved = removed * (trial.replacement[layer].astype(z.dtype) - z)
    queries, shared = jnp.zeros_like(z), jnp.zeros_like(z[:, :, : config.n_kv_heads])
    still = jnp.zeros_like(stream)
    added = Added((queries, shared, shared), still, Written(moved, still))
    return interpose.run_layer(config, params, batch, layer, stream, added)[0]
