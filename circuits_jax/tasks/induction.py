"""Induction: a sequence of random words, repeated and cut inside the second copy.

" river blue stone cake river blue" is followed by " stone", because " blue" was before (Elhage et
al. 2021; Olsson et al., arXiv 2209.11895). Any model with induction heads does it.
"""

import math
import re

import numpy as np

from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.tokens import Tokenizer, balanced, next_token, require_capacity, token_ids

_WORD = re.compile(r" [a-z]{2,}")
_POOL = 256


def induction(
    tokenizer: Tokenizer, *, n: int, n_held_out: int, seed: int, length: int = 10
) -> Task:
    """The induction task: answer the token that followed, foil another of the sequence, logit_diff.

    Words are single tokens of the tokenizer's vocabulary, a space and lower-case letters, drawn by
    the seed. The cut leaves length // 2 to length - 1 words of the second copy (fewer hardly show
    that it is a copy), balanced in each split (counts differ by one at most). The foil is a word of
    the first copy that is neither the answer nor the last token. The negative has other words in
    place of the first copy; the second is the same, so the answer occurs nowhere in it.

    Args:
      tokenizer: its vocabulary gives the words.
      n: pairs that learn.
      n_held_out: pairs held out.
      seed: same seed, same prompts.
      length: words in a copy, at least 3.

    Raises:
      InputError: `length` is below 3, the vocabulary has fewer than 2 * length words, or more
        pairs are asked for than there are sequences.
    """
    check_allowed("length of task 'induction'", length, Range(3))
    rng = np.random.default_rng(seed)
    words = _vocabulary_words(tokenizer, rng, limit=max(_POOL, 2 * length))
    if len(words) < 2 * length:
        raise InputError(
            f"this tokenizer has {len(words)} tokens of a space and lower-case letters, "
            f"the induction task of length {length} needs at least {2 * length}"
        )
    require_capacity(
        n + n_held_out,
        math.perm(len(words), length),
        f"sequences of {length} of {len(words)} words",
    )
    seen: set[str] = set()
    return Task(
        name="induction",
        metric="logit_diff",
        learn=_pairs(rng, tokenizer, words, length, n, seen),
        held_out=_pairs(rng, tokenizer, words, length, n_held_out, seen),
        options={"n": n, "n_held_out": n_held_out, "seed": seed, "length": length},
    )


def _vocabulary_words(tokenizer: Tokenizer, rng: np.random.Generator, limit: int) -> dict[int, str]:
    """Token id -> its text, for at most `limit` random words that are one token in context."""
    words: dict[int, str] = {}
    for i in map(int, rng.permutation(len(tokenizer))):
        text = tokenizer.decode([i])
        if _WORD.fullmatch(text) and next_token(tokenizer, " the", text) == i:
            words[i] = text
            if len(words) == limit:
                break
    return words


def _pairs(
    rng: np.random.Generator,
    tokenizer: Tokenizer,
    words: dict[int, str],
    length: int,
    count: int,
    seen: set[str],
) -> PromptPairs:
    """`count` pairs whose positives are not in `seen`, which grows by them."""
    positives, negatives, answers, foils = [], [], [], []
    shortest = length // 2
    for cut in shortest + balanced(rng, length - shortest, count):
        positive = None
        while positive is None or positive in seen:
            ids = [int(i) for i in rng.choice(list(words), 2 * length, replace=False)]
            first, fresh = ids[:length], ids[length:]
            positive = _text(tokenizer, words, first + first[:cut])
        seen.add(positive)
        positives.append(positive)
        negatives.append(_text(tokenizer, words, fresh + first[:cut]))
        answers.append((first[cut],))
        foils.append((int(rng.choice(first[: cut - 1] + first[cut + 1 :])),))
    return PromptPairs(tuple(positives), tuple(negatives), tuple(answers), tuple(foils))


def _text(tokenizer: Tokenizer, words: dict[int, str], ids: list[int]) -> str:
    text = "".join(words[i] for i in ids)
    if token_ids(tokenizer, text) != tuple(ids):
        raise InputError(f"this tokenizer does not keep the single tokens of the prompt {text!r}")
    return text
