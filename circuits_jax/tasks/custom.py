"""A task of one's own, from a file of pairs with the fields positive, negative, answer and foil.

Answer and foil are strings, or lists of strings, as they stand after the prompt, with a leading
space where there is one. As JSON lines, a line is

    {"positive": "The capital of France is", "negative": "The capital of it is",
     "answer": " Paris", "foil": [" Rome", " London"]}

(on one line in the file). `records.py` has the other forms that are read. Positive or negative may
be a list: then each of its prompts makes a pair with the other side.

A pair that does not fit the model, as its answer is several tokens for this tokenizer, is left out
and counted; what is no pair at all is refused with its line.
"""

import itertools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from absl import logging

from circuits_jax.runs.checks import check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import (
    COMPARING,
    METRICS,
    Answer,
    PromptPairs,
    Task,
    own_metric,
    tokens_of,
)
from circuits_jax.tasks.chat import turn
from circuits_jax.tasks.records import FIELDS, Record, read_records
from circuits_jax.tasks.tokens import Tokenizer, following_tokens, next_token, token_ids

PART = "\N{REPLACEMENT CHARACTER}"  # in the text of a token that is part of a letter
Tokens = Literal["one", "first", "all"]
_DEFAULTS = {
    "metric": "logit_diff",
    "answer_tokens": "one",
    "ids": "",
    "counterfactual": "",
    "chat": False,
}
_Pair = tuple[str, str, tuple[Answer, ...], tuple[Answer, ...]]


class _DoesNotFit(Exception):
    """A pair that this model's tokenizer leaves no use for: why."""


def custom(
    tokenizer: Tokenizer,
    *,
    n: int,
    n_held_out: int,
    seed: int,
    path: str | PathLike[str] = "",
    metric: str = "logit_diff",
    answer_tokens: str = "one",
    ids: str = "",
    counterfactual: str = "",
    chat: bool = False,
    n_positions: int = 0,
) -> Task:
    """The task of a file: `n` of its pairs learn, others are held out.

    The seed chooses the pairs of either part; both keep the order of the file. Pairs of one
    positive prompt are in one part. Blank lines are skipped. Positives and negatives may differ in
    their number of tokens: see `lm/alignment.py`.

    Args:
      tokenizer: answers and foils are tokens of it, after the positive prompt.
      n: pairs that learn.
      n_held_out: pairs that are held out; 0 for every pair that does not learn.
      seed: same seed, same split.
      path: the file.
      metric: see `tasks/base.py`. Of `log_prob`, `rank`, and a function of one's own, foils may be
        missing; of `kl` answers too.
      answer_tokens: of answers and foils of several tokens, "all" takes all, with their joint
        probability, "first" the first of each, and "one" leaves them out.
      ids: "model" where the file has token ids in place of words, and they are this model's.
      counterfactual: of a file of MIB, which prompt is the negative.
      chat: whether prompts are turns of a chat (`chat.py`).
      n_positions: of the model, where known: pairs that are longer are left out.

    Raises:
      InputError: no path, no such file, no pairs or too few, or a bad line; names file, line and
        field.
    """
    if not path:
        raise InputError("task 'custom' needs its option path, a file of prompts")
    records = read_records(Path(path), counterfactual, _needed(metric, answer_tokens, ids))
    pairs, left_out = _pairs(
        records, tokenizer, cast(Tokens, answer_tokens), ids, chat, n_positions
    )
    if not all(foils for *_, foils in pairs):  # some have none, so that none is looked at
        pairs = [(positive, negative, answers, ()) for positive, negative, answers, _ in pairs]
    if not all(answers for *_, answers, _ in pairs):
        pairs = [(positive, negative, (), foils) for positive, negative, _, foils in pairs]
    said = _left_out(path, left_out, len(pairs))
    if said:
        logging.warning("%s", said)
    of_learning, of_judging = (
        PromptPairs(*map(tuple, zip(*(pairs[i] for i in sorted(chosen)), strict=True)))
        for chosen in _parts(path, pairs, n, n_held_out, seed, said)
    )
    options: dict[str, object] = {"metric": metric, "answer_tokens": answer_tokens, "ids": ids}
    options |= {"counterfactual": counterfactual, "chat": chat}
    changed = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
    sizes = {"n": n, "n_held_out": len(of_judging.positives), "seed": seed, "path": str(path)}
    return Task("custom", metric, of_learning, of_judging, options=sizes | changed)


