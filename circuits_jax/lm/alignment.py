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
    at the tokens in common that `difflib` finds. Of a piece in which b has more tokens, a's are
    partners of the first of them: they come after the same tokens, so that heads that look a token
    back see no shift. Where a has more, its last ones have partners: they tell the rest what the
    piece says.

    Args:
        a: token ids of the positive prompt, at least one.
        b: of the negative one.

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
    placed = list(zip(ends, sizes, strict=True))
    return (
        np.concatenate([np.arange(n) + end - max(n, m) for end, (n, m) in placed]),
        np.concatenate([np.arange(m) + end - m for end, (_, m) in placed]),
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    same = (x == y for x, y in zip(a, b, strict=False))
    return sum(itertools.takewhile(bool, same))
