"""What is drawn over a picture: fixations, a scale in degrees, and the pooling windows."""

import math
from collections.abc import Sequence

import numpy as np

from foveation_jax.windows.pooling_windows import PoolingWindows

BARS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # degrees that a scale may show


def marks_svg(windows: PoolingWindows) -> str:
    """A cross at the fixation and a scale in degrees, as an SVG to lay over a picture."""
    return _svg(windows, "marks", _marks(windows))


def windows_svg(windows: PoolingWindows) -> str:
    """The marks, and the windows' borders (where neighbours weigh one half)."""
    y, x = _fixation(windows)
    radii = [float(edge * windows.pixels_per_degree) for edge in windows.ring_edges()]
    circles = [f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{r:.2f}"/>' for r in radii]
    step = 2 * math.pi / windows.n_wedges
    spokes = []
    for wedge in range(windows.n_wedges):
        angle = (wedge + 0.25) * step - math.pi
        ends = [(x + r * math.cos(angle), y + r * math.sin(angle)) for r in (radii[0], radii[-1])]
        (x1, y1), (x2, y2) = ends
        spokes.append(f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"/>')
    return _svg(windows, "windows", "".join([*circles, *spokes, _marks(windows)]))


def path_svg(windows: PoolingWindows, places: Sequence[np.ndarray]) -> str:
    """A scan path: its fixations (y, x), numbered from 1, joined by lines in their order."""
    height, width = windows.size
    centres = [(float(x) + 0.5, float(y) + 0.5) for y, x in places]
    radius = width / 30
    line = " ".join(f"{x:.2f},{y:.2f}" for x, y in centres)
    discs = "".join(
        f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}"/><text x="{x:.2f}" '
        f'y="{y + 0.45 * radius:.2f}" style="font-size: {1.3 * radius:.2f}px">{number}</text>'
        for number, (x, y) in enumerate(centres, 1)
    )
    said = "; ".join(f"{n}: {place_text(place)}" for n, place in enumerate(places, 1))
    title = f"Scan path of {len(centres)} fixations, {said}"
    return (
        f'<svg class="path" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
        f'<title>{title}</title><polyline class="halo" points="{line}"/>'
        f'<polyline points="{line}"/>{discs}</svg>'
    )


def place_text(place: np.ndarray) -> str:
    """Where a fixation is, in words."""
    y, x = (float(v) for v in place)
    return f"y {y:g}, x {x:g}"


def scale_degrees(width_degrees: float | int) -> float:
    """The longest of `BARS` that takes no more than a quarter of the width."""
    return max((bar for bar in BARS if bar <= width_degrees / 4), default=BARS[0])


def _fixation(windows: PoolingWindows) -> tuple[float, float]:
    """(y, x) counted as SVG does, from the corner of the first pixel."""
    y, x = (float(v) for v in windows.fixation)
    return y + 0.5, x + 0.5


def _marks(windows: PoolingWindows) -> str:
    height, width = windows.size
    y, x = _fixation(windows)
    arm, margin = width / 32, width / 24
    degrees = scale_degrees(width / float(windows.pixels_per_degree))
    length = degrees * float(windows.pixels_per_degree)
    text = f'x="{margin:.2f}" y="{height - 1.6 * margin:.2f}" style="font-size: {width / 14:.2f}px"'
    return (
        f'<path class="cross" d="M{x - arm:.2f} {y:.2f}h{2 * arm:.2f}M{x:.2f} {y - arm:.2f}'
        f'v{2 * arm:.2f}"/>'
        f'<path class="scale" d="M{margin:.2f} {height - margin:.2f}h{length:.2f}"/>'
        f"<text {text}>{degrees:g}°</text>"
    )


def _svg(windows: PoolingWindows, kind: str, shapes: str) -> str:
    height, width = windows.size
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" aria-hidden="true">{shapes}</svg>'
