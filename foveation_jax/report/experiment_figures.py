"""Drawings of the page of stage 2: curves as SVG, the forest of intervals, filters as pictures.

A system has one colour (`--series-NUMBER` of the page, see `page`), marker and dash throughout.
Accuracies and areas are drawn in percent. Bands are plus and minus the deviation between runs.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from foveation_jax.claims import statistics
from foveation_jax.claims.results import Claim, History, title
from foveation_jax.metrics.levels import check_finite
from foveation_jax.probes.curves import Curve
from foveation_jax.probes.evaluate import probe_of
from foveation_jax.report import page

COLOURS = {  # light, dark; after Okabe & Ito, safe for colour-blind readers
    "reference": ("#3f4246", "#d3d6da"),
    "foveation_texture": ("#d55e00", "#ff8f45"),
    "uniform_blur": ("#009e73", "#35cfa0"),
    "foveation_blur": ("#0072b2", "#62b5f5"),
}
OTHERS = (("#a8478a", "#e58fc8"), ("#8a7400", "#dcc545"), ("#5b4fc4", "#a9a0ff"))
MARKERS = "osD^vPX"
DASHES = ("-", "-", (0, (6, 2)), (0, (3, 1.5)), "-.")


@dataclasses.dataclass(frozen=True)
class Style:
    """How a system looks in every drawing; `number` is that of its colour variable."""

    number: int
    light: str
    dark: str
    marker: str
    dash: str | tuple

    @property
    def line(self) -> dict:
        """Arguments of matplotlib's plot."""
        colour = page.series(self.number)
        return {
            "color": colour, "marker": self.marker, "ms": 4.2, "lw": 1.7, "ls": self.dash,
            "mec": colour, "mew": 0,
        }  # fmt: skip


def styles(systems: Sequence[str]) -> dict[str, Style]:
    """System -> style; a system keeps its colour whatever others are shown."""
    known, others = list(COLOURS), itertools.cycle(OTHERS)
    found = {}
    for number, name in enumerate(systems):
        light, dark = COLOURS.get(name) or next(others)
        look = known.index(name) if name in known else len(known) + number
        marker, dash = MARKERS[look % len(MARKERS)], DASHES[look % len(DASHES)]
        found[name] = Style(number, light, dark, marker, dash)
    return found


def probe_figure(
    curves: Sequence[Curve], look: Mapping[str, Style], chance: float, top: float | int, said: str
) -> str:
    """Accuracy along the levels of one probe, a curve a system, up to an accuracy of `top`."""

    def draw(axes):
        for curve in curves:
            x = statistics.positions(curve.probe, curve.levels)
            _band(axes, _shown(curve.probe, x), curve.accuracy, look[curve.system], curve.system)
        _accuracy_axes(axes, chance)
        axes.set_ylim(top=100 * top)
        _level_axis(axes, curves[0])

    rows = [row for curve in curves for row in _rows(curve.system, curve.levels, curve.accuracy)]
    return page.figure(draw, curves[0].probe, f"Accuracy by level. {said}", rows)


def conflict_figure(
    pairs: Mapping[str, tuple[Curve, Curve]], look: Mapping[str, Style], chance: float, said: str
) -> str:
    """Accuracy for the centre's class (solid) and the periphery's (thin), the cross-over marked."""
    first = next(iter(pairs.values()))[0]

    def draw(axes):
        for name, (centre, periphery) in pairs.items():
            x = 100 * centre.levels
            colour = page.series(look[name].number)
            axes.plot(x, 100 * centre.accuracy.mean(0), **look[name].line | {"ls": "-"})
            axes.plot(x, 100 * periphery.accuracy.mean(0), color=colour, lw=1.1, ls=(0, (2, 2)))
            means = (curve.accuracy.mean(0)[None] for curve in (centre, periphery))
            at = statistics.crossover(centre.levels, *means)[0]
            if np.isfinite(at):
                height = np.interp(at, centre.levels, centre.accuracy.mean(0))
                axes.vlines(100 * at, 0, 100 * height, color=colour, lw=1)
                axes.plot(100 * at, 100 * height, "o", ms=9, mfc="none", mec=colour, mew=1.6)
        _accuracy_axes(axes, chance)
        _level_axis(axes, first)

    rows = [
        {"side": side} | row
        for name, curves in pairs.items()
        for side, curve in zip(("centre", "periphery"), curves, strict=True)
        for row in _rows(name, curve.levels, curve.accuracy)
    ]
    name = first.probe.partition("/")[0]
    return page.figure(draw, name, f"Accuracy for the centre and the periphery. {said}", rows)


def training_figures(
    histories: Iterable[History], look: Mapping[str, Style], chance: float
) -> list[tuple[str, str]]:
    """(title, SVG) of test accuracy, training accuracy and test loss along the epochs."""
    figures = []
    for heading, field in (
        ("Test accuracy", "test_accuracy"),
        ("Training accuracy", "train_accuracy"),
        ("Test loss, nats", "test_loss"),
    ):
        shown = [h for h in histories if np.isfinite(getattr(h, field)).any()]
        if not shown:
            continue
        percent = field.endswith("accuracy")

        def draw(axes, shown=shown, field=field, percent=percent):
            for history in shown:
                style, values = look[history.system], getattr(history, field)
                scale = 1 if percent else 0.01
                marked = len(history.epochs) < 9
                _band(axes, history.epochs, values * scale, style, history.system, marked)
            if percent:
                _accuracy_axes(axes, chance)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlabel("epoch")

        rows = [r for h in shown for r in _rows(h.system, h.epochs, getattr(h, field), "epoch")]
        drawing = page.figure(draw, field, f"{heading} by epoch", rows, page.SMALL)
        figures.append((heading, drawing))
    return figures


