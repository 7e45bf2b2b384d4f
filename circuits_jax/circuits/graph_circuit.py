"""Circuits of the whole graph: the edges that do a task, among heads, MLPs, embedding and logits.

A circuit is selected by its edges: the best ones by the size of their effects, less all that no
path from the input to the logits uses. That is the rule of EAP-IG and of MIB (arXiv 2403.17806,
2504.13151), so a graph that `formats.save_graph_json` writes is cut there as it is here.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from circuits_jax.circuits.circuit import Scores, above_noise, best_first, top
from circuits_jax.circuits.graph import Graph
from circuits_jax.runs import files
from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError

SCHEMA, SCHEMA_VERSION = "circuits_jax/graph_circuit", 1
EDGE_NOISE = 1e-6  # of the largest effect: four times what float32 leaves of nothing in 48 layers


@dataclasses.dataclass(frozen=True)
class GraphCircuit:
    """A part of a graph that does a task.

    Attributes:
        graph: of the model.
        edges: which edges are in; every one of them is on a path from the input to the logits,
            unless it was made otherwise.
        effects: of all edges, signed where the method says so; those of the largest size were
            chosen.
        rule: how they were chosen, such as {"n_edges": 2374}.
    """

    graph: Graph
    edges: Bool[np.ndarray, "writers readers"]
    effects: Float[np.ndarray, "writers readers"]
    rule: Mapping[str, int | float]

    @property
    def size(self) -> int:
        """Number of edges."""
        return int(self.edges.sum())

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of what the edges join, in the order of the graph: `input`, a3.h5, m3, `logits`."""
        joined = np.append(self.edges.any(axis=1), False) | self.graph.reads(self.edges)
        return tuple(np.array(self.graph.nodes)[joined].tolist())

    @property
    def heads(self) -> Bool[np.ndarray, "L H"]:
        """Heads among the nodes."""
        return self._among_nodes(self.graph.head_writers).reshape(self.graph.n_layers, -1)

    @property
    def mlps(self) -> Bool[np.ndarray, " L"]:
        """MLPs among the nodes, by layer."""
        return self._among_nodes(self.graph.mlp_writers)

    def _among_nodes(self, writers: np.ndarray) -> Bool[np.ndarray, " nodes"]:
        writes = np.asarray(self.edges.any(axis=1))
        return writes[writers] | self.graph.reads(self.edges)[writers]

    def ranked_edges(self) -> list[tuple[str, str]]:
        """(writer, reader) of the edges by name, the largest effect first."""
        places = np.argwhere(self.edges)
        order = best_first(np.abs(self.effects[self.edges]))
        return [(self.graph.writers[w], self.graph.readers[r]) for w, r in places[order]]

    def __repr__(self) -> str:
        return (
            f"GraphCircuit({self.size} of {int(self.graph.is_edge.sum())} edges, "
            f"{int(self.heads.sum())} heads, {int(self.mlps.sum())} MLPs)"
        )

    def to_json(self) -> dict[str, Any]:
        """The circuit in the schema that `save` documents."""
        places = (
            {name: i for i, name in enumerate(self.graph.writers)},
            {name: i for i, name in enumerate(self.graph.readers)},
        )
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "rule": dict(self.rule),
            "n_layers": self.graph.n_layers,
            "n_heads": self.graph.n_heads,
            "parallel": self.graph.parallel,
            "nodes": list(self.nodes),
            "edges": [
                {"from": w, "to": r, "effect": float(self.effects[places[0][w], places[1][r]])}
                for w, r in self.ranked_edges()
            ],
        }

    def save(self, path: str | Path, **about: Any) -> None:
        """Write the circuit as JSON.

        Schema, version 1: `schema`, `version`; whatever is given in `about`, such as `model`;
        `rule`, `n_layers`, `n_heads`, `parallel` (MLPs beside attention); `nodes`, names in order;
        `edges`, largest effect first, each with `from` (a writer: input, a3.h5, m3), `to` (a
        reader: a7.h0<q>, m4, logits) and `effect`.

        Raises:
            InputError: the file cannot be written.
        """
        record = self.to_json()
        head = {name: record.pop(name) for name in ("schema", "version")}
        files.write_json(Path(path), head | about | record)


