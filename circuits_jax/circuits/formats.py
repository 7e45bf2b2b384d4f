"""Scores in the JSON of EAP-IG's graphs, which is MIB's `importances.json` as well.

Schema, as `Graph.to_json` of the EAP-IG code writes it (arXiv 2403.17806; MIB, arXiv 2504.13151):

    cfg      n_layers, n_heads, parallel_attn_mlp, d_model
    nodes    by name (`graph.Graph`): in_graph, and score where the node has one
    edges    by name, such as "a0.h1->a3.h2<q>" or "m4->logits": score, in_graph

There a circuit is the best edges (or nodes) by absolute score, less all that no path from the input
to the logits uses. Two levels:

    edges    scores of edges are signed effects, positive where the edge serves the task, as
             `graph_effects` are: of `sae_codes`, `eap`, `eap_ig` and `relp`
    nodes    heads alone are scored, as by every other method. Circuits of heads keep the embedding
             and all MLPs whole. So edges are ranked, by whole numbers, such that the best ones are
             all edges among those, and then, head by head, all edges between the next best head and
             what is there already, those into it first. At whatever size it is cut, what is left is
             connected and has the best heads of the ranking, whichever of the three ways of cutting
             is taken: edges, edges greedily from the logits, or nodes (others than heads have no
             score, and so are always kept there).

What we write has a key more, `circuits_jax`, which their reader passes over: the level; of `edges`
whether nodes have scores of their own in place of sums over their edges (`node_scores`); and of
`nodes` what the scores of heads and of pairs of heads are, `effects` or a `ranking`, and the latter
themselves.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits_jax.circuits.circuit import Scores, best_first
from circuits_jax.circuits.graph import Graph, graph_of, head_edges
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.runs import files
from circuits_jax.runs.checks import check_allowed
from circuits_jax.runs.errors import InputError

LEVELS = ("edges", "nodes")
OWN = "circuits_jax"  # the key that their reader passes over


def save_graph_json(
    scores: Scores, path: str | Path, config: DecoderConfig, level: str | None = None
) -> None:
    """Write scores as a graph that EAP-IG and MIB read; nothing is cut, so all is in the graph.

    Args:
        scores: what a method found.
        path: of the file to write.
        config: of the model that was scored.
        level: `edges` or `nodes`, see the module; by default `edges` where the scores are of all
            edges of the graph, else `nodes`.

    Raises:
        InputError: an unknown level, or `edges` of scores that are of heads alone; the scores are
            of another shape than the model, or not finite; or the file cannot be written.
    """
    graph = graph_of(config)
    if np.shape(scores.head_scores) != config.heads:
        raise InputError(
            f"scores are of {np.shape(scores.head_scores)} layers and heads; the model has "
            f"{config.heads}"
        )
    level = level or ("edges" if "graph_effects" in scores.details else "nodes")
    check_allowed("level", level, LEVELS)
    if level == "edges" and "graph_effects" not in scores.details:
        raise InputError(
            "level is 'edges', and the scores are of heads alone, without the edges of embedding, "
            "MLPs and logits, so that every circuit cut from them would be empty; use level "
            "'nodes', or the scores of sae_codes, eap, eap_ig or relp"
        )
    edges, nodes, own = {"edges": _of_edges, "nodes": _of_nodes}[level](graph, scores)
    numbers = [*nodes.values(), *own.get("pairs", {}).values()]
    if not (np.isfinite(edges).all() and np.isfinite(numbers).all()):
        raise InputError(f"{path} is not written: a score is not finite")
    writers, readers = graph.writers, graph.readers
    record = {
        "cfg": {
            "n_layers": config.n_layers,
            "n_heads": config.n_heads,
            "parallel_attn_mlp": config.parallel,
            "d_model": config.d_model,
        },
        OWN: own,
        "nodes": {
            name: {"in_graph": True} | ({"score": nodes[name]} if name in nodes else {})
            for name in (*writers, "logits")
        },
        "edges": {
            f"{writers[w]}->{readers[r]}": {"score": float(edges[w, r]), "in_graph": True}
            for w, r in np.argwhere(graph.is_edge)
        },
    }
    files.write(Path(path), json.dumps(record, allow_nan=False))


Written = tuple[Float[np.ndarray, "writers readers"], dict[str, float], dict[str, Any]]


def _of_edges(graph: Graph, scores: Scores) -> Written:
    """Scores of edges and of nodes, and our own key, at level `edges`."""
    edges = np.array(scores.details["graph_effects"], np.float64) * graph.is_edge
    own: dict[str, Any] = {"level": "edges"}
    nodes = edges.sum(axis=1)
    nodes[graph.head_writers] = np.ravel(scores.details.get("effects", scores.head_scores))
    if "node_scores" in scores.details:
        nodes, own["node_scores"] = np.asarray(scores.details["node_scores"], np.float64), True
    return edges, dict(zip(graph.writers, nodes.tolist(), strict=True)), own


def _of_nodes(graph: Graph, scores: Scores) -> Written:
    """The same at level `nodes`; nodes that nothing is known of have no score."""
    details, names = scores.details, np.array(graph.writers)[graph.head_writers].tolist()
    heads = np.asarray(details.get("effects", scores.head_scores), np.float64)
    lowest = 0.0 if "effects" in details else min(float(heads.min()), 0.0)
    pairs = np.asarray(details.get("edge_effects", scores.edge_scores), np.float64)
    own = {
        "level": "nodes",
        "head_scores": "effects" if "effects" in details else "ranking",
        "lowest": lowest,  # taken away from a ranking, as nodes rank by absolute values there
        "pair_scores": "effects" if "edge_effects" in details else "ranking",
        "pairs": {
            f"{names[a]}->{names[b]}": float(pairs[a, b]) for a, b in np.argwhere(pairs != 0)
        },
    }
    nodes = dict(zip(names, (heads.ravel() - lowest).tolist(), strict=True))
    return _ranked_edges(graph, np.asarray(scores.head_scores)), nodes, own


def _ranked_edges(
    graph: Graph, head_scores: Float[np.ndarray, "L H"]
) -> Float[np.ndarray, "writers readers"]:
    """Whole numbers, the best edge having the largest: see the module."""
    is_head = np.zeros(len(graph.writers), bool)
    is_head[graph.head_writers] = True
    joins = np.zeros(len(graph.writers), int)  # when a writer is there, the embedding at first
    joins[~is_head] = np.arange(graph.n_layers + 1)
    joins[graph.head_writers[best_first(head_scores)]] = (
        graph.n_layers + 1 + np.arange(head_scores.size)
    )
    place = {name: index for index, name in enumerate(graph.writers)}
    reads = np.array(
        [joins[place[r.partition("<")[0]]] if r != "logits" else 0 for r in graph.readers]
    )
    writer, reader = np.nonzero(graph.is_edge)
    from_new = joins[writer] > reads[reader]  # out of the newer one of its two ends
    newest = np.maximum(joins[writer], reads[reader])
    order = np.lexsort((reader, writer, from_new, newest))
    ranks = np.zeros(graph.is_edge.shape)
    ranks[writer[order], reader[order]] = len(order) - np.arange(len(order))
    return ranks


def load_graph_json(path: str | Path) -> Scores:
    """Read a graph that EAP-IG, MIB or `save_graph_json` wrote.

    Head scores are absolute node scores, or, where the file has none, of the sum of a head's edges,
    which for effects to first order is the head's own. A node score of NaN is none, as there. Edge
    scores are absolute sums over q, k and v. Edges that are not in the file count 0. Of a file of
    our level `nodes`, the scores of heads and of pairs of heads come back as they were.

    Returns:
        Scores with signed `details`: `effects` [L, H], `edge_effects` [G, G], `graph_effects`
        [writers, readers] in the order of `graph.Graph`; those that the file has, of level `nodes`.
        And `in_graph` [writers, readers], where the file marks a part of the edges: its circuit.

    Raises:
        InputError: no such file, no JSON, a key missing, a name that the graph does not have, a
            score that is no finite number, or an in_graph that is neither true nor false.
    """
    record = files.read_json(Path(path), strict=False)
    graph = _graph(path, record)
    writers = {name: index for index, name in enumerate(graph.writers)}
    readers = {name: index for index, name in enumerate(graph.readers)}
    effects, marked = np.zeros(graph.is_edge.shape, np.float32), np.zeros(graph.is_edge.shape, bool)
    for name, edge in record["edges"].items():
        writer, _, reader = name.partition("->")
        place = writers.get(writer, -1), readers.get(reader, -1)
        if min(place) < 0 or not graph.is_edge[place]:
            raise InputError(f"{path}: edges has {name!r}, which is no edge of the graph in cfg")
        effects[place] = _score(path, "edges", name, edge)
        marked[place] = _in_graph(path, name, edge)
    part = {} if marked.sum() in (0, graph.is_edge.sum()) else {"in_graph": marked}
    names = [tuple(writers)[w] for w in graph.head_writers]
    nodes = {name: record["nodes"][name] for name in names}
    if any(_is_scored(node) for node in nodes.values()):
        heads = np.array([_score(path, "nodes", *item) for item in nodes.items()], np.float32)
    else:
        heads = effects.sum(axis=1)[graph.head_writers]
    heads = heads.reshape(graph.n_layers, graph.n_heads)
    own = record.get(OWN, {})
    if isinstance(own, dict) and own.get("level") == "nodes":
        return _of_heads(path, names, heads, own, part)
    edges = head_edges(graph, effects)
    if record.get("scores") == "ranking":  # of heads alone, as earlier versions wrote them
        return Scores(heads, edges, part)
    details = {"edge_effects": edges, "graph_effects": effects}
    if isinstance(own, dict) and own.get("node_scores") is True:
        of_nodes = [_score(path, "nodes", n, record["nodes"].get(n)) for n in graph.writers]
        details["node_scores"] = np.array(of_nodes, np.float32)
    else:
        details["effects"] = heads
    return Scores(np.abs(heads), np.abs(edges), details | part)


def _of_heads(
    path: str | Path, names: list[str], heads: Float[np.ndarray, "L H"], own: dict, part: dict
) -> Scores:
    """Scores of a file of level `nodes`, whose edges are ranks and no scores."""
    place = {name: g for g, name in enumerate(names)}
    pairs, details = np.zeros((len(names), len(names)), np.float32), dict(part)
    given = own.get("pairs", {})
    for name, score in (given if isinstance(given, dict) else {"": None}).items():
        writer, _, reader = name.partition("->")
        if writer not in place or reader not in place:
            raise InputError(f"{path}: {OWN}.pairs has {name!r}, which is no pair of heads")
        pairs[place[writer], place[reader]] = _score(path, f"{OWN}.pairs", name, {"score": score})
    heads = heads + np.float32(_score(path, OWN, "lowest", {"score": own.get("lowest", 0)}))
    if own.get("pair_scores") == "effects":
        details["edge_effects"], pairs = pairs, np.abs(pairs)
    if own.get("head_scores") == "effects":
        details["effects"], heads = heads, np.abs(heads)
    return Scores(heads, pairs, details)


def _is_scored(node: Any) -> bool:
    """Whether a node has a score; NaN is how EAP-IG writes that it has none."""
    score = node.get("score") if isinstance(node, dict) else None
    return score is not None and not (isinstance(score, float) and math.isnan(score))


def _in_graph(path: str | Path, name: str, edge: Any) -> bool:
    value = edge.get("in_graph", True)
    if not isinstance(value, bool):
        raise InputError(f"{path}: in_graph of {name!r} is {value!r}; allowed are true, false")
    return value


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
    n_layers, n_heads = sizes
    graph = Graph(n_layers, n_heads, bool(record["cfg"].get("parallel_attn_mlp", False)))
    heads = (f"a{layer}.h{head}" for layer in range(n_layers) for head in range(n_heads))
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
