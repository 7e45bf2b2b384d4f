"""The page of a stage-1 run: one HTML file that opens from disk, everything embedded.

It shows how the systems see each picture, side by side at full size, the texture with noise of two
seeds, and a scan path look by look; the pooling windows over one picture; how good a texture it is,
by eccentricity; how much each system loses, by metric and by eccentricity; and the matched blurs.
"""

import base64
import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from foveation_jax import metrics
from foveation_jax.claims import results
from foveation_jax.data.images import read_image
from foveation_jax.data.sources import ImageSource
from foveation_jax.report import experiment_figures, overlay, page, stage1_figures
from foveation_jax.runs.files import write
from foveation_jax.runs.precision import einsum
from foveation_jax.transforms.matched import Match
from foveation_jax.transforms.texture_statistics import texture_statistics
from foveation_jax.windows import geometry
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

TEXTURE = "foveation_texture"
SECOND = "second_seed"  # folder of the texture's other samples
TEXTURED = 16  # pictures of which the texture is measured
TITLES = {
    "reference": ("Reference", "nothing removed"),
    "foveation_texture": ("Foveation-Texture", "clear centre, texture-like periphery"),
    "uniform_blur": ("Uniform-Blur", "one Gaussian, matched in mean SSIM"),
    "foveation_blur": ("Foveation-Blur", "one Gaussian a ring, matched in each"),
}
METRIC_TITLES = {
    "mse": ("MSE", "lower is closer", "{:.5f}"),
    "mae": ("MAE", "lower is closer", "{:.4f}"),
    "psnr": ("PSNR, dB", "higher is closer", "{:.2f}"),
    "ssim": ("SSIM", "1 is equal", "{:.4f}"),
    "ms_ssim": ("MS-SSIM", "1 is equal", "{:.4f}"),
    "gmsd": ("GMSD", "lower is closer", "{:.4f}"),
    "vif": ("VIF", "1 is equal", "{:.4f}"),
    "mutual_information": ("Mutual information, bits", "higher is closer", "{:.3f}"),
}


