"""A task of one's own, from a file of JSON lines {"positive", "negative", "answer", "foil"}.

One line is one pair. Answer and foil are strings, or lists of strings, each exactly one token as
given, with its leading space where it has one:

    {"positive": "The capital of France is", "negative": "The capital of it is",
     "answer": " Paris", "foil": [" Rome", " London"]}

(on one line in the file).
"""

from os import PathLike
from pathlib import Path

import numpy as np

from circuits_jax.runs.errors import InputError
from circuits_jax.runs.files import parse_json, reason
from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.tokens import Tokenizer, next_token, token_ids

_FIELDS = ("positive", "negative", "answer", "foil")
_LONGEST = 2**28  # characters of a file; a file of weights is longer
_Pair = tuple[str, str, tuple[int, ...], tuple[int, ...]]


def custom(
    tokenizer: Tokenizer,
    *,
    n: int,
    n_held_out: int,
    seed: int,
    path: str | PathLike[str] = "",
) -> Task:
    """The task of a JSONL file: `n` of its lines learn, others are held out; logit_diff.

    The seed chooses the lines of either part; both keep the order of the file. Blank lines are
    skipped. Positives and negatives may differ in their number of tokens: see
    `lm/alignment.py`.

    Args:
      tokenizer: answers and foils must be one token for it, after the positive prompt.
      n: lines that learn.
      n_held_out: lines that are held out; 0 for every line that does not learn.
      seed: same seed, same split.
      path: the file.

    Raises:
      InputError: no path, no such file, no lines or too few, a prompt twice, or a bad line; names
        file, line and field.
    """
    if not path:
        raise InputError("task 'custom' needs its option path, a file of JSON lines")
    pairs = _read(Path(path), tokenizer)
    if len(pairs) <= n:
        fewer = f", or give --config.task.n of at most {len(pairs) - 1}" if len(pairs) > 1 else ""
        raise InputError(
            f"{path} has {len(pairs)} pairs: {n} learn (config.task.n) and at least 1 must be held "
            f"out, so it needs at least {n + 1} lines{fewer}"
        )
    if n_held_out > len(pairs) - n:
        raise InputError(
            f"{path} has {len(pairs)} pairs, of which {n} learn: n_held_out is {n_held_out}; "
            f"allowed is 1 to {len(pairs) - n}, or 0 for all of these"
        )
    order = np.random.default_rng(seed).permutation(len(pairs))
    learn, held_out = (
        PromptPairs(*map(tuple, zip(*(pairs[i] for i in np.sort(chosen)), strict=True)))
        for chosen in (order[:n], order[n : n + n_held_out] if n_held_out else order[n:])
    )
    return Task(
        name="custom",
        metric="logit_diff",
        learn=learn,
        held_out=held_out,
        options={"n": n, "n_held_out": len(held_out), "seed": seed, "path": str(path)},
    )


def _read(path: Path, tokenizer: Tokenizer) -> list[_Pair]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_LONGEST + 1)
    except UnicodeDecodeError as error:
        raise InputError(f"the task file {path} is not UTF-8 text: {error.reason}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the task file {path}: {reason(error)}") from error
    if len(text) > _LONGEST:
        raise InputError(f"the task file {path} has more than {_LONGEST} characters")
    pairs: list[_Pair] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        pair = _pair(line, where, tokenizer)
        if pair[0] in first_line:
            raise InputError(f"{where}: the positive prompt is that of line {first_line[pair[0]]}")
        first_line[pair[0]] = number
        pairs.append(pair)
    if not pairs:
        raise InputError(
            f"the task file {path} has no lines; each needs the fields {', '.join(_FIELDS)}"
        )
    return pairs


def _pair(line: str, where: str, tokenizer: Tokenizer) -> _Pair:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({reason(error)})") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: must be a JSON object, got {type(record).__name__}")
    for field in _FIELDS:
        if field not in record:
            raise InputError(f"{where}: lacks the field {field!r}; needed: {', '.join(_FIELDS)}")
    positive, negative = (_prompt(record[name], name, where) for name in _FIELDS[:2])
    answers, foils = (
        _tokens(record[name], name, where, positive, tokenizer) for name in _FIELDS[2:]
    )
    if common := set(answers) & set(foils):
        raise InputError(
            f"{where}: {tokenizer.decode(sorted(common)[:1])!r} is both an answer and a foil"
        )
    return positive, negative, answers, foils


def _prompt(value: object, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}: {field} must be a string that is not empty, got {_short(value)}"
        )
    return _text(value, field, where)


def _text(value: str, field: str, where: str) -> str:
    """The string, where a tokenizer and a page can take it."""
    if "\0" in value or value != value.encode(errors="replace").decode():
        raise InputError(
            f"{where}: {field} must be Unicode text without NUL and half surrogates, got "
            f"{_short(value)}"
        )
    return value


def _short(value: object) -> str:
    """A value in a sentence, cut where it is long."""
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:80]}..."


def _tokens(
    value: object, field: str, where: str, positive: str, tokenizer: Tokenizer
) -> tuple[int, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(
            f"{where}: {field} must be a string or a list of strings, none empty, got "
            f"{_short(value)}"
        )
    texts = [_text(text, field, where) for text in texts]
    return tuple(_token(text, field, where, positive, tokenizer) for text in texts)


def _token(text: str, field: str, where: str, positive: str, tokenizer: Tokenizer) -> int:
    token = next_token(tokenizer, positive, text)
    if token is None:
        made = [tokenizer.decode([i]) for i in token_ids(tokenizer, text)]
        raise InputError(
            f"{where}: {field} {text!r} must be exactly one token after its prompt; this tokenizer "
            f"makes {len(made)} of it: {made}"
            + (", and another split after the prompt" if len(made) == 1 else "")
        )
    return token
