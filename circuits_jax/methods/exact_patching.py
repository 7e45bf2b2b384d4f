r"""Exact patching of every head: the oracle that other methods are measured by.

Activation patching (Vig et al., arXiv 2004.12265; Zhang & Nanda, arXiv 2309.16042, for the two
directions). With m the task's metric on a prompt, averaged over pairs:

    noising      effect_g = m(positive) - m(positive with head g as on the negative)
    denoising    effect_g = m(negative with head g as on the positive) - m(negative)

A head is replaced at all tokens that have a partner in the other prompt (`lm/alignment.py`), as
for the `resample` ablation of `ablation.trial`. Everything downstream of the head responds.
Either effect is positive where the head serves the task and negative where it works against it, as
negative name movers do; both kinds are part of the circuit, so the score is the absolute value.

With positions="each", every head is also replaced at one token of the prompt at a time, counted
from the last; at those of an answer it is replaced with all others only.
With spans, at all tokens of each span of a prompt (`tasks/spans.py`), which then are no sum.
With edges="path", the edges that the heads' effects suggest are patched exactly (`path_patching`);
else they are no more than products of their ends.

Cost, in passes over the B prompts: two forward passes (one caches the residual stream before every
layer, one the heads of the other prompts), then for each head the layers from its own one up:
(L + 1) / (2 L) of G forward passes; the patched layer's attention is shared by the heads of the
layer. Each token costs as much again, each edge about half a forward pass. No backward pass.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from circuits_jax import interpose
from circuits_jax.capture.ablation import Trial, goals, trial
from circuits_jax.circuits.circuit import Scores, best_first, span_details
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.spans import spans_of
from circuits_jax.methods.edges import product_edges
from circuits_jax.methods.path_patching import path_change
from circuits_jax.runs import mesh
from circuits_jax.runs.checks import Range, check_all
from circuits_jax.tasks import Task, metric_values
from circuits_jax.tasks.spans import check_schema

Direction = Literal["noising", "denoising"]
Positions = Literal["all", "each"]
Edges = Literal["product", "path"]


@dataclasses.dataclass(frozen=True)
class ExactPatching:
    """Options of the method.

    Attributes:
        direction: `noising` (negative into positive) or `denoising` (positive into negative).
        positions: replace a head at `all` tokens only, or at `each` token alone as well.
        spans: replace a head in each span of tokens as well: `changed`, `slots` or templates;
            "" for no spans.
        edges: score edges by the `product` of their heads' scores, or the `n_edges` best of these
            by exact `path` patching and others by 0.
        n_edges: how many edges are patched.
        heads_at_once: heads, or edges into one layer, that share a forward pass, at most; on one
            device for heads. Fewer where prompts are many or long (`mesh.fitting`).

    Raises:
        InputError: a value that is not allowed.
    """

    direction: Direction = "noising"
    positions: Positions = "all"
    spans: str = ""
    edges: Edges = "product"
    n_edges: int = 200
    heads_at_once: int = 16

    def __post_init__(self):
        check_schema(self.spans)
        check_all(self, dict.fromkeys(("n_edges", "heads_at_once"), Range(1)))


def exact_patching(
    model: LanguageModel, task: Task, key: jax.Array, options: ExactPatching | None = None
) -> Scores:
    """Score heads by what replacing each alone does to the task's metric.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: not used, nothing is random.
        options: see `ExactPatching`.

    Returns:
        Scores, in units of the metric, with `details`: `effects` [L, H], signed (see the module).
        0 where the two prompts of every pair are the same. With positions="each" also
        `position_effects` [T, L, H], by columns of the aligned prompts, of which the last row is
        every prompt's last token. With spans those of `circuit.span_details`. With edges="path"
        also `edges` [n_edges, 2], the (g, g') that were patched, their signed `edge_effects`
        [G, G], and `direct_effects` [L, H] on the logits.
    """
    options = options or ExactPatching()
    pairs = task.learn
    if options.direction == "denoising":
        pairs = dataclasses.replace(pairs, positives=pairs.negatives, negatives=pairs.positives)
    sign = 1 if options.direction == "denoising" else -1
    prepared = trial(model, pairs, "resample", task.metric)
    prepared = dataclasses.replace(prepared, targets=goals(model, task.learn, task.metric))
    model_and_task = model.config, model.params, prepared, task.metric
    shape, names = prepared.batch.mask.shape, list[str]()
    where = np.ones((1, *shape), bool)
    if options.positions == "each":
        from_last = np.arange(shape[1])[None] - np.asarray(prepared.batch.last)[:, None]
        asked = np.arange(1 - shape[1], 1)[:, None, None]
        where = np.concatenate([where, from_last[None] == asked])
    if options.spans:
        sides = model.tokenize_pairs(pairs.positives, pairs.negatives)
        sides = sides[::-1] if options.direction == "denoising" else sides
        spans = spans_of(model, task, options.spans, sides)
        names = list(spans.names)
        where = np.concatenate([where, spans.inside(shape[1])])
    changes = patched_change(*model_and_task, options.heads_at_once, jnp.asarray(where))
    effects, *others = sign * changes
    head_scores = jnp.abs(effects)
    edge_scores, details = product_edges(head_scores), {"effects": effects}
    if options.positions == "each":
        details["position_effects"] = jnp.stack(others[: shape[1]])
    if options.spans:
        details |= span_details(names, jnp.stack(others[-len(names) :]))
    if options.edges == "path":
        edge_scores, paths = _path_scores(model_and_task, edge_scores, sign, options)
        details |= paths
    return Scores(head_scores, edge_scores, details)


def _path_scores(model_and_task, candidates, sign: int, options: ExactPatching):
    """Edge scores by path patching of the best candidates, and the details of it."""
    n_heads = len(candidates)
    n_edges = min(options.n_edges, int(jnp.sum(candidates > 0)))
    best = best_first(np.asarray(candidates))[:n_edges]
    edges = np.stack(np.divmod(best, n_heads), axis=1)
    config, params, prepared, metric = model_and_task
    change, direct = path_change(config, params, prepared, metric, edges, options.heads_at_once)
    effects = np.zeros((n_heads, n_heads), np.float32)
    effects[*edges.T] = sign * change
    details = {"edges": edges, "edge_effects": effects, "direct_effects": sign * direct}
    return jnp.abs(effects), details


def patched_change(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    metric: str,
    heads_at_once: int,
    where: Bool[Array, "P B T"],
) -> Float[Array, "P L H"]:
    """Mean change of the metric when one head alone takes its replacement, for every head.

    Each row is for replacement at the tokens that `where` has true in its row. One compiled
    program: the heads of a layer are spread over the devices, layer by layer.
    """
    change = _patched_change(config, params, trial, metric, heads_at_once, where)
    return mesh.gather(change, config.n_heads).transpose(2, 1, 0)


@functools.partial(jax.jit, static_argnames=("config", "metric", "heads_at_once"))
def _patched_change(config, params, trial, metric, heads_at_once, where):
    """`patched_change` by head, layer and row, before it is gathered."""
    logits, streams = interpose.residual_streams(config, params, trial.batch)
    whole = metric_values(logits, trial.targets, metric)

    def patch_layers(head, constants):
        params, trial, whole, streams, where = constants

        def patch(layer):  # the same for all heads that share a pass, so lower layers are skipped
            replacement = trial.replacement[layer][:, :, head]

            def at(tokens):
                logits = interpose.resume(
                    config, params, trial.batch, layer, streams[layer], head, replacement, tokens
                )
                return jnp.mean(metric_values(logits, trial.targets, metric) - whole)

            return jax.lax.map(at, where)

        return jax.lax.map(patch, jnp.arange(config.n_layers))

    constants = (params, trial, whole, streams, where)
    at_once = config.fitting(heads_at_once, *trial.batch.tokens.shape)
    return mesh.spread(patch_layers, jnp.arange(config.n_heads), constants, at_once)
