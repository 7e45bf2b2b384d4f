"""Step 2 of the method: what every attention head writes, for every prompt (arXiv 2405.12522).

Head g of a prompt has the output `z_g W_O_g` in R^D. Pooling over tokens commutes with the
multiplication, so z is pooled inside the forward pass, to [B L H K], and multiplied once.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.errors import InputError
from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.decoder import TokenBatch
from circuits_jax.models.language_model import LanguageModel, split
from circuits_jax.tasks import PromptPairs

Position = Literal["last", "mean", "all"]
POSITIONS = ("last", "mean", "all")


def head_outputs(
    model: LanguageModel,
    prompts: Sequence[str],
    position: Position = "mean",
    *,
    relative: bool = False,
    batch_size: int = 32,
) -> Float[Array, "B L H D"] | Float[Array, "B T L H D"]:
    """The output z W_O of every attention head, without the bias that the heads share.

    Args:
        model: a loaded model.
        prompts: B strings.
        position: `last` token, `mean` over the prompt's tokens, or `all` tokens ([B T L H D], zero
            at padding, which is on the right).
        relative: measure outputs, token by token, in units of the residual stream: its root mean
            square before the layer.
        batch_size: prompts in one forward pass.

    Returns:
        [B L H D], float32 (a [B T L H D] array for `all`). Summed over H, and with the bias added,
        a layer's outputs are what its attention writes to the residual stream.

    Raises:
        InputError: an unknown position, unusable prompts, or an output that is not finite.
    """
    if position not in POSITIONS:
        raise InputError(f"position is {position!r}; allowed are {', '.join(POSITIONS)}")
    batches = split(model.tokenize(prompts), batch_size)
    rows = [_project(*_pooled(model.config, model.params, b, position, relative)) for b in batches]
    outputs = jnp.concatenate(rows)[: len(prompts)]
    check_finite(outputs, prompts)
    return outputs


def peak_outputs(
    model: LanguageModel, pairs: PromptPairs, batch_size: int = 32
) -> Float[Array, "B L H D"]:
    """Each head's output on both prompts of a pair, at the token where the two differ most.

    In units of the residual stream, as `relative` in `head_outputs`. Tokens of a pair are aligned
    at the last one; those that only one prompt has are not looked at. A head's peak is its own.

    Returns:
        The positives, then the negatives: [2 B', L, H, D] for B' pairs. Equal where the prompts
        are equal; at every other token the two differ by no more than here.
    """
    length = model.tokenize([*pairs.positives, *pairs.negatives]).tokens.shape[1]
    sides = [
        split(model.tokenize(prompts, length, side="left"), max(batch_size // 2, 1))
        for prompts in (pairs.positives, pairs.negatives)
    ]
    rows = [_project(*_peak(model.config, model.params, p, n)) for p, n in zip(*sides, strict=True)]
    halves = zip(*(jnp.split(row, 2) for row in rows), strict=True)
    outputs = jnp.concatenate([jnp.concatenate(half)[: len(pairs)] for half in halves])
    check_finite(outputs, [*pairs.positives, *pairs.negatives])
    return outputs


@functools.partial(jax.jit, static_argnames="config")
def _peak(
    config: DecoderConfig, params: Any, positives: TokenBatch, negatives: TokenBatch
) -> tuple[Float[Array, "L B H K"], Float[Array, "L H K D"]]:
    """Z of both prompts at each head's peak, found in the pass; and W_O."""
    shared = positives.mask & negatives.mask

    def at_peak(heads):
        z = heads.z.astype(jnp.float32) / jnp.maximum(heads.scale, 1e-6)[..., None, None]
        positive, negative = jnp.split(z, 2)
        difference, w_o = positive - negative, heads.w_o.astype(jnp.float32)
        gram = jnp.einsum("hkd,hmd->hkm", w_o, w_o)  # |z W_O|^2 = z (W_O W_O^T) z^T
        moved = jnp.einsum("bthk,hkm,bthm->bth", difference, gram, difference)
        peak = jnp.argmax(jnp.where(shared[:, :, None], moved, -1), axis=1)[:, None, :, None]
        return jnp.concatenate(
            [jnp.take_along_axis(x, peak, axis=1)[:, 0] for x in (positive, negative)]
        )

    both = jax.tree.map(lambda *sides: jnp.concatenate(sides), positives, negatives)
    _, z = interpose.capture(config, params, both, at_peak)
    return z, params["layers"]["attention"]["o"]


def token_weights(batch: TokenBatch, position: Position) -> Float[Array, "B T"]:
    """How much each token counts; sums to 1 over tokens, or is 1 at each real token for `all`."""
    if position == "last":
        return jax.nn.one_hot(batch.last, batch.mask.shape[1])
    weights = batch.mask.astype(jnp.float32)
    return weights if position == "all" else weights / jnp.sum(weights, axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames=("config", "position", "relative"))
def _pooled(
    config: DecoderConfig, params: Any, batch: TokenBatch, position: Position, relative: bool
) -> tuple[Float[Array, "L B ... H K"], Float[Array, "L H K D"]]:
    """Pooled z, and the W_O that turns it into outputs."""
    weights = token_weights(batch, position)
    subscripts = "bthk,bt->bthk" if position == "all" else "bthk,bt->bhk"

    def pool(heads):
        weight = weights / jnp.maximum(heads.scale, 1e-6) if relative else weights
        return jnp.einsum(subscripts, heads.z.astype(jnp.float32), weight)

    _, z = interpose.capture(config, params, batch, pool)
    return z, params["layers"]["attention"]["o"]


@jax.jit
def _project(z: Array, w_o: Float[Array, "L H K D"]) -> Float[Array, "B ... L H D"]:
    return jnp.einsum("l...hk,lhkd->...lhd", z, w_o.astype(jnp.float32))


def check_finite(outputs: Float[Array, "B ... L H D"], prompts: Sequence[str]) -> None:
    """Raise InputError, naming prompt and head, where an output is NaN or infinite."""
    finite = np.asarray(jnp.all(jnp.isfinite(outputs), axis=-1))
    if not finite.all():
        index = np.argwhere(~finite)[0]
        raise InputError(
            f"the output of layer {index[-2]} head {index[-1]} is not finite on prompt {index[0]} "
            f"({prompts[index[0]][:40]!r}); check the model's weights, or load it in float32"
        )
