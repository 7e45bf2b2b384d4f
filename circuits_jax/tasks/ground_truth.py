"""Attention heads that hand analysis named as the circuit of a task, to judge a found circuit by.

A head is (layer, head), both from 0. Sources: IOI, Wang et al. (arXiv 2211.00593); greater-than,
Hanna et al. (arXiv 2305.00586); docstring, Heimersheim & Janiak (2023) as ACDC (arXiv 2304.14997)
and O'Neill & Bui (arXiv 2405.12522) use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Head = tuple[int, int]


@dataclass(frozen=True)
class GroundTruth:
    """The heads that do one task in one model, as one source lists them.

    Attributes:
      task: name of the task, such as "ioi".
      model: name of the model, such as "gpt2".
      name: tells apart two truths of one task and model.
      heads: all heads of the circuit, (layer, head).
      source: the publication.
      roles: role -> its heads, where the source gives roles; their union is `heads`.
      edges: directed (head, later head) pairs of the circuit, where the source gives them.
      graph_edges: (writer, reader) by name, as `circuits/graph.py` has them, MLPs included.
    """

    task: str
    model: str
    name: str
    heads: frozenset[Head]
    source: str
    roles: Mapping[str, frozenset[Head]] = field(default_factory=dict, hash=False)
    edges: frozenset[tuple[Head, Head]] = frozenset()
    graph_edges: frozenset[tuple[str, str]] = frozenset()


_IOI_ROLES = {
    "previous token": frozenset({(2, 2), (4, 11)}),
    "duplicate token": frozenset({(0, 1), (0, 10), (3, 0)}),
    "induction": frozenset({(5, 5), (5, 8), (5, 9), (6, 9)}),
    "S-inhibition": frozenset({(7, 3), (7, 9), (8, 6), (8, 10)}),
    "negative name mover": frozenset({(10, 7), (11, 10)}),
    "name mover": frozenset({(9, 6), (9, 9), (10, 0)}),
    "backup name mover": frozenset(
        {(9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 3), (11, 9)}
    ),
}

_DOCSTRING_SHARED = frozenset({(0, 5), (1, 4), (2, 0), (3, 0), (3, 6)})

_TRUTHS = (
    GroundTruth(
        task="ioi",
        model="gpt2",
        name="wang2022",
        heads=frozenset().union(*_IOI_ROLES.values()),
        source="Wang et al. 2022, arXiv 2211.00593",
        roles=_IOI_ROLES,
    ),
    GroundTruth(
        task="greater_than",
        model="gpt2",
        name="hanna2023",
        heads=frozenset({(0, 1), (0, 3), (0, 5), (5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1)}),
        source="Hanna et al. 2023, arXiv 2305.00586",
    ),
    GroundTruth(
        task="docstring",
        model="attn-only-4l",
        name="acdc",
        heads=_DOCSTRING_SHARED | {(1, 2)},
        source="Conmy et al. 2023, arXiv 2304.14997",
    ),
    GroundTruth(
        task="docstring",
        model="attn-only-4l",
        name="oneill2024",
        heads=_DOCSTRING_SHARED | {(1, 0)},
        source="O'Neill & Bui 2024, arXiv 2405.12522",
    ),
    GroundTruth(
        task="sports",
        model="pythia-2.8b-deduped",
        name="fact_finding",
        heads=frozenset({(16, 20), (17, 30), (19, 24), (21, 9), (22, 15), (22, 17)}),
        source="Nanda et al. 2023, Fact Finding, the heads that extract the sport, as auto-circuit "
        "(Miller et al. 2024, arXiv 2407.08734) lists them",
    ),
)


def ground_truths(task: str) -> tuple[GroundTruth, ...]:
    """Every published ground truth of a task, for any model; empty where none is known."""
    return tuple(truth for truth in _TRUTHS if truth.task == task)
