"""Random scores: what a method must beat.

ROC AUC 1/2 on the average over seeds. Cost: no pass through the model.
"""

import dataclasses

import jax

from circuits_jax.circuits.circuit import Scores
from circuits_jax.codes.codes import directed
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Random:
    """The method has no options; its seed is the key."""


def random(
    model: LanguageModel, task: Task, key: jax.Array, options: Random | None = None
) -> Scores:
    """Independent uniform scores in [0, 1) for heads and for directed edges.

    Args:
        model: only its numbers of layers and heads matter.
        task: not looked at.
        key: gives the scores; the same key gives the same.
        options: none.
    """
    heads = model.config.heads
    n = heads[0] * heads[1]
    head_key, edge_key = jax.random.split(key)
    edges = jax.random.uniform(edge_key, (n, n))
    return Scores(jax.random.uniform(head_key, heads), directed(edges, heads))
