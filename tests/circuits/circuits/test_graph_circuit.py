"""Circuits of the whole graph: connected, by EAP-IG's rule, and the same from a file."""

import json

import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax.circuits.circuit import Scores
from circuits_jax.circuits.graph import Graph, graph_of, head_edges
from circuits_jax.circuits.graph_circuit import connected, graph_circuit, load_graph_circuit
from tests.circuits import tiny
from tests.circuits.circuits.test_formats import pruned

GRAPH = graph_of(tiny.CONFIG)
L, H = tiny.CONFIG.heads


@pytest.fixture
def scores():
    normal = np.random.default_rng(0).standard_normal((2, *GRAPH.is_edge.shape))
    effects = (np.sign(normal[0]) * np.exp(1.5 * normal[1]) * GRAPH.is_edge).astype(np.float32)
    heads = np.abs(effects.sum(axis=1)[GRAPH.head_writers]).reshape(L, H)
    return Scores(heads, np.abs(head_edges(GRAPH, effects)), {"graph_effects": effects})


def named(circuit):
    return {f"{w}->{r}" for w, r in circuit.ranked_edges()}


@pytest.mark.parametrize("percent", [1, 2, 5, 10, 20, 50, 100])
def test_a_saved_graph_pruned_by_their_rule_is_the_circuit_that_we_report(
    tmp_path, scores, percent
):
    cj.save_graph_json(scores, tmp_path / "graph.json", tiny.CONFIG)
    circuit = graph_circuit(scores, GRAPH, share=percent / 100)
    n = round(percent / 100 * GRAPH.is_edge.sum())
    assert named(circuit) == pruned(tmp_path / "graph.json", n)
    assert circuit.size <= n == circuit.rule["n_edges"]
    assert percent < 100 or circuit.size == GRAPH.is_edge.sum()


def test_rounding_noise_is_no_edge(scores):
    effects = scores.details["graph_effects"]
    noise = 5e-7 * np.max(np.abs(effects)) * np.sign(effects)
    small = np.where(np.arange(effects.shape[1]) % 2, 10, 1) * noise  # half of them says something
    small.flat[np.argmax(np.abs(effects))] = np.max(np.abs(effects))
    mostly = Scores(scores.head_scores, scores.edge_scores, {"graph_effects": small})
    says = GRAPH.is_edge & (np.abs(small) > 1.5 * np.abs(noise))
    for share in (0.3, 1.0):
        circuit = graph_circuit(mostly, GRAPH, share=share)
        assert not (circuit.edges & ~says).any()
    np.testing.assert_array_equal(circuit.edges, connected(GRAPH, says))


def test_what_joins_nothing_is_left_out():
    graph = Graph(n_layers=2, n_heads=1)
    there = {
        ("input", "a0.h0<q>"),
        ("a0.h0", "m0"),  # a head that reads by its queries alone still writes
        ("m0", "a1.h0<k>"),
        ("a1.h0", "logits"),
    }
    nowhere = {("m0", "m1"), ("a0.h0", "a1.h0<v>")}
    edges = np.zeros(graph.is_edge.shape, bool)
    for w, r in there | nowhere:
        edges[graph.writers.index(w), graph.readers.index(r)] = True
    effects = edges * 1.0
    found = connected(graph, edges)
    circuit = cj.circuits.graph_circuit.GraphCircuit(graph, found, effects, {})
    assert set(circuit.ranked_edges()) == there | {("a0.h0", "a1.h0<v>")}
    assert circuit.nodes == ("input", "a0.h0", "m0", "a1.h0", "logits")
    assert circuit.heads.tolist() == [[True], [True]]
    assert circuit.mlps.tolist() == [True, False]
    edges[graph.writers.index("input")] = False
    assert not connected(graph, edges).any()  # nothing comes from the input


def test_nodes_and_edges_come_back_from_a_file_by_name(tmp_path, scores):
    circuit = graph_circuit(scores, GRAPH, 40)
    circuit.save(tmp_path / "graph.json", model="tiny")
    record = json.loads((tmp_path / "graph.json").read_text())
    assert list(record)[:3] == ["schema", "version", "model"]
    assert record["nodes"] == list(circuit.nodes)
    assert {"from", "to", "effect"} == set(record["edges"][0])
    found = load_graph_circuit(tmp_path / "graph.json")
    np.testing.assert_array_equal(found.edges, circuit.edges)
    np.testing.assert_array_equal(found.effects, np.where(circuit.edges, circuit.effects, 0))
    assert found.ranked_edges() == circuit.ranked_edges()
    assert (found.graph, found.rule) == (circuit.graph, circuit.rule)
    (tmp_path / "circuit.json").write_text(json.dumps({"heads": [], "graph": record}))
    assert named(load_graph_circuit(tmp_path / "circuit.json")) == named(circuit)  # of a run
    largest = [abs(edge["effect"]) for edge in record["edges"]]
    assert largest == sorted(largest, reverse=True)


def test_scores_of_mlps_come_back_from_a_graph(tmp_path, scores):
    nodes = np.random.default_rng(1).random(len(GRAPH.writers), np.float32)
    heads = nodes[GRAPH.head_writers].reshape(L, H)
    details = {**scores.details, "node_scores": nodes}
    cj.save_graph_json(Scores(heads, scores.edge_scores, details), tmp_path / "g.json", tiny.CONFIG)
    found = cj.load_graph_json(tmp_path / "g.json")
    np.testing.assert_array_equal(found.details["node_scores"], nodes)
    np.testing.assert_array_equal(found.head_scores, heads)
    np.testing.assert_array_equal(found.details["graph_effects"], details["graph_effects"])
    assert "effects" not in found.details  # of no sign
    record = json.loads((tmp_path / "g.json").read_text())
    assert record["nodes"]["m1"]["score"] == nodes[GRAPH.writers.index("m1")]
    del record["nodes"]["m1"]["score"]
    (tmp_path / "g.json").write_text(json.dumps(record))
    with pytest.raises(cj.InputError, match=r"the score of 'm1' in nodes is None"):
        cj.load_graph_json(tmp_path / "g.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("edges", [{"from": "m2", "to": "m1", "effect": 1.0}]),  # back in time
        ("edges", [{"from": "a0.h9", "to": "logits", "effect": 1.0}]),
        ("edges", [{"from": "input", "to": "logits", "effect": float("nan")}]),
        ("version", 2),
        ("n_layers", "many"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, scores, field, value):
    graph_circuit(scores, GRAPH, 10).save(tmp_path / "graph.json")
    record = json.loads((tmp_path / "graph.json").read_text()) | {field: value}
    (tmp_path / "graph.json").write_text(json.dumps(record))
    with pytest.raises(cj.InputError, match=r"graph\.json"):
        load_graph_circuit(tmp_path / "graph.json")


def test_scores_that_cut_no_edges_are_refused(scores):
    heads_alone = Scores(scores.head_scores, scores.edge_scores)
    with pytest.raises(cj.InputError, match=r"graph_effects of shape \(0,\).*sae_codes"):
        graph_circuit(heads_alone, GRAPH)
    with pytest.raises(cj.InputError, match="share is 2; allowed"):
        graph_circuit(scores, GRAPH, share=2)
    with pytest.raises(cj.InputError, match="n_edges is -1; allowed"):
        graph_circuit(scores, GRAPH, -1)
    nothing = Scores(scores.head_scores, scores.edge_scores, {"graph_effects": 0.0 * GRAPH.is_edge})
    assert graph_circuit(nothing, GRAPH, share=1).size == 0
