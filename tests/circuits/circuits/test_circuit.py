"""Cutting circuits from scores, and their files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuits_jax import TaskWarning
from circuits_jax.circuits.circuit import NOISE, Scores, best_first, load_circuit, top
from circuits_jax.codes import codes
from circuits_jax.runs.errors import InputError

L, H, G = 3, 2, 6


def scores_of(seed=0, n_levels=None):
    rng = np.random.default_rng(seed)
    heads, edges = rng.lognormal(size=(L, H)), rng.random((G, G)) + 0.1
    if n_levels:
        heads, edges = rng.integers(0, n_levels, (L, H)), rng.integers(0, n_levels, (G, G))
    directed = np.asarray(codes.directed(jnp.asarray(edges, jnp.float32), (L, H)))
    return Scores(heads.astype(np.float32), directed)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, G), st.sampled_from([None, 2, 3]))
def test_a_circuit_by_size_has_the_best_heads_and_edges_inside(seed, size, n_levels):
    scores = scores_of(seed, n_levels)
    circuit = scores.circuit(size=size)
    assert circuit.size == circuit.heads.sum() == min(size, (scores.head_scores > 0).sum())
    assert circuit.rule == {"size": size}
    assert circuit.asked == size
    inside, outside = scores.head_scores[circuit.heads], scores.head_scores[~circuit.heads]
    assert not inside.size or not outside.size or inside.min() >= outside.max()
    flat = circuit.heads.reshape(-1)
    assert not circuit.edges[~flat].any()
    assert not circuit.edges[:, ~flat].any()
    possible = (scores.edge_scores > 0) & flat[:, None] & flat[None, :]
    assert circuit.edges.sum() == min(circuit.size, possible.sum())
    left = possible & ~circuit.edges
    chosen = scores.edge_scores[circuit.edges]
    assert not left.any() or not chosen.size or chosen.min() >= scores.edge_scores[left].max()
    layers = [(a[0], b[0]) for a, b in circuit.ranked_edges()]
    assert all(a < b for a, b in layers)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (2, 3), elements=st.integers(0, 2)), st.integers(0, 6))
def test_ties_go_to_the_earlier_head(scores, size):
    wanted = sorted(range(6), key=lambda g: (-scores.reshape(-1)[g], g))
    assert best_first(scores).tolist() == wanted
    assert sorted(np.flatnonzero(top(scores, size))) == sorted(wanted[:size])


def test_ties_by_hand():
    circuit = Scores(np.ones((L, H)), np.zeros((G, G))).circuit(size=2)
    assert circuit.ranked_heads() == [(0, 0), (0, 1)]
    assert circuit.ranked_edges() == []


@pytest.mark.parametrize("largest", [1e-3, 1.0, 1e6])
def test_a_score_of_rounding_noise_is_never_taken(largest):
    """Nor one that is 0, or below it; the sentence says how many were."""
    shares = np.array([[1, 0.9 * NOISE], [0, 2 * NOISE], [-0.5, 0.5]])
    scores = Scores(largest * shares, np.zeros((G, G)))
    with pytest.warns(TaskWarning, match="3 of the 5 heads asked for"):
        circuit = scores.circuit(size=5)
    assert circuit.ranked_heads() == [(0, 0), (2, 1), (1, 1)]
    assert (circuit.size, circuit.asked, circuit.rule) == (3, 5, {"size": 5})
    assert scores.circuit(threshold=0.0).ranked_heads() == circuit.ranked_heads()
    below = scores.circuit(threshold=-largest)
    assert below.ranked_heads() == [(0, 0), (2, 1), (1, 1), (2, 0)]
    assert below.asked == 4
    with pytest.warns(TaskWarning, match="0 of the 2 heads"):
        assert Scores(0 * shares, np.zeros((G, G))).circuit(size=2).size == 0


def test_a_method_that_knows_its_noise_says_so():
    shares = np.array([[1, 1e-9], [1e-7, 0], [0, 0]])
    scores = Scores(shares, np.zeros((G, G)), {"noise": np.float32(0)})
    assert scores.circuit(size=3).size == 3
    assert Scores(shares, np.zeros((G, G))).circuit(size=3).size == 1


def test_edges_of_rounding_noise_are_not_taken():
    edges = np.zeros((G, G))
    edges[0, 2], edges[0, 3], edges[1, 2] = 1.0, 0.5 * NOISE, 0.5
    circuit = Scores(np.ones((L, H)), edges).circuit(size=G)
    assert circuit.ranked_edges() == [((0, 0), (1, 0)), ((0, 1), (1, 0))]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_named(value):
    heads, edges = np.ones((L, H)), np.ones((G, G))
    heads[2, 1] = value
    with pytest.raises(InputError, match="head score of layer 2 head 1 is not finite"):
        Scores(heads, edges).circuit()
    edges[3, 4] = value
    with pytest.raises(InputError, match="edge score of layer 1 head 1 to layer 2"):
        Scores(np.ones((L, H)), edges).circuit()


def test_scores_and_circuits_print_short():
    scores = scores_of().replace(details={"codes": np.zeros((100, 100))})
    circuit = scores.circuit(size=4)
    assert str(scores).startswith("Scores(3 x 2 heads; strongest: ")
    assert str(circuit).startswith("Circuit(4 of 3 x 2 heads, 4 edges; strongest heads: ")
    assert max(len(str(scores)), len(str(circuit))) < 160
    shapes = []
    jax.jit(lambda s: shapes.append(repr(s)) or s)(scores)
    assert shapes == ["Scores(3 x 2 heads; details: codes)"]


def test_a_threshold_keeps_what_lies_above_it():
    scores = scores_of()
    middle = float(np.sort(scores.head_scores, axis=None)[2])
    circuit = scores.circuit(threshold=middle)
    np.testing.assert_array_equal(circuit.heads, scores.head_scores > middle)
    assert circuit.size == G - 3  # a score equal to the threshold is out
    assert circuit.rule == {"threshold": middle}
    assert scores.circuit(threshold=1e9).size == 0
    assert scores.circuit(threshold=-1e9).size == G


def test_defaults_and_number_of_edges():
    scores = scores_of()
    assert scores.circuit().size == round(G / 4)
    everything = scores.circuit(size=G)
    assert everything.edges.sum() == G
    assert scores.circuit(size=G, n_edges=0).edges.sum() == 0
    assert scores.circuit(size=G, n_edges=3).edges.sum() == 3
    assert scores.circuit(size=G, n_edges=10**6).edges.sum() == 3 * H * H


def test_ranked_best_first():
    scores = scores_of()
    circuit = scores.circuit(size=4)
    heads = [scores.head_scores[head] for head in circuit.ranked_heads()]
    assert heads == sorted(heads, reverse=True)
    assert len(set(circuit.ranked_heads())) == 4
    edges = [
        scores.edge_scores[a[0] * H + a[1], b[0] * H + b[1]] for a, b in circuit.ranked_edges()
    ]
    assert edges == sorted(edges, reverse=True)


@pytest.mark.parametrize("size", [-1, 7])
def test_sizes_out_of_range(size):
    with pytest.raises(InputError, match=f"size is {size}; allowed is a whole number, 0 to 6"):
        scores_of().circuit(size=size)


def test_contradictions_and_negative_counts():
    with pytest.raises(InputError, match=r"size \(2\) and threshold \(0.5\) were given; give one"):
        scores_of().circuit(size=2, threshold=0.5)
    with pytest.raises(InputError, match="n_edges is -1"):
        scores_of().circuit(size=2, n_edges=-1)


@pytest.mark.parametrize("rule", [{"size": 3}, {"size": 0}, {"size": 6}, {"threshold": 0.1}])
def test_save_and_load(tmp_path, rule):
    circuit = scores_of().circuit(**rule)
    path = tmp_path / "new" / "circuit.json"
    circuit.save(path, model="tiny", evaluation={"metric": np.float32(1.5), "none": np.nan})
    found = load_circuit(path)
    np.testing.assert_array_equal(found.heads, circuit.heads)
    np.testing.assert_array_equal(found.edges, circuit.edges)
    np.testing.assert_array_equal(
        found.head_scores, np.where(circuit.heads, circuit.head_scores, 0)
    )
    np.testing.assert_array_equal(
        found.edge_scores, np.where(circuit.edges, circuit.edge_scores, 0)
    )
    assert found.rule == rule
    assert found.ranked_heads() == circuit.ranked_heads()
    assert found.ranked_edges() == circuit.ranked_edges()
    record = json.loads(path.read_text())
    assert list(record)[3:5] == ["model", "evaluation"]  # before the long lists
    assert record["sign"] == "higher = in the circuit"
    assert (record["schema"], record["version"]) == ("circuits_jax/circuit", 1)
    assert record["evaluation"] == {"metric": 1.5, "none": None}
    assert record["model"] == "tiny"


def hostile():
    """What to change in a good record, and what the error says."""
    return {
        "no object": (lambda r: [r], "is of schema and version None"),
        "other schema": (lambda r: r | {"schema": "other"}, "schema and version"),
        "newer": (lambda r: r | {"version": 2}, "schema and version"),
        "no heads": (lambda r: {k: v for k, v in r.items() if k != "heads"}, "whole"),
        "no rule": (lambda r: {k: v for k, v in r.items() if k != "rule"}, "whole"),
        "rule is a list": (lambda r: r | {"rule": [3]}, "whole"),
        "heads null": (lambda r: r | {"heads": None}, "whole"),
        "head is a number": (lambda r: r | {"heads": [3]}, "whole"),
        "outside": (lambda r: r | {"heads": [head(9, 0)]}, "whole"),
        "negative": (lambda r: r | {"heads": [head(-1, 0)]}, "whole"),
        "half a head": (lambda r: r | {"heads": [head(0.5, 0)]}, "whole"),
        "score is text": (lambda r: r | {"heads": [head(0, 0, "high")]}, "whole"),
        "score is null": (lambda r: r | {"heads": [head(0, 0, None)]}, "whole"),
        "edge outside": (lambda r: r | {"edges": [edge([0, 3], [2, 0])]}, "whole"),
        "edge to nowhere": (lambda r: r | {"edges": [edge([0, 0], [3, 0])]}, "whole"),
        "edge of three": (lambda r: r | {"edges": [edge([0, 0, 0], [1, 0])]}, "whole"),
        "negative edge": (lambda r: r | {"edges": [edge([0, 0], [2, -1])]}, "whole"),
        "layers are text": (lambda r: r | {"n_layers": "3"}, "whole"),
        "no layers": (lambda r: r | {"n_layers": -3}, "whole"),
        "too many layers": (lambda r: r | {"n_layers": 10**9}, "whole"),
    }


def head(layer, head, score=1.0):
    return {"layer": layer, "head": head, "score": score}


def edge(a, b):
    return {"from": a, "to": b, "score": 1.0}


@pytest.mark.parametrize("case", hostile())
def test_hostile_records(tmp_path, case):
    path = tmp_path / "circuit.json"
    circuit = scores_of().circuit(size=3)
    circuit.save(path)
    change, message = hostile()[case]
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=message) as caught:
        load_circuit(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_json(tmp_path):
    with pytest.raises(InputError, match=r"absent\.json is not a readable JSON file"):
        load_circuit(tmp_path / "absent.json")
    for content in (b"", b"{", b"\xff\xfe\x00"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.json is not a readable JSON file"):
            load_circuit(tmp_path / "bad.json")
