"""Geometry of the figures of comparisons and sweeps, in SVG units of one CSS pixel."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` at `start` to `high` at `end`."""

    low: float | int
    high: float | int
    start: float | int
    end: float | int
    log: bool = False

    def at(self, value: float | int) -> float:
        """Where a value stands."""
        low, high, value = (self._scaled(v) for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def _scaled(self, value: float | int) -> float:
        return math.log10(value) if self.log else float(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts of round numbers: powers of ten, or about five steps."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            values = [10.0**power for power in powers]
        else:
            power = 10.0 ** math.floor(math.log10(self.high - self.low))
            step = power * next(s for s in (0.1, 0.2, 0.5, 1, 2) if self._count(s * power) <= 7)
            first = math.ceil(self.low / step - 1e-9)
            values = [round(i * step, 10) for i in range(first, first + self._count(step))]
        return [(self.at(v), f"{v:g}".replace("-", "\u2212")) for v in values]

    def _count(self, step: float) -> int:
        return math.floor(self.high / step + 1e-9) - math.ceil(self.low / step - 1e-9) + 1


def log_axis(
    values: Sequence[float | int], start: float | int, end: float | int, room: float = 1.6
) -> Axis:
    """A logarithmic axis around positive values, with a factor of `room` on both sides."""
    low, high = min(values) / room, max(values) * room
    if high / low < 12:  # so that there is a power of ten to see
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(12), middle * math.sqrt(12)
    return Axis(low, high, start, end, log=True)


def spread_labels(
    places: Sequence[float | int], gap: float | int, low: float | int, high: float | int
) -> list[float]:
    """Places moved apart to at least `gap`, in their order, within [low, high] if they fit."""
    order = np.argsort(places, kind="stable")
    moved, last = np.zeros(len(places)), -math.inf
    for i in order:
        last = moved[i] = max(places[i], last + gap, low)
    limit = max(high, low + gap * (len(places) - 1))
    for i in order[::-1]:
        limit = moved[i] = min(moved[i], limit)
        limit -= gap
    return moved.tolist()
