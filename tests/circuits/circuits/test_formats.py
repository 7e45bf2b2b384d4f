"""Graphs in the JSON of EAP-IG and MIB come back as they were, and nonsense is refused."""

import dataclasses
import json

import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax.circuits.graph import Graph, graph_of, head_edges
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


def ranking(seed=1, low=0.0):
    """Of a method without effects, such as codes: head scores, and pairs of heads."""
    rng = np.random.default_rng(seed)
    layer = np.arange(G) // H
    edges = (rng.random((G, G)) * (layer[:, None] < layer[None])).astype(np.float32)
    return cj.Scores((rng.random((L, H)) + low).astype(np.float32), edges)


def patched(seed=2):
    """Of a method that replaces heads, as `exact_patching` with edges="path"."""
    rng = np.random.default_rng(seed)
    effects = rng.standard_normal((L, H)).astype(np.float32)
    layer = np.arange(G) // H
    pairs = rng.standard_normal((G, G)) * (layer[:, None] < layer[None])
    pairs = np.where(rng.random((G, G)) < 0.2, pairs, 0).astype(np.float32)
    details = {"effects": effects, "edge_effects": pairs}
    return cj.Scores(np.abs(effects), np.abs(pairs), details)


@pytest.mark.parametrize("scores", [ranking(), patched()], ids=["ranking", "patched"])
def test_scores_of_heads_come_back(tmp_path, scores):
    cj.save_graph_json(scores, tmp_path / "graph.json", tiny.CONFIG)
    found = cj.load_graph_json(tmp_path / "graph.json")
    np.testing.assert_array_equal(found.head_scores, scores.head_scores)
    np.testing.assert_array_equal(found.edge_scores, scores.edge_scores)
    assert found.details.keys() == scores.details.keys()
    for name, value in scores.details.items():
        np.testing.assert_array_equal(found.details[name], value)
    record = json.loads((tmp_path / "graph.json").read_text())
    assert "score" not in record["nodes"]["m1"]


def test_a_ranking_below_zero_keeps_its_order_there(tmp_path):
    scores = ranking(low=-0.5)
    cj.save_graph_json(scores, tmp_path / "graph.json", tiny.CONFIG)
    found = cj.load_graph_json(tmp_path / "graph.json")
    np.testing.assert_allclose(found.head_scores, scores.head_scores, atol=1e-6)
    for n in range(int((scores.head_scores > 0).sum()) + 1):  # none below 0 is in a circuit
        assert kept_heads(pruned_by_nodes(tmp_path / "graph.json", n)) == best(scores, n)


def kept(path, chosen):
    """EAP-IG's rule: of the chosen edges those that a path from input to logits uses."""
    ends = [(edge, *edge.partition("<")[0].split("->")) for edge in chosen]
    while True:
        heard, hearing = {w for _, w, _ in ends}, {r for _, _, r in ends}
        left = [
            (edge, w, r)
            for edge, w, r in ends
            if (w == "input" or w in hearing) and (r == "logits" or r in heard)
        ]
        if left == ends:
            return {edge for edge, _, _ in ends}
        ends = left


def pruned(path, n):
    """What is left of the best n edges by absolute score."""
    edges = json.loads(path.read_text())["edges"]
    return kept(path, sorted(edges, key=lambda edge: -abs(edges[edge]["score"]))[:n])


def pruned_greedily(path, n):
    """What is left of n edges, each the best of those into what is there, from the logits up."""
    edges = json.loads(path.read_text())["edges"]
    there, chosen = {"logits"}, []
    for _ in range(n):
        open_ = [
            e for e in edges if e not in chosen and e.partition("<")[0].split("->")[1] in there
        ]
        chosen.append(max(open_, key=lambda edge: abs(edges[edge]["score"])))
        there.add(chosen[-1].split("->")[0])
    return kept(path, chosen)


def pruned_by_nodes(path, n):
    """All edges among the best n nodes and those that have no score."""
    record = json.loads(path.read_text())
    nodes = record["nodes"]
    scored = {name: abs(node["score"]) for name, node in nodes.items() if "score" in node}
    there = {*sorted(scored, key=lambda name: -scored[name])[:n], *(nodes.keys() - scored.keys())}
    return kept(path, [e for e in record["edges"] if {*e.partition("<")[0].split("->")} <= there])


def kept_heads(edges):
    ends = {end for edge in edges for end in edge.partition("<")[0].split("->")}
    return {end for end in ends if end.startswith("a")}


def best(scores, n):
    """The circuit that we report at a size."""
    return {f"a{layer}.h{head}" for layer, head in scores.circuit(size=n).ranked_heads()}


