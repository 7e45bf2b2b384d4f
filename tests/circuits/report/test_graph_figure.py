"""The figure of the whole graph: its edges, their colours and widths, and what joins them."""

import re
from pathlib import Path

import numpy as np

from circuits_jax.circuits.graph import Graph
from circuits_jax.report import graph_figure, page

GRAPH = Graph(3, 2)


def record(edges):
    joined = [{"from": w, "to": r, "effect": effect} for w, r, effect in edges]
    return {"n_layers": 3, "n_heads": 2, "parallel": False, "edges": joined, "nodes": []}


def paths(markup: str) -> list[str]:
    """Styles of the curves, in the order in which they are drawn."""
    return re.findall(r'<path d="M [^"]*C [^"]*"[^>]*style="([^"]*stroke:[^"]*)"', markup)


def test_every_edge_is_drawn_in_the_colour_of_what_reads_it():
    edges = [
        ("input", "a0.h1<q>", 5.0),
        ("a0.h1", "a1.h0<k>", 4.0),
        ("m0", "a2.h1<v>", -3.0),
        ("a1.h0", "m1", 2.0),
        ("m1", "logits", 1.0),
    ]
    markup = graph_figure.graph_figure(record(edges))
    drawn = [one for one in paths(markup) if "opacity: 0.55" in one]
    kinds = ["logits", "MLPs", "values", "keys", "queries"]  # the strongest lies on top
    wanted = [f"var(--series-{graph_figure.SERIES[kind]})" for kind in kinds]
    assert [re.search(r"stroke: (var\([^)]*\))", one)[1] for one in drawn] == wanted
    widths = [float(re.search(r"stroke-width: ([\d.]+)", one)[1]) for one in drawn]
    assert widths == sorted(widths)
    assert ["stroke-dasharray" in one for one in drawn] == [False, False, True, False, False]
    nodes = re.findall(r"<title>(\S+): (\S+) passes", markup)
    assert dict(nodes) == {
        "input": "5", "a0.h1": "4", "a1.h0": "2", "m0": "\u22123", "m1": "1",
        "a2.h1": "0", "logits": "0",
    }  # fmt: skip


def test_the_best_are_drawn_and_all_are_in_the_csv():
    writers, readers = np.array(GRAPH.writers), np.array(GRAPH.readers)
    pairs = np.argwhere(GRAPH.is_edge)
    effects = np.linspace(9, 1, len(pairs))
    edges = [
        (str(writers[w]), str(readers[r]), float(e))
        for (w, r), e in zip(pairs, effects, strict=True)
    ]
    given = record(edges * (1 + graph_figure.DRAWN // len(edges)))
    markup = graph_figure.graph_figure(given)
    assert len([one for one in paths(markup) if "opacity: 0.55" in one]) == graph_figure.DRAWN
    assert page.csv_link("graph", given["edges"]) in markup


def test_no_edges_no_figure():
    assert graph_figure.graph_figure(record([])) == ""


def test_its_colours_are_of_the_page_light_and_dark():
    """What a figure names and no stylesheet has would be drawn in no colour at all."""
    style = (Path(graph_figure.__file__).parent / "templates/circuit.css").read_text()
    markup = graph_figure.graph_figure(record([("input", "logits", 1.0)]))
    used = set(re.findall(r"var\(--(series-\d+)\)", markup))
    assert used == {f"series-{place}" for place in graph_figure.SERIES.values()}  # in the legend
    assert {name: style.count(f"--{name}:") for name in used} == dict.fromkeys(used, 2)
