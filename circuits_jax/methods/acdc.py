r"""Automatic circuit discovery (ACDC): remove what can go, from the last head to the first.

ACDC (Conmy et al., arXiv 2304.14997, algorithm 1) at the level of heads. With C the heads that are
kept, at first all, D(C) the mean over prompts of a divergence from the whole model
(`divergence.py`) with heads outside C replaced (`ablation.trial`), and tau a threshold, for every
head g in reverse topological order, and from high to low index within a layer,

    remove g from C for good   if   D(C \ g) - D(C) < tau.

So tau = 0 keeps every head: D starts at 0, its least value, and a head that changes nothing stays,
as the comparison is strict. tau = inf removes every head. One run decides about one tau; the runs
for a grid of thresholds go side by side. A head's score is the largest threshold at which it
survived; between that and the next one of the grid it is placed by D(C \ g) - D(C) as found there:

    score_g = clip(rise_g(tau_i), tau_i, just below tau_{i+1})    (tau_0 = 0: survived nowhere)

so that the heads that score tau_i or above are those that survived tau_i or a larger one.

ROC AUC against exact patching (SmolLM2-135M, IOI, 5 pairs, thresholds .003 and .03): .89; of 270
heads 33 and 14 survive.

Edges are not removed one by one as in the paper, whose graph has heads' queries, keys and values
and MLPs as nodes: that is one pass for each of G^2 / 2 edges and more. See `product_edges`.

Cost: two forward passes, then for each head and each threshold the layers from the head's own up,
since all heads below are still whole: (L + 1) / (2 L) G P forward passes. No backward pass. Greedy:
of two heads that do the same, one alone may be kept: not for finding backups, nor in a hurry.
"""

import dataclasses
import functools
import math
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from circuits_jax import devices, interpose
from circuits_jax.ablation import Ablation, Trial, trial
from circuits_jax.circuit import Scores
from circuits_jax.divergence import Divergence, divergences
from circuits_jax.errors import InputError
from circuits_jax.interpose import Added, Written
from circuits_jax.methods.edges import product_edges
from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.language_model import LanguageModel
from circuits_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Acdc:
    """Options of the method.

    Attributes:
        thresholds: of how much the divergence may rise, rising, from 0; in nats for `kl`.
        divergence: `kl` or `metric`: see `divergence.py`.
        replacement: what removed heads say, `zero`, `mean` or `resample`.
        thresholds_at_once: that share a forward pass on one device; bounds the memory.

    Raises:
        InputError: a value that is not allowed.
    """

    thresholds: tuple[float | int, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    divergence: Divergence = "kl"
    replacement: Ablation = "resample"
    thresholds_at_once: int = 8

    def __post_init__(self):
        for name, allowed in {"divergence": Divergence, "replacement": Ablation}.items():
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise InputError(f"{name} is {value!r}; allowed are {', '.join(get_args(allowed))}")
        known = [t for t in self.thresholds if not math.isnan(t) and t >= 0]
        if not known or list(self.thresholds) != sorted(set(known)):
            raise InputError(
                f"thresholds is {self.thresholds}; allowed are numbers from 0, each above the last"
            )
        if self.thresholds_at_once < 1:
            raise InputError(
                f"thresholds_at_once is {self.thresholds_at_once}; allowed is 1 and above"
            )


def acdc(model: LanguageModel, task: Task, key: jax.Array, options: Acdc | None = None) -> Scores:
    """Score heads by the threshold up to which they cannot be removed.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: not used, nothing is random.
        options: see `Acdc`.

    Returns:
        Scores, in units of the divergence, with `details`: `thresholds` [P]; `kept` [P, L, H], the
        circuit at each; `rises` [P, L, H], what removing the head added to the divergence when it
        was its turn; and `divergences` [P] of the circuits.
    """
    options = options or Acdc()
    prepared = trial(model, task.learn, options.replacement)
    found = _circuits(
        model.config,
        model.params,
        prepared,
        jnp.asarray(options.thresholds, jnp.float32),
        task.metric,
        options.divergence,
        options.thresholds_at_once,
    )
    kept, rises, left = devices.gather(found, len(options.thresholds))
    head_scores = _scores(options.thresholds, np.asarray(kept), np.asarray(rises))
    details = {
        "thresholds": np.asarray(options.thresholds, np.float32),
        "kept": kept,
        "rises": rises,
        "divergences": left,
    }
    return Scores(head_scores, product_edges(head_scores), details)


def _scores(
    thresholds: tuple[float | int, ...],
    kept: Bool[np.ndarray, "P L H"],
    rises: Float[np.ndarray, "P L H"],
) -> Float[Array, "L H"]:
    """See the module."""
    grid = np.array([0.0, *thresholds, np.inf], np.float32)
    last = np.max(np.where(kept, np.arange(1, len(kept) + 1)[:, None, None], 0), axis=0)
    at = np.maximum(last - 1, 0)[None]  # survived nowhere: what the first threshold found
    rise = np.take_along_axis(rises, at, axis=0)[0]
    below = np.nextafter(grid[last + 1], np.float32(0))
    return jnp.asarray(np.clip(rise, grid[last], below))


@functools.partial(jax.jit, static_argnames=("config", "metric", "kind", "at_once"))
def _circuits(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    thresholds: Float[Array, " P"],
    metric: str,
    kind: Divergence,
    at_once: int,
):
    """Circuit, rises and divergence for every threshold, before they are gathered."""
    logits, streams = interpose.residual_streams(config, params, trial.batch)
    n_layers, n_heads = config.heads

    def of_threshold(threshold, constants):
        params, trial, whole, streams = constants

        def decide(state, g):
            keep, least = state
            layer = g // n_heads
            fewer = keep.at[layer, g % n_heads].set(0)
            logits = _resumed(config, params, trial, layer, streams[layer], fewer)
            left = jnp.mean(divergences(logits, whole, trial.targets, metric, kind))
            removed = left - least < threshold
            state = jax.tree.map(
                lambda new, old: jnp.where(removed, new, old), (fewer, left), state
            )
            return state, left - least

        last_first = jnp.arange(n_layers * n_heads)[::-1]
        start = jnp.ones(config.heads), jnp.zeros(())
        (keep, left), rises = jax.lax.scan(decide, start, last_first)
        return keep > 0, rises[::-1].reshape(config.heads), left

    constants = (params, trial, logits, streams)
    return devices.spread(of_threshold, thresholds, constants, at_once)


def _resumed(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    layer: Array,
    stream: Float[Array, "B T D"],
    keep: Float[Array, "L H"],
) -> Float[Array, "B V"]:
    """`interpose.replace` where all heads below `layer` are kept: those layers are not run."""
    step = functools.partial(_replaced_layer, config, params, trial, keep)
    stream = jax.lax.fori_loop(layer, config.n_layers, step, stream)
    return interpose.final_logits(config, params, trial.batch, stream)


def _replaced_layer(config, params, trial, keep, layer, stream):
    """The residual stream after a layer of which the heads that are not kept are replaced."""
    batch = trial.batch
    z = interpose.heads_reading(config, params, batch, layer, stream)
    removed = (1 - keep[layer]).astype(z.dtype)[None, None, :, None]
    moved = removed * (trial.replacement[layer].astype(z.dtype) - z)
    queries, shared = jnp.zeros_like(z), jnp.zeros_like(z[:, :, : config.n_kv_heads])
    still = jnp.zeros_like(stream)
    added = Added((queries, shared, shared), still, Written(moved, still))
    return interpose.run_layer(config, params, batch, layer, stream, added)[0]
