"""The curves of the page: SSIM and matched blur by eccentricity in degrees."""

import numpy as np

from foveation_jax.claims.results import title
from foveation_jax.report import page
from foveation_jax.report.experiment_figures import Style
from foveation_jax.transforms.matched import Match


def ssim_figure(
    curves: dict[str, np.ndarray], eccentricity: np.ndarray, look: dict[str, Style]
) -> str:
    """SSIM to Reference against eccentricity, a curve a system.

    Args:
        curves: system -> means, one an eccentricity.
        eccentricity: degrees.
        look: of the systems.
    """

    def draw(axes):
        for system, means in curves.items():
            axes.plot(eccentricity, means, **look[system].line | {"marker": ""})
            for x, y in zip(eccentricity, means, strict=True):
                text = f"{title(system)}: {y:.3f} at {x:.1f}\u00b0"
                page.hover(axes, x, y, text, **look[system].line | {"ls": ""})
        axes.set_ylim(top=1.02)
        _eccentricity_axes(axes, "SSIM to Reference")

    rows = [
        {"system": system, "eccentricity_deg": float(x), "ssim": float(y)}
        for system, means in curves.items()
        for x, y in zip(eccentricity, means, strict=True)
    ]
    return page.figure(draw, "ssim", "SSIM to Reference by eccentricity", rows)


def sigma_figure(matches: dict[str, Match], look: dict[str, Style]) -> str:
    """Deviation of each matched blur, in degrees, against eccentricity; a uniform one is a line."""

    def draw(axes):
        for system, match in matches.items():
            line = look[system].line
            if len(match.sigma_deg) == 1:
                axes.axhline(match.sigma_deg[0], color=line["color"], ls=line["ls"], lw=1.7)
            else:
                axes.plot(match.eccentricity_deg, match.sigma_deg, **line)
        axes.set_ylim(bottom=0)
        _eccentricity_axes(axes, "sigma of the blur, degrees")

    rows = [
        {"system": system, "eccentricity_deg": x, "sigma_deg": sigma}
        for system, match in matches.items()
        for x, sigma in zip(match.eccentricity_deg, match.sigma_deg, strict=True)
    ]
    said = "Deviation of the matched blurs by eccentricity"
    return page.figure(draw, "sigma", said, rows) if matches else ""


def _eccentricity_axes(axes, quantity: str) -> None:
    axes.set_xlabel("eccentricity, degrees")
    axes.set_ylabel(quantity)
