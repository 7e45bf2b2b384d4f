"""Partners of two prompts stand in one column: by hand, and whatever the prompts are."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from circuits_jax.lm.alignment import aligned_columns
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=9)


def laid_out(a, b):
    """Both as text, a dot where there is padding."""
    columns = aligned_columns(*(list(map(ord, side)) for side in (a, b)))
    width = 1 + max(at[-1] for at in columns)
    return tuple(
        "".join(dict(zip(at.tolist(), side, strict=True)).get(i, ".") for i in range(width))
        for side, at in zip((a, b), columns, strict=True)
    )


@pytest.mark.parametrize(
    ("short", "long", "as_positive", "as_negative"),
    [
        ("capital of J is", "capital of SK is", "capital of J. is", "capital of .J is"),
        ("in J we", "in UAE we", "in J.. we", "in ..J we"),
        ("J and I", "SK and I", "J. and I", ".J and I"),  # at the very beginning
        ("xyz", "zyx", "xyz", "xyz"),  # as long: one to one, common tokens or not
        ("x J, J y", "x SK, SK y", "x J., J. y", "x .J, .J y"),  # in two places
        ("ab", "abab", "a..b", "a..b"),  # one begins and ends as the other does
        ("ab", "abb", "a.b", "a.b"),
        ("a", "bca", "..a", "..a"),
        ("rx", "pxq", "r.x", ".rx"),  # the last tokens are partners, whatever they are
    ],
)
def test_by_hand(short, long, as_positive, as_negative):
    assert laid_out(short, long) == (as_positive, long)
    assert laid_out(long, short) == (long, as_negative)


@settings(deadline=None)
@given(a=TOKENS, b=TOKENS)
@example(a=[0, 1, 0, 1], b=[0, 1])
def test_of_any_prompts(a, b):
    """Rising columns; beginnings from the start, endings from the end, every column in use."""
    left, right = aligned_columns(a, b)
    assert (np.diff(left) > 0).all()
    assert (np.diff(right) > 0).all()
    assert left[-1] == right[-1]
    assert set(left) | set(right) == set(range(left[-1] + 1))
    same = [x == y for x, y in zip(a, b, strict=False)]
    start = same.index(False) if False in same else min(len(a), len(b))
    start = min(start, len(a) - 1, len(b) - 1)
    np.testing.assert_array_equal(left[:start], np.arange(start))
    np.testing.assert_array_equal(right[:start], np.arange(start))
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    np.testing.assert_array_equal(left[::-1][:end], right[::-1][:end])


def test_pairs_are_laid_out_in_two_batches_of_one_shape():
    model = tiny.model()
    positives = "when Ann went out", "then Ann and Bob gave it", "Gus"
    negatives = "when Bob and Cid went out", "then Hal gave it", "Fay"
    read = {0: "."} | dict(enumerate(tiny.WORDS))
    for side in ("left", "right"):
        rows = []
        for batch in model.tokenize_pairs(positives, negatives, side):
            assert batch.tokens.shape == batch.mask.shape == (3, 8)
            rows.append(
                [
                    " ".join(read[int(t)] if real else "." for t, real in zip(*row, strict=True))
                    for row in zip(batch.tokens, batch.mask, strict=True)
                ]
            )
        pads = {n: " ".join("." * n) for n in (2, 7)}
        wanted = [
            ["when Ann . . went out", "then Ann and Bob gave it", "Gus"],
            ["when Bob and Cid went out", "then . . Hal gave it", "Fay"],
        ]
        for found, texts in zip(rows, wanted, strict=True):
            for row, text in zip(found, texts, strict=True):
                pad = pads[8 - len(text.split())]
                assert row == (f"{pad} {text}" if side == "left" else f"{text} {pad}")


def test_padding_between_partners_may_pass_the_context():
    model = tiny.model()
    gap, same = "Ann " * 13, "it " * 10
    positives, negatives = model.tokenize_pairs([gap + same + "to"], [same + gap + "to"])
    for batch in (positives, negatives):
        assert int(batch.mask.sum()) == model.config.n_positions
    with pytest.raises(InputError, match=r"prompt 1 .* has 25 tokens; tiny takes 1 to 24"):
        model.tokenize_pairs(["Ann"], ["Ann " * 25])
    with pytest.raises(InputError, match="no prompts"):
        model.tokenize_pairs([], [])


@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_of_equal_length_are_laid_out_as_prompts_are(side):
    model, (positives, negatives, *_) = tiny.model(), zip(*tiny.pairs(4), strict=True)
    positives, negatives = ("Ann", *positives), ("Bob", *negatives)
    found = model.tokenize_pairs(positives, negatives, side)
    for batch, prompts in zip(found, (positives, negatives), strict=True):
        wanted = model.tokenize(prompts, side=side)
        np.testing.assert_array_equal(batch.tokens, wanted.tokens)
        np.testing.assert_array_equal(batch.mask, wanted.mask)
