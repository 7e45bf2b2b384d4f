from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task
from circuits_jax.tasks.tokens import token_ids


@pytest.mark.parametrize("length", [3, 8])
@given(seed=st.integers(0, 2**40))
@settings(max_examples=5, deadline=None)
def test_answer_followed_the_last_token_before(split_digits, length, seed):
    task = make_task("induction", split_digits, n=2, n_held_out=4, seed=seed, length=length)
    pairs = task.held_out
    for i in range(len(pairs)):
        positive = token_ids(split_digits, pairs.positives[i])
        first, second = positive[:length], positive[length:]
        assert len(set(first)) == length
        assert second == first[: len(second)]
        assert length // 2 <= len(second) < length
        assert pairs.answers[i] == (first[len(second)],)
        (foil,) = pairs.foils[i]
        assert foil in set(first) - {second[-1], first[len(second)]}
        negative = token_ids(split_digits, pairs.negatives[i])
        assert negative[length:] == second
        assert not set(negative[:length]) & set(first)


def test_words_are_lower_case(tokenizer):
    task = make_task("induction", tokenizer, n=5)
    for prompt in task.learn.positives:
        assert prompt.startswith(" ")
        assert prompt.replace(" ", "").isalpha()
        assert prompt.islower()


def test_cuts_in_balance(tokenizer):
    task = make_task("induction", tokenizer, n=6, n_held_out=25, length=10)
    for pairs in (task.learn, task.held_out):
        cuts = Counter(len(token_ids(tokenizer, p)) - 10 for p in pairs.positives)
        assert set(cuts) == {5, 6, 7, 8, 9}
        assert max(cuts.values()) - min(cuts.values()) <= 1


def test_vocabulary_too_small_for_two_copies(few_names):
    with pytest.raises(InputError, match="the induction task of length 40 needs at least 80"):
        make_task("induction", few_names, length=40)


def test_few_words_still_make_distinct_prompts(seven_words):
    task = make_task("induction", seven_words, n=50, n_held_out=100, length=3)
    assert len({*task.learn.positives, *task.held_out.positives}) == 150
    with pytest.raises(InputError, match=r"= 211 .* only 210 exist \(sequences of 3 of 7 words\)"):
        make_task("induction", seven_words, n=50, n_held_out=161, length=3)
