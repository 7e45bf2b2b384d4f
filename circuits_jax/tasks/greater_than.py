"""Greater-than (Hanna et al., arXiv 2305.00586).

"The siege lasted from the year 1732 to the year 17" is followed by a year above 32. Two kinds of
tokenizer serve: one that makes a token of the century and one of the two last digits (GPT-2), and
one that splits a number into digits (Llama, Qwen, SmolLM2).

Negatives, each with as many tokens as its positive. The names and the ROC AUC in brackets are those
of arXiv 2405.12522, the definitions are the variants in its code that fit the names:
  range: YY becomes 01, so that every year is greater (.858).
  year: the second century is the one before the first, so that no year is greater (.816).
  random: YY becomes two random capital letters, so that there is no year to exceed (.741).
  unrelated: a sentence about the noun without years, cut to the length of the positive (.739;
    theirs is shorter than its positive).
  copy: the same prompt one year later, or the next year with as many tokens; it can be continued as
    well as the positive, which makes it the control (.612).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import lcm
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.ground_truth import ground_truths
from circuits_jax.tasks.tokens import (
    Tokenizer,
    next_token,
    require_capacity,
    single_token_words,
    token_ids,
)

_NOUNS = (
    "war siege reign famine truce drought plague revolt crisis strike trial mission empire "
    "colony alliance project program tradition regime period search debate voyage marriage "
    "career exile partnership boom campaign migration transition winter festival occupation "
    "conflict blockade rebellion struggle peace trade"
)
NOUNS = tuple(_NOUNS.split())
CENTURIES = tuple(range(12, 20))
TEMPLATE = "The {noun} lasted from the year {year} to the year {century}"
_UNRELATED = (
    "She said that the {noun} was not what any of them had come to talk about so they all went "
    "out to the garden and sat down in the sun for a while"
)


def greater_than(
    tokenizer: Tokenizer, *, n: int, n_held_out: int, seed: int, negatives: str = "range"
) -> Task:
    """The greater-than task: years 12YY to 19YY, metric prob_diff.

    Two-digit tokens: YY is 02..98, the answers are the tokens above YY and the foils those not
    above. Split digits: the next token is a single digit, so the answers are the digits above the
    first digit of YY and the foils those below; the digit itself, a tie, decides nothing and is
    neither. There a first digit of 0 or 9 leaves one side empty, so YY is 10..89. Years that the
    tokenizer writes otherwise (such as 1945 in one token) are not used.

    YY comes in rounds and is balanced in each split (counts differ by one at most); centuries are
    the least used one that fits; no pair of YY and noun comes twice. (Range negatives forget YY, so
    two of them can be equal once there are more pairs than nouns.)

    Args:
      tokenizer: of one of the two kinds.
      n: pairs that learn.
      n_held_out: pairs held out.
      seed: same seed, same prompts.
      negatives: "range", "year", "random", "unrelated" or "copy", as defined above.

    Raises:
      InputError: unknown kind of negatives, a tokenizer of neither kind, more pairs asked for than
        there are pairs of YY and noun, or a negative that no choice makes as long as its positive.
    """
    if negatives not in _NEGATIVES:
        known = ", ".join(_NEGATIVES)
        raise InputError(f"unknown negatives {negatives!r} of task 'greater_than'; known: {known}")
    rng = np.random.default_rng(seed)
    nouns = single_token_words(
        tokenizer, NOUNS, ("The ",), needed=1, kind="of the nouns of the greater-than task"
    )
    years = _years(tokenizer)
    pairs = [
        (
            prompt.text(),
            _aligned_negative(tokenizer, rng, prompt, negatives),
            *years[prompt.century, prompt.yy],
        )
        for prompt in _balanced_prompts(rng, nouns, years, n, n_held_out)
    ]
    return Task(
        name="greater_than",
        metric="prob_diff",
        learn=PromptPairs(*map(tuple, zip(*pairs[:n], strict=True))),
        held_out=PromptPairs(*map(tuple, zip(*pairs[n:], strict=True))),
        truths=ground_truths("greater_than"),
        options={"n": n, "n_held_out": n_held_out, "seed": seed, "negatives": negatives},
    )


@dataclass(frozen=True)
class _Prompt:
    """One positive prompt: noun, first two digits and last two digits of the year."""

    noun: str
    century: int
    yy: int

    def text(self, year: str | None = None, end: int | None = None) -> str:
        """The prompt, with another first year or another second century where given."""
        year = f"{self.century}{self.yy:02d}" if year is None else year
        end = self.century if end is None else end
        return TEMPLATE.format(noun=self.noun, year=year, century=end)


class _Continuations(NamedTuple):
    """Token ids that follow a prompt rightly and wrongly."""

    answers: tuple[int, ...]
    foils: tuple[int, ...]


def _years(tokenizer: Tokenizer) -> Mapping[tuple[int, int], _Continuations]:
    """(century, YY) -> answers and foils, for the years that the tokenizer writes as it should."""
    years = _two_digit_years(tokenizer) or _split_digit_years(tokenizer)
    if not years:
        sample = [tokenizer.decode([i]) for i in token_ids(tokenizer, "the year 1732")]
        raise InputError(
            "the greater-than task needs a tokenizer that writes a year as century and two digits "
            f"or digit by digit; this one writes 'the year 1732' as {sample}"
        )
    return years


def _two_digit_years(tokenizer: Tokenizer) -> dict[tuple[int, int], _Continuations]:
    years = {}
    for century in CENTURIES:
        found = {yy: next_token(tokenizer, _end(century), f"{yy:02d}") for yy in range(100)}
        ids = {yy: token for yy, token in found.items() if token is not None}
        for yy in ids.keys() & range(2, 99) if 1 in ids else ():
            answers = tuple(token for other, token in ids.items() if other > yy)
            foils = tuple(token for other, token in ids.items() if other <= yy)
            if answers:
                years[century, yy] = _Continuations(answers, foils)
    return years


def _split_digit_years(tokenizer: Tokenizer) -> dict[tuple[int, int], _Continuations]:
    years = {}
    for century in CENTURIES:
        before = token_ids(tokenizer, _end(century))
        found = [next_token(tokenizer, _end(century), str(digit)) for digit in range(10)]
        digits = [token for token in found if token is not None]
        if len(digits) < 10:
            continue
        for yy in range(10, 90):
            first, second = divmod(yy, 10)
            written = token_ids(tokenizer, f"{_end(century)}{yy}")
            if written == (*before, digits[first], digits[second]):
                years[century, yy] = _Continuations(
                    tuple(digits[first + 1 :]), tuple(digits[:first])
                )
    return years


def _end(century: int) -> str:
    return f"The war lasted from the year {century}"


def _balanced_prompts(
    rng: np.random.Generator,
    nouns: tuple[str, ...],
    years: Mapping[tuple[int, int], _Continuations],
    n: int,
    n_held_out: int,
) -> list[_Prompt]:
    """All prompts, with YY (a of them), nouns (b of them) and centuries in balance.

    m -> (m mod a, (m + m div lcm(a, b)) mod b) is one to one below a * b, so YY and nouns both
    come in rounds and no pair of the two comes twice.
    """
    yys = rng.permutation(sorted({yy for _, yy in years}))
    shuffled = rng.permutation(nouns)
    a, b = len(yys), len(shuffled)
    require_capacity(n + n_held_out, a * b, f"one for each of {a} numbers YY and {b} nouns")
    prompts = []
    used = dict.fromkeys(CENTURIES, 0)
    for m in range(n + n_held_out):
        if m == n:
            used = dict.fromkeys(CENTURIES, 0)
        yy = int(yys[m % a])
        fitting = [int(c) for c in rng.permutation(CENTURIES) if (c, yy) in years]
        century = min(fitting, key=used.__getitem__)
        used[century] += 1
        prompts.append(_Prompt(str(shuffled[(m + m // lcm(a, b)) % b]), century, yy))
    return prompts


def _aligned_negative(
    tokenizer: Tokenizer, rng: np.random.Generator, prompt: _Prompt, kind: str
) -> str:
    """The first negative of this kind with as many tokens as the positive prompt."""
    length = len(token_ids(tokenizer, prompt.text()))
    for negative in _NEGATIVES[kind](rng, prompt):
        if len(token_ids(tokenizer, negative)) == length:
            return negative
    raise InputError(
        f"no negative of kind {kind!r} has {length} tokens, as its positive prompt "
        f"{prompt.text()!r} has with this tokenizer"
    )


def _range(rng: np.random.Generator, prompt: _Prompt) -> Iterator[str]:
    yield prompt.text(year=f"{prompt.century}01")


def _year(rng: np.random.Generator, prompt: _Prompt) -> Iterator[str]:
    yield prompt.text(end=prompt.century - 1)


def _random(rng: np.random.Generator, prompt: _Prompt) -> Iterator[str]:
    letters = rng.permutation(["".join(pair) for pair in product(ascii_uppercase, repeat=2)])
    return (prompt.text(year=f"{prompt.century}{pair}") for pair in letters)


def _unrelated(rng: np.random.Generator, prompt: _Prompt) -> Iterator[str]:
    words = _UNRELATED.format(noun=prompt.noun).split()
    return (" ".join(words[:stop]) for stop in range(1, len(words) + 1))


def _copy(rng: np.random.Generator, prompt: _Prompt) -> Iterator[str]:
    later = range(prompt.yy + 1, 100)
    return (prompt.text(year=f"{prompt.century}{yy:02d}") for yy in later)


_NEGATIVES: Mapping[str, Callable[[np.random.Generator, _Prompt], Iterator[str]]] = {
    "range": _range,
    "year": _year,
    "random": _random,
    "unrelated": _unrelated,
    "copy": _copy,
}