def graph_circuit(
    scores: Scores, graph: Graph, n_edges: int | None = None, *, share: float | int = 0.02
) -> GraphCircuit:
    """The circuit of the edges with the largest effects, connected.

    An effect that is no more than rounding noise (`EDGE_NOISE` of the largest) says nothing: such
    an edge is never taken, so there may be fewer than were asked for.

    Args:
        scores: of a method that scores all edges, such as `sae_codes`, `eap`, `relp`.
        graph: of the model (`graph_of`).
        n_edges: how many edges are taken before what is not connected is left out. Default: a
            `share` of all.
        share: of all edges, where `n_edges` is not given.

    Raises:
        InputError: scores without effects of all edges, of another shape or not finite; an
            `n_edges` or a `share` that is not allowed.
    """
    effects = np.asarray(scores.details.get("graph_effects", np.zeros(0)))
    if effects.shape != graph.is_edge.shape:
        raise InputError(
            f"scores have graph_effects of shape {effects.shape}; the graph's is "
            f"{graph.is_edge.shape}; the methods that score all edges are sae_codes with edges="
            "'passes', eap, eap_ig and relp"
        )
    if not np.isfinite(effects).all():
        raise InputError("graph_effects are not finite; nothing is ranked by them")
    total = int(graph.is_edge.sum())
    check_allowed("share", share, Range(0, 1))
    n_edges = round(share * total) if n_edges is None else n_edges
    check_allowed("n_edges", n_edges, Range(0, total))
    size = np.where(graph.is_edge, np.abs(effects), 0.0)
    chosen = top(size, n_edges) & above_noise(size, EDGE_NOISE * float(size.max(initial=0)))
    return GraphCircuit(graph, connected(graph, chosen), effects, {"n_edges": int(n_edges)})


def connected(
    graph: Graph, edges: Bool[np.ndarray, "writers readers"]
) -> Bool[np.ndarray, "writers readers"]:
    """Those of the edges that a path of them from the input to the logits uses.

    A head that reads anything, by its queries, keys or values, is one that can write.
    """
    edges = edges & graph.is_edge
    times = graph.write_times
    reached = np.zeros(len(graph.nodes), bool)
    reached[0] = True
    for time in range(1, times[-1] + 1):  # what writes then reads what was written before
        heard = graph.reads(edges & reached[:-1, None])[:-1]
        reached[:-1] |= heard & (times == time)
    used = np.zeros(len(graph.nodes), bool)
    used[-1] = True
    for time in range(times[-1], -1, -1):
        hears = (edges & used[graph.reader_nodes][None]).any(axis=1)
        used[:-1] |= hears & (times == time)
    return edges & reached[:-1, None] & used[graph.reader_nodes][None]


def load_graph_circuit(path: str | Path) -> GraphCircuit:
    """Read a circuit that `GraphCircuit.save` wrote, or that of a run, in its circuit.json.

    Effects outside it come back as 0.

    Raises:
        InputError: no such file, no JSON, another schema or version, a field missing, or a name
            that the graph does not have.
    """
    record = files.read_json(Path(path))
    if isinstance(record, dict) and "graph" in record:
        record = record["graph"]
    found = (record.get("schema"), record.get("version")) if isinstance(record, dict) else None
    if found != (SCHEMA, SCHEMA_VERSION):
        raise InputError(
            f"{path} is of schema and version {found}; allowed is {(SCHEMA, SCHEMA_VERSION)}"
        )
    try:
        graph = Graph(int(record["n_layers"]), int(record["n_heads"]), bool(record["parallel"]))
        edges, effects = np.zeros(graph.is_edge.shape, bool), np.zeros(graph.is_edge.shape)
        writers = {name: i for i, name in enumerate(graph.writers)}
        readers = {name: i for i, name in enumerate(graph.readers)}
        for row in record["edges"]:
            place = writers[row["from"]], readers[row["to"]]
            if not graph.is_edge[place] or not np.isfinite(row["effect"]):
                raise ValueError(f"{row} is no edge with a finite effect")
            edges[place], effects[place] = True, row["effect"]
        return GraphCircuit(graph, edges, effects.astype(np.float32), dict(record["rule"]))
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path} is not a whole circuit of a graph ({error!r})") from error
