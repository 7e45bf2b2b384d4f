"""Step 4 to 6 of the method: from integer codes to scores of heads and of directed head pairs.

`codes` [B G] are integers: which of its F codes each head used on each prompt, F for none. The
published scores (arXiv 2405.12522, s. 3.3) count what occurs in positive prompts and never in
negative ones:

    unique            codes                                 (of a head)
    unique_fraction   the same, over the codes seen at all
    pairs             code pairs that occur together        (of two heads)

`evidence` and `evidence_pairs` are ours: they compare the two prompts of each pair, and weigh each
occurrence by what the code says.

All scores have one sign: higher = in the circuit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.runs.precision import einsum


def unique(positive: Int[Array, "B G"], negative: Int[Array, "B2 G"]) -> Float[Array, " G"]:
    """Number of distinct codes that occur in positives and never in negatives.

    Between 0 and the number of positive prompts; 0 where both used the same codes.
    """
    return jnp.sum(_is_new(_same(positive, positive), _same(positive, negative)), axis=0) * 1.0


def unique_fraction(
    positive: Int[Array, "B G"], negative: Int[Array, "B2 G"]
) -> Float[Array, " G"]:
    """`unique` over the number of distinct codes in both kinds of prompts; in [0, 1]."""
    both = jnp.concatenate([positive, negative])
    seen = jnp.sum(_is_first(_same(both, both)), axis=0)
    return unique(positive, negative) / seen


def unique_pairs(positive: Int[Array, "B G"], negative: Int[Array, "B2 G"]) -> Float[Array, "G G"]:
    """Number of distinct code pairs of two heads that occur in positives and never in negatives.

    A pair on prompt b is new if no negative prompt and no earlier positive prompt agrees with b in
    both heads. So no [G G F F] counts are held: for each b, one product of [G J] matrices, J the
    prompts compared with. Symmetric; the diagonal is `unique`.
    """
    order = jnp.arange(positive.shape[0])

    def count(total, b):
        earlier = (positive == positive[b][None]) & (order < b)[:, None]
        agrees = jnp.concatenate([earlier, negative == positive[b][None]]).astype(jnp.float32)
        return total + (einsum("jg,jh->gh", agrees, agrees) == 0), None

    n_heads = positive.shape[1]
    return jax.lax.scan(count, jnp.zeros((n_heads, n_heads)), order)[0]


def evidence(
    positive: Int[Array, "B G"], negative: Int[Array, "B G"], strength: Float[Array, "B G"]
) -> Float[Array, " G"]:
    """Mean strength, over pairs, of positive codes that the pair's own negative does not have.

    0 for a silent head. Other pairs' negatives are not looked at: a task may go both ways (he or
    she), and then what tells a pair's prompts apart occurs in positives and negatives alike.
    """
    return jnp.mean(jnp.where(positive == negative, 0, strength), axis=0)


def evidence_pairs(
    positive: Int[Array, "B G"], negative: Int[Array, "B G"], strength: Float[Array, "B G"]
) -> Float[Array, "G G"]:
    """Mean strength, over pairs, of positive code pairs that the pair's negative does not have.

    The strength of a code pair is the geometric mean of its two. The diagonal is `evidence`.
    """
    root = jnp.sqrt(strength)
    same = jnp.where(positive == negative, root, 0)  # the negative has both codes: no evidence
    together = einsum("bg,bh->gh", root, root) - einsum("bg,bh->gh", same, same)
    return together / positive.shape[0]


def directed(pairs: Float[Array, "G G"], heads: tuple[int, int]) -> Float[Array, "G G"]:
    """Pair scores kept where the first head's layer is earlier than the second's; else 0."""
    layer = np.repeat(np.arange(heads[0]), heads[1])
    return jnp.where(layer[:, None] < layer[None, :], pairs, 0)


def endpoint_counts(edges: Float[Array, "G G"], n_edges: int) -> Float[Array, " G"]:
    """Head scores from edges: in how many of the best `n_edges` edges each head takes part.

    Edges of score 0 count for nothing, so the sum is at most 2 `n_edges`.
    """
    n_heads = edges.shape[0]
    scores, best = jax.lax.top_k(edges.reshape(-1), min(n_edges, edges.size))
    ends = jnp.concatenate([best // n_heads, best % n_heads])
    return jnp.zeros(n_heads).at[ends].add(jnp.tile(scores > 0, 2).astype(jnp.float32))


def _same(a: Int[Array, "B G"], b: Int[Array, "B2 G"]) -> Bool[Array, "B B2 G"]:
    return a[:, None] == b[None]


def _is_first(same: Bool[Array, "B B G"]) -> Bool[Array, "B G"]:
    """No earlier prompt has the same code."""
    order = jnp.arange(same.shape[0])
    return ~jnp.any(same & (order[None, :] < order[:, None])[:, :, None], axis=1)


def _is_new(within: Bool[Array, "B B G"], across: Bool[Array, "B B2 G"]) -> Bool[Array, "B G"]:
    """First use of a code that no negative prompt has."""
    return _is_first(within) & ~jnp.any(across, axis=1)
