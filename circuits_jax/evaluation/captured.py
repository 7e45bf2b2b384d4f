"""Rows that autoencoders see, by pair: so that other pairs than all can train, or can be counted.

`methods/sae_codes.py` uses all pairs for both. Bootstraps (`stability.py`) and sweeps (`sweep.py`)
capture once, and then take pairs from what was captured.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from circuits_jax.capture.head_outputs import paired_outputs, read_outputs
from circuits_jax.codes import sae
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.sae_codes import SaeCodes, checked_differences, inputs, scored
from circuits_jax.tasks import PromptPairs


@struct.dataclass
class CapturedOutputs:
    """Inputs of all autoencoders: [G, 2 B, R], or [1, G 2 B, D] for a shared one.

    Attributes:
        x: rows, positives of the B pairs first.
        scale: the unit that each autoencoder's rows are in.
        heads: (L, H).
        d_model: D.
    """

    x: Float[Array, "_ N R"]
    scale: Float[Array, " A"]
    heads: tuple[int, int] = struct.field(pytree_node=False)
    d_model: int = struct.field(pytree_node=False)

    def of_pairs(self, pairs: Int[Array | np.ndarray, " B"]) -> "CapturedOutputs":
        """The rows of some pairs, in that order; a pair may come again."""
        n_heads, width = self.heads[0] * self.heads[1], self.x.shape[-1]
        by_prompt = self.x.reshape(n_heads, -1, width)
        both = jnp.concatenate([pairs, pairs + by_prompt.shape[1] // 2])
        return dataclasses.replace(self, x=by_prompt[:, both].reshape(self.x.shape[0], -1, width))


def captured_outputs(
    model: LanguageModel, pairs: PromptPairs, options: SaeCodes
) -> CapturedOutputs:
    """What `sae_codes` would train on, of all pairs.

    Raises:
        InputError: unusable prompts, or an output that is not finite.
    """
    if options.position == "peak":
        moved = read_outputs(model, pairs, read_weight=options.read_weight)
        outputs = checked_differences(model, pairs, moved)
    else:
        outputs = paired_outputs(model, pairs, options.position)
    x, scale = inputs(outputs, options, model.config.head_width)
    return CapturedOutputs(x, scale, model.config.heads, outputs.shape[-1])


def head_scores(
    params: sae.SaeParams, rows: CapturedOutputs, options: SaeCodes
) -> Float[Array, "L H"]:
    """Scores of heads by autoencoders, [1 1 G ...], on rows that need not be those they saw."""
    return scored(params, rows.x, rows.scale, rows.heads, options)[0]
