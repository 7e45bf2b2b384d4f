import base64
import csv
import math
import re
import xml.etree.ElementTree

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


def curve(*judgements, size=10):
    return figures.faithfulness_figure(judgements, size, 100, "a <title>")


def test_the_curve_has_its_numbers_beside_it():
    drawing = curve(*judged("circuit", [0.1, math.nan, 0.9]), *judged("random", [0, 0.5, 1], 0.25))
    data = base64.b64decode(re.search(r'href="data:text/csv;base64,([^"]+)"', drawing)[1]).decode()
    rows = list(csv.DictReader(data.splitlines()))
    assert [(r["kept"], r["size"], float(r["faithfulness"]), float(r["spread"])) for r in rows] == [
        ("circuit", "2", 0.1, 0), ("circuit", "50", 0.9, 0),
        ("random", "2", 0, 0.25), ("random", "10", 0.5, 0.25), ("random", "50", 1, 0.25),
    ]  # fmt: skip
    titles = re.findall("<title>(.*?)</title>", drawing)
    assert titles[0] == "circuit, 2 heads: faithfulness 0.10, metric 1"
    assert len(titles) == len(rows)
    assert 'aria-label="a &lt;title&gt;"' in drawing
    assert "found</text>" in drawing
    assert "nan" not in re.sub('base64,[^"]*', "", drawing)


def test_what_is_undefined_is_not_drawn():
    assert curve(*judged("circuit", [math.nan] * 3)) == ""


@pytest.mark.parametrize("size", [0, 1, 100])
def test_any_circuit_is_drawn(size):
    drawing = curve(*judged("circuit", [-30, 0, 30]), size=size)
    xml.etree.ElementTree.fromstring(drawing[: drawing.index("</svg>") + 6])


def test_ticks_of_sizes_stand_apart():
    assert figures._apart([1, 2, 50, 100], math.log(3)) == [100, 2]
    assert figures._apart([7], 0.0) == [7]


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
