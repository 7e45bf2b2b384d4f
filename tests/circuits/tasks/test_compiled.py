import pytest

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import GroundTruth, make_task
from circuits_jax.tasks.programs import PROGRAMS, expression, numbers, word
from circuits_jax.tasks.words import WordTokenizer


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
