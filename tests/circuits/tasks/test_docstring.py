import keyword
import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.tasks import make_task
from circuits_jax.tasks.docstring import WORDS

PROMPT = re.compile(
    r'def (\w+)\(self, (\w+(?:, \w+){5})\):\n    """(\w+ \w+ \w+)\n\n'
    r"    :param (\w+): (\w+ \w+)\n    :param (\w+): (\w+ \w+)\n    :param"
)


def parts(prompt):
    function, arguments, summary, first, one, second, two = PROMPT.fullmatch(prompt).groups()
    return function, arguments.split(", "), [first, second], f"{summary} {one} {two}".split()


def test_words_are_names_that_python_allows():
    assert len(set(WORDS)) == len(WORDS)
    assert not any(keyword.iskeyword(word) for word in WORDS)
    assert all(word.isidentifier() for word in WORDS)


@given(seed=st.integers(0, 2**40))
@settings(max_examples=5, deadline=None)
def test_answer_is_the_third_matching_argument(split_digits, seed):
    pairs = make_task("docstring", split_digits, n=4, n_held_out=4, seed=seed).held_out
    for i in range(len(pairs)):
        function, arguments, params, description = parts(pairs.positives[i])
        assert params == arguments[2:4]
        assert split_digits.decode(pairs.answers[i]) == " " + arguments[4]
        foils = [split_digits.decode([token]) for token in pairs.foils[i]]
        assert foils == [" " + arguments[j] for j in (0, 1, 2, 3, 5)]
        assert len({function, *arguments, *description}) == 14


def test_negative_holds_no_argument_and_no_match(tokenizer):
    pairs = make_task("docstring", tokenizer, n=20).learn
    for positive, negative in zip(pairs.positives, pairs.negatives, strict=True):
        function, arguments, _, description = parts(positive)
        other_function, others, params, shuffled = parts(negative)
        assert other_function == function
        assert not set(arguments) & set(re.findall(r"\w+", negative))
        assert not set(others) & set(params)
        assert sorted(shuffled) == sorted(description)
        assert shuffled != description


def test_answers_in_balance(tokenizer):
    count = len(WORDS) + 10
    pairs = make_task("docstring", tokenizer, n=1, n_held_out=count).held_out
    counts = Counter(pairs.answers)
    assert len(counts) == len(WORDS)
    assert set(counts.values()) == {1, 2}
