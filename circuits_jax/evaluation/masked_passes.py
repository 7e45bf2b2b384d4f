"""Passes with only some heads, or some edges among them, kept: the metric, and the divergence.

Divergence is from the whole model's next-token distribution, in nats (`faithfulness.py`). Masks are
spread over the devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from circuits_jax import interpose
from circuits_jax.capture.ablation import Trial
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.evaluation.track import Track, silent
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs import devices, mesh
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import metric_values
from circuits_jax.tasks.divergence import divergences

MASKS_A_CALL = 4  # forward passes between two signs of progress


def metric_under(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    keep: Float[Array, "M L H"],
    metric: str,
    masks_at_once: int = 1,
) -> Float[Array, "M B"]:
    """The task's metric for every mask of heads that are kept, and every prompt.

    One compiled program over all masks, which are spread over the devices; `masks_at_once` of them
    share a forward pass, fewer where prompts are many or long (`mesh.fitting`).
    """
    masks_at_once = config.fitting(masks_at_once, *trial.batch.tokens.shape)
    values = _metric_under(config, params, trial, keep, metric, masks_at_once)
    return mesh.gather(values, len(keep))


@functools.partial(jax.jit, static_argnames=("config", "metric", "masks_at_once"))
def _metric_under(config, params, trial, keep, metric, masks_at_once):
    """`metric_under` before it is gathered."""

    def judge(keep, constants):
        params, trial = constants
        logits = interpose.replace(config, params, trial.batch, keep, trial.replacement)
        return metric_values(logits, trial.targets, metric)

    return mesh.spread(judge, keep, (params, trial), masks_at_once)


@functools.partial(jax.jit, static_argnames=("config", "metric", "masks_at_once"))
def _metrics_under(config, params, trial, whole, keep, metric, masks_at_once):
    """The metric and the divergence from `whole`, logits [B V], for every mask of heads."""

    def judge(keep, constants):
        params, trial, whole = constants
        logits = interpose.replace(config, params, trial.batch, keep, trial.replacement)
        return _measured(logits, trial, whole, metric)

    return mesh.spread(judge, keep, (params, trial, whole), masks_at_once)


@functools.partial(jax.jit, static_argnames=("config", "metric"))
def _edge_metrics_under(config, params, trial, whole, keep, receivers, keep_edges, metric):
    """The same for every mask of edges, one at a time: each reader has a stream of its own."""

    def judge(keep_edges, constants):
        params, trial, whole, keep, receivers = constants
        logits = interpose.replace_edges(
            config, params, trial.batch, keep, keep_edges, trial.replacement, receivers
        )
        return _measured(logits, trial, whole, metric)

    return mesh.spread(judge, keep_edges, (params, trial, whole, keep, receivers), 1)


def _measured(logits, trial, whole, metric):
    """Metric and divergence of every prompt."""
    divergence = divergences(logits, whole, trial.targets, metric, "kl")
    return metric_values(logits, trial.targets, metric), divergence


def masked_metrics(
    model: LanguageModel,
    prepared: Trial,
    keep: Bool[np.ndarray, "M L H"],
    metric: str,
    masks_at_once: int = 1,
    track: Track = silent,
    whole: Float[Array, "B *Q V"] | None = None,
) -> tuple[Float[np.ndarray, "M B"], Float[np.ndarray, "M B"]]:
    """Metric and divergence for every mask of heads that are kept, and every prompt.

    One compiled program, called on chunks of one static shape, so that progress shows. `whole` are
    the logits of the whole model, where they are known.
    """
    masks_at_once = model.config.fitting(masks_at_once, *prepared.batch.tokens.shape)
    if whole is None:
        whole = interpose.last_logits(model.config, model.params, prepared.batch)

    def of_chunk(masks):
        return _metrics_under(
            model.config, model.params, prepared, whole, masks, metric, masks_at_once
        )

    chunk = MASKS_A_CALL * masks_at_once * devices.mesh().shape[devices.DATA]
    return _finite(*in_chunks(of_chunk, keep, chunk, track, "circuits judged"))


def edge_masked_metrics(
    model: LanguageModel,
    prepared: Trial,
    keep: Bool[np.ndarray, "L H"],
    keep_edges: Bool[np.ndarray, "M G G"],
    metric: str,
    track: Track = silent,
    whole: Float[Array, "B *Q V"] | None = None,
) -> tuple[Float[np.ndarray, "M B"], Float[np.ndarray, "M B"]]:
    """The same for every mask of edges that are kept, with only the heads in `keep`.

    One mask at a time; see `interpose.replace_edges` for time and memory.
    """
    if whole is None:
        whole = interpose.last_logits(model.config, model.params, prepared.batch)
    receivers = jnp.asarray(np.flatnonzero(keep))
    heads = jnp.asarray(keep, jnp.float32)

    def of_chunk(masks):
        return _edge_metrics_under(
            model.config, model.params, prepared, whole, heads, receivers, masks, metric
        )

    chunk = devices.mesh().shape[devices.DATA]
    return _finite(*in_chunks(of_chunk, keep_edges, chunk, track, "choices of edges judged"))


def _finite(
    values: Float[np.ndarray, "M B"], divergence: Float[np.ndarray, "M B"]
) -> tuple[Float[np.ndarray, "M B"], Float[np.ndarray, "M B"]]:
    """The same two, unless one has what is no number."""
    for name, found in (("metric", values), ("divergence", divergence)):
        if not np.isfinite(found).all():
            mask, prompt = np.argwhere(~np.isfinite(found))[0]
            raise InputError(
                f"the {name} of held-out prompt {prompt} is not finite where some heads are "
                f"replaced (choice {mask} of {len(found)}); check the model's weights, or load it "
                "in float32"
            )
    return values, divergence


def in_chunks(
    function: Callable[[Array], Any],
    masks: Bool[np.ndarray, "M ..."],
    chunk: int,
    track: Track,
    label: str,
) -> Any:
    """`function` of all masks, called on as many as `chunk` at a time, the last filled up."""
    n = len(masks)

    def of_chunk(start):
        some = jnp.asarray(masks[np.arange(start, start + chunk) % n], jnp.float32)
        return devices.fetched(function(some))  # waits, so that progress is real

    chunks = [of_chunk(start) for start in track(range(0, n, chunk), label)]
    return tuple(np.concatenate(parts)[:n] for parts in zip(*chunks, strict=True))
