"""Graphs in the JSON of EAP-IG and MIB come back as they were, and nonsense is refused."""

import dataclasses
import json

import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax.graph import Graph, graph_of, head_edges
from tests.circuits import tiny

L, H, G = 3, 4, 12
GRAPH = graph_of(tiny.CONFIG)


@pytest.fixture
def scores():
    """Effects as `eap` gives them."""
    rng = np.random.default_rng(0)
    effects = (rng.standard_normal(GRAPH.is_edge.shape) * GRAPH.is_edge).astype(np.float32)
    heads = effects.sum(axis=1)[GRAPH.head_writers].reshape(L, H)
    edges = head_edges(GRAPH, effects)
    details = {"effects": heads, "edge_effects": edges, "graph_effects": effects}
    return cj.Scores(np.abs(heads), np.abs(edges), details)


def test_effects_come_back(tmp_path, scores):
    cj.save_graph_json(scores, tmp_path / "graph.json", tiny.CONFIG)
    found = cj.load_graph_json(tmp_path / "graph.json")
    np.testing.assert_array_equal(found.head_scores, scores.head_scores)
    np.testing.assert_array_equal(found.edge_scores, scores.edge_scores)
    for name, value in scores.details.items():
        np.testing.assert_array_equal(found.details[name], value)


def test_a_ranking_comes_back_with_its_signs(tmp_path):
    """Of a method without effects, such as codes: head scores, and pairs of heads."""
    rng = np.random.default_rng(1)
    layer = np.arange(G) // H
    edges = (rng.random((G, G)) * (layer[:, None] < layer[None])).astype(np.float32)
    ranking = cj.Scores(rng.standard_normal((L, H)).astype(np.float32), edges)
    cj.save_graph_json(ranking, tmp_path / "graph.json", tiny.CONFIG)
    found = cj.load_graph_json(tmp_path / "graph.json")
    np.testing.assert_array_equal(found.head_scores, ranking.head_scores)
    np.testing.assert_allclose(found.edge_scores, edges, rtol=1e-6)
    assert found.details == {}
    record = json.loads((tmp_path / "graph.json").read_text())
    assert "score" not in record["nodes"]["m1"]
    assert record["nodes"]["a1.h0"]["score"] == found.head_scores[1, 0]


def test_the_schema_is_theirs(tmp_path, scores):
    """What `Graph.from_json` of the EAP-IG code looks up, key by key."""
    config = dataclasses.replace(tiny.CONFIG, parallel=True)
    cj.save_graph_json(scores, tmp_path / "graph.json", config)
    record = json.loads((tmp_path / "graph.json").read_text())
    sizes = {"n_layers": L, "n_heads": H, "parallel_attn_mlp": True, "d_model": 16}
    assert record["cfg"] == sizes
    heads = [f"a{layer}.h{head}" for layer in range(L) for head in range(H)]
    assert set(record["nodes"]) == {"input", "logits", "m0", "m1", "m2", *heads}
    assert record["nodes"]["logits"] == {"in_graph": True}
    assert record["nodes"]["m1"].keys() == {"in_graph", "score"}
    assert len(record["edges"]) == Graph(L, H, parallel=True).is_edge.sum()
    effects, edges = scores.details["graph_effects"], record["edges"]
    assert edges["input->a0.h0<q>"] == {"score": float(effects[0, 0]), "in_graph": True}
    assert edges["a0.h3->m1"]["score"] == float(effects[4, 25])
    assert edges["m2->logits"]["score"] == float(effects[-1, -1])
    assert "a0.h3->m0" not in edges  # attention and MLP stand in parallel


def their_graph():
    """As the EAP-IG code writes edge scores: nodes are not scored."""
    graph = Graph(1, 2)
    names = [f"{graph.writers[w]}->{graph.readers[r]}" for w, r in np.argwhere(graph.is_edge)]
    return {
        "cfg": {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8},
        "nodes": {name: {"in_graph": False} for name in (*graph.writers, "logits")},
        "edges": {name: {"score": -0.5, "in_graph": True} for name in names},
    }


def test_without_node_scores_a_head_is_the_sum_of_its_edges(tmp_path):
    record = their_graph()
    del record["edges"]["a0.h1->m0"]
    (tmp_path / "importances.json").write_text(json.dumps(record))
    found = cj.load_graph_json(tmp_path / "importances.json")
    np.testing.assert_array_equal(found.details["effects"], [[-1.0, -0.5]])
    np.testing.assert_array_equal(found.head_scores, [[1.0, 0.5]])


def replaced(*path, value):
    record = their_graph()
    node = record
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return record


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ([], "no 'cfg' object"),
        ({"cfg": {}, "nodes": {}}, "no 'edges' object"),
        (replaced("cfg", "n_layers", value="one"), "cfg.n_layers is 'one'; allowed"),
        (replaced("cfg", "n_heads", value=10**9), "cfg.n_heads is 1000000000; allowed"),
        (replaced("cfg", "n_heads", value=4), "nodes has no 'a0.h2'"),
        (replaced("cfg", "n_layers", value=True), "cfg.n_layers is True"),
        (replaced("edges", "m0->a0.h0<q>", value={"score": 1}), "'m0->a0.h0<q>', which is no edge"),
        (replaced("edges", "logits", value={"score": 1}), "'logits', which is no edge"),
        (replaced("edges", "m0->logits", value=3), "'m0->logits' in edges is None"),
        (replaced("edges", "m0->logits", "score", value=float("nan")), "is nan; a finite"),
        (replaced("nodes", "a0.h0", "score", value="high"), "'a0.h0' in nodes is 'high'"),
        (replaced("nodes", "a0.h0", "score", value=1.0), "'a0.h1' in nodes is None"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(tmp_path, record, sentence):
    (tmp_path / "graph.json").write_text(json.dumps(record))
    with pytest.raises(cj.InputError) as error:
        cj.load_graph_json(tmp_path / "graph.json")
    assert sentence in str(error.value)
    assert "graph.json" in str(error.value)


def test_scores_that_cannot_be_written_leave_nothing_behind(tmp_path, scores):
    path = tmp_path / "graph.json"
    bad = cj.Scores(np.full((L, H), np.nan, np.float32), scores.edge_scores)
    with pytest.raises(cj.InputError, match="not finite"):
        cj.save_graph_json(bad, path, tiny.CONFIG)
    with pytest.raises(cj.InputError, match="layers and heads; the model has"):
        cj.save_graph_json(scores, path, dataclasses.replace(tiny.CONFIG, n_heads=2))
    assert not path.exists()
    with pytest.raises(cj.InputError, match="not a readable JSON file"):
        cj.load_graph_json(path)
