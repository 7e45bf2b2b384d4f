from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.tokens import (
    Tokenizer,
    answer_token,
    balanced,
    changed_positions,
    next_token,
    single_token_words,
    token_ids,
)


@given(seed=st.integers(0, 2**31), size=st.integers(1, 12), count=st.integers(0, 60))
def test_balanced_counts_differ_by_one_at_most(seed, size, count):
    drawn = balanced(np.random.default_rng(seed), size, count)
    counts = Counter(drawn.tolist())
    assert len(drawn) == count
    assert set(counts) <= set(range(size))
    assert max(counts.values(), default=0) - min(counts[i] for i in range(size)) <= 1


def test_small_tokenizer_meets_the_contract(tokenizer):
    assert isinstance(tokenizer, Tokenizer)


def test_next_token_only_where_exactly_one_is_added(tokenizer):
    token = next_token(tokenizer, "The", " war")
    assert tokenizer.decode([token]) == " war"
    assert token_ids(tokenizer, "The war") == (*token_ids(tokenizer, "The"), token)
    assert next_token(tokenizer, "The", " zyxq") is None
    assert next_token(tokenizer, "The", "") is None
    # " wa" + "r" is the one token " war", so the prompt does not keep its tokens.
    assert next_token(tokenizer, "The wa", "r") is None


def test_single_token_words_keep_order_and_count(tokenizer):
    words = ("war", "zyxq", "siege")
    found = single_token_words(tokenizer, words, ("The ", "def port(self, "), needed=2, kind="x")
    assert found == ("war", "siege")
    with pytest.raises(InputError, match=r"has 2 of the nouns .* at least 3"):
        single_token_words(tokenizer, words, ("The ",), needed=3, kind="of the nouns")


def test_space_of_a_context_belongs_to_the_word(tokenizer):
    assert single_token_words(tokenizer, ("war",), ('"""',), needed=1, kind="x") == ("war",)
    assert single_token_words(tokenizer, ("said",), ("The ",), needed=1, kind="x") == ("said",)
    with pytest.raises(InputError, match="has 0"):  # trained with a space before it only
        single_token_words(tokenizer, ("said",), ('"""',), needed=1, kind="x")


def test_answer_of_several_tokens(tokenizer):
    with pytest.raises(InputError, match="' zyxq' is not one token after the prompt 'The'"):
        answer_token(tokenizer, "The", " zyxq")


def test_changed_positions(tokenizer):
    assert changed_positions(tokenizer, "The war lasted", "The siege lasted") == (1,)
    assert changed_positions(tokenizer, "The war", "The war") == ()
    with pytest.raises(InputError, match=r"makes 2 tokens .* and 3 of its negative"):
        changed_positions(tokenizer, "The war", "The war lasted")
