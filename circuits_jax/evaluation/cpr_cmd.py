"""CPR and CMD: how faithful circuits of all sizes are, as two numbers (MIB, arXiv 2504.13151).

With f(C_k) the faithfulness of the circuit that keeps a share k of the heads, others resampled from
the paired negative, and the areas taken by trapezoids between the benchmark's ten sizes:

    CPR = integral of f(C_k) dk           circuits of the largest signed effects; higher is better
    CMD = integral of |1 - f(C_k)| dk     of the largest absolute effects; 0 is best

CPR asks for the parts that raise the metric, and may pass 1; CMD for those that make the model's
behaviour, whether they raise or lower it. The smallest size is .1 %, so a perfect circuit has
.999 and 0. Here parts are heads: MLPs stay as they are, and f = 0 is all heads resampled.
"""

import numpy as np
from jaxtyping import Bool, Float

from circuits_jax.circuits.circuit import Scores, top

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def signed_effects(scores: Scores) -> Float[np.ndarray, "L H"]:
    """What the method says of the sign of each head's effect; else its scores."""
    return np.asarray(scores.details.get("effects", scores.head_scores))


def area_masks(scores: Scores) -> Bool[np.ndarray, "2 S L H"]:
    """Heads kept at every size: by signed effect for CPR, then by absolute effect for CMD."""
    effects = signed_effects(scores)
    counts = [int(share * effects.size) for share in SIZES]
    kinds = effects, np.asarray(scores.head_scores)
    return np.stack([[top(kind, count) for count in counts] for kind in kinds])


def cpr(faithfulness: Float[np.ndarray, " S"]) -> float:
    """Area under the faithfulness of circuits by signed effects; about 1 where all are faithful."""
    return float(np.trapezoid(faithfulness, SIZES))


def cmd(faithfulness: Float[np.ndarray, " S"]) -> float:
    """Area between the faithfulness of circuits by absolute effects and 1; never below 0."""
    return float(np.trapezoid(np.abs(1 - faithfulness), SIZES))
