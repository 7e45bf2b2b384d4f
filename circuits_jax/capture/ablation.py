"""What heads are replaced by where they are ablated, on pairs of prompts.

`zero` their outputs, replace them by their `mean` over the negative prompts, or `resample` them
from the matched negative prompt. A `Trial` holds all that a pass with heads replaced needs.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.decoder.batch import TokenBatch, stacked
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs import mesh
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import PromptPairs, Targets, targets

Ablation = Literal["zero", "mean", "resample"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "resample")


@struct.dataclass
class Trial:
    """Prompts and what their heads are replaced by: all that is needed to judge circuits."""

    batch: TokenBatch
    targets: Targets
    replacement: Float[Array, " L #B #T H K"]

    def filled(self) -> "Trial":
        """The same with a replacement at every prompt and token.

        So of one shape whatever the ablation is: one compiled program judges by all of them.
        """
        n_layers, _, _, *head = self.replacement.shape
        shape = n_layers, *self.batch.tokens.shape, *head
        return dataclasses.replace(self, replacement=jnp.broadcast_to(self.replacement, shape))

    def parts(self, most: int) -> Iterator["Trial"]:
        """The same prompts in parts of one size, of at most so many."""
        n = len(self.batch.tokens)
        size = mesh.even_part(n, most)
        if size == n:
            yield self
            return
        shared = self.replacement.shape[1] == 1
        for start in range(0, n, size):
            rows = slice(start, start + size)
            batch, targets = jax.tree.map(lambda x, rows=rows: x[rows], (self.batch, self.targets))
            yield Trial(batch, targets, self.replacement if shared else self.replacement[:, rows])


def sides(model: LanguageModel, pairs: PromptPairs) -> tuple[TokenBatch, TokenBatch]:
    """Positives and negatives, aligned, each followed by the answers and foils of the pair."""
    both = model.tokenize_pairs(pairs.positives, pairs.negatives)
    positives, negatives = (model.continued(batch, pairs.continuations) for batch in both)
    return positives, negatives


def goals(model: LanguageModel, pairs: PromptPairs, metric: str) -> Targets:
    """All that the metric looks at besides logits: of kl, also the whole model's prediction."""
    goal = targets(pairs)
    if metric != "kl":
        return goal
    positives, _ = model.tokenize_pairs(pairs.positives, pairs.negatives)
    whole = interpose.last_logits(model.config, model.params, positives)
    return dataclasses.replace(goal, reference=whole)


def trial(model: LanguageModel, pairs: PromptPairs, ablation: Ablation, metric: str = "") -> Trial:
    """Prepare pairs for judging circuits by one kind of ablation, and by a metric.

    `resample` takes what heads say at the partner of each token in the matched negative prompt, and
    on the positive one where there is no partner (`lm/alignment.py`). `mean` is that, averaged
    over pairs: one vector for each column of the aligned prompts, counted from the first token.
    Answers of several tokens follow both prompts, and their tokens are each other's partners.
    """
    positives, negatives = sides(model, pairs)
    gaps = bool(np.any(positives.mask & ~negatives.mask))
    replacement = _replacement(model.config, model.params, positives, negatives, ablation, gaps)
    return Trial(positives, goals(model, pairs, metric), replacement)


@functools.partial(jax.jit, static_argnames=("config", "ablation", "gaps"))
def _replacement(
    config: DecoderConfig,
    params: Any,
    positives: TokenBatch,
    negatives: TokenBatch,
    ablation: Ablation,
    gaps: bool,
) -> Float[Array, " L #B #T H K"]:
    """With `gaps`, some negative lacks a token, so that the positives have to be run as well."""
    if ablation == "zero":
        return jnp.zeros((config.n_layers, 1, 1, config.n_heads, config.head_width))
    batch = stacked((negatives, positives)) if gaps else negatives

    def said(heads):
        if not gaps:
            return heads.z
        negative, positive = jnp.split(heads.z, 2)
        return jnp.where(negatives.mask[:, :, None, None], negative, positive)

    share = column_shares(positives, negatives)

    def mean(heads):
        return einsum("bthk,bt->thk", said(heads), share)[None]

    return interpose.capture(config, params, batch, mean if ablation == "mean" else said)[1]


def column_shares(positives: TokenBatch, negatives: TokenBatch) -> Float[Array, "B T"]:
    """How much each pair counts in the mean over pairs of a column: those with a token there."""
    real = (positives.mask | negatives.mask).astype(jnp.float32)
    return real / jnp.maximum(jnp.sum(real, axis=0, keepdims=True), 1)
