"""The figures of a circuit: map of heads, graph, and the curve of faithfulness.

Map and graph share one grid in SVG units of one CSS pixel, layers from left to right and heads from
top to bottom, so that a head stands at the same place in both; the templates draw them. The curve
shows faithfulness (arXiv 2407.08734) against the number of heads.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from circuits_jax.circuits.circuit import Circuit, best_first
from circuits_jax.evaluation.faithfulness import Judgement
from circuits_jax.report import page

MAX_EDGES = 400  # what a page can draw and a person can follow
BEST_EDGES = 30  # drawn at first; the others are on demand
LEFT, TOP = 48, 10  # room for the names of heads
JUDGED = ("ablation", "kept", "size", "faithfulness", "spread", "metric")
KINDS = {"circuit": (0, "-"), "random": (1, (0, (1, 2))), "complement": (2, (0, (5, 2)))}


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where heads stand: layer l at `x(l)`, head h at `y(h)`, both the centre of a cell."""

    n_layers: int
    n_heads: int
    step: float | int
    row: float | int

    @property
    def width(self) -> float:
        """Of the figure, with the names of heads on the left."""
        return LEFT + self.n_layers * self.step + 4

    @property
    def bottom(self) -> float:
        """The lower edge of the last row; names of layers stand below."""
        return TOP + self.n_heads * self.row

    @property
    def radius(self) -> float:
        """Of a node that leaves room for edges between its neighbours."""
        return min(0.38 * self.step, 0.42 * self.row, 14.0)

    def x(self, layer: int) -> float:
        """Centre of a layer's column."""
        return LEFT + (layer + 0.5) * self.step

    def y(self, head: int) -> float:
        """Centre of a head's row."""
        return TOP + (head + 0.5) * self.row


def grid(
    shape: tuple[int, int], height: float | int, rows: tuple[float | int, float | int]
) -> Grid:
    """A grid about 1080 wide and `height` high, with rows no lower or higher than `rows`."""
    n_layers, n_heads = shape
    step = float(np.clip(1080 / n_layers, 22, 96))
    return Grid(n_layers, n_heads, step, float(np.clip(height / n_heads, *rows)))


def heat(scores: Float[np.ndarray, "L H"]) -> Float[np.ndarray, "L H"]:
    """Depth of colour in [-1, 1], with the sign of the score.

    The square root of the score's share of the largest: scores are heavy-tailed, and a linear scale
    would show the best head only. 0 where the score is 0 or not a number.
    """
    scores = np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0)
    return np.sign(scores) * np.sqrt(np.abs(scores) / max(np.abs(scores).max(initial=0), 1e-30))


@dataclasses.dataclass(frozen=True)
class Edge:
    """An edge of the graph as an SVG path, from head number `source` to head number `target`."""

    source: int
    target: int
    path: str
    width: float | int
    tip: str
    best: bool


def edges(circuit: Circuit, grid: Grid) -> list[Edge]:
    """The circuit's best edges, weakest first so that the strongest lie on top."""
    pairs = circuit.ranked_edges()[:MAX_EDGES]
    numbers = [(a[0] * grid.n_heads + a[1], b[0] * grid.n_heads + b[1]) for a, b in pairs]
    scores = [float(circuit.edge_scores[pair]) for pair in numbers]
    return [
        Edge(
            source=numbers[rank][0],
            target=numbers[rank][1],
            path=_curve_between(grid, *pairs[rank]),
            width=1 + 4 * scores[rank] / max(scores),
            tip="{}.{} to {}.{}, score ".format(*pairs[rank][0], *pairs[rank][1])
            + f"{number(scores[rank])}, edge {rank + 1} of {int(circuit.edges.sum())}",
            best=rank < BEST_EDGES,
        )
        for rank in reversed(range(len(pairs)))
    ]


def _curve_between(grid: Grid, a: tuple[int, int], b: tuple[int, int]) -> str:
    """From the right of node a to the left of node b; within a row, around the nodes between."""
    x1, x2 = grid.x(a[0]) + grid.radius, grid.x(b[0]) - grid.radius
    y1, y2 = grid.y(a[1]), grid.y(b[1])
    bend = 0.75 * grid.row if a[1] == b[1] and b[0] - a[0] > 1 else 0.0
    reach = 0.45 * (x2 - x1)
    return (
        f"M{x1:.1f} {y1:.1f}C{x1 + reach:.1f} {y1 - bend:.1f} "
        f"{x2 - reach:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"
    )


