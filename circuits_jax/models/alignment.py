"""Which tokens of two prompts are partners, where one prompt has more tokens than the other.

A pair differs in a few words, and these may be of different numbers of tokens. What is compared
between the two prompts is compared token by token, so the others must stay in step: their common
beginning from the start, their common ending from the end. All that compares the prompts of a pair
takes them as `LanguageModel.tokenize_pairs` lays them out: in two batches of one shape, partners in
the same column, with padding where a prompt has no token.

One rule for tokens without a partner, everywhere: they do not move. On the positive prompt heads
say there what they say, whatever is patched or ablated by the negative; a difference is 0 there; a
mean over tokens leaves them out. What only the negative prompt has is not looked at. Zero ablation,
which needs no other prompt, is of all tokens.
"""

import difflib
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def aligned_columns(
    a: Sequence[int], b: Sequence[int]
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T2"]]:
    """The column of every token of two prompts, such that partners share one.

    Prompts of the same number of tokens are partners one to one. Else the longest common beginning
    is, and the longest common ending of the rest, at least the last token; what lies between is cut
    at the tokens in common that `difflib` finds, and each piece is aligned at its end.

    Args:
        a: token ids of a prompt, at least one.
        b: of the other.

    Returns:
        Two rising sequences; the last columns are equal, and every column up to there has a token.
    """
    if len(a) == len(b):
        return np.arange(len(a)), np.arange(len(b))
    shorter = min(len(a), len(b))
    start = _common(a[: shorter - 1], b[: shorter - 1])
    n_ending = max(1, _common(a[start:][::-1], b[start:][::-1]))
    middles = a[start:-n_ending], b[start:-n_ending]
    pieces = difflib.SequenceMatcher(None, *middles, autojunk=False).get_opcodes()
    sizes = [(start, start), *((j - i, m - k) for _, i, j, k, m in pieces), (n_ending, n_ending)]
    ends = np.cumsum([max(size) for size in sizes])
    return tuple(
        np.concatenate([np.arange(end - size, end) for end, size in zip(ends, side, strict=True)])
        for side in zip(*sizes, strict=True)
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    same = (x == y for x, y in zip(a, b, strict=False))
    return sum(itertools.takewhile(bool, same))
