"""The circuit of the whole graph as a figure: heads, MLPs, embedding and logits, and what passes.

Layers stand from left to right, heads from top to bottom as in the map of heads, the MLPs in a row
of their own below them; the embedding comes first and the logits last. An edge has the colour of
what reads it: a head's queries, keys or values, an MLP, the logits.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from circuits_jax.circuits.names import split
from circuits_jax.report import page
from circuits_jax.report.figures import number

DRAWN = 150  # edges; all of them are in the CSV
READERS = {"<q>": "queries", "<k>": "keys", "<v>": "values", "m": "MLPs", "logits": "logits"}
SERIES = {"queries": 0, "keys": 3, "values": 2, "MLPs": 4, "logits": 1}  # colours of the page
SHAPES = {"a": "o", "m": "s", "i": "D", "l": "D"}  # by the first letter of a node's name


def graph_figure(record: Mapping[str, Any]) -> str:
    """The key `graph` of circuit.json as markup, with a link to its edges.

    Drawn are the `DRAWN` edges of the largest effects and what they join, thicker for more; dashed
    is what works against the answer. "" for a circuit of no edges.
    """
    edges, n_layers, n_heads = record["edges"], record["n_layers"], record["n_heads"]
    if not edges:
        return ""
    drawn = edges[:DRAWN]
    largest = max(abs(edge["effect"]) for edge in drawn) or 1.0
    shape = n_layers, n_heads

    def draw(axes):
        for edge in drawn[::-1]:  # the strongest on top
            ends = place(edge["from"], shape), place(edge["to"], shape)
            _curve(axes, *ends, reader(edge["to"]), edge["effect"] / largest)
        for node, effect in passed(drawn).items():
            told = f"{node}: {number(effect)} passes from it along what is drawn"
            marker = SHAPES[node[0]]
            page.hover(axes, *place(node, shape), told, color=page.COLOURS["ink"], marker=marker)
        for kind, series in SERIES.items():
            axes.plot([], [], color=page.series(series), lw=3, label=f"into {kind}")
        axes.legend(loc="upper center", ncols=len(SERIES))
        axes.set_xlim(-1.6, n_layers + 0.6)
        axes.set_ylim(n_heads + 0.7, -1.4)
        layers = range(0, n_layers, 1 + n_layers // 32)
        axes.set_xticks([-1, *layers, n_layers], ["in", *layers, "out"])
        axes.set_yticks(range(n_heads + 1), [*range(n_heads), "MLP"])
        axes.set_xlabel("layer")
        axes.set_ylabel("head")

    caption = f"The {len(drawn)} edges of the whole graph that most passes along"
    return page.figure(draw, "graph", caption, edges, (14.6, min(3.0 + 0.28 * n_heads, 12.0)), 0.2)


def place(name: str, shape: tuple[int, int]) -> tuple[float, float]:
    """Column and row of a node or reader, in a model of (L, H)."""
    n_layers, n_heads = shape
    if name in ("input", "logits"):
        return -1.0 if name == "input" else float(n_layers), n_heads / 2
    layer, head = split(name)
    return float(layer), float(n_heads if name.startswith("m") else head)


def reader(name: str) -> str:
    """What kind of reader a reader's name is of."""
    return next(kind for mark, kind in READERS.items() if name.endswith(mark) or name[0] == mark)


def passed(edges: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Node -> sum of the effects of its edges to others, of all that the edges join."""
    found: dict[str, float] = {}
    for edge in edges:
        found.setdefault(edge["to"].partition("<")[0], 0.0)
        found[edge["from"]] = found.get(edge["from"], 0.0) + edge["effect"]
    return found


def _curve(axes, start, end, kind, share):
    """An edge; within a row around the nodes between, within a column around its right."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (x1, y1), (x2, y2) = start, end
    bend = 0.6 if y1 == y2 and x2 - x1 > 1 else 0.0
    reach = 0.45 * (x2 - x1)
    points = (x1, y1), (x1 + reach, y1 - bend), (x2 - reach, y2 - bend), (x2, y2)
    if x1 == x2:  # a head and the MLP of its layer
        points = (x1, y1), (x1 + 0.5, y1), (x1 + 0.5, y2), (x2, y2)
    look = {"ec": page.series(SERIES[kind]), "lw": 0.6 + 4 * math.sqrt(abs(share)), "alpha": 0.55}
    path = Path(points, [Path.MOVETO, *[Path.CURVE4] * 3])
    axes.add_patch(PathPatch(path, fc="none", ls="-" if share >= 0 else (0, (3, 2)), **look))
