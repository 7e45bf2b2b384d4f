"""Prompts as tokens: which are real, where each stands in its text, where logits are wanted."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

FAR = np.iinfo(np.int32).max  # a distance outside of every window


@struct.dataclass
class TokenBatch:
    """Prompts as tokens, padded anywhere to one length; `mask` is True at real tokens.

    What a prompt computes does not depend on where its padding stands, but for rounding.
    """

    tokens: Int[Array, "B T"]
    mask: Bool[Array, "B T"]

    @property
    def positions(self) -> Int[Array, "B T"]:
        """Index of each token in its own prompt; padding has that of the token before it, or 0."""
        return jnp.maximum(jnp.cumsum(self.mask, axis=1, dtype=jnp.int32) - 1, 0)

    @property
    def lengths(self) -> Int[Array, "B T"]:
        """How many tokens the prompt of each token has."""
        n = jnp.sum(self.mask, axis=1, keepdims=True, dtype=jnp.int32)
        return jnp.broadcast_to(n, self.mask.shape)

    @property
    def distance(self) -> Int[Array, "B T T"]:
        """How many tokens before each of them (row) every other one (column) stands."""
        return self.positions[:, :, None] - self.positions[:, None, :]

    @property
    def last(self) -> Int[Array, " B"]:
        """Column of each prompt's last real token."""
        return self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)

    @property
    def ends(self) -> Int[Array, " B *Q"]:
        """Columns of the tokens after which logits are wanted: the last one of each prompt."""
        return self.last

    def at_ends(self, x: Float[Array, "B T D"]) -> Float[Array, "B Q D"]:
        """Of what there is of each token, that of those; Q is 1 where `ends` has one column."""
        ends = self.ends.reshape(len(self.mask), -1)
        return jnp.take_along_axis(x, ends[:, :, None], axis=1)

    def of_ends(self, y: Float[Array, "... B Q V"]) -> Float[Array, "..."]:
        """The shape of `ends` for what was computed of `at_ends`."""
        return y.reshape(*y.shape[:-3], *self.ends.shape, y.shape[-1])


@struct.dataclass
class ContinuedBatch(TokenBatch):
    """Prompts with the beginnings of several continuations of each: a tree in a row.

    Each token of a continuation sees its prompt and its own continuation up to itself, and has the
    positions it would have alone after the prompt. So one row computes what a row for every
    continuation would; a prompt computes the same as without them.

    Attributes:
        tokens, mask: [B T], the prompt in the first columns, wherever it is padded.
        branch: 0 at the prompt, and the number of each continuation, from 1, at its tokens.
        n_after: columns that are not the prompt's, the last ones.
    """

    branch: Int[Array, "B T"]
    n_after: int = struct.field(pytree_node=False)

    @property
    def _together(self) -> Bool[Array, "B T T"]:
        """Whether a token (row) and another one (column) are of one text, and the latter real."""
        own = self.branch[:, None, :] == self.branch[:, :, None]
        return (own | (self.branch[:, None, :] == 0)) & self.mask[:, None, :]

    @property
    def positions(self) -> Int[Array, "B T"]:
        """Index of each token in its own text; padding has that of the token before it, or 0."""
        before = jnp.tril(self._together)
        return jnp.maximum(jnp.sum(before, axis=2, dtype=jnp.int32) - 1, 0)

    @property
    def lengths(self) -> Int[Array, "B T"]:
        """How many tokens the prompt has, or the prompt and the continuation of the token."""
        return jnp.sum(self._together, axis=2, dtype=jnp.int32)

    @property
    def distance(self) -> Int[Array, "B T T"]:
        """How many tokens before each of them (row) every other one (column) stands.

        Beyond reach, `FAR`, where the two are not of one text.
        """
        return jnp.where(self._together, super().distance, FAR)

    @property
    def last(self) -> Int[Array, " B"]:
        """Column of each prompt's last token."""
        prompt = self.mask[:, : -self.n_after]
        return prompt.shape[1] - 1 - jnp.argmax(prompt[:, ::-1], axis=1)

    @property
    def ends(self) -> Int[Array, "B Q"]:
        """The last token of each prompt, and then all columns of its continuations."""
        n = self.mask.shape[1]
        after = jnp.broadcast_to(jnp.arange(n - self.n_after, n), (len(self.mask), self.n_after))
        return jnp.concatenate([self.last[:, None], after], axis=1)


def stacked(batches: Sequence[TokenBatch]) -> TokenBatch:
    """Batches of one shape as one, the rows of the first before those of the others."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *batches)