def _needed(metric: str, answer_tokens: str, ids: str) -> tuple[str, ...]:
    """The fields without which a pair is none, of options that are allowed."""
    if ":" in metric:
        own_metric(metric)
    else:
        check_allowed("metric", metric, (*METRICS, "MODULE:FUNCTION"))
    check_allowed("answer_tokens", answer_tokens, get_args(Tokens))
    if ids:
        check_allowed("ids", ids, ("model",))
    return FIELDS if metric in COMPARING else FIELDS[:2] if metric == "kl" else FIELDS[:3]


def _parts(
    path: str | PathLike[str],
    pairs: Sequence[_Pair],
    n: int,
    n_held_out: int,
    seed: int,
    said: str,
) -> tuple[list[int], list[int]]:
    """Numbers of the pairs that learn and that are held out; refuses what does not suffice."""
    if len(pairs) <= n:
        fewer = f", or give --config.task.n of at most {len(pairs) - 1}" if len(pairs) > 1 else ""
        raise InputError(
            f"{path} has {len(pairs)} pairs: {n} learn (config.task.n) and at least 1 must be held "
            f"out, so it needs at least {n + 1} lines{fewer}{f'; {said}' if said else ''}"
        )
    learn, held_out = _split(pairs, n, seed)
    if not held_out:
        raise InputError(
            f"{path} has {len(pairs)} pairs, of which {n} learn (config.task.n), and all others "
            "have positive prompts that learn as well; at least 1 must be held out that does not"
        )
    if n_held_out > len(held_out):
        raise InputError(
            f"{path} has {len(pairs)} pairs, of which {n} learn: n_held_out is {n_held_out}; "
            f"allowed is 1 to {len(held_out)}, or 0 for all of these"
        )
    return learn, held_out[:n_held_out] if n_held_out else held_out


