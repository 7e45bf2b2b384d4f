"""Prompts in pairs, and the metric that reads the model's answer: step 1 of arXiv 2405.12522.

Pair i holds a positive prompt, after which the model can predict the next token, and a matched
negative one, after which it cannot. Answers and foils may follow a positive prompt rightly and
wrongly; the metric compares the two in the logits after the last token. One of several tokens is
fed to the model as it stands (teacher forcing), after the positive prompt and after the negative
one, and has the product of its tokens' probabilities. With s its logarithm, and A the answers and
F the foils of a prompt,

    logit_diff    mean_A s - mean_F s; of single tokens this is the difference of mean logits
    prob_diff     sum_A exp s - sum_F exp s
    log_prob      log sum_A exp s
    rank          minus the number of tokens that beat the best answer: 0 where it is said greedily
    kl            -KL(the whole model's next token after the positive prompt || the next token)

The higher, the better the prompt is answered. Only the first two look at foils, and the last looks
at no answer.
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

Answer = int | tuple[int, ...]  # one token, or several


@dataclass(frozen=True)
class PromptPairs:
    """B pairs of prompts with the token ids that answer and foil the positive ones.

    Attributes:
      positives: B prompts after which the next token can be predicted.
      negatives: B matched prompts after which it cannot.
      answers: for each pair what follows rightly, at least one: a token id, or a tuple of several;
        or none for all pairs, of metrics that look at none.
      foils: for each pair what follows wrongly, with which the metric compares, at least one; or
        none for all pairs, of metrics that compare with nothing.

    Raises:
      InputError: the four differ in number, a pair lacks an answer or a foil as others have one, or
        one of these has no token.
    """

    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    answers: tuple[tuple[Answer, ...], ...]
    foils: tuple[tuple[Answer, ...], ...]

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
        for field_name in ("answers", "foils"):
            rows = getattr(self, field_name)
            for i, row in enumerate(rows):
                if (any(rows) and not row) or () in row:
                    raise InputError(
                        f"{field_name}[{i}] is empty: every pair needs at least one token"
                    )
                tokens = [token for one in row for token in tokens_of(one)]
                if not all(isinstance(x, int | np.integer) and x >= 0 for x in tokens):
                    raise InputError(
                        f"{field_name}[{i}] is {row!r:.60}; allowed are token ids, whole numbers "
                        "from 0"
                    )

    def __len__(self) -> int:
        """B, the number of pairs."""
        return len(self.positives)

    def __getitem__(self, index: slice) -> "PromptPairs":
        """The pairs of a slice: `pairs[:5]` holds the first five."""
        return PromptPairs(
            self.positives[index], self.negatives[index], self.answers[index], self.foils[index]
        )

    @property
    def continuations(self) -> list[list[tuple[int, ...]]]:
        """Of each pair, its answers and foils of several tokens, in their order."""
        both = zip(self.answers, self.foils, strict=True)
        rows = [[tokens_of(one) for one in (*row, *other)] for row, other in both]
        return [[one for one in row if len(one) > 1] for row in rows]


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
        """Raise InputError where the metric looks at answers or foils, and there are none."""
        if self.metric in COMPARING and not (any(self.learn.foils) and any(self.held_out.foils)):
            raise InputError(
                f"task {self.name!r} has no foils, with which the metric {self.metric} compares "
                "its answers; allowed without are log_prob, rank, kl and a function of your own"
            )
        if self.metric != "kl" and not (any(self.learn.answers) and any(self.held_out.answers)):
            raise InputError(
                f"task {self.name!r} has no answers, which the metric {self.metric} looks at; "
                "allowed without is kl"
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """Answers and foils of B prompts as arrays, padded with id 0 to the longest list (A).

    Where one has several tokens, arrays are [B A Y], and the masks say which tokens there are.

    Attributes:
        answer_ids, answer_mask: the answers' tokens.
        foil_ids, foil_mask: the foils'.
        answer_at, foil_at: where one has several tokens, the row of logits [B Q V] in which each
            token is predicted: 0 after the prompt, then after the tokens of answers and foils.
        reference: of the metric kl, logits of the whole model after the positive prompts.
    """

    answer_ids: Int[Array, "B A *Y"]
    answer_mask: Bool[Array, "B A *Y"]
    foil_ids: Int[Array, "B A *Y"]
    foil_mask: Bool[Array, "B A *Y"]
    answer_at: Int[Array, "B A Y"] | None = None
    foil_at: Int[Array, "B A Y"] | None = None
    reference: Float[Array, "B V"] | None = None


def tokens_of(answer: Answer) -> tuple[int, ...]:
    """An answer as several tokens, or as one."""
    return answer if isinstance(answer, tuple) else (answer,)


def targets(pairs: PromptPairs) -> Targets:
    """Pads the answers and foils of `pairs` to one static shape [B, A], or [B, A, Y].

    A is the length of the longest list of answers or foils. Reading the ids where the mask is true
    gives the lists back. Logits of several tokens are those of `LanguageModel.continued`.
    """
    width = max(1, *map(len, pairs.answers + pairs.foils))
    sides = [[[*map(tokens_of, row)] for row in side] for side in (pairs.answers, pairs.foils)]
    longest = max(len(one) for side in sides for row in side for one in row or [()])
    if longest <= 1:
        ids = [[[one[0] for one in row] for row in side] for side in sides]
        return Targets(*(x for side in ids for x in _padded(side, (width,))))
    both = [(len(row), _predicted_at(row + other)) for row, other in zip(*sides, strict=True)]
    at = [rows[:n] for n, rows in both], [rows[n:] for n, rows in both]
    shape = (width, longest)
    padded = (x for side in sides for x in _padded(side, shape))
    return Targets(*padded, *(_padded(side, shape)[0] for side in at))


def _predicted_at(answers: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Rows of the logits of a prompt in which the tokens of its answers and foils are predicted."""
    starts = np.cumsum([1, *(len(one) - 1 for one in answers)])
    return [(0, *range(s, s + len(one) - 1)) for one, s in zip(answers, starts, strict=False)]


