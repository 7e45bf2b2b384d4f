"""Whether the model does the task at all: without that, no circuit of it means anything.

With m the task's metric (`tasks.metric_values`), on every prompt by itself:

    accuracy    share of prompts on which the answers beat the foils: m > 0, ties counting half; of
                log_prob and rank, which look at no foils, on which an answer beats every other
                token; of kl, on which the most likely token is that after the positive prompt
    metric      mean of m
    gap         mean over pairs of m(positive) - m(negative), with its 95 % interval by Student's t

A pair without contrast gives the same prediction twice: the same tokens, or next-token logits that
differ by rounding alone. A task of such pairs alone is refused. One that the model does no better
than chance, or whose gap is within noise or the wrong way round, is warned of.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.lm.language_model import LanguageModel, split
from circuits_jax.runs import files
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import PromptPairs, Targets, Task, answers_beat, metric_values, targets
from circuits_jax.tasks.base import ALONE, next_logits

CONFIDENCE = 0.95
PAIRS_A_PASS = 16
SETS = {"learn": "pairs to learn from", "held_out": "held-out pairs"}
LABELS = {"learn": "learnt", "held_out": "held out"}


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval by Student's t; of a single value the ends are NaN."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above 0; False where it is not known."""
        return self.low > 0

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.3g} (a single pair: no interval)"
        return f"{self.mean:.3g} (95 % interval {self.low:.3g} to {self.high:.3g})"

    def verdict(self) -> str:
        """What a mean that should be above 0 is like."""
        if self.high < 0:
            return "the wrong way round"
        return "" if self.above_zero else "within noise"


def interval(values: Float[np.ndarray, " B"]) -> Interval:
    """Of the mean of independent values, by Student's t with B - 1 degrees of freedom."""
    from scipy import special  # scipy.stats would take the command half a second to import

    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = float(special.stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * error)
    return Interval(mean, mean - half, mean + half)


@dataclasses.dataclass(frozen=True)
class Performance:
    """How a model does a task on one set of pairs; see the module.

    Attributes:
        pairs: B.
        accuracy, metric: on the positive prompts.
        negative_accuracy, negative_metric: on the negative ones, with the same answers and foils.
        gap: positive less negative metric, over pairs.
        without_contrast: pairs of which the two prompts give the same prediction.
        signed: the metric is above 0 where the answers beat the foils (not log_prob, rank and kl).
    """

    pairs: int
    accuracy: float
    metric: float
    negative_accuracy: float
    negative_metric: float
    gap: Interval
    without_contrast: int = 0
    signed: bool = True

    @property
    def above_chance(self) -> bool:
        """Whether the answers beat the foils on most positive prompts, and by the mean metric."""
        return self.accuracy > 0.5 and (self.metric > 0 or not self.signed)


def _called(name: str, words: Mapping[str, str]) -> str:
    """What a set is called: "learn", or, where there are several tasks or models, "learn of X"."""
    kind, of, rest = name.partition(" of ")
    return words[kind] + of + rest


def _counted(name: str, one: Performance) -> str:
    """Such as "the 10 held-out pairs"."""
    called = _called(name, SETS)
    return f"the {one.pairs} {called}" if one.pairs > 1 else called.replace("pairs", "one pair", 1)


def doubts(performance: Mapping[str, Performance]) -> list[str]:
    """Why a circuit found or judged on these pairs may mean nothing; empty where none is known."""
    sets = [(_counted(name, one), one) for name, one in performance.items()]
    chance = [
        f"{one.accuracy:.0%} of the positive prompts of {of} (mean metric {one.metric:.3g})"
        for of, one in sets
        if not one.above_chance
    ]
    found = [
        "the model does the task no better than chance (answer and foil may be swapped): the "
        f"answer beats the foil on {' and '.join(chance)}"
    ]
    gaps = {f"over {of}": one.gap for of, one in sets}
    return found[: len(chance)] + below_zero("what positive prompts have over negative ones", gaps)


def below_zero(what: str, intervals: Mapping[str, Interval]) -> list[str]:
    """A sentence on what should be above 0 and is below, and one on what is within noise.

    Args:
        what: of which the intervals are.
        intervals: by a phrase that tells them apart.
    """
    texts = []
    for verdict in ("the wrong way round", "within noise"):
        own = [f"{one} {name}" for name, one in intervals.items() if one.verdict() == verdict]
        texts += [f"{what} is {verdict} (Student's t): {', '.join(own)}"] if own else []
    return texts


def remarks(performance: Mapping[str, Performance]) -> list[str]:
    """What is odd about some of the pairs."""
    return [
        f"{one.without_contrast} of {_counted(name, one)} have no contrast: their positive and "
        "negative prompt give the same prediction"
        for name, one in performance.items()
        if one.without_contrast
    ]


def measure(
    model: LanguageModel, task: Task, sets: tuple[str, ...] = ("learn", "held_out")
) -> dict[str, Performance]:
    """How a model does a task, by set of pairs; one forward pass over both prompts of all pairs.

    Args:
        model: a loaded model.
        task: what it should do.
        sets: which of "learn" and "held_out".

    Raises:
        InputError: no pair of a set has any contrast, or a metric is not finite.
    """
    return {
        name: _measured(model, task.name, getattr(task, name), task.metric, SETS[name])
        for name in sets
    }


