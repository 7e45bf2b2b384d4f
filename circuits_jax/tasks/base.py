"""Prompts in pairs, and the metric that reads the model's answer: step 1 of arXiv 2405.12522.

Pair i holds a positive prompt, after which the model can predict the next token, and a matched
negative one, after which it cannot. Answers and foils are token ids that may follow a positive
prompt rightly and wrongly; the metric compares the two in the logits at the last token.
"""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.ground_truth import GroundTruth


@dataclass(frozen=True)
class PromptPairs:
    """B pairs of prompts with the token ids that answer and foil the positive ones.

    Attributes:
      positives: B prompts after which the next token can be predicted.
      negatives: B matched prompts after which it cannot.
      answers: for each pair the right next tokens, at least one.
      foils: for each pair the wrong next tokens that the metric compares with, at least one; or
        none for all pairs, of metrics that compare with nothing.

    Raises:
      InputError: the four differ in number, or a pair lacks an answer or, as others have one, a
        foil.
    """

    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    answers: tuple[tuple[int, ...], ...]
    foils: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        counts = (
            len(self.positives),
            len(self.negatives),
            len(self.answers),
            len(self.foils),
        )
        if len(set(counts)) > 1:
            raise InputError(
                "positives, negatives, answers and foils must be equal in number, "
                "got {}, {}, {} and {}".format(*counts)
            )
        for field_name in ("answers", "foils") if any(self.foils) else ("answers",):
            for i, tokens in enumerate(getattr(self, field_name)):
                if not tokens:
                    raise InputError(
                        f"{field_name}[{i}] is empty: every pair needs at least one token"
                    )

    def __len__(self) -> int:
        """B, the number of pairs."""
        return len(self.positives)

    def __getitem__(self, index: slice) -> "PromptPairs":
        """The pairs of a slice: `pairs[:5]` holds the first five."""
        return PromptPairs(
            self.positives[index], self.negatives[index], self.answers[index], self.foils[index]
        )


