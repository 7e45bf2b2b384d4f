"""A loaded language model: config, parameters and tokenizer, with logits for lists of prompts."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.errors import InputError
from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.decoder import TokenBatch

LENGTH_MULTIPLE = 4  # prompts are padded to a multiple of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder with its weights and tokenizer.

    Attributes:
        name: what the user asked for, such as `smollm2` or a hub id.
        config: the decoder's settings.
        params: its parameters, as `families.py` fills them.
        tokenizer: Hugging Face style: `tokenizer(text).input_ids`, `tokenizer.decode(ids)`.
    """

    name: str
    config: DecoderConfig
    params: Any = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)

    def tokenize(
        self, prompts: Sequence[str], length: int = 0, side: Literal["left", "right"] = "right"
    ) -> TokenBatch:
        """Prompts as tokens, padded on one side to one length, at least `length`.

        Raises:
            InputError: a prompt is no string, has no tokens, or is longer than the context.
        """
        rows = [self._token_ids(index, prompt) for index, prompt in enumerate(prompts)]
        if not rows:
            raise InputError("no prompts were given; at least one is needed")
        width = max(length, *(len(row) for row in rows))
        width = min(-(-width // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self.config.n_positions)
        tokens = np.zeros((len(rows), width), np.int32)
        mask = np.zeros((len(rows), width), bool)
        for index, row in enumerate(rows):
            columns = slice(len(row)) if side == "right" else slice(width - len(row), width)
            tokens[index, columns], mask[index, columns] = row, True
        return TokenBatch(*jax.device_put((tokens, mask)))

    def _token_ids(self, index: int, prompt: str) -> list[int]:
        if not isinstance(prompt, str):
            raise InputError(f"prompt {index} is a {type(prompt).__name__}; a string is needed")
        ids = self.tokenizer(prompt).input_ids
        limit = self.config.n_positions
        if not 0 < len(ids) <= limit:
            raise InputError(
                f"prompt {index} ({prompt[:40]!r}) has {len(ids)} tokens; "
                f"{self.name} takes 1 to {limit}"
            )
        return ids

    def logits(self, prompts: Sequence[str], batch_size: int = 32) -> Float[Array, "B V"]:
        """Logits of the next token after each prompt, float32.

        Other prompts in the list, and so padding, change a prompt's logits by rounding only.
        """
        batches = split(self.tokenize(prompts), batch_size)
        rows = [interpose.last_logits(self.config, self.params, batch) for batch in batches]
        return jnp.concatenate(rows)[: len(prompts)]


def split(batch: TokenBatch, batch_size: int) -> Iterator[TokenBatch]:
    """Batches of one static shape; the last is filled up with copies of the first rows.

    Concatenated results of the batches therefore begin with those of the rows of `batch`.
    """
    n = batch.tokens.shape[0]
    if n <= batch_size:
        yield batch
        return
    size = batch_size
    for start in range(0, n, size):
        rows = np.arange(start, start + size) % n
        yield jax.tree.map(lambda x, rows=rows: x[rows], batch)
