"""The job "sweep": how the discrete-code method depends on its settings (arXiv 2405.12522, s. 5).

Axes: pairs that train the autoencoders, pairs that are counted, codes of an autoencoder, its
penalty, kinds of negative prompts, models. One axis moves at a time; ROC AUC is against the circuit
that is known, else against the heads that matter by exact patching. Pairs are captured once for
each task and model, and `subsampling.py` does the rest in one program for each shape.

    sweep.json, sweep.csv, report.html; AXIS.json for each axis that is finished
"""

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import logging
from jaxtyping import Bool

from circuits_jax.config import sweeps
from circuits_jax.evaluation.agreement import heads_that_matter
from circuits_jax.evaluation.captured import CapturedOutputs, captured_outputs
from circuits_jax.jobs import subsampling
from circuits_jax.jobs.common import check_fields, measured_performance, task_of
from circuits_jax.jobs.compare import known, reference
from circuits_jax.jobs.workdir import Workdir, open_workdir
from circuits_jax.lm import performance
from circuits_jax.lm.load import load_model
from circuits_jax.lm.performance import Performance
from circuits_jax.methods import method_options
from circuits_jax.methods.sae_codes import SaeCodes
from circuits_jax.report import sweep_page
from circuits_jax.runs import files, keys
from circuits_jax.runs.checks import Range, check_all
from circuits_jax.runs.command import check_values
from circuits_jax.runs.lock import one_at_a_time

PERFORMANCE = "performance.json"
METHODS = ("sae_codes", "sae_codes_published")


@dataclasses.dataclass(frozen=True)
class Captured:
    """All that an axis starts from: rows of all pairs, orders to draw them in, and the truth."""

    rows: CapturedOutputs
    order: np.ndarray
    truth: Bool[np.ndarray, "L H"]


@one_at_a_time
def run(config: ml_collections.ConfigDict, path: str | Path) -> Path:
    """Sweep the axes of the config; print the table.

    Args:
        config: as `config.sweeps` makes it.
        path: the workdir. Axes finished there are not run again.

    Returns:
        The path of the report.

    Raises:
        InputError: a config that cannot be run, or a workdir of another experiment.
    """
    check(config)
    options = method_options(config.method, **config[config.method])
    workdir = open_workdir(config, path)
    if workdir.finished():
        logging.info("%s is finished; nothing is done again", workdir.path)
        print(printed(files.read_json(workdir / "sweep.json")))
        return workdir / "report.html"
    start = _Captures(config, workdir, options)
    with workdir.stage("capture"):
        start(config.model, config.task.negatives)
    told = [n for n in files.read_sums(workdir / files.SUMS) if n.endswith(f"/{PERFORMANCE}")]
    anew = () if all(map(workdir.has, told)) else CAPTURING
    cells = []
    for axis in (name for name in AXES if config.sweep[name]):
        if axis == "l1" and options.activation == "topk":
            logging.info("l1 is left out: topk codes have no penalty")
            continue
        with workdir.stage(axis):
            if axis in anew or not workdir.has(f"{axis}.json"):
                values, aucs = AXES[axis](config, options, start)
                found = [
                    {"axis": axis, "value": value, "auc": auc}
                    for value, auc in zip(values, aucs, strict=True)
                ]
                files.write_json(workdir / f"{axis}.json", found)
            cells += files.read_json(workdir / f"{axis}.json")
    cells = [_summed_up(cell) for cell in cells]
    measured = measured_performances(workdir)
    record = {
        "warnings": [*performance.doubts(measured), *performance.remarks(measured)],
        "performance": performance.to_json(measured),
        "method": config.method,
        "cells": cells,
    }
    files.write_json(workdir / "sweep.json", record)
    files.write(workdir / "sweep.csv", as_csv(cells))
    environment = files.read_json(workdir / "run.json")
    files.write(
        workdir / "report.html",
        sweep_page.render(
            cells, start.against, workdir.config, environment, measured, record["warnings"]
        ),
    )
    print(printed(record))
    return workdir / "report.html"


def printed(record: dict[str, Any]) -> str:
    """What a terminal shows of sweep.json: performance, warnings and the table."""
    text = performance.lines(performance.from_json(record["performance"]))
    text += [f"Warning: {sentence}." for sentence in record["warnings"]]
    return "\n".join([*text, "", table(record["cells"])])


def measured_performances(workdir: Workdir) -> dict[str, Performance]:
    """Of every model and kind of negatives that was captured."""
    found = {}
    for file in sorted(workdir.path.glob(f"*/{PERFORMANCE}")):
        found |= performance.from_json(files.read_json(file))
    return found


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse what cannot be run before any work is done.

    Raises:
        InputError: a field, its value, and what is allowed.
    """
    check_values(config, sweeps(""))
    check_all(config, {"method": METHODS, "sweep.n_draws": Range(1)}, "config.")
    options = method_options(config.method, **config[config.method])
    for n_codes in config.sweep.codes:
        dataclasses.replace(options, n_codes=n_codes)
    check_fields(config)
    n = config.task.n
    order = np.zeros((1, n), int)
    for name, base in (
        ("trained", config.sweep.base_trained),
        ("counted", config.sweep.base_counted),
    ):
        subsampling.subsets(order, _sizes(config.sweep[name], base, n), f"config.sweep.{name}")


def _sizes(sizes: tuple[int, ...], base: int | None, n: int) -> list[int]:
    """An axis' sizes, and the size that it has while others move: all pairs unless given."""
    return [*sizes, n if base is None else base]


