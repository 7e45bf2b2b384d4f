import pytest

from circuits_jax.lm.made.planted import KINDS, WORDS
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import GroundTruth, make_task
from circuits_jax.tasks.words import WordTokenizer


def _tokenizer(kind):
    truth = GroundTruth("planted", "planted:2x2", "by hand", frozenset({(0, 0)}), "this file")
    return WordTokenizer(WORDS, kind, truth)


def _rows(kind, seed=0):
    """(words of the positive, words of the negative, answer, foil) of both splits."""
    task = make_task("planted", _tokenizer(kind), n=10, n_held_out=20, seed=seed)
    for pairs in (task.learn, task.held_out):
        for i in range(len(pairs)):
            yield (
                pairs.positives[i].split(),
                pairs.negatives[i].split(),
                WORDS[pairs.answers[i][0]],
                WORDS[pairs.foils[i][0]],
            )


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_differ_in_one_word(kind):
    rows = list(_rows(kind))
    for positive, negative, answer, foil in rows:
        assert len(positive) == len(negative) <= 11
        assert sum(a != b for a, b in zip(positive, negative, strict=True)) == 1
        assert positive[-1] == negative[-1]
        assert answer != foil
    prompts = [" ".join(words) for row in rows for words in row[:2]]
    assert len(prompts) == len(set(prompts)) == 60


def test_induction_is_answered_by_what_followed_before():
    for positive, negative, answer, foil in _rows("induction"):
        *before, last = positive
        assert before.count(last) == 1
        assert positive[before.index(last) + 1] == answer
        assert foil in positive
        assert last not in negative[:-1]


def test_duplicate_is_whether_the_last_word_was_there_before():
    for positive, negative, answer, foil in _rows("duplicate"):
        assert (answer, foil) == ("yes", "no")
        assert positive.count(positive[-1]) == 2
        assert len(set(negative)) == len(negative)


def test_previous_is_the_word_before_the_last():
    for positive, negative, answer, foil in _rows("previous"):
        assert (positive[-2], negative[-2]) == (answer, foil)


def test_same_seed_same_prompts():
    assert list(_rows("induction", 1)) == list(_rows("induction", 1))
    assert list(_rows("induction", 1)) != list(_rows("induction", 2))


def test_refuses_more_prompts_than_can_be_drawn():
    with pytest.raises(InputError, match=r"only \d+ were found"):
        make_task("planted", _tokenizer("previous"), n=5, n_held_out=20_000)
