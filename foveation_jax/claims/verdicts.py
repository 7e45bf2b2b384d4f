"""The paper's claims, each with its verdict and evidence (arXiv 2006.07991, abstract).

A claim compares two systems by one measure, run by run, and says which is larger (or that they are
about equal). Numbers: 1a-1c accuracy, 2a high spatial frequency, 2b occlusion, 3 weight of the
centre, 4 the same along learning; "perceptual" asks, image by image, whether Foveation-Texture is
ahead because its pictures are nearer to Reference's. Another architecture is another run.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from foveation_jax.claims import statistics
from foveation_jax.claims.comparisons import (
    ACCURACY,
    MARGIN,
    AbsentError,
    Measure,
    Question,
    questions,
)
from foveation_jax.claims.results import Claim, ClaimTable, LeftOut, ProbeResults, Verdict, title
from foveation_jax.probes.curves import Confusion

HEADLINES = {
    "1a": "Foveation-Texture is about as accurate as Reference, in spite of its compression",
    "1b": "Foveation-Texture generalises better i.i.d. than the blurs",
    "1c": "Foveation-Texture generalises better than the blurs to a first stage new to both",
    "2a": "Foveation-Texture keeps more sensitivity to high spatial frequency",
    "2b": "Foveation-Texture is more robust to occlusion",
    "3": "Both foveated systems weigh the centre more than the uniform ones",
    "4": "All this along learning",
    "perceptual": "Foveation-Texture's pictures are further from Reference's than the blurs' are",
}
ALONG_LEARNING = {
    "1b": "accuracy on its own test images",
    "2a": "area under the high-pass curves",
    "2b": "area under the occlusion curves",
    "3": "area that the centre needs to overtake the periphery",
}
EQUIVALENCE_CONFIDENCE = 0.90  # as two one-sided tests of .05 have it
RULE = (
    "A claim holds where the interval of its effect lies wholly on the claimed side of zero, fails "
    "where it lies wholly on the other side, and is undecided otherwise. Equivalence holds where "
    "the interval lies wholly within the margin, and fails where it lies wholly outside."
)


def judge(results: ProbeResults, margin: float | int = MARGIN) -> ClaimTable:
    """Every claim that the results can speak to, with its verdict, and why the others are absent.

    Args:
        results: of any systems and probes.
        margin: largest difference in accuracy that counts as "about as accurate".
    """
    claims, left_out = [], []
    for question in (*questions(results.systems, margin), *_groups(results.systems)):
        try:
            claims.append(
                (_answer if question.measure.value else _along_learning)(question, results)
            )
        except AbsentError as error:
            left_out.append(LeftOut(question.name, f"{error}."))
    left_out.append(LeftOut("4/architectures", "Another network is another run: compare its page."))
    corrected = statistics.holm(np.array([claim.p for claim in claims], np.float64))
    claims = [
        dataclasses.replace(claim, p_holm=float(p))
        for claim, p in zip(claims, corrected, strict=True)
    ]
    claims.sort(key=lambda claim: list(HEADLINES).index(claim.number))
    return ClaimTable(tuple(claims), tuple(left_out))


def verdict(interval: tuple[float | int, float | int], margin: float | None) -> Verdict:
    """`RULE`, for the interval of an effect; an undefined interval decides nothing."""
    low, high = interval
    if np.isnan(low) or np.isnan(high):
        return "undecided"
    if margin is None:
        return "holds" if low > 0 else "fails" if high < 0 else "undecided"
    if -margin < low and high < margin:
        return "holds"
    return "fails" if low >= margin or high <= -margin else "undecided"


def _answer(question: Question, results: ProbeResults) -> Claim:
    """A claim of finished networks run by run, or of pictures image by image."""
    measure, above, below = question.measure, question.above, question.below
    values = _values(question, results)
    one_by_one = measure.counted == "runs"
    evidence = {name: v.tolist() if one_by_one else float(v.mean()) for name, v in values.items()}
    if measure.share:
        kept = measure.share(results, above) - measure.share(results, below)
        evidence |= {
            "share_of_own_accuracy": float(kept.mean()),
            "share_interval": statistics.mean_interval(kept)
            if _defined(kept)
            else statistics.NOTHING,
        }
    if measure is ACCURACY:
        evidence |= _over_classes(question, results.confusion)
    reason = ""
    if question.margin is not None:
        low, _ = statistics.mean_interval(values[below])
        if not low > results.chance:
            reason = f"{title(below)} is not above chance for sure, so being equal says nothing"
    return _claim(question, values[above] - values[below], evidence, reason)


def _claim(
    question: Question,
    differences: Float[np.ndarray, " n"],
    evidence: dict[str, Any],
    reason: str = "",
) -> Claim:
    """Statistics and verdict of paired differences; a reason given forbids any verdict."""
    confidence = statistics.CONFIDENCE if question.margin is None else EQUIVALENCE_CONFIDENCE
    defined = differences[np.isfinite(differences)]
    found = statistics.paired(defined, confidence, question.margin)
    decided: Verdict = "undecided" if reason else verdict(found.interval, question.margin)
    counted = question.measure.counted
    tests = {
        "cohens_d": found.cohens_d,
        "hedges_g": found.hedges_g,
        "wilcoxon_p": found.wilcoxon_p,
        "bootstrap_interval": found.bootstrap,
    }
    return Claim(
        name=question.name,
        number=question.number,
        statement=question.statement,
        above=question.above,
        below=question.below,
        measure=question.measure.phrase,
        verdict=decided,
        effect=found.effect,
        unit=question.measure.unit,
        interval=found.interval,
        confidence=confidence,
        p=found.p,
        p_holm=float("nan"),  # known when all p are
        n=found.n,
        counted=counted,
        margin=question.margin,
        reason=reason or _reservation(found, len(differences), counted),
        source=question.measure.source,
        evidence=evidence | tests,
    )


def _reservation(found: statistics.Paired, n_pairs: int, counted: str) -> str:
    """Why the pairs decide nothing, or speak for fewer than there are; "" where all is well."""
    if found.n < 2:
        there = f"one pair of {counted}" if found.n else f"no pair of {counted} has a value"
        return f"{there}: at least two are needed to know how they vary"
    if np.isnan(found.p):
        return f"all {found.n} pairs differ by the same amount, so their spread is unknown"
    return f"{n_pairs - found.n} of {n_pairs} pairs have no value" if found.n < n_pairs else ""


def _over_classes(question: Question, confusion: Iterable[Confusion]) -> dict[str, Any]:
    """Interval of an accuracy difference over runs and classes, where matrices are there."""
    own = {c.system: c.counts for c in confusion if c.system == c.transform}
    if not {question.above, question.below} <= set(own):
        return {}
    rates = {
        name: np.diagonal(own[name], axis1=1, axis2=2) / np.maximum(own[name].sum(2), 1)
        for name in (question.above, question.below)
    }
    return {
        "interval_over_classes": statistics.class_interval(
            rates[question.above] - rates[question.below]
        )
    }


def _groups(systems: Iterable[str]) -> list[Question]:
    """Claim 4: one question a pair of systems and number, whatever the measure."""
    groups = {}
    for q in questions(systems):
        if q.number in ALONG_LEARNING:
            groups.setdefault((q.number, q.above, q.below), []).append(q)
    asked = []
    for (number, above, below), members in groups.items():
        source = tuple(dict.fromkeys(probe for q in members for probe in q.measure.source))
        phrase = f"{ALONG_LEARNING[number]}, averaged along learning"
        unit = members[0].measure.unit
        measure = Measure(phrase, unit, source, None)
        asked.append(Question("4", number, measure, above, below))
    return asked


def _along_learning(question: Question, results: ProbeResults) -> Claim:
    """Mean effect of a group's measures over the checkpoints after epoch 0."""
    epochs = [epoch for epoch in sorted(results.dynamics) if epoch > 0]
    if len(epochs) < 2:
        raise AbsentError("fewer than two checkpoints after epoch 0 were probed")
    members = [
        q
        for q in questions(results.systems)
        if (q.number, q.above, q.below) == (question.key, question.above, question.below)
    ]
    effects = np.stack(
        [
            _effect_at(members, dataclasses.replace(results, curves=results.dynamics[epoch]))
            for epoch in epochs
        ]
    )
    means = _mean(effects, 1)
    evidence = {
        "effect_by_epoch": {str(e): float(m) for e, m in zip(epochs, means, strict=True)},
        "epochs_as_claimed": int((means > 0).sum()),
        "measures": [q.key for q in members],
    }
    return _claim(question, _mean(effects, 0), evidence)


def _effect_at(members: Iterable[Question], results: ProbeResults) -> Float[np.ndarray, " V"]:
    """Run by run, the mean difference over those measures that the results have."""
    found, absent = [], AbsentError("no measure is asked")
    for q in members:
        try:
            values = _values(q, results)
        except AbsentError as error:
            absent = error
            continue
        found.append(values[q.above] - values[q.below])
    if not found:
        raise absent
    return _mean(np.stack(found), 0)


def _values(question: Question, results: ProbeResults) -> dict[str, np.ndarray]:
    """System -> [n], in the same order of runs or images for both."""
    above, below, value = question.above, question.below, question.measure.value
    assert value is not None, "claim 4 averages the values of others"
    values = {above: value(results, above, below), below: value(results, below, above)}
    if len(values[above]) != len(values[below]):
        raise AbsentError(
            f"{title(above)} has {len(values[above])} {question.measure.counted} and "
            f"{title(below)} {len(values[below])}, so they are not paired"
        )
    return values


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is defined; NaN, without a warning, where nothing is."""
    count = np.isfinite(values).sum(axis)
    return np.where(count > 0, np.nansum(values, axis) / np.maximum(count, 1), np.nan)


def _defined(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())
