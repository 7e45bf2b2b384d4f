"""RASP programs (arXiv 2106.06981) that can be compiled into transformers (arXiv 2301.05062).

A program maps a sequence of tokens to a sequence of values. The programs are those of the library
of `tracr`, and a few one-liners in its language; `tracr` is imported only where one is built.
"""

import dataclasses
import fractions
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from circuits_jax.runs.errors import InputError, unknown_name


@dataclasses.dataclass(frozen=True)
class Program:
    """A RASP program with its inputs.

    Attributes:
        build: makes it from the modules `rasp` and `lib` of tracr.
        vocabulary: its input tokens.
        max_length: longest input, in tokens.
        positive: the outputs that a positive prompt may have; any where empty. Of a conjunction,
            only where it holds does every part matter.
        distinct: no token may occur twice in an input.
    """

    build: Callable[[Any, Any], Any]
    vocabulary: tuple[str | int, ...]
    max_length: int = 5
    positive: tuple[bool, ...] = ()
    distinct: bool = False


_LETTERS, _NUMBERS = tuple("abcd"), (1, 2, 3, 4)

PROGRAMS: Mapping[str, Program] = {
    "reverse": Program(lambda rasp, lib: lib.make_reverse(rasp.tokens), _LETTERS),
    "sort": Program(
        lambda rasp, lib: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=5, min_key=1),
        _NUMBERS,
    ),
    "sort_unique": Program(
        lambda rasp, lib: lib.make_sort_unique(rasp.tokens, rasp.tokens),
        (*_NUMBERS, 5),
        distinct=True,
    ),
    "sort_freq": Program(lambda rasp, lib: lib.make_sort_freq(max_seq_len=5), _NUMBERS),
    "frac_prevs": Program(lambda rasp, lib: lib.make_frac_prevs(rasp.tokens == "a"), _LETTERS),
    "pair_balance": Program(
        lambda rasp, lib: lib.make_pair_balance(rasp.tokens, "(", ")"), ("(", ")", "a")
    ),
    "dyck": Program(
        lambda rasp, lib: lib.make_shuffle_dyck(["()"]), ("(", ")"), max_length=8, positive=(True,)
    ),
    "shuffle_dyck": Program(
        lambda rasp, lib: lib.make_shuffle_dyck(["()", "{}"]),
        ("(", ")", "{", "}"),
        max_length=6,
        positive=(True,),
    ),
    "length": Program(lambda rasp, lib: rasp.categorical(lib.make_length()), _LETTERS),
    "hist": Program(lambda rasp, lib: lib.make_hist(), _LETTERS),
    "double_hist": Program(
        lambda rasp, lib: rasp.SelectorWidth(
            rasp.Select(hist := lib.make_hist(), hist, rasp.Comparison.EQ)
        ),
        _LETTERS,
    ),
    "count": Program(lambda rasp, lib: lib.make_count(rasp.tokens, "a"), _LETTERS),
    "count_less_freq": Program(lambda rasp, lib: lib.make_count_less_freq(1), _LETTERS),
    "shift": Program(lambda rasp, lib: lib.shift_by(1, rasp.tokens), _LETTERS),
    "detect_pattern": Program(
        lambda rasp, lib: lib.detect_pattern(rasp.tokens, "abc"),
        tuple("abc"),
        max_length=6,
        positive=(True,),
    ),
}


def find_program(name: str) -> Program:
    """The program of a name.

    Raises:
        InputError: no such program.
    """
    if name not in PROGRAMS:
        raise InputError(unknown_name("RASP program", name, PROGRAMS))
    return PROGRAMS[name]


@functools.cache
def expression(program: Program) -> Any:
    """The program in tracr's language; called with a list of tokens it gives a list of values.

    Raises:
        InputError: tracr is not installed.
    """
    try:
        from tracr.compiler import lib
        from tracr.rasp import rasp
    except ImportError as error:
        raise InputError(
            f"compiled models need the package tracr-pypi ({error}); pip install tracr-pypi==1.0.0"
        ) from error
    return program.build(rasp, lib)


def numbers(program: Program) -> tuple[float, ...]:
    """All values that a program with a number for output gives, at any token of any input."""
    run, lengths = expression(program), range(1, program.max_length + 1)
    inputs = itertools.chain(*(itertools.product(program.vocabulary, repeat=n) for n in lengths))
    return tuple(sorted({float(value) for tokens in inputs for value in run(tokens)}))


def word(value: Any) -> str:
    """How a token or an output value is written: a fraction such as 2/5 for a number, 1 for True.

    Floats that are equal up to rounding are written alike.
    """
    if isinstance(value, str):
        return value
    return str(fractions.Fraction(value).limit_denominator(100))