def dynamics_figure(
    values: Mapping[str, Float[np.ndarray, "V P"]],
    epochs: Sequence[int],
    look: Mapping[str, Style],
    name: str,
    said: str,
    chance: float | None = None,
) -> str:
    """A measure at the checkpoints, which stand at even steps, in percent."""

    def draw(axes):
        for system, found in values.items():
            _band(axes, np.arange(len(epochs)), found, look[system], system)
        axes.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
        axes.set_xlabel("epoch")
        axes.set_ylabel("%")
        axes.set_ylim(bottom=0)
        if chance is not None:
            _chance(axes, chance)

    rows = [row for system, of in values.items() for row in _rows(system, epochs, of, "epoch")]
    return page.figure(draw, f"dynamics-{name}", f"Along learning: {said}", rows, page.SMALL)


def _rows(system: str, x: Any, values: np.ndarray, name: str = "level") -> list:
    """What a curve [V, K] draws, a row a place: mean and deviation over runs, not in percent."""
    mean, deviation = values.mean(0), statistics.deviation(values)
    return [
        {"system": system, name: at, "mean": float(m), "deviation": float(d), "runs": len(values)}
        for at, m, d in zip(np.asarray(x).tolist(), mean, deviation, strict=True)
    ]


def _band(axes, x, values: np.ndarray, style: Style, system: str, marked: bool = True) -> None:
    mean, deviation = 100 * values.mean(0), 100 * statistics.deviation(values)
    colour = page.series(style.number)
    if len(values) > 1:
        axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.14, lw=0)
    axes.plot(x, mean, **style.line | {"marker": ""})
    if marked:
        for at, y, spread in zip(x, mean, deviation, strict=True):
            text = f"{title(system)}: {y:.3g}" + (f" ± {spread:.2g}" if len(values) > 1 else "")
            page.hover(axes, at, y, text, **style.line | {"ls": ""})


def _shown(probe: str, x: np.ndarray) -> np.ndarray:
    known = probe_of(probe)
    return 100 * x if known and known.scale == "fraction" else x


def _accuracy_axes(axes, chance: float) -> None:
    axes.set_ylabel("accuracy, %")
    _chance(axes, chance)
    axes.set_ylim(0, max(axes.get_ylim()[1], 150 * chance))


def _chance(axes, chance: float) -> None:
    axes.axhline(100 * chance, color=page.COLOURS["soft"], lw=1, ls=(0, (1, 2)), zorder=0)
    axes.annotate(
        "chance", (1.01, 100 * chance), xycoords=("axes fraction", "data"), va="center",
        color=page.COLOURS["soft"], fontsize=9,
    )  # fmt: skip


def _level_axis(axes, curve: Curve) -> None:
    known = probe_of(curve.probe)
    axes.set_xlabel(known.label if known else "level")
    if known and known.scale == "steps":
        names = [f"{x:g}" if np.isfinite(x) and x > 0 else "none" for x in curve.levels]
        axes.set_xticks(range(len(names)), names)


@dataclasses.dataclass(frozen=True)
class Row:
    """Where a claim's interval stands, as fractions of the width from left (0) to right (1).

    `low` and `high` are None where there is no interval; `cut` says that an end is off the scale.
    """

    effect: float | None
    low: float | None
    high: float | None
    cut: tuple[bool, bool]
    margin: tuple[float, float] | None


def forest(claims: Sequence[Claim]) -> tuple[list[Row], float]:
    """Rows of claims that share a unit, and the effect at the right end of their common scale.

    Zero stands in the middle. The scale holds every effect and margin; intervals of very few runs
    are cut at four times the largest of these.
    """
    effects = [abs(c.effect) for c in claims if np.isfinite(c.effect)]
    ends = [abs(end) for c in claims for end in c.interval if np.isfinite(end)]
    largest = max([*effects, *(c.margin or 0 for c in claims), 1e-9])
    limit = 1.06 * float(max(largest, min(max(ends, default=0), 4 * largest)))

    def place(value):
        return float(np.clip(0.5 + value / (2 * limit), 0, 1)) if np.isfinite(value) else None

    rows = []
    for claim in claims:
        low, high = claim.interval
        margin = None if claim.margin is None else (place(-claim.margin), place(claim.margin))
        cut = (bool(low < -limit), bool(high > limit))
        rows.append(Row(place(claim.effect), place(low), place(high), cut, margin))
    return rows, limit


def mosaic(filters: Float[np.ndarray, "Y X 3 F"]) -> UInt8[np.ndarray, "Y2 X2 3"]:
    """Filters in a square, in colour, one scale for all, 0 = mid-grey, a pixel between them."""
    check_finite("filters", filters)
    height, width, _, count = filters.shape
    scale = max(float(np.quantile(np.abs(filters), 0.995)), 1e-12)
    tiles = np.clip(128 + 127 * filters / scale, 0, 255).transpose(3, 0, 1, 2)
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 128, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        canvas[y : y + height, x : x + width] = tile.round()
    return canvas
