"""Somebody's circuit from a file: what is to be judged, whoever found it.

    a list of heads    as JSON (names, [layer, head] pairs, or objects with layer, head and score),
                       or as text, separated by commas or white space; names as in `names.py`
    a table            CSV with a column `head`; with `in_circuit`, the rows where that is true;
                       with `score`, ranked: the heads.csv of a page
    circuit.json       of a run
    a graph            EAP-IG's and MIB's JSON (`formats.py`): the nodes, or else the ends of edges,
                       that are marked as in_graph; where nothing is, it is cut by score

Circuits here are of heads, with MLPs and the embedding kept whole: other nodes are passed over.
"""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from circuits_jax.circuits.circuit import SCHEMA, Circuit, Scores, load_circuit
from circuits_jax.circuits.formats import load_graph_json
from circuits_jax.circuits.graph import graph_of
from circuits_jax.circuits.names import node_name, split
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.runs import files
from circuits_jax.runs.errors import InputError

WORD = re.compile(r"[^\s,\[]+(?:\[[^\]]*\][^\s,\[]*)*")  # commas in brackets belong to it


def read_circuit(path: str | Path, config: DecoderConfig) -> Scores | Circuit:
    """A circuit of the model in one of the forms above, or scores where the file marks none.

    Heads that the file does not score have the score 1, others 0.

    Raises:
        InputError: no such file, none of these forms, no head, or a head that the model lacks.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({files.reason(error)})") from error
    if text.lstrip()[:1] not in ("{", "["):
        return _of_heads(path, _rows_of_text(path, text), config)
    record = files.read_json(path, strict=False)
    if isinstance(record, dict) and "cfg" in record:
        return _of_graph(path, record, config)
    if isinstance(record, dict) and record.get("schema") == SCHEMA:
        circuit = load_circuit(path)
        _check_shape(path, circuit.heads.shape, config)
        return circuit
    rows = record.get("heads") if isinstance(record, dict) else record
    if not isinstance(rows, list):
        raise InputError(
            f"{path} is no circuit; allowed are a list of heads, a circuit.json of a run, and a "
            "graph of EAP-IG or MIB with cfg, nodes and edges"
        )
    inside = (row for row in rows if not isinstance(row, dict) or _is_inside(path, row))
    return _of_heads(path, map(_named_row, inside), config)


FLAGS = {"in_circuit", "in_graph"}
SAID = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
Row = tuple[Any, Any]  # what names a head, and its score; None where it has none


def _named_row(row: Any) -> Row:
    if isinstance(row, dict):
        name = row.get("name", row.get("node", [row.get("layer"), row.get("head")]))
        return name, row.get("score")
    return row, None


def _is_inside(path: Path, row: dict[str, Any]) -> bool:
    """What a row says of itself, if it does."""
    for name in FLAGS & row.keys():
        said = str(row[name]).strip().lower()
        if said not in SAID:
            raise InputError(f"{path}: {name} is {row[name]!r}; allowed: {', '.join(SAID)}")
        if not SAID[said]:
            return False
    return True


def _rows_of_text(path: Path, text: str) -> list[Row]:
    """Of a table, or of words."""
    lines = text.splitlines()
    columns = lines[0].lower().replace(" ", "").split(",") if lines else []
    if "head" not in columns:
        return [(word, None) for word in WORD.findall(text)]
    table = [dict(zip(columns, map(str.strip, row), strict=False)) for row in csv.reader(lines[1:])]
    inside = [row for row in table if _is_inside(path, row)]
    return [
        (f"{row['layer']}.{row['head']}" if "layer" in row else row.get("head"), row.get("score"))
        for row in inside
        if row
    ]


def _of_heads(path: Path, rows: Iterable[Row], config: DecoderConfig) -> Circuit:
    heads, scores = np.zeros(config.heads, bool), np.zeros(config.heads, np.float32)
    others = []
    for name, score in rows:
        try:
            node = node_name(name, config)
            value = 1.0 if score in (None, "") else float(score)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error
        if not np.isfinite(value):
            raise InputError(f"{path}: the score of {name!r} is {value}; a finite number is needed")
        if node[0] != "a":
            others.append(node)
            continue
        heads[split(node)], scores[split(node)] = True, value
    if not heads.any():
        raise InputError(f"{path} names no head; a circuit needs at least one")
    _tell_of(path, others)
    pairs = np.zeros((heads.size, heads.size), np.float32)
    return Circuit(heads, pairs > 0, scores, pairs, {"given": int(heads.sum())})


def _of_graph(path: Path, record: dict[str, Any], config: DecoderConfig) -> Scores | Circuit:
    scores = load_graph_json(path)
    _check_shape(path, np.shape(scores.head_scores), config)
    graph = graph_of(config)
    names = [graph.writers[w] for w in graph.head_writers]
    marked = np.array([record["nodes"][name].get("in_graph", True) is True for name in names])
    edges = scores.details.get("in_graph")
    if edges is None and marked.all():
        return scores
    pairs = np.zeros((len(names), len(names)), bool)
    if edges is not None:
        if marked.all():  # of edges alone: what a head writes is read by something
            marked = edges[graph.head_writers].any(axis=1)
        from_heads = edges[graph.head_writers]
        pairs = np.logical_or.reduce([from_heads[:, readers] for readers in graph.head_readers])
        pairs &= marked[:, None] & marked[None, :]
    if not marked.any():
        raise InputError(f"{path} has no head in its graph; a circuit needs at least one")
    _tell_of(path, ["its MLPs"] if config.d_mlp else [])
    return Circuit(
        marked.reshape(config.heads),
        pairs,
        np.asarray(scores.head_scores),
        np.asarray(scores.edge_scores),
        {"given": int(marked.sum())},
    )


def _check_shape(path: Path, shape: tuple[int, ...], config: DecoderConfig) -> None:
    if tuple(shape) != config.heads:
        raise InputError(
            f"{path} is of {shape[0]} layers of {shape[1]} heads; the model has "
            f"{config.n_layers} of {config.n_heads}"
        )


def _tell_of(path: Path, others: list[str]) -> None:
    if others:
        shown = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
        logging.warning("%s: judged by its heads; kept whole with all others: %s", path, shown)