def next_logits(logits: Float[Array, "B *Q V"]) -> Float[Array, "B V"]:
    """Those after the prompts themselves."""
    return logits if logits.ndim == 2 else logits[:, 0]


def metric_values(
    logits: Float[Array, "B *Q V"], targets: Targets, metric: str
) -> Float[Array, " B"]:
    """How well each prompt is answered, by a metric of the module.

    logit_diff (Wang et al., 2211.00593) and prob_diff (Hanna et al., 2305.00586), in [-1, 1],
    change sign when answers and foils swap places. log_prob, rank and kl are at most 0. None moves
    when a constant is added to a prompt's logits. rank moves in steps; its slope is that of
    the sum over tokens of sigmoid(logit - answer's logit), which counts in part what is near.
    kl has no slope at the whole model, where it is largest.

    "MODULE:FUNCTION" is a function of one's own of (logits, targets), pure and in JAX, that gives
    [B] numbers, the higher the better the prompt is answered; `answer_log_probs` serves it.
    NaN where any logit is NaN or infinity, looked at or not.

    Args:
      logits: at the last token of each prompt; with answers of several tokens [B Q V].
      targets: answers and foils of the same prompts.
      metric: as above (static under jit).

    Raises:
      InputError: the metric is unknown, or no function that gives [B] numbers.
    """
    if ":" in metric:
        preferred = _by_own_metric(logits, targets, metric)
    elif metric in COMPARING:
        of_answers, of_foils = (COMPARING[metric](logits, targets, side) for side in SIDES)
        preferred = of_answers - of_foils
    elif metric in ALONE:
        preferred = ALONE[metric](logits, targets)
    else:
        raise InputError(f"unknown metric {metric!r}; known metrics: {', '.join(METRICS)}")
    finite = (logits < jnp.inf).all(axis=range(1, logits.ndim))
    return jnp.where(finite, preferred, jnp.nan)


