"""What the prompt builders ask of a tokenizer, and how they draw in balance.

Nothing about a tokenizer is assumed: a word counts as one token only where the prompt before it
keeps its own tokens and the word adds exactly one.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from circuits_jax.runs.errors import InputError


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the builders use."""

    def __call__(self, text: str, *, add_special_tokens: bool = True):
        """An object whose `input_ids` are the token ids of `text`."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`."""

    def __len__(self) -> int:
        """The number of token ids."""


def token_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of `text` alone, as a model sees them after what the tokenizer puts in front."""
    return tuple(int(i) for i in tokenizer(text, add_special_tokens=False).input_ids)


def next_token(tokenizer: Tokenizer, prompt: str, continuation: str) -> int | None:
    """The t with tokens(prompt + continuation) == tokens(prompt) + [t], None if there is none."""
    before = token_ids(tokenizer, prompt)
    after = token_ids(tokenizer, prompt + continuation)
    return after[-1] if len(after) == len(before) + 1 and after[:-1] == before else None


def following_tokens(tokenizer: Tokenizer, prompt: str, text: str) -> tuple[int, ...] | None:
    """The tokens of a text that follow those of its prompt; None if there are none.

    Where the two merge, as in scripts without spaces, those of the text by itself, if they say it.
    """
    before, whole = token_ids(tokenizer, prompt), token_ids(tokenizer, prompt + text)
    after = whole[len(before) :]
    if after and whole[: len(before)] == before:
        return after
    own = token_ids(tokenizer, text)
    said = bool(own) and tokenizer.decode([*before, *own]) == tokenizer.decode(whole)
    return own if said else None


def single_token_words(
    tokenizer: Tokenizer, words: Iterable[str], contexts: Sequence[str], *, needed: int, kind: str
) -> tuple[str, ...]:
    """The words that are one token after every context, in their order.

    A space that ends a context belongs to the token of the word: after "The " the word war is
    " war".

    Raises:
      InputError: fewer than `needed` words pass; names `kind`, the counts found and needed.
    """
    parts = [(context.rstrip(" "), " " * context.endswith(" ")) for context in contexts]
    found = tuple(
        word
        for word in words
        if all(next_token(tokenizer, text, space + word) is not None for text, space in parts)
    )
    if len(found) < needed:
        raise InputError(
            f"this tokenizer has {len(found)} {kind} that are one token each, "
            f"the task needs at least {needed}"
        )
    return found


def answer_token(tokenizer: Tokenizer, prompt: str, continuation: str) -> int:
    """`next_token`, where a continuation of several tokens is an error.

    Raises:
      InputError: `continuation` is not one token after `prompt`.
    """
    token = next_token(tokenizer, prompt, continuation)
    if token is None:
        raise InputError(f"{continuation!r} is not one token after the prompt {prompt!r}")
    return token


def changed_positions(tokenizer: Tokenizer, positive: str, negative: str) -> tuple[int, ...]:
    """Token positions in which two prompts of equal token count differ.

    Raises:
      InputError: the prompts differ in their number of tokens.
    """
    a, b = token_ids(tokenizer, positive), token_ids(tokenizer, negative)
    if len(a) != len(b):
        raise InputError(
            f"this tokenizer makes {len(a)} tokens of the positive prompt {positive!r} and "
            f"{len(b)} of its negative {negative!r}; a pair needs equal numbers"
        )
    return tuple(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


def balanced(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` indices below `size` in random order, whose frequencies differ by one at most."""
    rounds = -(-count // size)
    indices = [rng.permutation(size) for _ in range(rounds)]
    return np.concatenate(indices)[:count] if indices else np.zeros(0, int)


def require_capacity(asked: int, capacity: int, what: str) -> None:
    """Refuses to make more distinct prompts than there are.

    Raises:
      InputError: `asked` exceeds `capacity`; names both and `what` limits them.
    """
    if asked > capacity:
        raise InputError(
            f"n + n_held_out = {asked} distinct prompts were asked for, "
            f"but only {capacity} exist ({what})"
        )
