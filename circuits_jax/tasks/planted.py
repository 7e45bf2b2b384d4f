"""Planted: prompts of random words for the circuit that was written into a planted model.

The two prompts of a pair differ in one word, the one that the answer hangs on:

    induction   w1 ... wn w1 ... wk, answered by the word after wk; wk is missing in the negative
    mlp         the same
    experts     the same
    duplicate   distinct words, and one of them again: yes; in the negative it is new: no
    previous    distinct words: the one before the last; another one in the negative
"""

from collections.abc import Callable, Mapping

import numpy as np

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.tokens import Tokenizer
from circuits_jax.tasks.words import made_for

Row = tuple[list[str], list[str], str, str]  # words of positive and negative, answer, foil

_LENGTH = 6  # words in the first copy of induction; other prompts have 6 to 11
_TRIES = 10_000


def planted(tokenizer: Tokenizer, *, n: int, n_held_out: int, seed: int) -> Task:
    """The task of a planted model, by logit_diff; all prompts are distinct.

    Args:
        tokenizer: of a model that `load_model("planted:LxH")` gave; it knows the circuit's kind.
        n: pairs that learn.
        n_held_out: pairs held out.
        seed: same seed, same prompts.

    Raises:
        InputError: another model's tokenizer, or more pairs than were found.
    """
    tokenizer = made_for(tokenizer, "planted", "planted:48x25")
    rng, seen, rows = np.random.default_rng(seed), set(), []
    words = [word for word in tokenizer.words[1:] if word not in ("yes", "no")]
    for _ in range(_TRIES):
        if len(rows) == n + n_held_out:
            break
        *prompts, answer, foil = _ROWS[tokenizer.program](rng, list(rng.permutation(words)))
        texts = [" ".join(prompt) for prompt in prompts]
        if not seen & set(texts):
            seen |= set(texts)
            rows.append((*texts, (tokenizer.ids[answer],), (tokenizer.ids[foil],)))
    if len(rows) < n + n_held_out:
        raise InputError(
            f"n + n_held_out = {n + n_held_out} pairs were asked for, only {len(rows)} were found"
        )
    pairs = PromptPairs(*map(tuple, zip(*rows, strict=True)))
    return Task(
        name="planted",
        metric="logit_diff",
        learn=pairs[:n],
        held_out=pairs[n:],
        truths=(tokenizer.truth,),
        options={"n": n, "n_held_out": n_held_out, "seed": seed},
    )


def _induction(rng: np.random.Generator, words: list[str]) -> Row:
    first, other = words[:_LENGTH], words[_LENGTH]
    cut = int(rng.integers(_LENGTH // 2, _LENGTH))
    broken = [*first[: cut - 1], other, *first[cut:]]
    foil = str(rng.choice(first[: cut - 1] + first[cut + 1 :]))
    return first + first[:cut], broken + first[:cut], first[cut], foil


def _duplicate(rng: np.random.Generator, words: list[str]) -> Row:
    *some, other = words[: int(rng.integers(6, 12))]
    place = int(rng.integers(len(some)))
    negative = [*some[:place], other, *some[place + 1 :]]
    return [*some, some[place]], [*negative, some[place]], "yes", "no"


def _previous(rng: np.random.Generator, words: list[str]) -> Row:
    *some, other = words[: int(rng.integers(7, 13))]
    return some, [*some[:-2], other, some[-1]], some[-2], other


_ROWS: Mapping[str, Callable[[np.random.Generator, list[str]], Row]] = {
    "induction": _induction,
    "mlp": _induction,
    "experts": _induction,
    "duplicate": _duplicate,
    "previous": _previous,
}