@dataclass(frozen=True)
class Task:
    """What a circuit is looked for: prompts that learn, prompts held out, metric, known truths.

    Attributes:
      name: a name of `make_task`'s table.
      metric: a name of `METRICS`, or "MODULE:FUNCTION"; see `metric_values`.
      learn: the pairs that the method sees.
      held_out: the pairs that judge the circuit; they share no prompt with `learn`.
      truths: published circuits of the task, for any model.
      options: how the task was made (n, n_held_out, seed and the options of its builder).
    """

    name: str
    metric: str
    learn: PromptPairs
    held_out: PromptPairs
    truths: tuple[GroundTruth, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        """Raise InputError where the metric compares with foils, and there are none."""
        if self.metric in COMPARING and not (any(self.learn.foils) and any(self.held_out.foils)):
            raise InputError(
                f"task {self.name!r} has no foils, with which the metric {self.metric} compares "
                "its answers; allowed without are log_prob and a function of your own"
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """Answers and foils of B prompts as arrays, padded with id 0 to the longest list (A)."""

    answer_ids: Int[Array, "B A"]
    answer_mask: Bool[Array, "B A"]
    foil_ids: Int[Array, "B A"]
    foil_mask: Bool[Array, "B A"]


def targets(pairs: PromptPairs) -> Targets:
    """Pads the answers and foils of `pairs` to one static shape [B, A].

    A is the length of the longest list of answers or foils. Reading the ids where the mask is true
    gives the lists back.
    """
    width = max(map(len, pairs.answers + pairs.foils), default=1)
    return Targets(*_padded(pairs.answers, width), *_padded(pairs.foils, width))


def metric_values(logits: Float[Array, "B V"], targets: Targets, metric: str) -> Float[Array, " B"]:
    """How far the model prefers the answers to the foils, for each prompt.

    logit_diff: mean logit of the answers minus mean logit of the foils (Wang et al., 2211.00593).
    prob_diff: probability of all answers minus that of all foils (Hanna et al., 2305.00586), in
    [-1, 1]. Both change sign when answers and foils swap places. log_prob: the logarithm of the
    probability of all answers, at most 0, whatever the foils. None moves when a constant is added
    to a prompt's logits. "MODULE:FUNCTION" is a function of one's own of (logits, targets), pure
    and in JAX, that gives [B] numbers, the higher the better the prompt is answered. NaN where any
    logit is NaN or infinity, looked at or not.

    Args:
      logits: at the last token of each prompt.
      targets: answers and foils of the same prompts.
      metric: as above (static under jit).

    Raises:
      InputError: the metric is unknown, or no function that gives [B] numbers.
    """
    if ":" in metric:
        preferred = own_metric(metric)(logits, targets)
        if jnp.shape(preferred) != logits.shape[:1]:
            raise InputError(
                f"the metric {metric} gives an array of shape {list(jnp.shape(preferred))} for "
                f"{len(logits)} prompts; needed is one number for each"
            )
    elif metric == "log_prob":
        at_ids = jnp.take_along_axis(jax.nn.log_softmax(logits), targets.answer_ids, axis=-1)
        preferred = jax.nn.logsumexp(at_ids, axis=-1, where=targets.answer_mask)
    elif metric in COMPARING:
        value = COMPARING[metric]
        preferred = value(logits, targets.answer_ids, targets.answer_mask) - value(
            logits, targets.foil_ids, targets.foil_mask
        )
    else:
        raise InputError(f"unknown metric {metric!r}; known metrics: {', '.join(METRICS)}")
    return jnp.where((logits < jnp.inf).all(axis=-1), preferred, jnp.nan)


def answers_beat(logits: Float[Array, "B V"], targets: Targets, metric: str) -> Float[Array, " B"]:
    """Whether each prompt is answered rightly: 1, 0, or 1/2 for a tie.

    The metric is above 0; for log_prob, the best answer beats every other token.
    """
    value = metric_values(logits, targets, metric)
    if metric == "log_prob":
        ids = jnp.where(targets.answer_mask, targets.answer_ids, logits.shape[-1])
        others = jax.vmap(lambda row, at: row.at[at].set(-jnp.inf, mode="drop"))(logits, ids)
        at_ids = jnp.take_along_axis(logits, targets.answer_ids, axis=-1)
        best = jnp.max(at_ids, axis=-1, where=targets.answer_mask, initial=-jnp.inf)
        value = best - jnp.max(others, axis=-1)
    return (value > 0) + 0.5 * (value == 0)


@functools.lru_cache
def own_metric(name: str) -> Callable[[Array, Targets], Array]:
    """The function that "MODULE:FUNCTION" names.

    Raises:
      InputError: no such module, or no such function in it.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise InputError(
            f"the metric {name!r} cannot be imported ({error}); allowed are "
            f"{', '.join(METRICS)}, or MODULE:FUNCTION of a module that Python finds"
        ) from error
    if not callable(found):
        raise InputError(f"the metric {name!r} is a {type(found).__name__}, not a function")
    return found


def _mean_logit(
    logits: Float[Array, "B V"], ids: Int[Array, "B A"], mask: Bool[Array, "B A"]
) -> Float[Array, " B"]:
    return jnp.mean(jnp.take_along_axis(logits, ids, axis=-1), axis=-1, where=mask)


def _total_probability(
    logits: Float[Array, "B V"], ids: Int[Array, "B A"], mask: Bool[Array, "B A"]
) -> Float[Array, " B"]:
    probabilities = jax.nn.softmax(logits, axis=-1)
    return jnp.sum(jnp.take_along_axis(probabilities, ids, axis=-1), axis=-1, where=mask)


# What is compared of answers and foils.
COMPARING: Mapping[str, Callable] = {
    "logit_diff": _mean_logit,
    "prob_diff": _total_probability,
}
METRICS = (*COMPARING, "log_prob")


def _padded(
    rows: Sequence[Sequence[int]], width: int
) -> tuple[Int[Array, "B A"], Bool[Array, "B A"]]:
    ids = np.zeros((len(rows), width), np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return jax.device_put((ids, mask))