class _Captures:
    """Rows and truth by model and kind of negatives, made when first asked for."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Workdir, options: SaeCodes):
        self.config, self.workdir, self.options = config, workdir, options
        self.against, self._made = "", {}

    def __call__(self, name: str, negatives: str | None) -> Captured:
        if (name, negatives) not in self._made:
            self._made[name, negatives] = self._capture(name, negatives)
        return self._made[name, negatives]

    def _capture(self, name: str, negatives: str | None) -> Captured:
        config = self.config.copy_and_resolve_references().unlock()
        config.model, config.task.negatives = name, negatives
        model = load_model(name, config.dtype, config.adapter)
        task = task_of(config, model)
        folder = Workdir(self.workdir / _folder(name, negatives), self.workdir.config, {})
        of = f"{name}, {negatives} negatives" if negatives else name
        found = folder.has(PERFORMANCE)
        if found:
            measured = performance.from_json(files.read_json(folder / PERFORMANCE))
        else:
            parts = measured_performance(model, task).items()
            measured = {f"{part} of {of}": one for part, one in parts}
        self.workdir.begin()  # what cannot be done leaves no folder
        if not found:
            files.write_json(folder / PERFORMANCE, performance.to_json(measured))
        truths = known(model, task)
        if truths:
            mask = np.zeros(model.config.heads, bool)
            mask[tuple(np.array(sorted(truths[0].heads)).T)] = True
            against = truths[0].name
        else:
            gap = measured[f"held_out of {of}"].gap.mean
            effects = reference(folder, model, task)
            mask, against = heads_that_matter(effects, gap), "exact patching"
        self.against = self.against or against
        order = subsampling.orders(
            keys.stream(config.seed, "draws"), len(task.learn), config.sweep.n_draws
        )
        return Captured(captured_outputs(model, task.learn, self.options), order, mask)


def _folder(name: str, negatives: str | None) -> str:
    """A folder's name for a model and a kind of negatives."""
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
    return f"{safe}-{negatives}" if negatives else safe


def _aucs(
    config: ml_collections.ConfigDict,
    options: SaeCodes,
    captured: Captured,
    trained: list[int] | None = None,
    counted: list[int] | None = None,
    l1: list[float] | None = None,
) -> np.ndarray:
    """AUC [P, C, S] of cells; what is not given stays at its base."""
    n = len(captured.order[0])
    bases = [n if b is None else b for b in (config.sweep.base_trained, config.sweep.base_counted)]
    n_cells = len(trained or counted or [0])
    of_training, of_counting = (
        subsampling.subsets(captured.order, given or [base] * n_cells, f"config.sweep.{name}")
        for name, given, base in zip(("trained", "counted"), (trained, counted), bases, strict=True)
    )
    key = keys.stream(config.seed, "method")
    found = subsampling.scores(
        key, captured.rows, options, of_training, of_counting, l1 or [options.l1]
    )
    return subsampling.aucs(found, captured.truth)


def _at_base(config, options, start: Callable, model: str, negatives: str | None) -> np.ndarray:
    return _aucs(config, options, start(model, negatives))[0, 0]


def _trained(config, options, start):
    sizes = list(config.sweep.trained)
    captured = start(config.model, config.task.negatives)
    return sizes, _aucs(config, options, captured, trained=sizes)[0]


def _counted(config, options, start):
    sizes = list(config.sweep.counted)
    captured = start(config.model, config.task.negatives)
    return sizes, _aucs(config, options, captured, counted=sizes)[0]


def _codes(config, options, start):
    """A program for each number of codes: it is a shape."""
    captured = start(config.model, config.task.negatives)
    changed = [dataclasses.replace(options, n_codes=n) for n in config.sweep.codes]
    return list(config.sweep.codes), [_aucs(config, own, captured)[0, 0] for own in changed]


def _l1(config, options, start):
    penalties = list(config.sweep.l1)
    captured = start(config.model, config.task.negatives)
    return penalties, _aucs(config, options, captured, l1=penalties)[:, 0]


def _negatives(config, options, start):
    kinds = list(config.sweep.negatives)
    return kinds, [_at_base(config, options, start, config.model, kind) for kind in kinds]


def _models(config, options, start):
    names = list(config.sweep.models)
    return names, [_at_base(config, options, start, n, config.task.negatives) for n in names]


AXES = {
    "trained": _trained,
    "counted": _counted,
    "codes": _codes,
    "l1": _l1,
    "negatives": _negatives,
    "models": _models,
}
CAPTURING = ("negatives", "models")  # axes for which more than the base is captured


def _summed_up(cell: dict[str, Any]) -> dict[str, Any]:
    aucs = np.array(cell["auc"], float)  # null is NaN
    return cell | {"mean": float(aucs.mean()), "spread": float(aucs.std())}


def as_csv(cells: list[dict[str, Any]]) -> str:
    """One line for each draw."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("axis", "value", "draw", "auc"))
    writer.writerows(
        (cell["axis"], cell["value"], draw, auc)
        for cell in cells
        for draw, auc in enumerate(cell["auc"])
    )
    return buffer.getvalue()


def table(cells: list[dict[str, Any]]) -> str:
    """The table as markdown."""
    rows = [
        f"| {cell['axis']} | {cell['value']} | "
        + " | ".join(_three_decimals(cell[name]) for name in ("mean", "spread"))
        + " |"
        for cell in cells
    ]
    return "\n".join(["| axis | value | AUC | s.d. |", "| --- | ---: | ---: | ---: |", *rows])


def _three_decimals(value: float | None) -> str:
    return "\u2013" if value is None or np.isnan(value) else f"{value:.3f}"
