"""The curves of the page, as SVG: SSIM and matched blur by eccentricity in degrees."""

import io

import numpy as np

from foveation_jax.claims import results
from foveation_jax.report import experiment_figures
from foveation_jax.transforms.matched import Match

COLOURS = {results.title(name): light for name, (light, _) in experiment_figures.COLOURS.items()}
OTHERS = tuple(light for light, _ in experiment_figures.OTHERS)


def ssim_figure(curves: dict[str, np.ndarray], eccentricity: np.ndarray) -> str:
    """SSIM to Reference against eccentricity, a curve a system.

    Args:
        curves: title of a system -> means, one an eccentricity.
        eccentricity: degrees.
    """

    def draw(axes):
        for number, (title, means) in enumerate(curves.items()):
            colour = COLOURS.get(title, OTHERS[number % len(OTHERS)])
            dashes = "--" if title == "Foveation-Blur" else "-"  # it may lie on the texture's curve
            axes.plot(eccentricity, means, dashes, marker="o", ms=4, color=colour, label=title)
        axes.set_ylim(top=1.02)
        axes.set_ylabel("SSIM to Reference")

    return _svg(draw)


def sigma_figure(matches: dict[str, Match]) -> str:
    """Deviation of each matched blur, in degrees, against eccentricity; a uniform one is a line."""

    def draw(axes):
        for number, (title, match) in enumerate(matches.items()):
            colour = COLOURS.get(title, OTHERS[number % len(OTHERS)])
            if len(match.sigma_deg) == 1:
                axes.axhline(match.sigma_deg[0], color=colour, label=title)
            else:
                axes.plot(
                    match.eccentricity_deg,
                    match.sigma_deg,
                    marker="o",
                    ms=4,
                    color=colour,
                    label=title,
                )
        axes.set_ylim(bottom=0)
        axes.set_ylabel("sigma of the blur, degrees")

    return _svg(draw) if matches else ""


def _svg(draw) -> str:
    """An SVG of one pair of axes that `draw` fills."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 10, "svg.hashsalt": "page"}):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_xlabel("eccentricity, degrees")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e3e3e3", lw=0.8)
        axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
