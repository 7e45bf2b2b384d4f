"""What every built-in task promises, whatever the tokenizer and the seed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task
from circuits_jax.tasks.tokens import token_ids

BUILT_IN = ("ioi", "greater_than", "docstring", "induction")
every_task = pytest.mark.parametrize("name", BUILT_IN)
seeds = st.integers(0, 2**40)
few = settings(max_examples=5, deadline=None)


@every_task
@given(seed=seeds)
@few
def test_pairs_have_equal_tokens_and_differ(tokenizer, name, seed):
    task = make_task(name, tokenizer, n=3, n_held_out=6, seed=seed)
    for pairs in (task.learn, task.held_out):
        for positive, negative in zip(pairs.positives, pairs.negatives, strict=True):
            assert len(token_ids(tokenizer, positive)) == len(token_ids(tokenizer, negative))
            assert positive != negative


@every_task
@given(seed=seeds)
@few
def test_answers_and_foils_are_what_one_more_token_makes(tokenizer, name, seed):
    task = make_task(name, tokenizer, n=2, n_held_out=3, seed=seed)
    for pairs in (task.learn, task.held_out):
        for prompt, *tokens in zip(pairs.positives, pairs.answers, pairs.foils, strict=True):
            answers, foils = map(set, tokens)
            assert not answers & foils
            for token in answers | foils:
                text = prompt + tokenizer.decode([token])
                assert token_ids(tokenizer, text) == (*token_ids(tokenizer, prompt), token)


@every_task
def test_number_name_options_and_disjoint_parts(tokenizer, name):
    task = make_task(name, tokenizer, n=7, n_held_out=30, seed=4)
    assert (len(task.learn), len(task.held_out)) == (7, 30)
    assert task.name == name
    assert task.options["seed"] == 4
    assert all(truth.task == name for truth in task.truths)
    positives = task.learn.positives + task.held_out.positives
    assert len(set(positives)) == len(positives)
    assert not set(task.learn.negatives) & set(task.held_out.negatives)
    assert not set(positives) & set(task.learn.negatives + task.held_out.negatives)


@every_task
def test_seed_decides_and_held_out_number_leaves_learning_pairs(tokenizer, name):
    task = make_task(name, tokenizer, n=4, n_held_out=5, seed=1)
    assert task == make_task(name, tokenizer, n=4, n_held_out=5, seed=1)
    assert task.learn != make_task(name, tokenizer, n=4, n_held_out=5, seed=2).learn
    assert task.learn == make_task(name, tokenizer, n=4, n_held_out=9, seed=1).learn


@every_task
def test_tokenizer_that_knows_no_words(letters_only, name):
    with pytest.raises(InputError, match=r"this tokenizer has \d+ .* at least \d+"):
        make_task(name, letters_only)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "iio"}, r"unknown task 'iio'; did you mean 'ioi'\? allowed: agreement, arith"),
        ({"name": "zzz"}, r"unknown task 'zzz'; allowed: agreement, arithmetic, capitals"),
        ({"negative": "range", "name": "greater_than"}, r"'negative'; did you mean 'negatives'\?"),
        ({"path": "x"}, r"unknown option of task ioi 'path'; allowed: none"),
        ({"n": 0}, "n is 0; allowed is 1 and above"),
        ({"n_held_out": 0}, "n_held_out is 0; allowed is 1 and above"),
        ({"seed": -1}, "seed is -1; allowed is 0 and above"),
        ({"name": "induction", "length": 2}, "length of task 'induction' is 2; allowed is 3"),
        ({"name": "greater_than", "negatives": "rnge"}, "'rnge'.*range, year, random, unrelated"),
        ({"n": 20_000}, r"20010 distinct prompts .* only \d+ exist .* pair of the \d+ names"),
        ({"name": "greater_than", "n": 4_000}, r"4010 distinct prompts .* only \d+ exist"),
    ],
)
def test_bad_requests(split_digits, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        make_task(tokenizer=split_digits, **({"name": "ioi"} | arguments))
