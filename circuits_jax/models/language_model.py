"""A loaded language model: config, parameters and tokenizer, with logits for lists of prompts."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.errors import InputError
from circuits_jax.models.alignment import aligned_columns
from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.decoder import TokenBatch
from circuits_jax.models.tokenizers import prompt_ids

LENGTH_MULTIPLE = 4  # prompts are padded to a multiple of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder with its weights and tokenizer.

    Attributes:
        name: what the user asked for, such as `smollm2` or a hub id.
        config: the decoder's settings.
        params: its parameters, as `families.py` fills them.
        tokenizer: Hugging Face style: `tokenizer(text, add_special_tokens=True).input_ids`,
            `tokenizer.decode(ids)`.
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
        rows = self._rows(prompts)
        return self._laid_out(rows, [np.arange(len(row)) for row in rows], length, side)

    def tokenize_pairs(
        self,
        positives: Sequence[str],
        negatives: Sequence[str],
        side: Literal["left", "right"] = "right",
    ) -> tuple[TokenBatch, TokenBatch]:
        """Pairs as two batches of one shape: partners are in the same column (`alignment.py`).

        Raises:
            InputError: as `tokenize`.
        """
        rows = self._rows([*positives, *negatives])
        pairs = zip(*np.split(np.arange(len(rows)), 2), strict=True)
        columns = zip(*(aligned_columns(rows[i], rows[j]) for i, j in pairs), strict=True)
        both = self._laid_out(rows, list(itertools.chain(*columns)), 0, side)
        halves = (np.split(np.asarray(x), 2) for x in (both.tokens, both.mask))
        return tuple(TokenBatch(*side) for side in jax.device_put(tuple(zip(*halves, strict=True))))

    def _rows(self, prompts: Sequence[str]) -> list[list[int]]:
        rows = [self._token_ids(index, prompt) for index, prompt in enumerate(prompts)]
        if not rows:
            raise InputError("no prompts were given; at least one is needed")
        return rows

    def _laid_out(
        self,
        rows: Sequence[Sequence[int]],
        columns: Sequence[np.ndarray],
        length: int,
        side: Literal["left", "right"],
    ) -> TokenBatch:
        """Tokens in their columns, in a batch of at least `length`, padded on one side."""
        needed = max(length, *(row[-1] + 1 for row in columns))
        width = min(-(-needed // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self.config.n_positions)
        width = max(width, needed)  # padding between partners may take more than the context
        tokens = np.zeros((len(rows), width), np.int32)
        mask = np.zeros((len(rows), width), bool)
        for index, (row, at) in enumerate(zip(rows, columns, strict=True)):
            shifted = at + (0 if side == "right" else width - 1 - at[-1])
            tokens[index, shifted], mask[index, shifted] = row, True
        return TokenBatch(*jax.device_put((tokens, mask)))

    def _token_ids(self, index: int, prompt: str) -> list[int]:
        if not isinstance(prompt, str):
            raise InputError(f"prompt {index} is a {type(prompt).__name__}; a string is needed")
        ids = prompt_ids(self.tokenizer, prompt)
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


def split(batch: Any, batch_size: int) -> Iterator[Any]:
    """A TokenBatch, or any tree of rows, in parts of one shape; the first rows fill up the last.

    Concatenated results of the batches therefore begin with those of the rows of `batch`.
    """
    n = len(jax.tree.leaves(batch)[0])
    if n <= batch_size:
        yield batch
        return
    size = batch_size
    for start in range(0, n, size):
        rows = np.arange(start, start + size) % n
        yield jax.tree.map(lambda x, rows=rows: x[rows], batch)
