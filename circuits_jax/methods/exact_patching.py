r"""Exact patching of every head: the oracle that other methods are measured by.

Activation patching (Vig et al., arXiv 2004.12265; Zhang & Nanda, arXiv 2309.16042, for the two
directions). With m the task's metric on a prompt, averaged over pairs:

    noising      effect_g = m(positive) - m(positive with head g as on the negative)
    denoising    effect_g = m(negative with head g as on the positive) - m(negative)

A head is replaced at all positions; the two prompts of a pair are aligned at their last tokens, as
for the `resample` ablation of `evaluation.trial`. Everything downstream of the head responds.
Either effect is positive where the head serves the task and negative where it works against it, as
negative name movers do; both kinds are part of the circuit, so the score is the absolute value.

Cost, in passes over the B prompts: two forward passes (one caches the residual stream before every
layer, one the heads of the other prompts), then for each head the layers from its own one up:
(L + 1) / (2 L) of G forward passes; the patched layer's attention is shared by the heads of the
layer. No backward pass.
"""

import dataclasses
import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from circuits_jax import devices, interpose
from circuits_jax.circuit import Scores
from circuits_jax.errors import InputError
from circuits_jax.evaluation import Trial, trial
from circuits_jax.methods.edges import product_edges
from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.language_model import LanguageModel
from circuits_jax.tasks import Task, metric_values

Direction = Literal["noising", "denoising"]


@dataclasses.dataclass(frozen=True)
class ExactPatching:
    """Options of the method.

    Attributes:
        direction: `noising` (negative into positive) or `denoising` (positive into negative).
        heads_at_once: heads of a layer that share a forward pass on one device; bounds the memory.

    Raises:
        InputError: a value that is not allowed.
    """

    direction: Direction = "noising"
    heads_at_once: int = 16

    def __post_init__(self):
        if self.direction not in get_args(Direction):
            raise InputError(f"direction is {self.direction!r}; allowed are noising, denoising")
        if self.heads_at_once < 1:
            raise InputError(f"heads_at_once is {self.heads_at_once}; allowed is 1 and above")


def exact_patching(
    model: LanguageModel, task: Task, key: jax.Array, options: ExactPatching | None = None
) -> Scores:
    """Score heads by what replacing each alone does to the task's metric.

    Edges have no definition of their own here: see `product_edges`.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: not used, nothing is random.
        options: see `ExactPatching`.

    Returns:
        Scores, in units of the metric, with `details`: `effects` [L, H], signed (see the module).
        0 where the two prompts of every pair are the same.
    """
    options = options or ExactPatching()
    pairs = task.learn
    if options.direction == "denoising":
        pairs = dataclasses.replace(pairs, positives=pairs.negatives, negatives=pairs.positives)
    change = patched_change(
        model.config,
        model.params,
        trial(model, pairs, "resample"),
        task.metric,
        options.heads_at_once,
    )
    effects = change if options.direction == "denoising" else -change
    head_scores = jnp.abs(effects)
    return Scores(head_scores, product_edges(head_scores), {"effects": effects})


def patched_change(
    config: DecoderConfig, params: Any, trial: Trial, metric: str, heads_at_once: int
) -> Float[Array, "L H"]:
    """Mean change of the metric when one head alone takes its replacement, for every head.

    One compiled program: the heads of a layer are spread over the devices, layer by layer.
    """
    change = _patched_change(config, params, trial, metric, heads_at_once)
    return devices.gather(change, config.n_heads).T


@functools.partial(jax.jit, static_argnames=("config", "metric", "heads_at_once"))
def _patched_change(config, params, trial, metric, heads_at_once):
    """`patched_change` by head and layer, before it is gathered."""
    logits, streams = interpose.residual_streams(config, params, trial.batch)
    whole = metric_values(logits, trial.targets, metric)

    def patch_layers(head, constants):
        params, trial, whole, streams = constants

        def patch(layer):  # the same for all heads that share a pass, so lower layers are skipped
            replacement = trial.replacement[layer][:, :, head]
            logits = interpose.resume(
                config, params, trial.batch, layer, streams[layer], head, replacement
            )
            return jnp.mean(metric_values(logits, trial.targets, metric) - whole)

        return jax.lax.map(patch, jnp.arange(config.n_layers))

    constants = (params, trial, whole, streams)
    return devices.spread(patch_layers, jnp.arange(config.n_heads), constants, heads_at_once)
