"""The page on a comparison of methods: one figure, quality against cost, and one table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from circuits_jax.lm.performance import Performance, labelled
from circuits_jax.report import figures, page
from circuits_jax.report.circuit_page import METRICS, TASKS, settings
from circuits_jax.tasks import Task

COLUMNS = {
    "method": ("method", ""),
    "auc_exact": ("AUC", "ROC AUC against the heads that matter by exact patching"),
    "ap_exact": ("AP", "average precision against the same"),
    "pearson_exact": ("Pearson", "correlation with exact effects, signed where the method is"),
    "spearman_exact": ("Spearman", "rank correlation with the same"),
    "faithfulness_resample": (
        "faithful, resample",
        "faithfulness of the circuit, others resampled",
    ),
    "faithfulness_mean": ("faithful, mean", "faithfulness, others replaced by their mean"),
    "faithfulness_zero": ("faithful, zero", "faithfulness, others set to zero"),
    "heads": ("heads", "heads of the circuit; fewer than asked for where others score only noise"),
    "worst_divergence": ("worst KL", "largest KL over prompts, others resampled, in nats"),
    "cpr": ("CPR", "area under faithfulness, by signed effect; higher is better"),
    "cmd": ("CMD", "area between faithfulness and 1, by absolute effect; 0 is best"),
    "seconds_cold": ("s cold", "seconds of the first call, compilation included"),
    "seconds_warm": ("s warm", "seconds of the next call"),
    "forward": ("forward", "passes over the B prompts of one side"),
    "backward": ("backward", "passes over the B prompts of one side"),
    "megabytes": ("MB", "memory beyond model and prompts, first call"),
}


def render(
    cells: Sequence[Mapping[str, Any]],
    task: Task,
    truths: Mapping[str, str],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    measured: Mapping[str, Performance],
    warnings: Sequence[str],
) -> str:
    """The page as HTML; like the report of a run, it loads nothing from anywhere.

    Args:
        cells: rows of the table, as `compare.Row.cells` makes them.
        task: what was compared on.
        truths: name -> source of the circuits that are known.
        config: the resolved config.
        environment: versions, devices, seconds.
        measured: how the model does the task.
        warnings: why faithfulness may mean nothing.
    """
    quality = f"auc_{next(iter(truths))}" if truths else "auc_exact"
    names = [name for name in cells[0] if any(_says(one[name]) for one in cells)]
    best = {name: _best(name, [one[name] for one in cells]) for name in names}
    context = {
        "title": TASKS.get(task.name, task.name.replace("_", " ").capitalize()),
        "model": str(config["model"]).rstrip("/").split("/")[-1],
        "metric": METRICS.get(task.metric, task.metric),
        "task": task,
        "performance": labelled(measured),
        "warnings": warnings,
        "quality": f"the known circuit ({next(iter(truths))})" if truths else "exact patching",
        "truths": truths,
        "figure": quality_against_cost(cells, quality),
        "columns": [(name, *_column(name, truths)) for name in names],
        "cells": cells,
        "best": best,
        "environment": environment,
        "table": page.csv_link("methods", [{name: one[name] for name in names} for one in cells]),
        "settings": settings(config),
        "recorded": settings(environment),
    }
    return page.render("compare.html", figures.FILTERS, **context)


def quality_against_cost(cells: Sequence[Mapping[str, Any]], quality: str) -> str:
    """Methods whose quality and cold time are known: a dot at the warm time, a line to the cold."""
    shown = [one for one in cells if _says(one[quality]) and _says(one["seconds_cold"])]
    rows = [
        {name: one[name] for name in ("method", quality, "seconds_warm", "seconds_cold")}
        for one in shown
    ]

    def draw(axes):
        axes.set_xscale("log")
        labels = []
        for one in shown:
            auc, cold = one[quality], max(one["seconds_cold"], 1e-4)
            warm = max(one["seconds_warm"], 1e-4) if _says(one["seconds_warm"]) else cold
            colour = page.series(0 if one["method"] == "sae_codes" else 1)
            axes.plot([warm, cold], [auc, auc], color=colour, lw=2)
            tip = f"{one['method']}: AUC {auc:.3f}, {figures.number(warm)} s warm, "
            page.hover(axes, warm, auc, tip + f"{figures.number(cold)} s cold", color=colour, ms=7)
            labels.append((one["method"], auc, colour))
        axes.set_ylim(min([0.4, *(one[quality] - 0.03 for one in shown)]), 1.02)
        axes.axhline(0.5, color=page.COLOURS["soft"], lw=1, ls=(0, (1, 3)))
        page.label_lines(axes, labels, 0.045)
        axes.set_xlabel("seconds (log scale)")
        axes.set_ylabel("ROC AUC")

    return page.figure(draw, "quality-and-cost", "ROC AUC by seconds", rows, (11, 5.2), 2.6)


def _says(value: Any) -> bool:
    return isinstance(value, str) or (value is not None and math.isfinite(value))


def _column(name: str, truths: Mapping[str, str]) -> tuple[str, str]:
    """Heading and explanation."""
    if name in COLUMNS:
        return COLUMNS[name]
    truth = name.removeprefix("edge_").removeprefix("auc_")
    what = "edges" if name.startswith("edge_") else "heads"
    return f"AUC {truth}, {what}", f"ROC AUC of {what} against {truth}: {truths.get(truth, '')}"


def _best(name: str, values: Sequence[Any]) -> float | None:
    """The best value of a column of qualities; nothing is best in costs of no use."""
    known = [v for v in values if _says(v) and not isinstance(v, str)]
    if name.startswith(("auc", "edge_auc", "ap_", "pearson", "spearman", "cpr")):
        return max(known)
    return min(known) if name in ("cmd", "worst_divergence") else None
