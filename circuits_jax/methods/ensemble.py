r"""Several methods' scores as one: sums of ranks, means, minima (arXiv 2510.06811).

All methods have one sign, higher = in the circuit, and no unit in common. Of M members, with s_m
the score of a head, 0 where it is no more than the member's noise, and G heads,

    ranks      mean over m of rank_m / G, the best head's rank being G; equal scores share the mean
               of their ranks, and a score of 0 has rank 0. Any rising function of a member's scores
               gives the same.
    mean       mean over m of s_m / max s_m
    minimum    minimum over m of s_m / max s_m: what all members see

Edges are combined so too, over the members that score edges of their own (all of the graph,
`graph_effects`), where there are such; over all members else.

Cost: that of all members.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float

from circuits_jax.circuits.circuit import Scores, above_noise
from circuits_jax.runs.checks import check_all

Combine = Literal["ranks", "mean", "minimum"]


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Options of a combination of methods, such as sae_codes+relp.

    Attributes:
        members: name and options of each.
        combine: see the module.

    Raises:
        InputError: a value that is not allowed.
    """

    members: tuple[tuple[str, Any], ...] = ()
    combine: Combine = "ranks"

    def __post_init__(self):
        check_all(self, {})


def combined(found: Sequence[Scores], combine: Combine = "ranks") -> Scores:
    """One score of the scores that several methods give the same heads.

    Args:
        found: of each member.
        combine: see the module.

    Returns:
        Scores in [0, 1], of which those above 0 count, with `details`: `agreement` [L, H], 1 less
        how far apart the members' ranks of the head are, as a share of all ranks; `effects` where
        any member has them, and `graph_effects`, each with the sign of the members' mean.
    """
    heads = [_counted(one.head_scores, one.details.get("noise")) for one in found]
    head_scores, ranks = _together(heads, combine), np.stack([_ranks(s) for s in heads])
    details = {"agreement": 1 - np.ptp(ranks, axis=0), "noise": np.float32(0)}
    signs = [one.details["effects"] for one in found if "effects" in one.details]
    if signs:
        details["effects"] = head_scores * _sign(signs)
    own = [one for one in found if "graph_effects" in one.details]
    graphs = [np.asarray(one.details["graph_effects"]) for one in own]
    if graphs:
        size = _together([_counted(np.abs(one)) for one in graphs], combine)
        details["graph_effects"] = size * _sign(graphs)
    edges = _together([_counted(one.edge_scores) for one in own or found], combine)
    return Scores(head_scores, edges, details)


def _counted(scores: Float[Array | np.ndarray, "*S"], noise: Any = None) -> Float[np.ndarray, "*S"]:
    """Scores, 0 where they say nothing."""
    scores = np.asarray(scores, np.float32)
    return np.where(above_noise(scores, None if noise is None else float(noise)), scores, 0)


def _ranks(scores: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """As shares of the number of scores; equal ones have the mean of their ranks, and 0 has 0."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    shares = ranks[place].reshape(scores.shape) / max(scores.size, 1)
    return np.where(scores > 0, shares, 0).astype(np.float32)


def _together(scores: Sequence[Float[np.ndarray, "*S"]], combine: Combine):
    if combine == "ranks":
        return np.mean([_ranks(one) for one in scores], axis=0)
    shares = [one / (np.max(one, initial=0) or 1) for one in scores]
    return np.mean(shares, axis=0) if combine == "mean" else np.min(shares, axis=0)


def _sign(effects: Sequence[Float[Array | np.ndarray, "*S"]]) -> Float[np.ndarray, "*S"]:
    """Of the mean of effects, each as a share of its largest."""
    sizes = [np.max(np.abs(one), initial=0) or 1 for one in effects]
    return np.sign(sum(np.asarray(one) / size for one, size in zip(effects, sizes, strict=True)))
