"""The page on sweeps: a small figure for each axis, on one scale of AUC, and the table."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from circuits_jax.lm.performance import Performance, labelled
from circuits_jax.report import charts, figures
from circuits_jax.report.circuit_page import TASKS, environment_of_templates
from circuits_jax.runs import files

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 42, 348, 12, 182
HEADINGS = {
    "trained": "pairs that train the autoencoders",
    "counted": "pairs that are counted",
    "codes": "codes of an autoencoder",
    "l1": "penalty lambda",
    "negatives": "kind of negative prompts",
    "models": "model",
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One axis: points (x, y, text under the axis, tip), the line and the band of one s.d."""

    heading: str
    points: list[tuple[float, float, str, str]]
    path: str
    band: str


def render(
    cells: Sequence[Mapping[str, Any]],
    against: str,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    measured: Mapping[str, Performance],
    warnings: Sequence[str],
) -> str:
    """The page as HTML.

    Args:
        cells: `axis`, `value`, `auc` of every draw, `mean` and `spread`.
        against: what the AUC is against.
        config: the resolved config.
        environment: versions, devices, seconds.
        measured: how every model does the task, by set of pairs.
        warnings: why the numbers may mean nothing.
    """
    known = [cell for cell in cells if cell["mean"] == cell["mean"]]
    lowest = min((cell["mean"] - cell["spread"] for cell in known), default=0.5)
    auc = charts.Axis(min(0.45, int(lowest * 20) / 20), 1.0, BOTTOM, TOP)
    panels = [panel(axis, list(own), auc) for axis, own in groupby(known, lambda c: c["axis"])]
    task = str(config["task"]["name"])
    context = {
        "title": TASKS.get(task, task.replace("_", " ").capitalize()),
        "model": str(config["model"]).rstrip("/").split("/")[-1],
        "method": config["method"],
        "performance": labelled(measured),
        "metric": "metric",
        "warnings": warnings,
        "n_draws": config["sweep"]["n_draws"],
        "against": against,
        "auc": auc,
        "panels": panels,
        "box": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT}
        | {"top": TOP, "bottom": BOTTOM},
        "cells": cells,
        "headings": HEADINGS,
        "environment": environment,
        "settings": json.dumps(files.plain(dict(config)), indent=2, ensure_ascii=False),
        "recorded": json.dumps(files.plain(dict(environment)), indent=2, ensure_ascii=False),
    }
    return environment_of_templates().get_template("sweep.html").render(context)


def panel(axis: str, cells: Sequence[Mapping[str, Any]], auc: charts.Axis) -> Panel:
    """Numbers on a logarithmic axis joined by a line, names side by side without one."""
    values = [cell["value"] for cell in cells]
    numeric = all(isinstance(v, int | float) and v > 0 for v in values)
    if numeric:
        across = charts.log_axis(values, LEFT + 10, RIGHT - 10, room=1.15)
        places = [across.at(v) for v in values]
    else:
        step = (RIGHT - LEFT) / len(values)
        places = [LEFT + (i + 0.5) * step for i in range(len(values))]
    points = [
        (
            x,
            auc.at(c["mean"]),
            _text(c["value"]),
            f"{c['value']}: {c['mean']:.3f} ± {c['spread']:.3f}",
        )
        for x, c in zip(places, cells, strict=True)
    ]
    if not numeric:
        return Panel(HEADINGS[axis], points, "", "")
    above = [
        (x, auc.at(min(c["mean"] + c["spread"], 1))) for x, c in zip(places, cells, strict=True)
    ]
    below = [(x, auc.at(c["mean"] - c["spread"])) for x, c in zip(places, cells, strict=True)]
    return Panel(HEADINGS[axis], points, _path([p[:2] for p in points]), _path(above + below[::-1]))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _text(value: Any) -> str:
    """A number, or the last part of a name, short enough to stand under a point."""
    if isinstance(value, int | float):
        return figures.number(value)
    return str(value).rstrip("/").split("/")[-1][:14]