def write_report(
    workdir: pathlib.Path,
    config: ConfigDict,
    systems: tuple[str, ...],
    source: ImageSource,
    rows: list[dict],
    failures: dict[str, str],
    matches: dict[str, Match],
    looks: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> pathlib.Path:
    """Writes WORKDIR/report.html from the pictures and rows of a run; returns its path.

    Args:
        workdir: holds SYSTEM/NAME.png and experiment.json.
        config: of the run.
        systems: those to show, Reference and Foveation-Texture among them.
        source: the pictures that could be read.
        rows: metrics, one a picture and system.
        failures: name -> sentence of the others.
        matches: sigmas of the blurs among the systems.
        looks: picture -> name of each look at it -> its fixation, where pictures have their own;
            `source` then has an entry a look.
    """
    looks = looks or {}
    no_place: Mapping[str, Mapping[str, Any]] = {name: {name: None} for name in source.names}
    taken = looks or no_place
    shown = list(taken.items())[: config.report_images]
    first, fixation = next(iter(shown[0][1].items()))
    at = config.fixation if fixation is None else tuple(map(float, fixation))
    windows = pooling_windows(
        config.scale, tuple(config.size), at, config.published, config.field_of_view
    )
    look = experiment_figures.styles(systems)
    # Where each has a place of its own, no eccentricity is of all.
    curves = () if looks else ssim_by_eccentricity(workdir, systems, source.names, windows)
    text = page.render(
        "stage1.html",
        {"title": results.title},
        look=look,
        config=config,
        size=tuple(config.size),
        count=len(taken),
        looks=len(source.names),
        own=bool(looks),
        titles={name: _title(name) for name in systems},
        fixation=_fixation_text(config, looks),
        systems=[(name, *_title(name)) for name in systems],
        pictures=[_shown(workdir, n, path, systems, windows) for n, path in shown],
        first=[_picture_uri(workdir / s / f"{first}.png") for s in ("reference", TEXTURE)],
        most=TEXTURED,
        texture=() if looks else texture_table(workdir, source.names[:TEXTURED], config),
        overlay=overlay.windows_svg(windows),
        table=metric_table(rows, systems, config.metrics),
        ssim_figure=stage1_figures.ssim_figure(*curves, look) if curves else "",
        sigma_figure=stage1_figures.sigma_figure(matches, look),
        matches=[(_title(name)[0], match) for name, match in matches.items()],
        regions=int(np.asarray(windows.kept).sum()) + 1,
        failures=sorted(failures.items()),
        experiment=json.loads((workdir / "experiment.json").read_text()),
    )
    path = workdir / "report.html"
    write(path, text)
    return path


def _shown(workdir, name, path, systems, windows) -> dict[str, Any]:
    """What the page shows of one picture: its looks, and its scan path over Reference."""
    places = [np.asarray(windows.fixation if at is None else at) for at in path.values()]
    several = len(path) > 1
    shown = [s for s in systems if not (several and s == "reference")]
    looks = []
    for look, at in zip(path, places, strict=True):
        marks = overlay.marks_svg(dataclasses.replace(windows, fixation=jnp.asarray(at)))
        seen = [(s, _picture_uri(workdir / s / f"{look}.png")) for s in shown]
        again = workdir / SECOND / f"{look}.png"
        second = _picture_uri(again) if again.exists() and not several else ""
        looks.append((overlay.place_text(at), marks, seen, second))
    reference = _picture_uri(workdir / "reference" / f"{next(iter(path))}.png") if several else ""
    drawn = overlay.path_svg(windows, places) if several else ""
    return {"name": name, "looks": looks, "reference": reference, "path": drawn}


def _fixation_text(config: ConfigDict, looks: Mapping[str, Mapping]) -> str:
    if any(len(path) > 1 for path in looks.values()):
        return "of each picture, scan path"
    if looks:
        return "of each picture"
    return "centre" if config.fixation is None else ", ".join(map(str, config.fixation))


def _title(system: str) -> tuple[str, str]:
    """Name and one line for a system; a registered one goes by its own name."""
    return TITLES.get(system, (system.replace("_", " "), ""))


def _picture_uri(path: pathlib.Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def metric_table(
    rows: list[dict], systems: tuple[str, ...], names: tuple[str, ...]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(metric, hint, [mean and deviation a system]) for every metric that the rows hold."""
    table = []
    systems = tuple(name for name in systems if name != "reference")
    for metric in names:
        title, hint, form = METRIC_TITLES[metric]
        cells = []
        for system in systems:
            found = [row[metric] for row in rows if row["system"] == system and metric in row]
            values = np.asarray([v for v in found if math.isfinite(v)])
            if len(values):
                cells.append((form.format(values.mean()), form.format(values.std())))
        if len(cells) == len(systems):
            table.append((title, hint, cells))
    return table


def texture_table(
    workdir: pathlib.Path, names: tuple[str, ...], config: ConfigDict
) -> list[tuple[str, str, list[str]]]:
    """(statistic, hint, [value a ring]) of the texture beside Reference; heads of columns first.

    Empty for pictures too small to have such statistics.
    """
    if min(config.size) < 32:
        return []
    reference, texture = (
        jnp.stack([jnp.asarray(read_image(workdir / system / f"{n}.png")) for n in names])
        for system in ("reference", "foveation_texture")
    )
    found = texture_statistics(
        reference, texture, scale=config.scale, fixation=config.fixation,
        field_of_view=config.field_of_view,
    )  # fmt: skip
    rows = [("coherence of gradients", f"the original's {_range(found.coherence[0])}",
             found.coherence[1])]  # fmt: skip
    octaves = range(found.correlation.shape[1])
    rows += [(f"correlation, octave {k}", "0: places are lost", found.correlation[:, k])
             for k in octaves]  # fmt: skip
    rows += [(f"energy, octave {k}", "1 is the original's", found.energy[:, k]) for k in octaves]
    rows += [("variance", "1 is the original's", found.variance)]
    rows += [(f"error, {family}", "0 is the original's", e) for family, e in found.errors.items()]
    values = np.stack([np.asarray(v) for _, _, v in rows])
    rings = np.isfinite(values).any(0)
    edges = np.asarray(found.edges)
    heads = [f"{a:.1f} to {b:.1f}" for a, b in itertools.pairwise(edges)]
    table = [("degrees", "", [h for h, ring in zip(heads, rings, strict=True) if ring])]
    for (name, hint, _), row in zip(rows, values, strict=True):
        cells = ["" if math.isnan(v) else f"{v:.2f}" for v in row[rings]]
        table.append((name, hint, cells))
    return table


def _range(values) -> str:
    values = np.asarray(values)
    values = values[np.isfinite(values)]
    return f"{values.min():.2f} to {values.max():.2f}" if len(values) else ""


def ssim_by_eccentricity(
    workdir: pathlib.Path,
    systems: tuple[str, ...],
    names: tuple[str, ...],
    windows: PoolingWindows,
    most: int = 64,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Mean SSIM to Reference in the fovea and in each ring, over at most `most` pictures.

    Returns:
        System -> means, fovea first, and the mean eccentricity in degrees of each; rings with less
        than one per mille of the image's area are left out.
    """
    rings, _ = windows.pixel_factors()
    zones = jnp.concatenate([jnp.clip(1 - rings.sum(0, keepdims=True), 0, 1), rings])
    mass = zones.sum((1, 2))
    large = np.asarray(mass) > 1e-3 * math.prod(windows.size)
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in windows.size)
    log_ecc, _ = geometry.polar(
        rows,
        columns,
        windows.fixation,
        windows.pixels_per_degree,
    )

    def by_mass(values):
        sums = einsum("eyx,yx->e", zones, values)
        return sums / jnp.maximum(mass, 1e-9)

    @jax.jit
    def by_zone(picture, reference):
        per_pixel = metrics.ssim_map(picture[None], reference[None])[0].mean(-1)
        return by_mass(per_pixel)

    means = {}
    for system in (name for name in systems if name != "reference"):
        values = [
            by_zone(*(read_image(workdir / s / f"{n}.png") for s in (system, "reference")))
            for n in names[:most]
        ]
        means[system] = np.mean(values, axis=0)[large]
    eccentricity = np.asarray(by_mass(jnp.exp(log_ecc)))[large]
    return means, eccentricity
