"""Circuits of the graph judged: against an independent loop, and what the sizes mean."""

import dataclasses

import jax
import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax.capture.ablation import trial
from circuits_jax.circuits.graph import graph_of
from circuits_jax.circuits.graph_circuit import graph_circuit
from circuits_jax.evaluation.cpr_cmd import SIZES
from circuits_jax.evaluation.graph_faithfulness import (
    area_edges,
    edge_areas,
    evaluate_graph,
    graph_metrics,
    graph_trial,
    random_graphs,
    told,
)
from circuits_jax.evaluation.masked_passes import masked_metrics
from tests.circuits import tiny
from tests.circuits.circuits.test_graph_circuit import scores  # noqa: F401  a fixture
from tests.circuits.interpose.test_interpose_graph import by_an_independent_loop
from tests.circuits.methods.test_edges import logit_diff

GRAPH = graph_of(tiny.CONFIG)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_faithfulness_is_that_of_an_independent_loop(scores, share):  # noqa: F811
    model, task = tiny.model(), tiny.task()
    circuit = graph_circuit(scores, GRAPH, share=share)
    found = evaluate_graph(model, task, circuit, n_random=2)
    assert [(one.kept, one.n_edges) for one in found] == [
        ("circuit", circuit.size),
        ("random", circuit.size),
    ]
    pairs = task.held_out
    tokens = [
        np.array([model.tokenizer(text).input_ids for text in prompts])
        for prompts in (pairs.positives, pairs.negatives)
    ]

    def metric(keep):
        return logit_diff(by_an_independent_loop(model, *tokens, keep), pairs).mean()

    full, nothing = metric(np.ones(GRAPH.is_edge.shape)), metric(np.zeros(GRAPH.is_edge.shape))
    wanted = (metric(circuit.edges * 1.0) - nothing) / (full - nothing)
    np.testing.assert_allclose(found[0].faithfulness, wanted, rtol=2e-2, atol=5e-3)
    assert found[0].spread == 0 < found[1].spread


def test_random_circuits_have_the_same_nodes_and_as_many_edges(scores):  # noqa: F811
    circuit = graph_circuit(scores, GRAPH, 60)
    a, b = random_graphs(jax.random.key(0), circuit, 2)
    nodes = set(circuit.nodes)
    for mask in (a, b):
        assert mask.sum() == circuit.size
        assert not (mask & ~GRAPH.is_edge).any()
        ends = {GRAPH.writers[w] for w in np.flatnonzero(mask.any(axis=1))}
        ends |= {GRAPH.readers[r].partition("<")[0] for r in np.flatnonzero(mask.any(axis=0))}
        assert ends <= nodes
    assert (a != b).any()


def test_areas_are_of_edges_by_sign_and_by_size(scores):  # noqa: F811
    masks = area_edges(GRAPH, scores)
    effects = np.asarray(scores.details["graph_effects"])
    assert masks.shape[:2] == (2, len(SIZES))
    for mask, share in zip(masks[1], SIZES, strict=True):
        np.testing.assert_array_equal(
            mask, graph_circuit(scores, GRAPH, int(share * GRAPH.is_edge.sum())).edges
        )
    tenth = masks[0][SIZES.index(0.2)]
    assert tenth.any()
    assert (effects[tenth] > 0).all()
    assert (effects[masks[1][SIZES.index(0.2)]] < 0).any()
    found = edge_areas(tiny.model(), tiny.task(), scores)
    np.testing.assert_allclose(found.by_sign[-1], 1, atol=1e-4)
    np.testing.assert_allclose(found.by_size[-1], 1, atol=1e-4)
    sizes = np.array(SIZES)
    wanted = np.trapezoid(np.abs(1 - np.array(found.by_size)), sizes)
    np.testing.assert_allclose(found.cmd, wanted, rtol=1e-6)


def test_zero_and_mean_replace_by_nothing_and_by_the_mean():
    model, task = tiny.model(), tiny.task()
    none = np.zeros((1, *GRAPH.is_edge.shape), bool)
    values = {
        name: graph_metrics(
            model, graph_trial(model, task.held_out, name, task.metric), none, task.metric
        )
        for name in ("zero", "mean", "resample")
    }
    negatives = np.asarray(model.logits(task.held_out.negatives))
    np.testing.assert_allclose(
        values["resample"][0], logit_diff(negatives, task.held_out), rtol=1e-3, atol=1e-3
    )
    assert len({tuple(np.round(x[0], 3)) for x in values.values()}) == 3


def test_a_circuit_of_another_model_is_refused(scores):  # noqa: F811
    other = cj.circuits.graph.Graph(2, 4)
    empty = np.zeros(other.is_edge.shape)
    circuit = cj.circuits.graph_circuit.GraphCircuit(other, empty > 0, empty, {})
    with pytest.raises(cj.InputError, match="another graph"):
        evaluate_graph(tiny.model(), tiny.task(), circuit)


def test_a_record_is_told_in_a_sentence_an_ablation():
    edges = [{"from": "input", "to": "m0"}, {"from": "m0", "to": "logits"}]
    judged = {"ablation": "zero", "kept": "circuit", "faithfulness": 0.5, "spread": 0.0}
    record = {"n_layers": 1, "n_heads": 2, "parallel": False, "nodes": ["input", "m0", "logits"]}
    record |= {"edges": edges, "judgements": [judged]}
    n_edges = 6 + 3 + 4  # into three inputs of two heads, the MLP and the logits
    words = (
        f"2 of the graph's {n_edges} edges, among 0 heads and 1 MLP, keep a faithfulness of 0.50"
    )
    assert told(record) == [f"{words} (zero)"]
    random = judged | {"kept": "random", "faithfulness": -0.001, "spread": 0.25}
    (line,) = told(record | {"judgements": [judged, random]})
    assert line.endswith("; as many random ones among the same nodes 0.00 \u00b1 0.25")


def test_answers_of_several_tokens_and_kl_are_judged_as_on_heads_alone():
    """With all edges nothing is cut: the metric is the whole model's, by either kind of passes."""
    model, pairs = tiny.model(), tiny.task().held_out
    longer = dataclasses.replace(pairs, answers=tuple(((row[0], 3), 5) for row in pairs.answers))
    whole = np.ones((1, *graph_of(model.config).is_edge.shape), bool)
    heads = np.ones((1, *model.config.heads), bool)
    for metric, asked in (("log_prob", longer), ("kl", pairs)):
        prepared = graph_trial(model, asked, "resample", metric)
        found = graph_metrics(model, prepared, whole, metric)
        wanted, _ = masked_metrics(model, trial(model, asked, "resample", metric), heads, metric, 1)
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.abs(found).max() < 1e-5  # nothing diverges from itself
