"""The circuit of the whole graph as a figure: heads, MLPs, embedding and logits, and what passes.

Layers stand from left to right, heads from top to bottom as in the map of heads, the MLPs in a row
of their own below them; the embedding comes first and the logits last. An edge has the colour of
what reads it: a head's queries, keys or values, an MLP, the logits.
"""

import math
from collections.abc import Mapping
from typing import Any

from circuits_jax.circuits.names import split
from circuits_jax.report import page
from circuits_jax.report.figures import number

DRAWN = 150  # edges; all of them are in the CSV
READERS = {"<q>": "queries", "<k>": "keys", "<v>": "values", "m": "MLPs", "logits": "logits"}
SERIES = {"queries": 0, "keys": 3, "values": 2, "MLPs": 4, "logits": 1}  # colours of the page


def graph_figure(record: Mapping[str, Any]) -> str:
    """The key `graph` of circuit.json as markup, with a link to its edges.

    Drawn are the `DRAWN` edges of the largest effects and what they join, thicker for more; dashed
    is what lowers the difference of the predictions. "" for a circuit of no edges.
    """
    edges = record["edges"]
    if not edges:
        return ""
    drawn = edges[:DRAWN]
    largest = max(abs(edge["effect"]) for edge in drawn) or 1.0
    colours = {kind: page.series(place) for kind, place in SERIES.items()}

    def place(name: str) -> tuple[float, float]:
        """Column and row."""
        node = name.partition("<")[0]
        if node in ("input", "logits"):
            return (-1.0 if node == "input" else float(record["n_layers"])), record["n_heads"] / 2
        layer, head = split(node)
        return float(layer), float(record["n_heads"] if node.startswith("m") else head)

    def draw(axes):
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        for edge in drawn[::-1]:  # the strongest on top
            (x1, y1), (x2, y2) = place(edge["from"]), place(edge["to"])
            bend = 0.6 if y1 == y2 and x2 - x1 > 1 else 0.0  # around the nodes between
            reach = 0.45 * (x2 - x1)
            points = (x1, y1), (x1 + reach, y1 - bend), (x2 - reach, y2 - bend), (x2, y2)
            if x1 == x2:  # a head and the MLP of its layer
                points = (x1, y1), (x1 + 0.5, y1), (x1 + 0.5, y2), (x2, y2)
            axes.add_patch(
                PathPatch(
                    Path(points, [Path.MOVETO, *[Path.CURVE4] * 3]),
                    fc="none",
                    ec=colours[reader(edge["to"])],
                    lw=0.6 + 4 * math.sqrt(abs(edge["effect"]) / largest),
                    ls="-" if edge["effect"] >= 0 else (0, (3, 2)),
                    alpha=0.55,
                )
            )
        passes: dict[str, float] = {}
        for edge in drawn:
            passes.setdefault(edge["to"].partition("<")[0], 0.0)
            passes[edge["from"]] = passes.get(edge["from"], 0.0) + edge["effect"]
        for node, effect in passes.items():
            x, y = place(node)
            told = f"{node}: {number(effect)} passes from it along what is drawn"
            shape = "s" if node.startswith("m") else "D" if node in ("input", "logits") else "o"
            page.hover(axes, x, y, told, color=page.COLOURS["ink"], marker=shape, ms=6)
        for kind, colour in colours.items():
            axes.plot([], [], color=colour, lw=3, label=f"into {kind}")
        axes.legend(loc="upper center", ncols=len(colours))
        axes.set_xlim(-1.6, record["n_layers"] + 0.6)
        axes.set_ylim(record["n_heads"] + 0.7, -1.4)
        layers = range(0, record["n_layers"], 1 + record["n_layers"] // 32)
        axes.set_xticks([-1, *layers, record["n_layers"]], ["in", *layers, "out"])
        axes.set_yticks(range(record["n_heads"] + 1), [*range(record["n_heads"]), "MLP"])
        axes.set_xlabel("layer")
        axes.set_ylabel("head")

    caption = f"The {len(drawn)} edges of the whole graph that most passes along"
    height = min(3.0 + 0.28 * record["n_heads"], 12.0)
    return page.figure(draw, "graph", caption, edges, (14.6, height), 0.2)


def reader(name: str) -> str:
    """What kind of reader a reader's name is of."""
    return next(kind for mark, kind in READERS.items() if name.endswith(mark) or name[0] == mark)
