"""Norm of the mean difference: how far a head's mean output moves from negatives to positives.

    score_g = | mean_B pooled(z_g W_O_g | positive) - mean_B pooled(z_g W_O_g | negative) |

The difference of class means (the "mass-mean" direction of Marks & Tegmark, arXiv 2310.06824) of
each head's output, read for its length alone. It asks where prompts differ in what heads write, not
whether the answer depends on it.

Cost: one forward pass over the 2 B prompts, no backward pass.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from circuits_jax.capture.head_outputs import paired_outputs
from circuits_jax.circuits.circuit import Scores
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.edges import product_edges
from circuits_jax.runs.checks import check_all
from circuits_jax.tasks import Task

Position = Literal["mean", "last"]


@dataclasses.dataclass(frozen=True)
class MeanDifference:
    """Options of the method.

    Attributes:
        position: tokens whose outputs count: `mean` over all of a prompt that have a partner in the
            other one of the pair (`capture/head_outputs.py: paired_outputs`), or the `last`.

    Raises:
        InputError: a value that is not allowed.
    """

    position: Position = "mean"

    def __post_init__(self):
        check_all(self, {})


def mean_difference(
    model: LanguageModel, task: Task, key: jax.Array, options: MeanDifference | None = None
) -> Scores:
    """Score heads by the norm of the mean difference of their outputs.

    Edges have no definition of their own: see `product_edges`.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used; how they are paired matters only where lengths differ.
        key: not used, nothing is random.
        options: see `MeanDifference`.

    Returns:
        Scores, in units of the residual stream; 0 where positives and negatives are the same.
    """
    options = options or MeanDifference()
    head_scores = _norm_of_difference(paired_outputs(model, task.learn, options.position))
    return Scores(head_scores, product_edges(head_scores))


@jax.jit
def _norm_of_difference(outputs: Float[Array, "B L H D"]) -> Float[Array, "L H"]:
    """Outputs of the positives, then of as many negatives."""
    positive, negative = jnp.split(outputs, 2)
    return jnp.linalg.norm(jnp.mean(positive, axis=0) - jnp.mean(negative, axis=0), axis=-1)
