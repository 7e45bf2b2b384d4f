"""What heads are replaced by where they are ablated, on pairs of prompts.

`zero` their outputs, replace them by their `mean` over the negative prompts, or `resample` them
from the matched negative prompt. A `Trial` holds all that a pass with heads replaced needs.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.decoder import TokenBatch
from circuits_jax.models.language_model import LanguageModel
from circuits_jax.tasks import PromptPairs, Targets, targets

Ablation = Literal["zero", "mean", "resample"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "resample")


@struct.dataclass
class Trial:
    """Prompts and what their heads are replaced by: all that is needed to judge circuits."""

    batch: TokenBatch
    targets: Targets
    replacement: Float[Array, "L #B #T H K"]


def trial(model: LanguageModel, pairs: PromptPairs, ablation: Ablation) -> Trial:
    """Prepare pairs for judging circuits by one kind of ablation.

    `mean` is over the negative prompts that have a token at the position, one vector for each
    position counted from the first token. `resample` takes the matched negative prompt, aligned at
    the last token; where that is shorter, its first token stands for what is missing.
    """
    positives = model.tokenize(pairs.positives)
    negatives = model.tokenize(pairs.negatives, positives.tokens.shape[1])
    positives = model.tokenize(pairs.positives, negatives.tokens.shape[1])
    replacement = _replacement(model.config, model.params, positives, negatives, ablation)
    return Trial(positives, targets(pairs), replacement)


@functools.partial(jax.jit, static_argnames=("config", "ablation"))
def _replacement(
    config: DecoderConfig,
    params: Any,
    positives: TokenBatch,
    negatives: TokenBatch,
    ablation: Ablation,
) -> Float[Array, "L #B #T H K"]:
    if ablation == "zero":
        return jnp.zeros((config.n_layers, 1, 1, config.n_heads, config.head_width))
    if ablation == "mean":
        real = negatives.mask.astype(jnp.float32)
        share = real / jnp.maximum(jnp.sum(real, axis=0, keepdims=True), 1)

        def mean(heads):
            return jnp.einsum("bthk,bt->thk", heads.z, share)[None]

        return interpose.capture(config, params, negatives, mean)[1]
    columns = interpose.counterparts(positives, negatives)

    def aligned(heads):
        return jnp.take_along_axis(heads.z, columns[:, :, None, None], axis=1)

    return interpose.capture(config, params, negatives, aligned)[1]
