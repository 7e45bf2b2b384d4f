"""How a method's scores agree with exact patching, which stands in where no circuit is known.

A head is counted as one that matters where its exact effect, either way, is above 2 % of the gap
between the metric on positive and on negative prompts.
"""

import numpy as np
from flax import struct
from jaxtyping import Bool, Float
from scipy import stats

from circuits_jax.circuits.circuit import Scores
from circuits_jax.evaluation.cpr_cmd import signed_effects
from circuits_jax.evaluation.faithfulness import against_truth

MATTERS = 0.02  # share of the gap


@struct.dataclass
class Agreement:
    """Of scores with exact effects; NaN where it is not defined.

    Attributes:
        roc_auc, average_precision: of the scores, against the heads that matter.
        pearson, spearman: of signed effects with exact ones where the method gives the sign, else
            of scores with absolute effects.
    """

    roc_auc: float
    average_precision: float
    pearson: float
    spearman: float


def heads_that_matter(
    effects: Float[np.ndarray, "L H"], gap: float | int
) -> Bool[np.ndarray, "L H"]:
    """Heads whose exact effect is above `MATTERS` of the gap, in size."""
    return np.abs(effects) > MATTERS * abs(gap)


def against_exact(scores: Scores, effects: Float[np.ndarray, "L H"], gap: float | int) -> Agreement:
    """Compare a method's scores with exact effects.

    Args:
        scores: of the method; its signed effects are `details["effects"]` where it has them.
        effects: of exact patching, signed.
        gap: metric on the positive prompts less that on the negative ones.
    """
    found, matter = np.asarray(scores.head_scores), heads_that_matter(effects, gap)
    area, precision = np.nan, np.nan
    if matter.any() and not matter.all():
        agreement = against_truth(found, matter, matter)
        area, precision = agreement.roc_auc, agreement.average_precision
    signed = "effects" in scores.details
    given, wanted = (signed_effects(scores), effects) if signed else (found, np.abs(effects))
    return Agreement(area, precision, *(_correlation(rank, given, wanted) for rank in (0, 1)))


def _correlation(of_ranks: int, a: np.ndarray, b: np.ndarray) -> float:
    """NaN where one side is the same everywhere."""
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    if of_ranks:
        a, b = stats.rankdata(a), stats.rankdata(b)
    if not (np.ptp(a) and np.ptp(b)):
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])