def _by_own_metric(logits, targets: Targets, metric: str) -> Float[Array, " B"]:
    """What a function of one's own gives, if that is a real number for each prompt."""
    try:
        preferred = own_metric(metric)(logits, targets)
    except InputError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"the metric {metric} ends with {type(error).__name__}: {said}") from error
    kind = getattr(preferred, "dtype", type(preferred).__name__)
    if not isinstance(preferred, jax.Array) or jnp.iscomplexobj(preferred):
        raise InputError(f"the metric {metric} gives {kind}; needed is a real array of JAX")
    if preferred.shape != logits.shape[:1]:
        raise InputError(
            f"the metric {metric} gives an array of shape {list(preferred.shape)} for "
            f"{len(logits)} prompts; needed is one number for each"
        )
    return preferred.astype(logits.dtype)


def answers_beat(
    logits: Float[Array, "B *Q V"], targets: Targets, metric: str
) -> Float[Array, " B"]:
    """Whether each prompt is answered rightly: 1, 0, or 1/2 for a tie.

    The metric is above 0; for log_prob and rank, the best answer beats every other token, at each
    of its own; for kl, the most likely next token is the unpatched one.
    """
    if metric == "kl":
        logits = next_logits(logits)
        best = jnp.argmax(targets.reference, axis=-1, keepdims=True)
        value = _margins(logits, best, jnp.ones_like(best, bool))
    elif metric not in ALONE:
        value = metric_values(logits, targets, metric)
    elif targets.answer_at is None:
        value = _margins(logits, targets.answer_ids, targets.answer_mask)
    else:
        rows = _row_at(logits, targets.answer_at)
        there = targets.answer_mask[..., None]
        apart = jax.vmap(jax.vmap(_margins))(rows, targets.answer_ids[..., None], there)
        apart = jnp.min(apart, axis=-1, where=targets.answer_mask, initial=jnp.inf)
        value = jnp.max(apart, axis=-1, where=targets.answer_mask[..., 0], initial=-jnp.inf)
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
    except (Exception, SystemExit) as error:  # a module of one's own may do anything
        raise InputError(
            f"the metric {name!r} cannot be imported ({error}); allowed are "
            f"{', '.join(METRICS)}, or MODULE:FUNCTION of a module that Python finds"
        ) from error
    if not callable(found):
        raise InputError(f"the metric {name!r} is a {type(found).__name__}, not a function")
    return found


def answer_log_probs(
    logits: Float[Array, "B *Q V"], targets: Targets, side: str = "answer"
) -> tuple[Float[Array, "B A"], Bool[Array, "B A"]]:
    """Log-probability of each answer (or "foil") as a whole, and which there are."""
    log_probs = jax.nn.log_softmax(logits)
    ids, mask, at = _of_side(targets, side)
    if at is None:
        return jnp.take_along_axis(log_probs, ids, axis=-1), mask
    return jnp.sum(_entry_at(log_probs, at, ids), axis=-1, where=mask), mask[..., 0]


def _of_side(targets: Targets, side: str):
    return tuple(getattr(targets, f"{side}_{name}") for name in ("ids", "mask", "at"))


def _row_at(logits: Float[Array, "B Q V"], at: Int[Array, "B A Y"]) -> Float[Array, "B A Y V"]:
    """The logits in which each token is predicted."""
    return jax.vmap(lambda rows, numbers: rows[numbers])(logits, at)


def _entry_at(
    x: Float[Array, "B Q V"], at: Int[Array, "B A Y"], ids: Int[Array, "B A Y"]
) -> Float[Array, "B A Y"]:
    """Each token's entry in the row in which it is predicted."""
    return jax.vmap(lambda rows, numbers, tokens: rows[numbers, tokens])(x, at, ids)


