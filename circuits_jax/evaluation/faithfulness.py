r"""Step 7 of the method: how good a circuit is.

Where the truth is known: ROC AUC and average precision of the scores, precision, recall and F1 of
the circuit. Known or not: faithfulness, by ablating heads on held-out prompts. With m the task's
metric, averaged over prompts, C the circuit, M all heads:

    faithfulness(C) = (m(C) - m(nothing)) / (m(M) - m(nothing))     (arXiv 2407.08734, 2504.13151)
    completeness(C) = faithfulness(M \ C); near 0 where the circuit is all there is

m(C) ablates the heads outside C: `zero` their outputs, replace them by their `mean` over the
negative prompts, or `resample` them from the matched negative prompt. A metric that stays can hide
predictions that change: how far, says for each prompt

    divergence(C) = KL(whole model's next-token distribution || that with C alone)

in nats, 0 where C is all heads; its largest value over prompts is the worst case.

The circuit's edges are judged too. With heads as in C, the edge u -> v between two of them that is
not the circuit's is ablated as well: v alone, its queries, keys and values, reads a residual stream
in which u's output z_u W_O is the ablated one. Everything else reads u as it is: other heads, MLPs
and the final logits. So the direct path is cut, and paths through MLPs stay. A circuit of all edges
among its heads is as faithful as its heads; one of fewer edges is judged harder. Its completeness
is the faithfulness of the same heads with all edges among them but its own.

What faithfulness is a share of, m(M) - m(nothing), is given with its 95 % interval: where that is
not above 0, faithfulness is a number without a meaning, and the evaluation says so.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from circuits_jax import interpose
from circuits_jax.capture.ablation import ABLATIONS, Ablation, Trial, sides, trial
from circuits_jax.circuits.circuit import Circuit, above_noise, fewer_heads, top
from circuits_jax.evaluation.arguments import check_arguments
from circuits_jax.evaluation.masked_passes import edge_masked_metrics, masked_metrics
from circuits_jax.evaluation.track import Track, silent
from circuits_jax.lm import performance
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.performance import Interval, Performance
from circuits_jax.runs import errors, files, keys
from circuits_jax.runs.checks import Allowed, Range, check_all
from circuits_jax.tasks import Task, task_warning

ROUNDING = 1e-6  # of a metric
ABLATED = {"mean": "set to their mean", "zero": "set to zero", "resample": "resampled"}
KINDS = ("circuit", "complement", "random", "edges", "edges_complement", "random_edges")
Keep = Callable[..., Any]  # (name, make, *args) -> a part: found by its name, or made and kept


def made(name: str, make: Callable[..., Any], *args: Any) -> Any:
    """Parts are made, and not kept."""
    del name
    return make(*args)


def faithfulness(
    values: Float[np.ndarray, "*M"], full: float, nothing: float
) -> Float[np.ndarray, "*M"]:
    """Share of the metric's range that a circuit keeps: 1 for all heads, 0 for none.

    NaN where ablating every head changes nothing, or no more than rounding does.
    """
    span = full - nothing
    if abs(span) <= ROUNDING * max(abs(full), abs(nothing)):
        span = np.nan
    return (np.asarray(values) - nothing) / span


def random_masks(
    key: jax.Array, heads: tuple[int, int], sizes: list[int], n: int
) -> Bool[np.ndarray, "n M L H"]:
    """`n` random circuits of every size."""
    scores = np.asarray(jax.random.uniform(key, (n, *heads)))
    masks = [[top(s, size) for size in sizes] for s in scores]
    return np.array(masks, bool).reshape(n, len(sizes), *heads)


def edges_between(heads: Bool[np.ndarray, "L H"]) -> Bool[np.ndarray, "G G"]:
    """All edges among some heads: from one of an earlier to one of a later layer."""
    inside, layer = heads.reshape(-1), np.arange(heads.size) // heads.shape[1]
    return inside[:, None] & inside[None, :] & (layer[:, None] < layer[None, :])


def random_edges(
    key: jax.Array, candidates: Bool[np.ndarray, "G G"], size: int, n: int
) -> Bool[np.ndarray, "n G G"]:
    """`n` random choices of `size` of the candidates; of all, where they are fewer."""
    scores = np.asarray(jax.random.uniform(key, (n, *candidates.shape)))
    chosen = [top(np.where(candidates, one, -1), size) & candidates for one in scores]
    return np.array(chosen, bool).reshape(n, *candidates.shape)


@struct.dataclass
class TruthMetrics:
    """How scores and a circuit agree with known heads; all in [0, 1]."""

    roc_auc: float
    average_precision: float
    precision: float
    recall: float
    f1: float


def against_truth(
    scores: Float[np.ndarray, "*axes"],
    in_circuit: Bool[np.ndarray, "*axes"],
    truth: Bool[np.ndarray, "*axes"] | Int[np.ndarray, "*axes"],
) -> TruthMetrics:
    """Compare scores, and the circuit cut from them, with the heads known to be in the circuit.

    Or so for edges. ROC AUC is the chance that a true head scores above another head, ties counting
    half.
    """
    from sklearn import metrics

    truth, scores = np.ravel(truth).astype(bool), np.ravel(scores)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, np.ravel(in_circuit), average="binary", zero_division=0.0
    )
    return TruthMetrics(
        roc_auc=float(metrics.roc_auc_score(truth, scores)),
        average_precision=float(metrics.average_precision_score(truth, scores)),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
    )


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The metric on held-out prompts with only some heads, or some edges among them, kept.

    Attributes:
        ablation: what replaces the other heads, and what others hear of them.
        kept: `circuit` (the best heads), `complement` (all but those) or `random` (as many); or the
            circuit's heads with some edges among them: `edges` (the circuit's own),
            `edges_complement` (all but those) or `random_edges` (as many).
        size: heads in the circuit that is kept, left out, or matched.
        metric: mean of the task's metric over prompts, and over circuits where random.
        faithfulness: see the module; the mean over circuits where random.
        spread: standard deviation of the faithfulness over random circuits; 0 elsewhere.
        divergence: see the module; the mean over prompts, and over circuits where random.
        worst_divergence: the largest over prompts, and over circuits where random.
    """

    ablation: str
    kept: str
    size: int
    metric: float
    faithfulness: float
    spread: float = 0.0
    divergence: float = np.nan
    worst_divergence: float = np.nan


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that is known of how good a circuit is; prints as a short table.

    Attributes:
        positive_metric: the whole model's metric on held-out positive prompts.
        negative_metric: the same on their negatives; the task is what lies between.
        judgements: faithfulness by ablation, size and kind; of edges at the circuit's own size, and
            only where it has edges.
        truths: agreement with published circuits of this model, by name; empty where none is known.
        performance: of the whole model on the pairs "learn" and "held_out" (`lm/performance.py`).
        ranges: m(all heads) - m(no heads), by ablation: what faithfulness is a share of.
        size: heads of the circuit.
        asked: heads that were asked for; more than `size` where the others' scores are noise.
    """

    positive_metric: float
    negative_metric: float
    judgements: tuple[Judgement, ...]
    truths: dict[str, TruthMetrics]
    performance: Mapping[str, Performance] = dataclasses.field(default_factory=dict)
    ranges: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    size: int = 0
    asked: int = 0

    @property
    def doubts(self) -> list[str]:
        """Why the circuit may say nothing about the task; empty where the task is one."""
        return performance.doubts(self.performance)

    @property
    def warnings(self) -> list[str]:
        """All that a reader has to know before the numbers, one sentence each."""
        fewer = [fewer_heads(self.size, self.asked)] if self.size < self.asked else []
        return [*warnings_of(self.performance, self.ranges), *fewer]

    def means_something(self, ablation: str) -> bool:
        """Whether faithfulness by this ablation is a share of something above noise."""
        return ablation not in self.ranges or self.ranges[ablation].above_zero

    def __str__(self) -> str:
        return "\n".join(summary(self))


def warnings_of(measured: Mapping[str, Performance], ranges: Mapping[str, Interval]) -> list[str]:
    """What puts faithfulness in doubt: the task, and what it is a share of, by ablation."""
    what = "faithfulness means nothing where it is a share of noise or less: the metric with all "
    named = {f"with others {ABLATED[ablation]}": one for ablation, one in ranges.items()}
    of_ranges = performance.below_zero(f"{what}heads less that with none", named)
    return [*performance.doubts(measured), *of_ranges, *performance.remarks(measured)]


def summary(evaluation: Evaluation) -> list[str]:
    """The evaluation as lines of text: performance, faithfulness at its size, truths, warnings."""
    text = performance.lines(evaluation.performance) if evaluation.performance else []
    own = by_ablation(evaluation.judgements, evaluation.size)
    kinds = [kind for kind in KINDS if any(kind in row for row in own.values())]
    if kinds:
        text += ["", f"faithfulness, {evaluation.size} heads"]
        rows = [("others", *(kind.replace("_", " ") for kind in kinds))]
        for ablation, row in own.items():
            mark = "" if evaluation.means_something(ablation) else " (no meaning)"
            rows.append((ablation + mark, *(_share(row.get(kind)) for kind in kinds)))
        text += performance.aligned(rows)
    if evaluation.truths:
        names = [field.name for field in dataclasses.fields(TruthMetrics)]
        rows = [("known circuit", *(name.replace("_", " ") for name in names))]
        for name, truth in evaluation.truths.items():
            rows.append((name, *(f"{getattr(truth, one):.2f}" for one in names)))
        text += ["", *performance.aligned(rows)]
    return text + [f"Warning: {sentence}." for sentence in evaluation.warnings]


def _share(judgement: Judgement | None) -> str:
    if judgement is None or np.isnan(judgement.faithfulness):
        return "-"
    spread = f" ± {judgement.spread:.2f}" if judgement.kept.startswith("random") else ""
    return f"{judgement.faithfulness:z.2f}{spread}"


def by_ablation(judgements: Sequence[Judgement], size: int) -> dict[str, dict[str, Judgement]]:
    """The judgements at the circuit's own size: by ablation, the curve's first, and by kind."""
    return {
        name: {j.kept: j for j in judgements if j.ablation == name and j.size == size}
        for name in dict.fromkeys(j.ablation for j in judgements)
    }


EVALUATION_LIMITS: dict[str, Allowed] = {
    "ablations": ABLATIONS,
    "curve": Range(0, 1),
    "n_random": Range(0, whole=True),
    "masks_at_once": Range(1, whole=True),
}


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """How circuits are judged.

    Attributes:
        ablations: which to use at the circuit's own size; the first one draws the curve.
        curve: sizes of the faithfulness curve, as fractions of all heads.
        n_random: random circuits of each size on the curve, and random choices of edges.
        masks_at_once: circuits that share a forward pass, at most; fewer where prompts are many or
            long (`mesh.fitting`).

    Raises:
        InputError: a value that is not allowed.
    """

    ablations: tuple[Ablation, ...] = ("mean", "zero", "resample")
    curve: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75)
    n_random: int = 3
    masks_at_once: int = 1

    def __post_init__(self):
        for name in ("ablations", "curve"):
            given = getattr(self, name)
            if np.ndim(given) != 1:
                raise errors.InputError(f"{name} is {given!r}; allowed is a tuple of several")
        check_all(self, EVALUATION_LIMITS)


def evaluation_from_json(record: dict[str, Any]) -> Evaluation:
    """An evaluation from its record in circuit.json."""
    known = {field.name for field in dataclasses.fields(Evaluation)}
    given = {name: value for name, value in record.items() if name in known}
    return Evaluation(
        **given
        | {
            "judgements": tuple(Judgement(**files.numbers(row)) for row in record["judgements"]),
            "truths": {n: TruthMetrics(**files.numbers(v)) for n, v in record["truths"].items()},
            "performance": performance.from_json(record.get("performance", {})),
            "ranges": {
                n: Interval(**files.numbers(v)) for n, v in record.get("ranges", {}).items()
            },
        }
    )


def evaluate(
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    key: jax.Array | int | None = None,
    options: EvaluationOptions | None = None,
    track: Track = silent,
    keep: Keep = made,
    measured: Mapping[str, Performance] | None = None,
) -> Evaluation:
    """Judge a circuit, and the circuits of other sizes by the same scores, on held-out prompts.

    Args:
        model: a loaded model.
        task: its held-out pairs judge.
        circuit: what `Scores.circuit` cut.
        key: of the random circuits: a seed, or a key; default seed 0.
        options: see `EvaluationOptions`.
        track: shows progress.
        keep: finds or makes each part (in terms of JSON), so that a stopped evaluation can go on.
        measured: the model's performance, where `performance.measure` was called before.

    Raises:
        InputError: an argument in the place of another, or a task without contrast.

    Warns:
        TaskWarning: each of `Evaluation.warnings`.
    """
    if isinstance(key, EvaluationOptions) and options is None:
        key, options = None, key
    options = options or EvaluationOptions()
    check_arguments(model=model, task=task, circuit=circuit)
    errors.check_kind("options", options, EvaluationOptions, "or None")
    key = keys.stream(key, "evaluation")
    if measured is None:
        measured = performance.measure(model, task)

    @functools.cache
    def whole():
        return interpose.last_logits(model.config, model.params, sides(model, task.held_out)[0])

    judgements: list[Judgement] = []
    ranges: dict[str, Interval] = {}
    for ablation in options.ablations:
        found, ranges[ablation] = _under(
            _Judge(model, task, circuit, ablation, key, options, track, whole), keep
        )
        judgements += found
    evaluation = Evaluation(
        positive_metric=measured["held_out"].metric,
        negative_metric=measured["held_out"].negative_metric,
        judgements=tuple(judgements),
        truths=_truths(model, task, circuit),
        performance=measured,
        ranges=ranges,
        size=circuit.size,
        asked=circuit.asked,
    )
    task_warning.warn(
        text for text in evaluation.warnings if text != fewer_heads(circuit.size, circuit.asked)
    )  # of which `Scores.circuit` has warned
    return evaluation


def _truths(model: LanguageModel, task: Task, circuit: Circuit) -> dict[str, TruthMetrics]:
    """Agreement with each published circuit of this model for the task, by its name."""
    found = {}
    for truth in task.truths:
        if model.name.split("/")[-1] == truth.model:
            mask = np.zeros(circuit.heads.shape, bool)
            mask[tuple(np.array(sorted(truth.heads)).T)] = True
            found[truth.name] = against_truth(circuit.head_scores, circuit.heads, mask)
    return found


def _under(judge: "_Judge", keep: Keep) -> tuple[list[Judgement], Interval]:
    """All that is judged under one ablation, and what its faithfulness is a share of."""
    own = keep(judge.ablation, judge.own)
    parts = [own["judgements"]]
    sizes = _curve(judge.circuit, judge.options)
    if sizes and judge.ablation == judge.options.ablations[0]:
        parts.append(keep(f"{judge.ablation}-curve", judge.curve, sizes, own["ends"]))
    if judge.circuit.edges.any():
        parts.append(keep(f"{judge.ablation}-edges", judge.edges, own["ends"]))
    found = [Judgement(**files.numbers(row)) for rows in parts for row in rows]
    return found, Interval(**files.numbers(own["range"]))


def _curve(circuit: Circuit, options: EvaluationOptions) -> list[int]:
    """The curve's sizes but the circuit's own, as far as there are heads that score above noise."""
    most = int(above_noise(circuit.head_scores).sum())
    sizes = {min(round(f * circuit.heads.size), most) for f in options.curve}
    return sorted(sizes - {0, circuit.size})


@dataclasses.dataclass(frozen=True)
class _Judge:
    """One ablation's part of an evaluation. What is common to its parts is made when first used."""

    model: LanguageModel
    task: Task
    circuit: Circuit
    ablation: Ablation
    key: jax.Array
    options: EvaluationOptions
    track: Track
    whole: Callable[[], Array]  # logits of the whole model, the same for all parts

    @functools.cached_property
    def prepared(self) -> Trial:
        found = trial(self.model, self.task.held_out, self.ablation, self.task.metric)
        return found.filled() if len(self.options.ablations) > 1 else found

    def own(self) -> dict[str, Any]:
        """At the circuit's own size; the metric with all heads and with none."""
        full = np.ones_like(self.circuit.heads)
        values, divergence = self._metrics(self._masks([self.circuit.size]), full, ~full)
        whole, nothing = values[0], values[1]
        ends = [float(whole.mean()), float(nothing.mean())]
        rows = self._rows(KINDS[:3], [self.circuit.size], values[2:], divergence[2:], ends)
        of_range = performance.interval(whole - nothing)
        return {"ends": ends, "range": dataclasses.asdict(of_range), "judgements": rows}

    def curve(self, sizes: list[int], ends: list[float]) -> list[dict[str, Any]]:
        """At the other sizes of the curve."""
        values, divergence = self._metrics(self._masks(sizes))
        return self._rows(KINDS[:3], sizes, values, divergence, ends)

    def edges(self, ends: list[float]) -> list[dict[str, Any]]:
        """The circuit's heads with its own edges, with all others, and with random ones."""
        candidates = edges_between(self.circuit.heads)
        own = self.circuit.edges & candidates
        key, n = jax.random.fold_in(self.key, 1), self.options.n_random
        random = random_edges(key, candidates, int(own.sum()), n)
        values, divergence = edge_masked_metrics(
            self.model,
            self.prepared,
            self.circuit.heads,
            np.concatenate([own[None], (candidates & ~own)[None], random]),
            self.task.metric,
            self._shown,
            self.whole(),
        )
        return self._rows(KINDS[3:], [self.circuit.size], values, divergence, ends)

    def _masks(self, sizes: list[int]) -> Bool[np.ndarray, "M L H"]:
        """Circuit, complement and random circuits of every size."""
        circuit = self.circuit
        found = np.stack(
            [
                circuit.heads if size == circuit.size else top(circuit.head_scores, size)
                for size in sizes
            ]
        )
        random = random_masks(self.key, circuit.heads.shape, sizes, self.options.n_random)
        return np.concatenate([found, ~found, random.reshape(-1, *circuit.heads.shape)])

    def _metrics(self, masks: Bool[np.ndarray, "M L H"], *first: Bool[np.ndarray, "L H"]):
        masks = np.concatenate([*(mask[None] for mask in first), masks])
        at_once = self.options.masks_at_once
        return masked_metrics(
            self.model, self.prepared, masks, self.task.metric, at_once, self._shown, self.whole()
        )

    def _rows(self, kinds, sizes, values, divergence, ends) -> list[dict[str, Any]]:
        """Judgements of the first kind, the second and any number of the third, size by size."""
        values, divergence = (x.reshape(-1, len(sizes), x.shape[1]) for x in (values, divergence))
        parts = slice(0, 1), slice(1, 2), slice(2, None)
        return [
            _judgement(self.ablation, kept, size, values[some, i], divergence[some, i], ends)
            for kept, some in zip(kinds, parts, strict=True)
            for i, size in enumerate(sizes)
            if len(values[some])
        ]

    def _shown(self, items: Sequence[Any], description: str) -> Iterable[Any]:
        """Progress that names the ablation."""
        return self.track(items, f"{self.ablation}: {description}")


def _judgement(
    ablation: Ablation,
    kept: str,
    size: int,
    values: Float[np.ndarray, "M B"],
    divergence: Float[np.ndarray, "M B"],
    ends: Sequence[float],
) -> dict[str, Any]:
    """One row in terms of JSON, of circuits of one kind and size."""
    metric = values.mean(axis=1)
    share = faithfulness(metric, *ends)
    row = Judgement(
        ablation,
        kept,
        size,
        float(metric.mean()),
        float(share.mean()),
        float(share.std()),
        float(divergence.mean()),
        float(divergence.max()),
    )
    return files.plain(dataclasses.asdict(row))