def faithfulness_figure(
    judgements: Sequence[Judgement], size: int, n_heads: int, caption: str
) -> str:
    """Faithfulness of found, complementary and random circuits by number of heads, as markup.

    The number of heads stands on a logarithmic axis that ends at all `n_heads`; a dashed line marks
    `size`, this circuit's. Undefined values are left out; "" where there are no others.
    """
    shown = [j for j in judgements if j.size and math.isfinite(j.faithfulness)]
    shown = sorted(shown, key=lambda j: j.size)
    kinds = {kind: [j for j in shown if j.kept == kind] for kind in KINDS}
    kinds = {kind: of for kind, of in kinds.items() if of}
    sizes = sorted({j.size for j in judgements if j.size} | {n_heads})

    def draw(axes):
        axes.set_xscale("log")
        axes.set_xlim(0.9 * sizes[0], 1.1 * n_heads)
        if size:
            axes.axvline(size, color=page.COLOURS["ink"], lw=1, ls=(0, (4, 4)), alpha=0.7)
        for level in (0, 1):
            axes.axhline(level, color=page.COLOURS["soft"], lw=1, alpha=0.6)
        for kind, of in kinds.items():
            place, dashes = KINDS[kind]
            x, y, spread = (
                np.array([getattr(j, name) for j in of], float)
                for name in ("size", "faithfulness", "spread")
            )
            colour = page.series(place)
            if spread.any():
                axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.2, lw=0)
            axes.plot(x, y, color=colour, lw=2.2, ls=dashes)
            for judgement in of:
                at = judgement.size, judgement.faithfulness
                page.hover(axes, *at, _tip(judgement), color=colour)
        page.label_lines(
            axes,
            [
                ("found" if k == "circuit" else k, of[-1].faithfulness, page.series(KINDS[k][0]))
                for k, of in kinds.items()
            ],
        )
        ticks = _apart(sizes, 0.09 * math.log(n_heads / sizes[0]))
        texts = [f"{100 * n / n_heads:.2g} %" if n < n_heads else "all" for n in ticks]
        axes.set_xticks(ticks, texts)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"heads kept, found or left out, of {number(n_heads)} (log scale)")
        axes.set_ylabel("faithfulness")

    rows = [{name: getattr(j, name) for name in JUDGED} for of in kinds.values() for j in of]
    return page.figure(draw, "faithfulness", caption, rows, (7.6, 4.4), 1.1) if rows else ""


def _apart(sizes: Sequence[int], gap: float | int) -> list[int]:
    """The sizes that were judged, largest first, as far as their logarithms stand `gap` apart."""
    shown = []
    for size in sizes[::-1]:
        if not shown or math.log(shown[-1] / size) >= gap:
            shown.append(size)
    return shown


def _tip(judgement: Judgement) -> str:
    spread = f" ± {judgement.spread:.2f}" if judgement.kept == "random" else ""
    return (
        f"{judgement.kept}, {judgement.size} heads: faithfulness "
        f"{fixed(judgement.faithfulness)}{spread}, metric {number(judgement.metric)}"
    )


def ranks(scores: Float[np.ndarray, "L H"]) -> list[int]:
    """Rank of every head by falling score, from 1; ties go to the earlier one."""
    order = best_first(scores)
    rank = np.empty(order.size, int)
    rank[order] = np.arange(1, order.size + 1)
    return rank.tolist()


def number(value: float | int) -> str:
    """Three significant digits, with a true minus; an en dash for what is not a number."""
    if not math.isfinite(value):
        return "\u2013"
    text = f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "\u2212")


def fixed(value: float | int) -> str:
    """Two decimals, with a true minus; an en dash for what is not a number."""
    if not math.isfinite(value):
        return "\u2013"
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")


FILTERS = {"number": number, "fixed": fixed, "percent": "{:.0%}".format}  # of templates