def _margins(
    logits: Float[Array, "B V"], ids: Int[Array, "B A"], mask: Bool[Array, "B A"]
) -> Float[Array, " B"]:
    """The best of the tokens less the best of all others."""
    outside = jnp.where(mask, ids, logits.shape[-1])
    others = jax.vmap(lambda row, at: row.at[at].set(-jnp.inf, mode="drop"))(logits, outside)
    own = jnp.take_along_axis(logits, ids, axis=-1)
    best = jnp.max(own, axis=-1, where=mask, initial=-jnp.inf)
    return best - jnp.max(others, axis=-1)


def _mean_logit(logits: Float[Array, "B *Q V"], targets: Targets, side: str) -> Float[Array, " B"]:
    ids, mask, at = _of_side(targets, side)
    if at is None:
        return jnp.mean(jnp.take_along_axis(logits, ids, axis=-1), axis=-1, where=mask)
    log_probs, there = answer_log_probs(logits, targets, side)
    return jnp.mean(log_probs, axis=-1, where=there)


def _total_probability(
    logits: Float[Array, "B *Q V"], targets: Targets, side: str
) -> Float[Array, " B"]:
    log_probs, there = answer_log_probs(logits, targets, side)
    return jnp.sum(jnp.exp(log_probs), axis=-1, where=there)


def _log_probability(logits: Float[Array, "B *Q V"], targets: Targets) -> Float[Array, " B"]:
    log_probs, there = answer_log_probs(logits, targets)
    return jax.nn.logsumexp(log_probs, axis=-1, where=there)


def _rank(logits: Float[Array, "B *Q V"], targets: Targets) -> Float[Array, " B"]:
    """Value by counting, slope by the counting's smooth form; summed over an answer's tokens."""
    ids, mask, at = _of_side(targets, "answer")
    if at is None:
        logits, ids, mask = logits[:, None], ids[..., None], mask[..., None]
        at = jnp.zeros_like(ids)
    own = _entry_at(logits, at, ids)[..., None]
    above = _row_at(logits, at) - own
    smooth = jnp.sum(jax.nn.sigmoid(above), axis=-1)
    counted = jnp.sum(above > 0, axis=-1).astype(smooth.dtype)
    beaten = smooth + jax.lax.stop_gradient(counted - smooth)
    total = jnp.sum(beaten, axis=-1, where=mask)
    return -jnp.min(total, axis=-1, where=mask[..., 0], initial=jnp.inf)


def _minus_kl(logits: Float[Array, "B *Q V"], targets: Targets) -> Float[Array, " B"]:
    if targets.reference is None:
        raise InputError("the metric kl needs the whole model's prediction, as `goals` has it")
    return -divergence(targets.reference, next_logits(logits))


def divergence(whole: Float[Array, "B V"], logits: Float[Array, "B V"]) -> Float[Array, " B"]:
    """KL(whole || other), in nats, of two predictions as logits; never below 0."""
    whole = jax.nn.log_softmax(whole)
    lost = jnp.sum(jnp.exp(whole) * (whole - jax.nn.log_softmax(logits)), axis=-1)
    return jnp.maximum(lost, 0)


SIDES = ("answer", "foil")
# What is compared of answers and foils, and metrics of no foils.
COMPARING: Mapping[str, Callable] = {
    "logit_diff": _mean_logit,
    "prob_diff": _total_probability,
}
ALONE: Mapping[str, Callable] = {"log_prob": _log_probability, "rank": _rank, "kl": _minus_kl}
METRICS = (*COMPARING, *ALONE)


def _padded(rows: Sequence, shape: tuple[int, ...]) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
    """Lists, or lists of lists, as one array, and where they have numbers."""
    ids = np.zeros((len(rows), *shape), np.int32)
    mask = np.zeros((len(rows), *shape), bool)
    for i, row in enumerate(rows):
        for index, one in enumerate(row):
            at = (i, index, slice(len(one))) if isinstance(one, tuple) else (i, index)
            ids[at], mask[at] = one, True
    return jax.device_put((ids, mask))
