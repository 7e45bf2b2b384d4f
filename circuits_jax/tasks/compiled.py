"""Compiled: what a RASP program gives at the last token of a random input.

For models compiled by tracr (arXiv 2301.05062), whose circuit is known exactly. The two prompts of
a pair are two random inputs, whose lengths and last outputs differ: heads that count tokens have
something else to say as well. Pairs to learn from are chosen, of the first that are drawn, such
that every edge of the circuit matters to the answer of one of them, if that can be: a few pairs at
random leave some without use.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.programs import Program, expression, find_program, word
from circuits_jax.tasks.tokens import Tokenizer
from circuits_jax.tasks.words import WordTokenizer, made_for

_TRIES = 10_000
_POOL = 32  # pairs among which those to learn from are chosen

Row = tuple[str, str, str, str]  # positive, negative, answer, foil


def compiled(tokenizer: Tokenizer, *, n: int, n_held_out: int, seed: int) -> Task:
    """The task of a compiled model: answer the program's output at the last token, logit_diff.

    The foil is the output of the negative prompt. All prompts are distinct.

    Args:
        tokenizer: of a model that `load_model("tracr:NAME")` gave; it knows the program.
        n: pairs that learn.
        n_held_out: pairs held out.
        seed: same seed, same prompts.

    Raises:
        InputError: another model's tokenizer, or more pairs than were found.
    """
    tokenizer = made_for(tokenizer, "compiled", "tracr:reverse")
    found = drawn(np.random.default_rng(seed), find_program(tokenizer.program))
    first = telling(found, n, tokenizer)
    rows = list(itertools.islice(itertools.chain(first, found), n + n_held_out))
    if len(rows) < n + n_held_out:
        raise InputError(
            f"n + n_held_out = {n + n_held_out} pairs of distinct prompts were asked for, but only "
            f"{len(rows)} were found for the program {tokenizer.program}"
        )
    positives, negatives, answers, foils = zip(*rows, strict=True)
    pairs = PromptPairs(
        positives,
        negatives,
        *(tuple((tokenizer.ids[value],) for value in values) for values in (answers, foils)),
    )
    return Task(
        name="compiled",
        metric="logit_diff",
        learn=pairs[:n],
        held_out=pairs[n:],
        truths=(tokenizer.truth,),
        options={"n": n, "n_held_out": n_held_out, "seed": seed},
    )


def telling(rows: Iterator[Row], n: int, tokenizer: WordTokenizer) -> list[Row]:
    """Rows taken from the front; first those, n at most, that together use the most edges.

    No more rows are taken than it takes to use every edge, nor more than the pool holds.
    """
    pool: list[Row] = []
    used: list[frozenset[tuple[str, str]]] = []
    if tokenizer.uses is None:
        return pool
    chosen: list[int] = []
    for row in itertools.islice(rows, _POOL):
        pool.append(row)
        used.append(tokenizer.uses(*row[:2]))
        chosen, left = [], tokenizer.truth.graph_edges
        while len(chosen) < n and any(left & some for some in used):
            chosen.append(max(range(len(used)), key=lambda i: (len(left & used[i]), -i)))
            left = left - used[chosen[-1]]
        if not left:
            break
    return [pool[i] for i in chosen] + [row for i, row in enumerate(pool) if i not in chosen]


def drawn(rng: np.random.Generator, program: Program) -> Iterator[Row]:
    """Rows of distinct prompts, as long as some are found."""
    run, seen = expression(program), set()

    def draw():
        length = rng.integers(2, program.max_length + 1)
        choice = rng.choice(len(program.vocabulary), length, replace=not program.distinct)
        return [program.vocabulary[i] for i in choice]

    for _ in range(_TRIES):
        pair = draw(), draw()
        texts = [" ".join(map(word, tokens)) for tokens in pair]
        if len(pair[0]) == len(pair[1]) or seen & set(texts):
            continue
        answer, foil = (run(tokens)[-1] for tokens in pair)
        if (
            answer == foil
            or None in (answer, foil)
            or (program.positive and answer not in program.positive)
        ):
            continue
        seen |= set(texts)
        yield texts[0], texts[1], word(answer), word(foil)
