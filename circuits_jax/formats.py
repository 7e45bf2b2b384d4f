"""Scores in the JSON of EAP-IG's graphs, which is MIB's `importances.json` as well.

Schema, as `Graph.to_json` of the EAP-IG code writes it (arXiv 2403.17806; MIB, arXiv 2504.13151):

    cfg      n_layers, n_heads, parallel_attn_mlp, d_model
    nodes    by name (`graph.Graph`): in_graph, and score where the node has one
    edges    by name, such as "a0.h1->a3.h2<q>" or "m4->logits": score, in_graph

Their scores are signed effects, positive where the edge serves the task, as ours in `details` are.
What we write has one key more, `scores`, which their reader passes over: `effects`, or `ranking`
where a method has no effects: then the score of a pair of heads is spread over q, k and v.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits_jax import files
from circuits_jax.circuit import Scores
from circuits_jax.errors import InputError
from circuits_jax.graph import Graph, graph_of, head_edges
from circuits_jax.models.config import DecoderConfig


def save_graph_json(scores: Scores, path: str | Path, config: DecoderConfig) -> None:
    """Write scores as a graph that EAP-IG and MIB read; nothing is cut, so all is in the graph.

    Edges have the signed `graph_effects` of `eap` and its kin where the scores carry them. Else
    head-to-head edges have the effects or scores that there are, and others 0; nodes that no score
    is known of have none.

    Args:
        scores: what a method found.
        path: of the file to write.
        config: of the model that was scored.

    Raises:
        InputError: the scores are of another shape than the model, or not finite, or the file
            cannot be written.
    """
    graph = graph_of(config)
    if np.shape(scores.head_scores) != config.heads:
        raise InputError(
            f"scores are of {np.shape(scores.head_scores)} layers and heads; the model has "
            f"{config.heads}"
        )
    edges, heads = _graph_scores(graph, scores)
    kind = "effects" if "effects" in scores.details else "ranking"
    nodes = {name: {"in_graph": True} for name in (*graph.writers, "logits")}
    known = graph.head_writers if "graph_effects" not in scores.details else range(len(edges))
    node_scores = edges.sum(axis=1)
    node_scores[graph.head_writers] = heads
    for index in known:
        nodes[graph.writers[index]]["score"] = float(node_scores[index])
    if not (np.isfinite(edges).all() and np.isfinite(node_scores).all()):
        raise InputError(f"{path} is not written: a score is not finite")
    names = ((graph.writers[w], graph.readers[r], w, r) for w, r in np.argwhere(graph.is_edge))
    record = {
        "cfg": {
            "n_layers": config.n_layers,
            "n_heads": config.n_heads,
            "parallel_attn_mlp": config.parallel,
            "d_model": config.d_model,
        },
        "scores": kind,
        "nodes": nodes,
        "edges": {
            f"{writer}->{reader}": {"score": float(edges[w, r]), "in_graph": True}
            for writer, reader, w, r in names
        },
    }
    files.write(Path(path), json.dumps(record, allow_nan=False))


def _graph_scores(
    graph: Graph, scores: Scores
) -> tuple[Float[np.ndarray, "writers readers"], Float[np.ndarray, " G"]]:
    """Scores of all edges and of the heads: effects where there are any."""
    heads = np.ravel(scores.details.get("effects", scores.head_scores)).astype(np.float64)
    if "graph_effects" in scores.details:
        return np.array(scores.details["graph_effects"], np.float64) * graph.is_edge, heads
    pairs = np.asarray(scores.details.get("edge_effects", scores.edge_scores), np.float64)
    edges = np.zeros(graph.is_edge.shape)
    for readers in graph.head_readers:
        edges[np.ix_(graph.head_writers, readers)] = pairs / 3
    return edges * graph.is_edge, heads


def load_graph_json(path: str | Path) -> Scores:
    """Read a graph that EAP-IG, MIB or `save_graph_json` wrote.

    Head scores are absolute node scores, or, where the file has none, of the sum of a head's edges,
    which for effects to first order is the head's own. Edge scores are absolute sums over q, k and
    v. Edges that are not in the file count 0. A `ranking` is taken as it is, without a sign.

    Returns:
        Scores with signed `details`: `effects` [L, H], `edge_effects` [G, G], `graph_effects`
        [writers, readers] in the order of `graph.Graph`; none for a `ranking`.

    Raises:
        InputError: no such file, no JSON, a key missing, a name that the graph does not have, or a
            score that is no finite number.
    """
    record = files.read_json(Path(path))
    graph = _graph(path, record)
    writers = {name: index for index, name in enumerate(graph.writers)}
    readers = {name: index for index, name in enumerate(graph.readers)}
    effects = np.zeros(graph.is_edge.shape, np.float32)
    for name, edge in record["edges"].items():
        writer, _, reader = name.partition("->")
        place = writers.get(writer, -1), readers.get(reader, -1)
        if min(place) < 0 or not graph.is_edge[place]:
            raise InputError(f"{path}: edges has {name!r}, which is no edge of the graph in cfg")
        effects[place] = _score(path, "edges", name, edge)
    names = [graph.writers[w] for w in graph.head_writers]
    nodes = {name: record["nodes"][name] for name in names}
    if any(isinstance(node, dict) and "score" in node for node in nodes.values()):
        heads = np.array([_score(path, "nodes", *item) for item in nodes.items()], np.float32)
    else:
        heads = effects.sum(axis=1)[graph.head_writers]
    heads = heads.reshape(graph.n_layers, graph.n_heads)
    edges = head_edges(graph, effects)
    if record.get("scores") == "ranking":
        return Scores(heads, edges)
    details = {"effects": heads, "edge_effects": edges, "graph_effects": effects}
    return Scores(np.abs(heads), np.abs(edges), details)


def _graph(path: str | Path, record: Any) -> Graph:
    """The graph of a record's cfg, with all its heads among the nodes."""
    for key in ("cfg", "nodes", "edges"):
        if not isinstance(record, dict) or not isinstance(record.get(key), dict):
            raise InputError(f"{path} has no {key!r} object; a graph has cfg, nodes and edges")
    sizes = [record["cfg"].get(name) for name in ("n_layers", "n_heads")]
    for name, size in zip(("n_layers", "n_heads"), sizes, strict=True):
        if type(size) is not int or not 1 <= size <= len(record["nodes"]):
            raise InputError(
                f"{path}: cfg.{name} is {size!r}; allowed is 1 to the number of nodes "
                f"({len(record['nodes'])})"
            )
    graph = Graph(*sizes, bool(record["cfg"].get("parallel_attn_mlp", False)))
    heads = (f"a{layer}.h{head}" for layer in range(sizes[0]) for head in range(sizes[1]))
    missing = next((name for name in heads if name not in record["nodes"]), None)
    if missing:
        raise InputError(f"{path}: nodes has no {missing!r}, though cfg says {sizes[0]} layers")
    return graph


def _score(path: str | Path, table: str, name: str, entry: Any) -> float:
    score = entry.get("score") if isinstance(entry, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise InputError(
            f"{path}: the score of {name!r} in {table} is {score!r}; a finite number is needed"
        )
    return score
