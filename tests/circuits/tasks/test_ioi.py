from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task
from circuits_jax.tasks.ioi import NAMES, OBJECTS, PLACES, TEMPLATES
from circuits_jax.tasks.tokens import changed_positions, token_ids


def names_of(prompt):
    return [word.strip(".,") for word in prompt.split() if word.strip(".,") in NAMES]


def spread(items):
    counts = Counter(items)
    return max(counts.values()) - min(counts.values())


def test_lists_are_what_the_paper_sizes_say():
    assert len(set(TEMPLATES)) == 15
    assert len(set(PLACES)) == len(set(OBJECTS)) == 8
    assert len(set(NAMES)) == len(NAMES) >= 100
    assert all(template.endswith("gave a {object} to") for template in TEMPLATES)


@given(seed=st.integers(0, 2**40))
@settings(max_examples=5, deadline=None)
def test_positive_repeats_the_subject_and_negative_names_three(split_digits, seed):
    task = make_task("ioi", split_digits, n=4, n_held_out=8, seed=seed)
    for pairs in (task.learn, task.held_out):
        for i in range(len(pairs)):
            first, second, giver = names_of(pairs.positives[i])
            (io,) = {first, second} - {giver}
            assert split_digits.decode(pairs.answers[i]) == " " + io
            assert split_digits.decode(pairs.foils[i]) == " " + giver
            *same, third = names_of(pairs.negatives[i])
            assert same == [first, second]
            assert third not in same
            changed = changed_positions(split_digits, pairs.positives[i], pairs.negatives[i])
            assert len(changed) == 1


def test_balance_in_each_part(tokenizer):
    task = make_task("ioi", tokenizer, n=30, n_held_out=120, seed=3)
    for pairs in (task.learn, task.held_out):
        prompts = pairs.positives
        orders = [names_of(p)[0] == names_of(p)[2] for p in prompts]
        assert Counter(orders) == {True: len(pairs) // 2, False: len(pairs) // 2}
        words = [set(p.replace(".", " ").replace(",", " ").split()) for p in prompts]
        for options in (PLACES, OBJECTS):
            drawn = [word for found in words for word in options if word in found]
            assert len(drawn) == len(pairs)
            assert spread(drawn) <= 1
        shapes = [p.split(" " + names_of(p)[0])[0] for p in prompts]
        assert set(Counter(shapes).values()) == {len(pairs) // 15}


def test_every_ordered_pair_of_names_comes_once(few_names):
    """Four names make 12 ordered pairs; asked for all, each is IO three times and S three times."""
    task = make_task("ioi", few_names, n=2, n_held_out=10)
    pairs = [
        tuple(few_names.decode(tokens) for tokens in pair)
        for part in (task.learn, task.held_out)
        for pair in zip(part.answers, part.foils, strict=True)
    ]
    assert len(set(pairs)) == 12
    assert set(Counter(io for io, _ in pairs).values()) == {3}
    assert set(Counter(subject for _, subject in pairs).values()) == {3}
    with pytest.raises(InputError, match=r"= 13 distinct prompts .* only 12 exist .* the 4 names"):
        make_task("ioi", few_names, n=3, n_held_out=10)


def test_negative_lacks_only_the_second_mention(two_digits):
    """The repeated name stands once in the negative: no duplicate points at the answer."""
    task = make_task("ioi", two_digits, n=5, n_held_out=5)
    for i in range(5):
        (subject,) = task.learn.foils[i]
        assert token_ids(two_digits, task.learn.positives[i]).count(subject) == 2
        assert token_ids(two_digits, task.learn.negatives[i]).count(subject) == 1
