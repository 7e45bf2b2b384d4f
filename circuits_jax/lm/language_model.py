"""A loaded language model: config, parameters and tokenizer, with logits for lists of prompts."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.decoder.batch import ContinuedBatch, TokenBatch
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.alignment import aligned_columns
from circuits_jax.lm.tokenizers import prompt_ids
from circuits_jax.runs.errors import InputError

LENGTH_MULTIPLE = 4  # prompts are padded to a multiple of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder with its weights and tokenizer.

    Attributes:
        name: what the user asked for, such as `smollm2` or a hub id.
        config: the decoder's settings.
        params: its parameters, as `lm/families/families.py` fills them.
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
        first, second = jax.device_put(tuple(zip(*halves, strict=True)))
        return TokenBatch(*first), TokenBatch(*second)

    def continued(
        self, batch: TokenBatch, continuations: Sequence[Sequence[tuple[int, ...]]]
    ) -> TokenBatch:
        """Prompts with what may follow each, so that logits after every token of it are there.

        Args:
            batch: B prompts.
            continuations: of each, lists of tokens, of which all but the last are put in; as
                `PromptPairs.continuations` has them.

        Returns:
            A `ContinuedBatch`, or `batch` where there is nothing to put in.

        Raises:
            InputError: a prompt and what follows it are longer than the context, or a token is not
                of the vocabulary.
        """
        rows = [[t for one in row for t in one[:-1]] for row in continuations]
        if not any(rows):
            return batch
        branches = [
            [n for n, one in enumerate(row, start=1) for _ in one[:-1]] for row in continuations
        ]
        longest = [max(map(len, row), default=0) for row in continuations]
        lengths = np.asarray(batch.mask).sum(axis=1) + np.array(longest) - 1
        if (lengths > self.config.n_positions).any():
            index = int(np.argmax(lengths))
            raise InputError(
                f"prompt {index} and its longest answer have {lengths[index] + 1} tokens; "
                f"{self.name} takes {self.config.n_positions} and says one more"
            )
        largest = max(t for row in continuations for one in row for t in one)
        if largest >= self.config.vocab_size:
            raise InputError(
                f"an answer has the token {largest}, and {self.name} an embedding of "
                f"{self.config.vocab_size} tokens; its tokenizer is another model's"
            )
        n_after = -(-max(map(len, rows)) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        after = np.zeros((2, len(rows), n_after), np.int32)
        for index, parts in enumerate(zip(rows, branches, strict=True)):
            after[:, index, : len(rows[index])] = parts
        tokens, mask = np.asarray(batch.tokens), np.asarray(batch.mask)
        columns = {
            "tokens": np.concatenate([tokens, after[0]], axis=1),
            "mask": np.concatenate([mask, after[1] > 0], axis=1),
            "branch": np.concatenate([np.zeros_like(tokens), after[1]], axis=1),
        }
        return ContinuedBatch(**jax.device_put(columns), n_after=n_after)

    def _rows(self, prompts: Sequence[str]) -> list[list[int]]:
        if isinstance(prompts, str):
            raise InputError(f"prompts is the text {prompts[:40]!r}; allowed is a list of texts")
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
        if ids and max(ids) >= self.config.vocab_size:
            raise InputError(
                f"prompt {index} ({prompt[:40]!r}) has the token {max(ids)}, and {self.name} an "
                f"embedding of {self.config.vocab_size} tokens; its tokenizer is another model's"
            )
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

        Raises:
            InputError: as `tokenize`, or a logit is not finite.
        """
        batches = split(self.tokenize(prompts), batch_size)
        rows = [interpose.last_logits(self.config, self.params, batch) for batch in batches]
        logits = jnp.concatenate(rows)[: len(prompts)]
        if not jnp.isfinite(logits).all():
            raise InputError(self.first_not_finite(prompts) or "a logit is not finite")
        return logits

    def first_not_finite(self, prompts: Sequence[str], batch_size: int = 32) -> str | None:
        """One sentence on the first part of the model that says NaN or infinity; None if none does.

        First by prompt, and then in the order in which a forward pass computes.
        """
        batch = self.tokenize(prompts)
        batches = split(batch, self.config.fitting(batch_size, 1, batch.tokens.shape[1]))
        rows = [_finite(self.config, self.params, batch) for batch in batches]
        streams, heads, between, mlps, logits = map(np.concatenate, zip(*rows, strict=True))
        wrong = np.flatnonzero(~logits[: len(prompts)])
        if not len(wrong):
            return None
        index = int(wrong[0])
        layer = int(np.argmin(np.append(streams[index, 1:], False)))  # the first that says it
        if not streams[index, 0]:
            part = "the embedding"
        elif layer == self.config.n_layers:
            part = "a logit"
        elif not heads[index, layer].all():
            part = f"the output of layer {layer} head {np.argmin(heads[index, layer])}"
        else:
            attention = mlps[index, layer] or not between[index, layer]
            part = f"the output of layer {layer}'s {'attention' if attention else 'MLP'}"
        return not_finite(part, index, prompts[index], self.params)


def not_finite(part: str, index: int, prompt: str, params: Any) -> str:
    """The sentence for a part of the model that says what is no number.

    It names the parameter that is none itself, if there is one.
    """
    cause = "check the model's weights, or load it in float32"
    for path, values in jax.tree_util.tree_leaves_with_path(params):
        if len(wrong := np.argwhere(~np.isfinite(values))):
            name, place = "/".join(str(entry.key) for entry in path), wrong[0].tolist()
            cause = f"the model's parameter {name} holds {values[tuple(place)]} at {place}"
            break
    return f"{part} is not finite on prompt {index} ({prompt[:40]!r}); {cause}"


@functools.partial(jax.jit, static_argnames="config")
def _finite(config: DecoderConfig, params: Any, batch: TokenBatch):
    """Whether all is finite at a prompt's tokens.

    Streams before each layer and at the end [B, L + 1], heads [B L H], what MLPs read and write
    [B L], and the whole [B], logits included.
    """

    def at_tokens(x):
        real = batch.mask.reshape(*batch.mask.shape, *[1] * (x.ndim - 2))
        return jnp.all(jnp.isfinite(x) | ~real, axis=(1, x.ndim - 1))

    def of_layer(record):
        return jax.tree.map(at_tokens, (record.stream, record.z, record.mlp_stream, record.mlp))

    stream, (streams, heads, between, mlps) = interpose.record(config, params, batch, of_layer)
    logits = jnp.isfinite(interpose.final_logits(config, params, batch, stream)).all(axis=1)
    streams = jnp.concatenate([streams, at_tokens(stream)[None]]).T
    return streams, heads.swapaxes(0, 1), between.T, mlps.T, logits & streams[:, -1]


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
