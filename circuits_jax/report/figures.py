"""Geometry of the report's three figures, in SVG units of one CSS pixel.

Heat map and graph share one grid, layers from left to right and heads from top to bottom, so that a
head stands at the same place in both. The curve shows faithfulness (arXiv 2407.08734) against the
number of heads. The templates draw what is computed here.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from circuits_jax.circuits.circuit import Circuit, best_first
from circuits_jax.evaluation.faithfulness import Judgement

MAX_EDGES = 400  # what a page can draw and a person can follow
BEST_EDGES = 30  # drawn at first; the others are on demand
LEFT, TOP = 48, 10  # room for the names of heads


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


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of the curve: its path, its band of plus and minus the spread, its points."""

    name: str
    path: str
    band: str
    points: tuple[tuple[float, float, str], ...]
    label_y: float | int


@dataclasses.dataclass(frozen=True)
class Plot:
    """The curve. `series` has no points where faithfulness is undefined throughout."""

    width: float | int
    height: float | int
    left: float | int
    right: float | int
    top: float | int
    bottom: float | int
    series: tuple[Series, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    size_x: float | int
    zero_y: float | int
    one_y: float | int


def faithfulness_plot(judgements: Sequence[Judgement], size: int, n_heads: int) -> Plot:
    """Faithfulness of the found, the complementary and random circuits by number of heads.

    The number of heads on a logarithmic axis that ends at all `n_heads`.
    """
    width, height, left, right, top, bottom = 600.0, 340.0, 44.0, 500.0, 14.0, 292.0
    ends = [j.faithfulness + sign * j.spread for j in judgements for sign in (-1, 1)]
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([1.0, *ends])
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    smallest = min([j.size for j in judgements if j.size] or [1])
    span = math.log(n_heads / smallest) or 1.0

    def x(heads):
        return left + (right - left) * math.log(max(heads, smallest) / smallest) / span

    def y(value):
        return bottom - (bottom - top) * (value - low) / (high - low)

    kinds = [[j for j in judgements if j.kept == k] for k in ("circuit", "random", "complement")]
    series = [_series(sorted(kind, key=lambda j: j.size), x, y) for kind in kinds if kind]
    return Plot(
        *(width, height, left, right, top, bottom),
        series=_labelled(series, bottom),
        x_ticks=_size_ticks({j.size for j in judgements} | {n_heads}, n_heads, x),
        y_ticks=tuple(
            (y(value), f"{value:g}".replace("-", "\u2212")) for value in _ticks(low, high)
        ),
        size_x=x(size),
        zero_y=y(0),
        one_y=y(1),
    )


def _series(judgements: Sequence[Judgement], x, y) -> Series:
    """Path, band and points of one kind of circuit; undefined values leave a gap."""
    real = [j for j in judgements if math.isfinite(j.faithfulness)]
    points = tuple((x(j.size), y(j.faithfulness), _tip(j)) for j in real)
    above = [(x(j.size), y(j.faithfulness + j.spread)) for j in real]
    below = [(x(j.size), y(j.faithfulness - j.spread)) for j in real]
    band = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in above + below[::-1]) if real else ""
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b, _ in points) if real else ""
    return Series(judgements[0].kept, path, band, points, points[-1][1] if real else 0.0)


def _labelled(series: Sequence[Series], bottom: float | int) -> tuple[Series, ...]:
    """Labels at the lines' right ends, moved apart to 15 and kept above the bottom."""
    limit, placed = bottom + 15, []
    for one in sorted((s for s in series if s.points), key=lambda s: -s.label_y):
        limit = min(one.label_y, limit - 15)
        placed.append(dataclasses.replace(one, label_y=limit))
    return tuple(placed)


def _size_ticks(sizes: set[int], n_heads: int, x) -> tuple[tuple[float, str], ...]:
    """The sizes that were judged, as percentages, as far as they stand apart."""
    ticks, last = [], math.inf
    for size in sorted(sizes - {0}, reverse=True):
        if last - x(size) >= 32:
            last = x(size)
            ticks.append((last, f"{100 * size / n_heads:.2g} %" if size < n_heads else "all"))
    return tuple(ticks)


def _ticks(low: float | int, high: float | int) -> list[float]:
    """Round numbers from low to high, at most eight of them."""
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(s for s in (0.1, 0.2, 0.25, 0.5, 1, 2) if (high - low) / (s * power) <= 7) * power
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


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
