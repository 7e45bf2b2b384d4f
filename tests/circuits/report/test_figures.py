import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits_jax.circuits.circuit import Scores
from circuits_jax.evaluation.faithfulness import Judgement
from circuits_jax.report import figures

finite = st.floats(-1e6, 1e6, width=32)
score_tables = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=finite)


def judged(kept, values, spread=0.0):
    sizes = (2, 10, 50)
    return [
        Judgement("mean", kept, n, 1.0, float(v), float(spread))
        for n, v in zip(sizes, values, strict=True)
    ]


@given(score_tables)
def test_heat_keeps_sign_and_order(scores):
    heat = figures.heat(scores)
    assert np.all(np.abs(heat) <= 1)
    assert np.all(np.sign(heat) * np.sign(scores) >= 0)
    by_score = heat.reshape(-1)[np.argsort(scores, axis=None)]
    assert np.all(np.diff(by_score) >= 0)


def test_heat_of_what_is_no_number_is_0():
    heat = figures.heat(np.array([[np.nan, 4.0], [1.0, -4.0]]))
    np.testing.assert_allclose(heat, [[0, 1], [0.5, -1]])


@given(score_tables)
def test_ranks_count_from_the_best(scores):
    ranks = np.array(figures.ranks(scores))
    assert sorted(ranks) == list(range(1, scores.size + 1))
    assert np.all(np.diff(scores.reshape(-1)[np.argsort(ranks)]) <= 0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (30, 9), (48, 25), (126, 128)])
def test_heads_stand_apart(shape):
    grid = figures.grid(shape, 380, (20, 40))
    assert 2 * grid.radius < grid.step
    assert 2 * grid.radius < grid.row
    assert grid.x(shape[0] - 1) + grid.step / 2 <= grid.width
    assert grid.y(shape[1] - 1) + grid.row / 2 == pytest.approx(grid.bottom)


def test_edges_run_to_the_right_and_the_strongest_lies_on_top():
    edge_scores = np.zeros((6, 6), np.float32)
    edge_scores[0, 2], edge_scores[1, 5], edge_scores[2, 4] = 1, 4, 2
    circuit = Scores(np.ones((3, 2)), edge_scores).circuit(size=6)
    grid = figures.grid((3, 2), 380, (20, 40))
    edges = figures.edges(circuit, grid)
    assert [(edge.source, edge.target) for edge in edges] == [(0, 2), (2, 4), (1, 5)]
    assert [edge.width for edge in edges] == [2, 3, 5]
    for edge in edges:
        start, end = edge.path[1:].split("C")
        assert float(start.split()[0]) > grid.x(edge.source // 2)
        assert float(end.split()[-2]) < grid.x(edge.target // 2)
    assert edges[-1].tip == "0.1 to 2.1, score 4, edge 1 of 3"


def test_only_the_best_edges_are_drawn_at_first():
    layer = np.arange(40) // 2
    edge_scores = np.where(layer[:, None] < layer[None], 1.0, 0.0)
    circuit = Scores(np.ones((20, 2)), edge_scores).circuit(size=40, n_edges=700)
    edges = figures.edges(circuit, figures.grid((20, 2), 380, (20, 40)))
    assert len(edges) == figures.MAX_EDGES
    assert sum(edge.best for edge in edges) == figures.BEST_EDGES


@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3))
def test_faithfulness_is_drawn_to_scale(values):
    plot = figures.faithfulness_plot(judged("circuit", values), 10, 100)
    unit = plot.zero_y - plot.one_y
    for (_, y, _), value in zip(plot.series[0].points, values, strict=True):
        assert plot.top <= y <= plot.bottom
        assert (plot.zero_y - y) / unit == pytest.approx(value, abs=1e-6)
    assert 2 <= len(plot.y_ticks) <= 9
    assert plot.left < plot.size_x < plot.right


def test_the_band_holds_the_spread():
    plot = figures.faithfulness_plot(judged("random", [0, 0.5, 1], 0.25), 10, 100)
    unit = plot.zero_y - plot.one_y
    ends = [float(point.split()[1]) for point in plot.series[0].band[1:].split("L")]
    upper, lower = np.array(ends[:3]), np.array(ends[:2:-1])
    np.testing.assert_allclose((lower - upper) / unit, 0.5, atol=1e-3)


def test_what_is_undefined_is_not_drawn():
    nothing = figures.faithfulness_plot(judged("circuit", [math.nan] * 3), 10, 100)
    assert nothing.series == ()
    some = figures.faithfulness_plot(judged("circuit", [0.1, math.nan, 0.9]), 10, 100)
    assert len(some.series[0].points) == 2
    assert "nan" not in str(some)


def test_labels_stand_apart():
    kinds = [("circuit", [0, 0, 1]), ("random", [0, 0, 0.99]), ("complement", [0, 0, 0.98])]
    judgements = [row for kind in kinds for row in judged(*kind)]
    plot = figures.faithfulness_plot(judgements, 10, 100)
    labels = sorted(series.label_y for series in plot.series)
    assert len(labels) == 3
    assert min(np.diff(labels)) >= 15


def test_numbers_are_rounded():
    given_values = [0.0, 0.012345, -1.5, 99.44, 1234.5, 2.5e7, math.nan, math.inf]
    rounded = ["0", "0.0123", "\u22121.5", "99.4", "1,234", "2.5e+07", "\u2013", "\u2013"]
    assert [figures.number(value) for value in given_values] == rounded
    assert [figures.fixed(v) for v in (0.456, -0.456, -0.001, math.nan)] == [
        "0.46",
        "\u22120.46",
        "0.00",
        "\u2013",
    ]