def _measured(
    model: LanguageModel, task: str, pairs: PromptPairs, metric: str, of: str
) -> Performance:
    prompts = [text for pair in zip(pairs.positives, pairs.negatives, strict=True) for text in pair]
    batch = model.tokenize(prompts)
    rows = np.where(batch.mask, batch.tokens, -1)
    if np.array_equal(rows[::2], rows[1::2]):
        raise InputError(
            f"task {task!r} has no contrast: in all {len(pairs)} {of} the negative prompt is the "
            f"positive one ({pairs.positives[0][:60]!r}); allowed are pairs that differ"
        )
    batch = model.continued(batch, [row for row in pairs.continuations for _ in range(2)])
    found = [
        _of_pass(interpose.last_logits(model.config, model.params, some), aims, metric)
        for some, aims in zip(
            split(batch, 2 * PAIRS_A_PASS), _split(targets(pairs), 2 * PAIRS_A_PASS), strict=True
        )
    ]
    values, beat, difference = (
        np.concatenate([np.asarray(x) for x in part]) for part in zip(*found, strict=True)
    )
    if not np.isfinite(values).all():
        raise InputError(model.first_not_finite(prompts) or f"the metric of {of} is not finite")
    positive, negative = values[: 2 * len(pairs)].reshape(-1, 2).T.astype(float)
    accuracies = beat[: 2 * len(pairs)].reshape(-1, 2).astype(float).mean(axis=0)
    same = difference[: len(pairs)] <= _rounding(model)
    if same.all():
        raise InputError(
            f"task {task!r} has no contrast: {model.name} predicts the same next token after both "
            f"prompts of all {len(pairs)} {of} (logits differ by rounding alone); allowed are "
            "pairs that the model tells apart"
        )
    return Performance(
        len(pairs),
        float(accuracies[0]),
        float(positive.mean()),
        float(accuracies[1]),
        float(negative.mean()),
        interval(positive - negative),
        int(same.sum()),
        metric not in ALONE,
    )


def _split(goal: Targets, size: int) -> list[Targets]:
    """For both prompts of every pair, rows as `split` takes them of a batch; cut on the host."""
    n = 2 * len(goal.answer_ids)
    starts = (
        [np.arange(n)] if n <= size else [np.arange(s, s + size) % n for s in range(0, n, size)]
    )
    return [
        jax.tree.map(lambda x, rows=rows: jax.device_put(np.asarray(x)[rows // 2]), goal)
        for rows in starts
    ]


@functools.partial(jax.jit, static_argnames="metric")
def _of_pass(
    logits: Float[Array, "B2 *Q V"], goal: Targets, metric: str
) -> tuple[Float[Array, " B2"], Float[Array, " B2"], Float[Array, " B"]]:
    """The metric of every prompt, and whether it is answered rightly (`answers_beat`).

    And how far two logits of a pair are apart, as a share of either.
    """
    if metric == "kl":
        whole = jnp.repeat(next_logits(logits)[::2], 2, axis=0)
        goal = dataclasses.replace(goal, reference=whole)
    values, beat = (of(logits, goal, metric) for of in (metric_values, answers_beat))
    logits = logits.reshape(len(logits), -1)  # of several tokens, after all of them
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    apart = jnp.linalg.norm(centred[::2] - centred[1::2], axis=-1)
    size = jnp.linalg.norm(centred[::2], axis=-1) + jnp.linalg.norm(centred[1::2], axis=-1)
    return values, beat, 2 * apart / jnp.maximum(size, 1e-30)


def _rounding(model: LanguageModel) -> float:
    """Relative difference of logits that rounding alone can make: 100 units of the weights'."""
    dtype = jnp.result_type(
        *(x for x in jax.tree.leaves(model.params) if jnp.issubdtype(x.dtype, jnp.floating))
    )
    return min(100 * float(jnp.finfo(dtype).eps), 0.01)


def to_json(performance: Mapping[str, Performance]) -> dict[str, Any]:
    """Plain records."""
    return {name: dataclasses.asdict(one) for name, one in performance.items()}


def from_json(record: Mapping[str, Any]) -> dict[str, Performance]:
    """What `measure` gave, from its record."""
    return {
        name: Performance(**one | {"gap": Interval(**files.numbers(one["gap"]))})
        for name, one in record.items()
    }


def labelled(performance: Mapping[str, Performance]) -> list[tuple[str, Performance]]:
    """What each set of pairs is called in a table."""
    return [(_called(name, LABELS), one) for name, one in performance.items()]


def lines(performance: Mapping[str, Performance]) -> list[str]:
    """A short table, for a terminal."""
    rows: list[tuple[str, ...]]
    rows = [("", "pairs", "accuracy +", "accuracy -", "metric +", "metric -", "difference")]
    for label, one in labelled(performance):
        numbers = (one.accuracy, one.negative_accuracy, one.metric, one.negative_metric)
        ends = f"{one.gap.low:z.2f} to {one.gap.high:z.2f}"
        cells = [str(one.pairs), *(f"{x:z.2f}" for x in numbers), f"{one.gap.mean:z.2f} ({ends})"]
        rows.append((label, *cells))
    return aligned(rows)


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of a table as lines, the first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