@pytest.mark.parametrize("parallel", [False, True], ids=["in turn", "parallel"])
@pytest.mark.parametrize("scores", [ranking(), patched()], ids=["ranking", "patched"])
def test_what_is_pruned_there_is_the_circuit_that_we_report(tmp_path, scores, parallel):
    """By edges, at every size; greedily at MIB's sizes; and by nodes."""
    config, path = dataclasses.replace(tiny.CONFIG, parallel=parallel), tmp_path / "graph.json"
    cj.save_graph_json(scores, path, config, level="nodes")
    whole = json.loads(path.read_text())["edges"]
    sizes = []
    for n in range(1, len(whole) + 1):
        left = pruned(path, n)
        heads = kept_heads(left)
        assert left
        assert heads == best(scores, len(heads))
        newest = heads - best(scores, len(heads) - 1) if heads else set()
        for head in newest:  # hears all that is there
            assert len([e for e in left if f"->{head}<" in e]) == len(
                [e for e in whole if f"->{head}<" in e and kept_heads([e]) <= heads]
            )
        among = {"input", "logits", *(f"m{layer}" for layer in range(L)), *heads}
        if len(left) == n and len(heads) != (sizes or [-1])[-1]:  # a head has come with all edges
            sizes.append(len(heads))
        if len([e for e in whole if {*e.partition("<")[0].split("->")} <= among]) == n:
            assert len(left) == n
    assert sizes == list(range(G + 1))
    for percent in (1, 2, 5, 10, 20, 50):
        for cut in (pruned, pruned_greedily):
            heads = kept_heads(cut(path, max(len(whole) * percent // 100, 1)))
            assert heads == best(scores, len(heads)), (percent, cut)
    assert len(kept_heads(pruned(path, len(whole) // 5))) >= 2
    for n in range(G + 1):
        assert kept_heads(pruned_by_nodes(path, n)) == best(scores, n)


def test_effects_of_all_edges_are_written_as_they_are(tmp_path, scores):
    """Level `edges` is theirs; scores of heads alone have none, and that is said."""
    cj.save_graph_json(scores, tmp_path / "a.json", tiny.CONFIG)
    cj.save_graph_json(scores, tmp_path / "b.json", tiny.CONFIG, level="edges")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(cj.InputError, match=r"heads alone.*empty; use level 'nodes'"):
        cj.save_graph_json(ranking(), tmp_path / "c.json", tiny.CONFIG, level="edges")
    with pytest.raises(cj.InputError, match="level is 'heads'; allowed are edges, nodes"):
        cj.save_graph_json(ranking(), tmp_path / "c.json", tiny.CONFIG, level="heads")
    assert not (tmp_path / "c.json").exists()


def test_a_circuit_that_was_cut_there_is_marked(tmp_path):
    record = their_graph()
    chosen = ["input->a0.h1<v>", "a0.h1->logits"]
    for name, edge in record["edges"].items():
        edge["in_graph"] = name in chosen
    (tmp_path / "graph.json").write_text(json.dumps(record))
    marked = cj.load_graph_json(tmp_path / "graph.json").details["in_graph"]
    graph = Graph(1, 2)
    found = [f"{graph.writers[w]}->{graph.readers[r]}" for w, r in np.argwhere(marked)]
    assert sorted(found) == sorted(chosen)


def test_nodes_without_a_score_are_nan_there(tmp_path):
    record = their_graph()
    for node in record["nodes"].values():
        node["score"] = float("nan")
    (tmp_path / "graph.json").write_text(json.dumps(record))
    found = cj.load_graph_json(tmp_path / "graph.json")
    np.testing.assert_array_equal(found.details["effects"], [[-1.0, -1.0]])


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
        (
            replaced("edges", "m0->logits", "in_graph", value="no"),
            "in_graph of 'm0->logits' is 'no'",
        ),
        (
            replaced("circuits_jax", value={"level": "nodes", "pairs": {"a0.h0->m0": 1}}),
            "pairs has 'a0.h0->m0', which is no pair",
        ),
        (
            replaced("circuits_jax", value={"level": "nodes", "pairs": {"a0.h0->a0.h1": None}}),
            "'a0.h0->a0.h1' in circuits_jax.pairs is None",
        ),
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
    for heads, pairs in ((np.nan, 0.0), (np.inf, 0.0), (0.0, np.nan), (0.0, -np.inf)):
        bad = cj.Scores(np.full((L, H), heads), np.full((G, G), pairs))
        with pytest.raises(cj.InputError, match="not finite"):
            cj.save_graph_json(bad, path, tiny.CONFIG)
    bad = scores.replace(
        details=scores.details | {"graph_effects": np.full(GRAPH.is_edge.shape, np.nan)}
    )
    with pytest.raises(cj.InputError, match="not finite"):
        cj.save_graph_json(bad, path, tiny.CONFIG)
    with pytest.raises(cj.InputError, match="layers and heads; the model has"):
        cj.save_graph_json(scores, path, dataclasses.replace(tiny.CONFIG, n_heads=2))
    assert not path.exists()
    with pytest.raises(cj.InputError, match="not a readable JSON file"):
        cj.load_graph_json(path)
