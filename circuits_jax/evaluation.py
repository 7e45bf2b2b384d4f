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
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from circuits_jax import progress
from circuits_jax.ablation import Ablation, Trial, trial
from circuits_jax.circuit import Circuit, top
from circuits_jax.judging import edges_judged, judged
from circuits_jax.models.language_model import LanguageModel
from circuits_jax.tasks import Task, metric_values, targets


def faithfulness(
    values: Float[np.ndarray, "*M"], full: float, nothing: float
) -> Float[np.ndarray, "*M"]:
    """Share of the metric's range that a circuit keeps: 1 for all heads, 0 for none.

    NaN where ablating every head changes nothing.
    """
    span = full - nothing
    return (np.asarray(values) - nothing) / (span if span else np.nan)


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
    """All that is known of how good a circuit is.

    Attributes:
        positive_metric: the whole model's metric on held-out positive prompts.
        negative_metric: the same on their negatives; the task is what lies between.
        judgements: faithfulness by ablation, size and kind; of edges at the circuit's own size, and
            only where it has edges.
        truths: agreement with published circuits of this model, by name; empty where none is known.
    """

    positive_metric: float
    negative_metric: float
    judgements: tuple[Judgement, ...]
    truths: dict[str, TruthMetrics]


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """How circuits are judged.

    Attributes:
        ablations: which to use at the circuit's own size; the first one draws the curve.
        curve: sizes of the faithfulness curve, as fractions of all heads.
        n_random: random circuits of each size on the curve, and random choices of edges.
        masks_at_once: circuits that share a forward pass.
    """

    ablations: tuple[Ablation, ...] = ("mean", "zero", "resample")
    curve: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75)
    n_random: int = 3
    masks_at_once: int = 1


def evaluation_from_json(record: dict[str, Any]) -> Evaluation:
    """An evaluation from its record in circuit.json."""
    judgements = tuple(
        Judgement(**{k: np.nan if v is None else v for k, v in row.items()})
        for row in record["judgements"]
    )
    truths = {name: TruthMetrics(**values) for name, values in record["truths"].items()}
    return Evaluation(**record | {"judgements": judgements, "truths": truths})


def evaluate(
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    key: jax.Array | None = None,
    options: EvaluationOptions | None = None,
    track: progress.Track = progress.silent,
) -> Evaluation:
    """Judge a circuit, and the circuits of other sizes by the same scores, on held-out prompts.

    Args:
        model: a loaded model.
        task: its held-out pairs judge.
        circuit: what `Scores.circuit` cut.
        key: of the random circuits; default seed 0.
        options: see `EvaluationOptions`.
        track: shows progress.
    """
    options = options or EvaluationOptions()
    key = jax.random.key(0) if key is None else key
    pairs, goal = task.held_out, targets(task.held_out)
    positive, negative = (
        float(np.mean(metric_values(model.logits(prompts), goal, task.metric)))
        for prompts in (pairs.positives, pairs.negatives)
    )
    curve = sorted({circuit.size, *(round(f * circuit.heads.size) for f in options.curve)} - {0})
    judgements = []
    for index, ablation in enumerate(options.ablations):
        sizes = curve if index == 0 else [circuit.size]
        prepared = trial(model, task.held_out, ablation)
        rows, ends = _judge(model, task, circuit, sizes, prepared, ablation, key, options, track)
        judgements += rows
        if circuit.edges.any():
            judgements += _judge_edges(
                model, task, circuit, prepared, ablation, ends, key, options, track
            )
    truths = {
        truth.name: against_truth(
            circuit.head_scores, circuit.heads, _mask(truth.heads, circuit.heads.shape)
        )
        for truth in task.truths
        if model.name.split("/")[-1] == truth.model
    }
    return Evaluation(positive, negative, tuple(judgements), truths)


def _judge(
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    sizes: list[int],
    prepared: Trial,
    ablation: Ablation,
    key: jax.Array,
    options: EvaluationOptions,
    track: progress.Track,
) -> tuple[list[Judgement], tuple[float, float]]:
    """Circuit, complement and random circuits of every size, as one stack of masks.

    With them, the metric with all heads and with none.
    """
    found = np.stack(
        [
            circuit.heads if size == circuit.size else top(circuit.head_scores, size)
            for size in sizes
        ]
    )
    random = random_masks(key, circuit.heads.shape, sizes, options.n_random)
    everything, nothing = np.ones_like(found[:1]), np.zeros_like(found[:1])
    groups = [everything, nothing, found, ~found, random.reshape(-1, *circuit.heads.shape)]
    values, divergence = judged(
        model, prepared, np.concatenate(groups), task.metric, options.masks_at_once, track
    )
    ends = float(values[0].mean()), float(values[1].mean())
    values, divergence = (  # circuit, complement, then random rows
        x[2:].reshape(-1, len(sizes), x.shape[1]) for x in (values, divergence)
    )
    kinds = {"circuit": slice(0, 1), "complement": slice(1, 2), "random": slice(2, None)}
    judgements = [
        _judgement(ablation, kept, size, values[rows, i], divergence[rows, i], ends)
        for kept, rows in kinds.items()
        for i, size in enumerate(sizes)
        if len(values[rows])
    ]
    return judgements, ends


def _judge_edges(
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    prepared: Trial,
    ablation: Ablation,
    ends: tuple[float, float],
    key: jax.Array,
    options: EvaluationOptions,
    track: progress.Track,
) -> list[Judgement]:
    """The circuit's heads with its own edges, with all others, and with random ones."""
    candidates = edges_between(circuit.heads)
    own = circuit.edges & candidates
    random = random_edges(jax.random.fold_in(key, 1), candidates, int(own.sum()), options.n_random)
    masks = np.concatenate([own[None], (candidates & ~own)[None], random])
    values, divergence = edges_judged(model, prepared, circuit.heads, masks, task.metric, track)
    kinds = {
        "edges": slice(0, 1),
        "edges_complement": slice(1, 2),
        "random_edges": slice(2, None),
    }
    return [
        _judgement(ablation, kept, circuit.size, values[rows], divergence[rows], ends)
        for kept, rows in kinds.items()
        if len(values[rows])
    ]


def _judgement(
    ablation: Ablation,
    kept: str,
    size: int,
    values: Float[np.ndarray, "M B"],
    divergence: Float[np.ndarray, "M B"],
    ends: tuple[float, float],
) -> Judgement:
    """One row, of circuits of one kind and size."""
    metric = values.mean(axis=1)
    share = faithfulness(metric, *ends)
    return Judgement(
        ablation,
        kept,
        size,
        float(metric.mean()),
        float(share.mean()),
        float(share.std()),
        float(divergence.mean()),
        float(divergence.max()),
    )


def _mask(heads: frozenset[tuple[int, int]], shape: tuple[int, int]) -> Bool[np.ndarray, "L H"]:
    mask = np.zeros(shape, bool)
    mask[tuple(np.array(sorted(heads)).T)] = True
    return mask