def _split(pairs: Sequence[_Pair], n: int, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the pairs that learn, and of those that do not; no positive is among both.

    Nor is a pair and the same one turned round, whose negative is the other's positive.
    """
    known, home, groups = {pair[:2] for pair in pairs}, dict[str, str](), dict[str, list[int]]()

    def root(positive: str) -> str:
        while positive in home:
            positive = home[positive]
        return positive

    for positive, negative, *_ in pairs:
        if (negative, positive) in known and root(positive) != root(negative):
            home[root(negative)] = root(positive)
    for number, pair in enumerate(pairs):
        groups.setdefault(root(pair[0]), []).append(number)
    members = list(groups.values())
    order = [members[i] for i in np.random.default_rng(seed).permutation(len(members))]
    ends = np.cumsum([len(group) for group in order])
    last = int(np.searchsorted(ends, n))  # the group in which the n-th pair is
    first, rest = order[: last + 1], order[last + 1 :]
    return list(itertools.chain(*first))[:n], list(itertools.chain(*rest))


def _left_out(path: str | PathLike[str], reasons: list[tuple[Record, str]], n_left: int) -> str:
    """A sentence on what was left out of a file, and why; empty where nothing was."""
    if not reasons:
        return ""
    first, why = reasons[0]
    return (
        f"{len(reasons)} of {len(reasons) + n_left} pairs of {path} are left out; the first is "
        f"{first.where.rpartition(', ')[2]}: {why}"
    )


def _pairs(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    answer_tokens: Tokens,
    ids: str,
    chat: bool,
    n_positions: int,
) -> tuple[list[_Pair], list[tuple[Record, str]]]:
    """The pairs of a file, and what is left out of it, with the reason."""
    pairs, left_out, first = [], [], {}
    for record in records:
        values, where = record.values, record.where
        if record.unfit:
            left_out.append((record, record.unfit))
            continue
        if record.ids and ids != "model":
            raise InputError(
                f"{where}: answers are token ids, of the tokenizer that the file was made for; say "
                "--config.task.ids=model where that is this model's, put words in their place, or "
                "take the metric kl, which looks at none"
            )
        positives, negatives = (
            [
                turn(tokenizer, text) if chat else text
                for text in _prompts(values[name], name, where)
            ]
            for name in ("positive", "negative")
        )
        for positive, negative in itertools.product(positives, negatives):
            try:
                answers, foils = (
                    _side(record, name, positive, tokenizer, answer_tokens, chat)
                    for name in ("answer", "foil")
                )
                common = set(answers) & set(foils)
                if common:
                    both = tokens_of(next(iter(common)))
                    said = f"{tokenizer.decode(both)!r} is both an answer and a foil"
                    if answer_tokens == "first":
                        raise _DoesNotFit(said)
                    raise InputError(f"{where}: {said}")
                _check_beginnings([*answers, *foils], tokenizer)
                _check_length((positive, negative), [*answers, *foils], tokenizer, n_positions)
                if (positive, negative) in first:
                    raise _DoesNotFit(f"the same pair as {first[positive, negative]}")
                first[positive, negative] = where.rpartition(", ")[2]
                pairs.append((positive, negative, answers, foils))
            except _DoesNotFit as error:
                left_out.append((record, str(error)))
    return pairs, left_out


def _check_length(
    prompts: tuple[str, str], answers: Sequence[Answer], tokenizer: Tokenizer, n_positions: int
) -> None:
    """Leave out a pair of which a prompt, with its longest answer, is too long for the model."""
    longest = max((len(tokens_of(one)) for one in answers), default=1) - 1
    needed = max(len(tokenizer(text).input_ids) for text in prompts) + longest
    if 0 < n_positions < needed:
        raise _DoesNotFit(f"it has {needed} tokens; the model takes {n_positions}")


def _check_beginnings(answers: Sequence[Answer], tokenizer: Tokenizer) -> None:
    """Leave out a pair in which one of two answers begins with the other: they are no choice."""
    all_tokens = sorted(tokens_of(one) for one in answers)
    for shorter, longer in itertools.pairwise(all_tokens):
        if longer[: len(shorter)] == shorter:
            first, second = (tokenizer.decode(one) for one in (shorter, longer))
            raise _DoesNotFit(f"{second!r} begins with {first!r}, another answer or foil")


def _side(
    record: Record,
    name: str,
    positive: str,
    tokenizer: Tokenizer,
    answer_tokens: Tokens,
    chat: bool,
) -> tuple[Answer, ...]:
    """Answers or foils of a pair as tokens; some metrics do without."""
    value, where = record.values[name], record.where
    if value is None:
        return ()
    if record.ids:
        return _given(value, name, where, tokenizer)
    return _tokens(value, name, where, positive, tokenizer, answer_tokens, chat)


def _prompts(value: object, field: str, where: str) -> list[str]:
    values = value if isinstance(value, list) and value else [value]
    return [_prompt(one, field, where) for one in values]


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


def _given(ids: Sequence[int], field: str, where: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    if max(ids) >= len(tokenizer):
        raise InputError(
            f"{where}: {field} has the token id {max(ids)}; this tokenizer has {len(tokenizer)}"
        )
    return tuple(dict.fromkeys(ids))


def _tokens(
    value: object,
    field: str,
    where: str,
    positive: str,
    tokenizer: Tokenizer,
    answer_tokens: Tokens,
    chat: bool,
) -> tuple[Answer, ...]:
    texts = value if isinstance(value, list) else [value]
    words = [text for text in texts if isinstance(text, str) and text]
    if not texts or len(words) < len(texts):
        raise InputError(
            f"{where}: {field} must be a string or a list of strings, none empty, got "
            f"{_short(value)}"
        )
    words = [_text(text, field, where) for text in words]
    if chat:  # what begins a turn has no space before it
        words = [text.lstrip(" ") or text for text in words]
    find = {"one": _token, "first": _first_token, "all": _all_tokens}[answer_tokens]
    return tuple(dict.fromkeys(find(text, field, positive, tokenizer) for text in words))


def _token(text: str, field: str, positive: str, tokenizer: Tokenizer) -> int:
    token = next_token(tokenizer, positive, text)
    if token is None:
        made = [tokenizer.decode([i]) for i in token_ids(tokenizer, text)]
        raise _DoesNotFit(
            f"{field} {text!r} must be exactly one token after its prompt; this tokenizer "
            f"makes {len(made)} of it{'' if any(PART in one for one in made) else f': {made}'}"
            + (", and another split after the prompt" if len(made) == 1 else "")
            + "; --config.task.answer_tokens=all takes all together, =first the first"
        )
    return token


def _first_token(text: str, field: str, positive: str, tokenizer: Tokenizer) -> int:
    return tokens_of(_all_tokens(text, field, positive, tokenizer))[0]


def _all_tokens(text: str, field: str, positive: str, tokenizer: Tokenizer) -> Answer:
    """The tokens that follow the prompt's own, as one where there is one."""
    after = following_tokens(tokenizer, positive, text)
    if after is None:
        raise _DoesNotFit(f"{field} {text!r} changes the tokens of its prompt")
    return after if len(after) > 1 else after[0]
