"""Small byte-level BPE tokenizers that differ in how they write numbers, and the real SmolLM2's."""

import functools

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from circuits_jax.tasks.docstring import WORDS
from circuits_jax.tasks.greater_than import NOUNS
from circuits_jax.tasks.ioi import NAMES
from tests.circuits.tiny import WordTokenizer

_TEXT = (
    "The lasted from the year to gave def port self param import She said that was not what any of "
    "them had come to talk about so they all went out"
)
_NUMBER_CUTS = {"two_digits": r" ?\d{2}", "three_digits": r" ?\d{1,3}", "split_digits": r"\d"}


@functools.cache
def make_tokenizer(numbers, words=(*NAMES, *NOUNS, *WORDS), text=_TEXT):
    """BPE in which every one of `words` is one token with and without a space before it.

    The words of `text` are one token as they stand there, with a space.
    """
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_NUMBER_CUTS[numbers]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    inner.decoder = tokenizers.decoders.ByteLevel()
    letters = ["AB", "CD", "EF", "GH"]  # what a random negative puts for two digits
    years = [f" {year}" for year in range(1000, 2000)]
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(
        [text, *letters, *years, *words, *(" " + word for word in words)], trainer
    )
    return WordTokenizer(inner)


@pytest.fixture(scope="session", params=["two_digits", "split_digits"])
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="session")
def two_digits():
    return make_tokenizer("two_digits")


@pytest.fixture(scope="session")
def split_digits():
    return make_tokenizer("split_digits")


@pytest.fixture(scope="session")
def three_digits():
    return make_tokenizer("three_digits")


@pytest.fixture(scope="session")
def letters_only():
    """Knows no word at all: every letter is a token."""
    return make_tokenizer("split_digits", words=(), text="")


@pytest.fixture(scope="session")
def few_names():
    """Knows four first names."""
    return make_tokenizer("split_digits", words=NAMES[:4])


@pytest.fixture(scope="session")
def years_and_one_noun():
    """Knows one noun of the greater-than task, and splits digits."""
    return make_tokenizer("split_digits", words=NOUNS[:1])


@pytest.fixture(scope="session")
def seven_words():
    """Knows seven words."""
    return make_tokenizer("split_digits", words=WORDS[:7], text="")


@pytest.fixture(scope="session")
def smollm2():
    """Where its package is absent tests fail, with how to install it, and are not skipped."""
    from circuits_jax.lm.files.gguf import smollm2_path
    from circuits_jax.lm.tokenizers import load_tokenizer

    return load_tokenizer(smollm2_path())
