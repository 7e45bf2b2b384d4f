"""The page on sweeps: a small figure for each axis, on one scale of AUC, and the table."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from circuits_jax.lm.performance import Performance, labelled
from circuits_jax.report import figures, page
from circuits_jax.report.circuit_page import TASKS, settings

HEADINGS = {
    "trained": "pairs that train the autoencoders",
    "counted": "pairs that are counted",
    "codes": "codes of an autoencoder",
    "l1": "penalty lambda",
    "negatives": "kind of negative prompts",
    "models": "model",
}


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
    low = min(0.45, int(lowest * 20) / 20)
    panels = [panel(axis, list(own), low) for axis, own in groupby(known, lambda c: c["axis"])]
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
        "panels": panels,
        "cells": cells,
        "headings": HEADINGS,
        "environment": environment,
        "settings": settings(config),
        "recorded": settings(environment),
    }
    return page.render("sweep.html", figures.FILTERS, **context)


def panel(axis: str, cells: Sequence[Mapping[str, Any]], low: float) -> tuple[str, str]:
    """Heading and figure; numbers stand on a logarithmic axis and have a line, names have none."""
    values = [cell["value"] for cell in cells]
    numeric = all(isinstance(v, int | float) and v > 0 for v in values)
    x = np.array(values, float) if numeric else np.arange(len(values))
    mean, spread = (np.array([cell[name] for cell in cells]) for name in ("mean", "spread"))

    def draw(axes):
        colour = page.series(0)
        if numeric:
            axes.set_xscale("log")
            axes.fill_between(x, mean - spread, np.minimum(mean + spread, 1), color=colour,
                              alpha=0.16, lw=0)  # fmt: skip
            axes.plot(x, mean, color=colour, lw=2.2)
        for at, cell in zip(x, cells, strict=True):
            text = f"{cell['value']}: {cell['mean']:.3f} ± {cell['spread']:.3f}"
            page.hover(axes, at, cell["mean"], text, color=colour)
        axes.axhline(0.5, color=page.COLOURS["soft"], lw=1, ls=(0, (3, 4)))
        axes.set_ylim(low, 1.01)
        axes.set_ylabel("ROC AUC")
        axes.set_xticks(x, [_text(v) for v in values])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.12)

    rows = [{name: cell[name] for name in ("value", "mean", "spread")} for cell in cells]
    title = f"ROC AUC by {HEADINGS[axis]}"
    return HEADINGS[axis], page.figure(draw, f"sweep-{axis}", title, rows, page.SMALL, 0.2)


def _text(value: Any) -> str:
    """A number, or the last part of a name, short enough to stand under a point."""
    if isinstance(value, int | float):
        return figures.number(value)
    return str(value).rstrip("/").split("/")[-1][:14]
