r"""Edge attribution patching, without and with integrated gradients.

`eap` (Syed et al., arXiv 2310.10348): first-order effects of all edges from one gradient at the
positive prompt; `edges.py` has the equation. `eap_ig` (Hanna et al., arXiv 2403.17806) replaces the
gradient by its mean over `steps` points, i / steps for i = 1 ... steps, of a line:

    inputs        the embeddings go from the negative's to the positive's. Effects of the edges out
                  of the embedding sum to m(positive) - m(negative) with more steps, where the two
                  prompts of each pair have as many tokens (completeness, arXiv 1703.01365);
                  other writers' effects have no such sum.
    activations   what the embedding, the heads of one layer or one MLP write goes from the
                  negative's to the positive's, all else being computed. Effects of the edges out
                  of those that moved sum, with more steps, to what replacing them together does.
                  (The authors' code averages over the lines of all groups; here each edge has the
                  line of its own writer.)

    descent       the embeddings leave the positive's, each step along the steepest descent of
                  |p - p(negative)|^2, with p the prediction after the last token (GradPath; Zhang
                  et al., arXiv 2502.06852): a straight line may lead through points at which
                  nothing changes any more. A step is 1 / steps as long as the line, which is our
                  choice; there is no completeness.

Whatever the variant, a writer's effects summed over all its readers are its own attribution: that
is the head's effect.

Cost: two forward passes; then two forward passes, of which one is layer by layer on the way back,
and a backward pass over the positives for `eap`, `steps` times that for `inputs`, (2 L + 1) `steps`
times for `activations`; for `descent` as for `inputs`, and each step as much again, and a pass over
the negatives. Do not read much into single edges of
deep models: they are first-order in a steep function. Exact path patching
(`exact_patching` with edges="path") tells.
"""

import dataclasses
from typing import Literal

import jax
import numpy as np

from circuits_jax.circuits.circuit import Scores
from circuits_jax.circuits.graph import Graph, graph_of
from circuits_jax.interpose import Rules
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.edges import Points, distances, edge_effects, positive_point, scores_of
from circuits_jax.runs.checks import Range, check_all
from circuits_jax.tasks import Task

Variant = Literal["inputs", "activations", "descent"]


@dataclasses.dataclass(frozen=True)
class Eap:
    """Options of `eap`.

    Attributes:
        prompts_at_once: prompts that share a backward pass on one device, at most; long ones are
            fewer (`mesh.fitting`).

    Raises:
        InputError: a value that is not allowed.
    """

    prompts_at_once: int = 8

    def __post_init__(self):
        check_all(self, {"prompts_at_once": Range(1)})


@dataclasses.dataclass(frozen=True)
class EapIg(Eap):
    """Options of `eap_ig`.

    Attributes:
        variant: what moves, and where to (see the module): `inputs` or `activations` along a line,
            or inputs by `descent`.
        steps: points of the line.
    """

    variant: Variant = "inputs"
    steps: int = 5

    def __post_init__(self):
        super().__post_init__()
        check_all(self, {"steps": Range(1)})


def eap(model: LanguageModel, task: Task, key: jax.Array, options: Eap | None = None) -> Scores:
    """Score edges by the first-order effect of reading the negative through them; heads by sums.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: not used, nothing is random.
        options: see `Eap`.

    Returns:
        Scores, in units of the metric, with the signed `details` of `edges.scores_of`; positive
        where reading the negative lowers the metric, as in exact patching.
    """
    point = positive_point(graph_of(model.config), task.metric)
    return _scores(model, task, point, options or Eap())


def eap_ig(
    model: LanguageModel, task: Task, key: jax.Array, options: EapIg | None = None
) -> Scores:
    """`eap` with gradients averaged along a path; arguments and result as there."""
    options = options or EapIg()
    line = activations_lines if options.variant == "activations" else inputs_line
    points = line(graph_of(model.config), options.steps, task.metric)
    return _scores(model, task, points, options, options.variant == "descent")


def _scores(
    model: LanguageModel, task: Task, points: Points, options: Eap, descent: bool = False
) -> Scores:
    effects = edge_effects(
        model, task.learn, task.metric, points, Rules(), options.prompts_at_once, descent
    )
    return scores_of(graph_of(model.config), effects)


def inputs_line(graph: Graph, steps: int, metric: str = "") -> Points:
    """Points at which the embedding alone has moved; they count the same for all."""
    still = np.zeros((steps, graph.n_layers), np.float32)
    rows = np.full((steps, len(graph.writers)), 1 / steps, np.float32)
    return Points(rows, distances(steps, metric), still, still)


def activations_lines(graph: Graph, steps: int, metric: str = "") -> Points:
    """For each time at which something is written, points at which that alone has moved."""
    group = np.repeat(np.arange(1 + 2 * graph.n_layers), steps)  # of each point
    distance = np.tile(distances(steps, metric), 1 + 2 * graph.n_layers)
    far = distance[:, None] * (group[:, None] == np.arange(1 + 2 * graph.n_layers)[None])
    rows = (group[:, None] == graph.write_times[None]) / steps
    return Points(rows.astype(np.float32), far[:, 0], far[:, 1::2], far[:, 2::2])
