"""Statistics of paired runs: areas, cross-overs, intervals, tests, effect sizes.

Run i of every system starts from the same weights and sees the same order of images, so systems are
compared run by run. Values are [V] (or [N], image by image), curves [V, P]; accuracies and areas
are fractions in [0, 1]. With few runs the intervals are Student's; a bootstrap over fewer than
`MIN_BOOTSTRAP` runs is too narrow to be honest and is NaN.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import stats

from foveation_jax.probes.evaluate import probe_of

CONFIDENCE = 0.95
MIN_WILCOXON = 6  # with 5 pairs no ranks are as rare as 1 in 20, two-sided
MIN_BOOTSTRAP = 6
RESAMPLES = 4999
NOTHING = (float("nan"), float("nan"))


def deviation(values: Float[np.ndarray, " V *rest"]) -> Float[np.ndarray, "*rest"]:
    """Deviation between runs, unbiased (n - 1); NaN for one run."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.std(0, ddof=1))


def positions(probe: str, levels: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """Where a curve's levels lie on its x-axis, which areas and figures share.

    Areas of an image are their own axis. The published ladders of sigmas have no end (inf) and
    uneven steps; every step counts the same: 0 1 2 ... (`Probe.scale`), also where only some of
    the ladder's levels were shown.
    """
    known = probe_of(probe)
    if known and known.scale == "steps":
        ladder = known.axis(None)
        places = np.array([np.argmax(ladder == level) for level in levels], np.float64)
        whole = len(places) and np.isin(levels, ladder).all()
        return places if whole else np.arange(len(levels), dtype=np.float64)
    return np.asarray(levels, np.float64)


def area_under(x: Float[np.ndarray, " P"], accuracy: Float[np.ndarray, "V P"]) -> np.ndarray:
    """[V] mean height of each run's curve (trapezoids), in the unit of accuracy.

    A constant curve's area is the constant; the order of the levels does not matter.
    """
    if len(x) == 1:
        return accuracy[:, 0].astype(np.float64)
    order = np.argsort(x, kind="stable")
    return np.trapezoid(accuracy[:, order], x[order], axis=1) / np.ptp(x)


def crossover(
    area: Float[np.ndarray, " P"],
    centre: Float[np.ndarray, "V P"],
    periphery: Float[np.ndarray, "V P"],
) -> np.ndarray:
    """[V] area at which the centre's class overtakes the periphery's, linear between levels.

    The first level pair where centre - periphery goes from below 0 to 0 or above; NaN for a run
    that has none. Shifting both curves by one constant does not change it.
    """
    order = np.argsort(area, kind="stable")
    area, lead = area[order], (centre - periphery)[:, order]
    rises = (lead[:, :-1] < 0) & (lead[:, 1:] >= 0)
    first = rises.argmax(1)
    runs = np.arange(len(lead))
    below, above = lead[runs, first], lead[runs, first + 1]
    share = -below / np.where(rises.any(1), above - below, 1)
    found = area[first] + share * (area[first + 1] - area[first])
    return np.where(rises.any(1), found, np.nan)


def mean_interval(
    values: Float[np.ndarray, " V"], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Student's interval of a mean; NaN for fewer than two values or values that do not differ."""
    if len(values) < 2 or not _differ(values):
        return NOTHING
    half = stats.sem(values) * stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return float(values.mean() - half), float(values.mean() + half)


def bootstrap_interval(
    values: Float[np.ndarray, " V"], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bias-corrected, accelerated bootstrap of a mean; NaN below `MIN_BOOTSTRAP` values."""
    if len(values) < MIN_BOOTSTRAP or not _differ(values):
        return NOTHING
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, batch=500,
        method="BCa", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def crossover_interval(
    area: Float[np.ndarray, " P"],
    centre: Float[np.ndarray, "V P"],
    periphery: Float[np.ndarray, "V P"],
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Bootstrap over runs (percentiles) of the cross-over of the mean curves.

    NaN below `MIN_BOOTSTRAP` runs, or where a resample in a hundred has no cross-over.
    """
    if len(centre) < MIN_BOOTSTRAP:
        return NOTHING
    drawn = np.random.default_rng(0).integers(len(centre), size=(RESAMPLES, len(centre)))
    found = crossover(area, centre[drawn].mean(1), periphery[drawn].mean(1))
    if np.isnan(found).mean() > 0.01:
        return NOTHING
    low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def class_interval(
    differences: Float[np.ndarray, "V L"], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bootstrap of a mean difference over runs and classes, both drawn anew (percentiles).

    Wider than an interval over runs: it asks what other classes would have shown. NaN below
    `MIN_BOOTSTRAP` classes.
    """
    n_runs, n_classes = differences.shape
    if n_classes < MIN_BOOTSTRAP:
        return NOTHING
    rng = np.random.default_rng(0)
    runs = rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), RESAMPLES) / n_runs
    classes = rng.multinomial(n_classes, np.full(n_classes, 1 / n_classes), RESAMPLES) / n_classes
    means = np.einsum("pv,vl,pl->p", runs, differences, classes, optimize=True)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Paired:
    """Differences of pairs: their mean, its uncertainty, tests and effect sizes.

    Attributes:
        n: pairs.
        effect: mean difference.
        interval: Student's, of the mean.
        p: paired t-test, two-sided; for an equivalence the larger of the two one-sided p.
        wilcoxon_p: signed ranks, two-sided; NaN below `MIN_WILCOXON` pairs.
        cohens_d: mean over deviation of the differences.
        hedges_g: the same, corrected for few pairs.
        bootstrap: interval of the mean; NaN below `MIN_BOOTSTRAP` pairs.
    """

    n: int
    effect: float
    interval: tuple[float, float]
    p: float
    wilcoxon_p: float
    cohens_d: float
    hedges_g: float
    bootstrap: tuple[float, float]


def paired(
    differences: Float[np.ndarray, " V"],
    confidence: float = CONFIDENCE,
    margin: float | None = None,
) -> Paired:
    """Statistics of paired differences.

    Every number but the mean is NaN for fewer than two pairs, or where all differences are equal,
    as then nothing is known of how they vary.

    Args:
        differences: pair by pair.
        confidence: of both intervals.
        margin: p is that of an equivalence within +-margin (two one-sided t-tests) if given.
    """
    n, effect = len(differences), float(differences.mean()) if len(differences) else np.nan
    if n < 2 or not _differ(differences):
        return Paired(n, effect, NOTHING, np.nan, np.nan, np.nan, np.nan, NOTHING)
    cohens_d = effect / float(deviation(differences))
    return Paired(
        n=n,
        effect=effect,
        interval=mean_interval(differences, confidence),
        p=_t_test(differences) if margin is None else equivalence_p(differences, margin),
        wilcoxon_p=_wilcoxon(differences),
        cohens_d=cohens_d,
        hedges_g=cohens_d * (1 - 3 / (4 * (n - 1) - 1)),
        bootstrap=bootstrap_interval(differences, confidence),
    )


def equivalence_p(differences: Float[np.ndarray, " V"], margin: float) -> float:
    """Two one-sided t-tests (Schuirmann 1987): p of a mean difference outside +-margin.

    Below alpha just where the 1 - 2 alpha interval lies within the margin.
    """
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    return float(max(above, below))


def holm(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Holm's step-down correction; NaN stays NaN and counts as no test.

    Never below p, at most 1, and in the order of p.
    """
    corrected = np.full(p.shape, np.nan)
    order = np.flatnonzero(~np.isnan(p))
    order = order[np.argsort(p[order], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def _differ(values: np.ndarray) -> bool:
    """Whether values differ by more than the rounding of accuracies."""
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))


def _t_test(differences: np.ndarray) -> float:
    return float(stats.ttest_1samp(differences, 0).pvalue)


def _wilcoxon(differences: np.ndarray) -> float:
    if len(differences) < MIN_WILCOXON:
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue)
