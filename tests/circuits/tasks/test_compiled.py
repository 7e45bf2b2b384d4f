import dataclasses
import importlib
import itertools

import pytest

from circuits_jax.lm.load import load_model
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import GroundTruth, make_task
from circuits_jax.tasks.programs import PROGRAMS, expression, numbers, word
from circuits_jax.tasks.words import WordTokenizer

telling = importlib.import_module("circuits_jax.tasks.compiled").telling  # a function has its name


def _tokenizer(name, outputs=()):
    """Of a model that serves the program; its words are the inputs, then the outputs."""
    words = dict.fromkeys(("bos", *map(word, PROGRAMS[name].vocabulary), *map(word, outputs)))
    truth = GroundTruth("compiled", f"tracr:{name}", "by hand", frozenset({(0, 0)}), "this file")
    return WordTokenizer(tuple(words), name, truth)


def _output(name, prompt):
    spelled = {word(value): value for value in PROGRAMS[name].vocabulary}
    return word(expression(PROGRAMS[name])([spelled[w] for w in prompt.split()])[-1])


@pytest.mark.parametrize(
    ("name", "outputs"), [("reverse", ()), ("sort_unique", ()), ("detect_pattern", (0, 1))]
)
def test_answers_and_foils_are_the_outputs_of_the_program(name, outputs):
    tokenizer = _tokenizer(name, outputs)
    task = make_task("compiled", tokenizer, n=5, n_held_out=10, seed=3)
    assert task.truths == (tokenizer.truth,)
    prompts = []
    for pairs in (task.learn, task.held_out):
        for i in range(len(pairs)):
            positive, negative = pairs.positives[i], pairs.negatives[i]
            prompts += [positive, negative]
            (answer,), (foil,) = pairs.answers[i], pairs.foils[i]
            assert tokenizer.words[answer] == _output(name, positive)
            assert tokenizer.words[foil] == _output(name, negative)
            assert answer != foil
            assert len(positive.split()) != len(negative.split())
            if PROGRAMS[name].positive:
                assert tokenizer.words[answer] == "1"
            if PROGRAMS[name].distinct:
                assert len(set(positive.split())) == len(positive.split())
    assert len(prompts) == len(set(prompts)) == 30


@pytest.mark.parametrize("name", ["frac_prevs", "shuffle_dyck", "detect_pattern"])
def test_pairs_to_learn_from_use_every_edge(name):
    """Five at random often leave one out: here all do, whatever the seed."""
    tokenizer = load_model(f"tracr:{name}").tokenizer
    for seed in range(2):
        task = make_task("compiled", tokenizer, n=5, n_held_out=4, seed=seed)
        rows = list(zip(task.learn.positives, task.learn.negatives, strict=True))
        assert len(rows) == 5
        assert (
            frozenset().union(*itertools.starmap(tokenizer.uses, rows))
            == tokenizer.truth.graph_edges
        )
        prompts = [*task.learn.positives, *task.learn.negatives]
        prompts += [*task.held_out.positives, *task.held_out.negatives]
        assert len(set(prompts)) == 18


def test_pairs_that_use_most_come_first_and_none_is_lost():
    uses = {"a": "x", "b": "xy", "c": "", "d": "z", "e": "xyz", "f": "xyz", "g": "xyz"}
    edges = {name: (name, "logits") for name in "xyz"}
    truth = dataclasses.replace(_tokenizer("shift").truth, graph_edges=frozenset(edges.values()))

    def used(positive, _):
        return frozenset(edges[name] for name in uses[positive])

    def rows(names):
        return iter([(name, "", "", "") for name in names])

    tokenizer = WordTokenizer(("bos",), "shift", truth, used)

    def order(found, n):
        return "".join(name for name, *_ in telling(found, n, tokenizer))

    found = rows("abcdefg")
    assert order(found, 2) == "bdac"  # that is enough: e, which uses all, is not drawn
    assert [name for name, *_ in found] == ["e", "f", "g"]
    assert order(rows("abcdef"), 1) == "eabcd"
    assert order(rows("acb"), 3) == "bac"  # not all can be used
    assert telling(rows("abcde"), 5, _tokenizer("shift")) == []


def test_same_seed_same_prompts():
    first, again, other = (
        make_task("compiled", _tokenizer("reverse"), seed=seed).learn for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_numbers_are_all_that_the_program_gives():
    shares = {i / n for n in range(1, 6) for i in range(n + 1)}
    assert set(map(word, numbers(PROGRAMS["frac_prevs"]))) == set(map(word, shares))


def test_numbers_are_written_as_fractions():
    assert [word(v) for v in (1, 0.5, 1 / 3 - 1 / 5, -0.25, True, "a")] == [
        "1",
        "1/2",
        "2/15",
        "-1/4",
        "1",
        "a",
    ]


def test_refuses_a_model_of_another_kind(two_digits):
    with pytest.raises(InputError, match="such as tracr:reverse"):
        make_task("compiled", two_digits)
    with pytest.raises(InputError, match="such as planted:48x25"):
        make_task("planted", _tokenizer("reverse"))


def test_refuses_more_prompts_than_there_are():
    with pytest.raises(InputError, match=r"only \d+ were found for the program shift"):
        make_task("compiled", _tokenizer("shift"), n=5, n_held_out=1000)


def test_refuses_an_unknown_word():
    with pytest.raises(InputError, match="does not know the word 'z'; its words are bos a b c d"):
        _tokenizer("reverse")("a z")


def test_prompts_begin_with_the_first_word_unless_asked_not_to():
    tokenizer = _tokenizer("reverse")
    assert tokenizer("b a").input_ids == [0, 2, 1]
    assert tokenizer("b a", add_special_tokens=False).input_ids == [2, 1]
    assert tokenizer.decode([2, 1]) == "b a"
    assert len(tokenizer) == 5
