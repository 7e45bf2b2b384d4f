"""Docstring completion (Heimersheim & Janiak 2023), as arXiv 2405.12522 uses it.

A function has the arguments self, two prefix, three matching and one suffix argument; its docstring
describes the first two matching ones, and the third comes next:

    def port(self, load, size, file, last, user, mode):
        '''oil column piece

        :param file: crime unit
        :param last: paper street
        :param

is followed by " user" (with three double quotes where this one has three single ones).
"""

import numpy as np

from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.ground_truth import ground_truths
from circuits_jax.tasks.tokens import (
    Tokenizer,
    answer_token,
    balanced,
    changed_positions,
    single_token_words,
)

_WORDS = (
    "load size file last name path text mode user code time date type group index value page "
    "line word list key data item node point image color shape level state field table order "
    "count start end step limit block frame model test input output source target result message "
    "event action option service client server host port address link title label style theme "
    "content body head cell layer price stock market house water paper street city country music "
    "game team player road river oil fire wood stone metal plant animal bird horse night day week "
    "month year hand face heart mind art film book story song letter room door window wall"
)
WORDS = tuple(_WORDS.split())
_ARGUMENTS, _PREFIX, _MATCHING = 6, 2, 3
_DESCRIPTION = 3 + 2 * (_MATCHING - 1)
# function name, arguments and description, then the negative's own arguments and :param names
_NEEDED = 1 + _ARGUMENTS + _DESCRIPTION + _ARGUMENTS + (_MATCHING - 1)
_CONTEXTS = ("def port(self, ", '    """', '    """oil ', "    :param ", "    :param load: ")


def docstring(tokenizer: Tokenizer, *, n: int, n_held_out: int, seed: int) -> Task:
    """The docstring task: answer the third matching argument, foils the other five, logit_diff.

    The negative (their random_random corruption) gives the arguments and the :param lines names of
    their own at random, none of them the positive's and the two lists without a common name, and
    shuffles the words of the descriptions; so neither the answer nor a foil occurs in it, and
    nothing tells what comes next. Words serve as the answer equally often in each split (counts
    differ by one at most). The words of one prompt are all different.

    Args:
      tokenizer: words of more than one token in any place of the prompt are not used.
      n: pairs that learn.
      n_held_out: pairs held out.
      seed: same seed, same prompts.

    Raises:
      InputError: too few words are single tokens.
    """
    rng = np.random.default_rng(seed)
    words = single_token_words(
        tokenizer, WORDS, _CONTEXTS, needed=_NEEDED, kind="of the words of the docstring task"
    )
    return Task(
        name="docstring",
        metric="logit_diff",
        learn=_pairs(rng, tokenizer, words, n),
        held_out=_pairs(rng, tokenizer, words, n_held_out),
        truths=ground_truths("docstring"),
        options={"n": n, "n_held_out": n_held_out, "seed": seed},
    )


def _pairs(
    rng: np.random.Generator, tokenizer: Tokenizer, words: tuple[str, ...], count: int
) -> PromptPairs:
    """`count` pairs; two equal ones are out of the question, even 22 words make 1e15 prompts."""
    pairs = [
        _pair(rng, tokenizer, words[answer], [word for word in words if word != words[answer]])
        for answer in balanced(rng, len(words), count)
    ]
    return PromptPairs(*map(tuple, zip(*pairs, strict=True)))


def _pair(
    rng: np.random.Generator, tokenizer: Tokenizer, answer: str, others: list[str]
) -> tuple[str, str, tuple[int, ...], tuple[int, ...]]:
    """Positive, negative, answers and foils, all words drawn from `others` but the answer."""
    drawn = [str(word) for word in rng.choice(others, _NEEDED - 1, replace=False)]
    function, drawn = drawn[0], drawn[1:]
    foils, drawn = drawn[: _ARGUMENTS - 1], drawn[_ARGUMENTS - 1 :]
    description, drawn = drawn[:_DESCRIPTION], drawn[_DESCRIPTION:]
    last = _PREFIX + _MATCHING - 1
    arguments = [*foils[:last], answer, *foils[last:]]
    positive = _prompt(function, arguments, arguments[_PREFIX:last], description)
    negative = _prompt(
        function,
        drawn[:_ARGUMENTS],
        drawn[_ARGUMENTS:],
        [str(w) for w in rng.permutation(description)],
    )
    changed_positions(tokenizer, positive, negative)
    return (
        positive,
        negative,
        (answer_token(tokenizer, positive, " " + answer),),
        tuple(answer_token(tokenizer, positive, " " + foil) for foil in foils),
    )


def _prompt(function: str, arguments: list[str], params: list[str], description: list[str]) -> str:
    """The function up to the name of the argument that comes after `params`."""
    lines = [
        f"def {function}(self, {', '.join(arguments)}):",
        '    """' + " ".join(description[:3]),
        "",
    ]
    for i, param in enumerate(params):
        lines.append(f"    :param {param}: " + " ".join(description[3 + 2 * i : 5 + 2 * i]))
    return "\n".join([*lines, "    :param"])
