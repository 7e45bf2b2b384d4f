"""The page on a comparison of methods: one figure, quality against cost, and one table."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from circuits_jax.lm.performance import Performance, labelled
from circuits_jax.report import charts, figures
from circuits_jax.report.circuit_page import METRICS, TASKS, environment_of_templates
from circuits_jax.runs import files
from circuits_jax.tasks import Task

WIDTH, HEIGHT = 880, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 640, 14, 350
ROW = 17  # between two labels
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


@dataclasses.dataclass(frozen=True)
class Mark:
    """One method in the figure: a dot at its warm time, a line on to its cold one, and a label."""

    method: str
    x: float
    cold_x: float
    y: float
    label_y: float
    tip: str


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
    marks, time, auc = figure(cells, quality)
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
        "marks": marks,
        "time": time,
        "auc": auc,
        "box": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT}
        | {"top": TOP, "bottom": BOTTOM},
        "columns": [(name, *_column(name, truths)) for name in names],
        "cells": cells,
        "best": best,
        "environment": environment,
        "settings": json.dumps(files.plain(dict(config)), indent=2, ensure_ascii=False),
        "recorded": json.dumps(files.plain(dict(environment)), indent=2, ensure_ascii=False),
    }
    return environment_of_templates().get_template("compare.html").render(context)


def figure(
    cells: Sequence[Mapping[str, Any]], quality: str
) -> tuple[list[Mark], charts.Axis, charts.Axis]:
    """Marks of the methods of which quality and cold time are known; labels in one column."""
    shown = [one for one in cells if _says(one[quality]) and _says(one["seconds_cold"])]
    cold = [max(one["seconds_cold"], 1e-4) for one in shown]
    warm = [
        max(one["seconds_warm"], 1e-4) if _says(one["seconds_warm"]) else late
        for one, late in zip(shown, cold, strict=True)
    ]
    time = charts.log_axis([*cold, *warm] or [1.0], LEFT + 8, RIGHT - 8)
    lowest = min([one[quality] for one in shown] or [0.5])
    auc = charts.Axis(min(0.4, math.floor(lowest * 10) / 10), 1.0, BOTTOM, TOP)
    heights = [auc.at(one[quality]) for one in shown]
    order = sorted(range(len(shown)), key=lambda i: (heights[i], -warm[i]))
    labels = charts.spread_labels([heights[i] for i in order], ROW, TOP, BOTTOM)
    placed = dict(zip(order, labels, strict=True))
    marks = [
        Mark(
            one["method"],
            time.at(warm[i]),
            time.at(cold[i]),
            heights[i],
            placed[i],
            f"{one['method']}: AUC {one[quality]:.3f}, {figures.number(warm[i])} s warm, "
            f"{figures.number(cold[i])} s cold",
        )
        for i, one in enumerate(shown)
    ]
    return marks, time, auc


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
