"""Two prompts that begin alike as one row: what they share is computed once.

A causal decoder computes the same at the same beginning. So the second prompt of a pair needs only
its ending, from where it first differs: the row is the first prompt, and then that ending, whose
tokens see the shared beginning and each other. A pair of IOI prompts takes 28 tokens, not 40.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, Shaped

from circuits_jax.decoder.batch import FAR, TokenBatch


@struct.dataclass
class ForkedBatch(TokenBatch):
    """Rows of T + Q columns: a prompt in T of them, padded anywhere, and Q that end another one.

    Attributes:
        tokens, mask: [B T + Q]; the other prompt is the first T - Q columns and the last Q.
        n_ending: Q.
    """

    n_ending: int = struct.field(pytree_node=False)

    @property
    def length(self) -> int:
        """T."""
        return self.tokens.shape[1] - self.n_ending

    @property
    def first(self) -> TokenBatch:
        """The first prompt of each row."""
        return TokenBatch(self.tokens[:, : self.length], self.mask[:, : self.length])

    @property
    def positions(self) -> Int[Array, "B T"]:
        """Index of each token in its own prompt."""
        tokens, mask = self.second(self.tokens), self.second(self.mask)
        ending = TokenBatch(tokens, mask).positions[:, -self.n_ending :]
        return jnp.concatenate([self.first.positions, ending], axis=1)

    @property
    def lengths(self) -> Int[Array, "B T"]:
        """How many tokens the prompt of each token has; of the shared beginning, the first."""
        second = TokenBatch(self.second(self.tokens), self.second(self.mask))
        ending = second.lengths[:, -self.n_ending :]
        return jnp.concatenate([self.first.lengths, ending], axis=1)

    @property
    def distance(self) -> Int[Array, "B T T"]:
        """How many tokens before each of them (row) every other one (column) stands.

        Beyond reach, `FAR`, where the two are not of one prompt.
        """
        columns = jnp.arange(self.tokens.shape[1])
        of_second = columns >= self.length
        shared = columns < self.length - self.n_ending
        together = shared[None, :] | (of_second[:, None] == of_second[None, :])
        return jnp.where(together[None], super().distance, FAR)

    def second(self, x: Shaped[Array, "B T ..."]) -> Shaped[Array, "B T2 ..."]:
        """Of what there is of each token, that of the second prompt."""
        shared = self.length - self.n_ending
        return jnp.concatenate([x[:, :shared], x[:, self.length :]], axis=1)

    def endings(
        self, x: Shaped[Array, "B T ..."]
    ) -> tuple[Shaped[Array, "B Q ..."], Shaped[Array, "B Q ..."]]:
        """Of what there is of each token, that of both endings."""
        return x[:, self.length - self.n_ending : self.length], x[:, self.length :]


def fork(prompts: TokenBatch, multiple: int = 1) -> ForkedBatch:
    """Both prompts of each pair in one row.

    Args:
        prompts: 2 B prompts: the first ones of all pairs, then the second ones, aligned to end in
            the same column (`LanguageModel.tokenize_pairs`).
        multiple: of which Q is to be, so that few shapes are compiled.

    Returns:
        B rows with the smallest such Q, at most T. A model that is not causal needs Q = T, which
        `multiple` = T gives.
    """
    tokens, mask = (np.split(np.asarray(x), 2) for x in (prompts.tokens, prompts.mask))
    differs = np.any((tokens[0] != tokens[1]) | (mask[0] != mask[1]), axis=0)
    length = len(differs)
    n_ending = length - int(np.argmax(differs)) if differs.any() else 1
    n_ending = min(-(-n_ending // multiple) * multiple, length)
    rows = [np.concatenate([a, b[:, length - n_ending :]], axis=1) for a, b in (tokens, mask)]
    tokens, mask = jax.device_put(rows)
    return ForkedBatch(tokens, mask, n_ending)
