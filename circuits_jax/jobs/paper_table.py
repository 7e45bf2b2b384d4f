"""The job "paper_table": the paper's table on its own models (arXiv 2405.12522, s. 4, table 1).

ROC AUC of head scores on IOI and greater-than (GPT-2 small) and docstring (attn-only-4l, against
both sets of heads), mean and standard deviation over trials that draw prompts afresh. Beside it,
the paper's own numbers and the best setting of every rival, as published there and in arXiv
2304.14997 (ACDC, HISP, subnetwork probing) and 2407.00886 (CD-T, mean of the three tasks).

    paper_table.json, paper_table.csv, report.html; TASK-METHOD.json for each that is finished
"""

import csv
import io
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from circuits_jax.config import paper_table
from circuits_jax.evaluation.captured import captured_outputs
from circuits_jax.jobs import subsampling
from circuits_jax.jobs.sweep import METHODS
from circuits_jax.jobs.workdir import Workdir, open_workdir
from circuits_jax.lm import performance
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.load import load_model
from circuits_jax.lm.performance import Performance
from circuits_jax.methods import method_options
from circuits_jax.report import figures, page
from circuits_jax.report.circuit_page import TASKS, settings
from circuits_jax.runs import files, keys
from circuits_jax.runs.checks import Allowed, Range, check_all
from circuits_jax.runs.command import check_values
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.lock import one_at_a_time
from circuits_jax.tasks import GroundTruth, Task, make_task

PUBLISHED = {"ioi": (0.868, 0.008), "greater_than": (0.855, 0.036), "docstring": (0.869, 0.038)}
RIVALS = {  # best setting of each
    "ACDC": {"ioi": 0.880, "greater_than": 0.890, "docstring": 0.950},
    "HISP": {"ioi": 0.728, "greater_than": 0.642, "docstring": 0.889},
    "subnetwork probing": {"ioi": 0.842, "greater_than": 0.827, "docstring": 0.941},
}
CDT_MEAN = 0.97  # over the three tasks


@one_at_a_time
def run(config: ml_collections.ConfigDict, path: str | Path) -> Path:
    """Make the table; print it.

    Args:
        config: as `config.paper_table` makes it.
        path: the workdir. Tasks and methods finished there are not run again.

    Returns:
        The path of the report.

    Raises:
        InputError: a config that cannot be run, a model that cannot be reached or is not the one
            of the circuit, or a workdir of another experiment.
    """
    check(config)
    workdir = open_workdir(config, path)
    if workdir.finished():
        logging.info("%s is finished; nothing is done again", workdir.path)
        print(printed(files.read_json(workdir / "paper_table.json")))
        return workdir / "report.html"
    names = [name for name in PUBLISHED if config.models[name]]
    with workdir.stage("load models"):
        models = {
            source: load_model(source, config.dtype)
            for source in dict.fromkeys(config.models[name] for name in names)
        }
    workdir.begin()
    rows, measured = [], {}
    for name in names:
        with workdir.stage(name):
            task, own = task_of(workdir, config, models[config.models[name]], name)
            rows += of_task(workdir, config, models[config.models[name]], task)
            measured |= own
    record = {
        "warnings": [*performance.doubts(measured), *performance.remarks(measured)],
        "performance": performance.to_json(measured),
        "rows": rows,
        "cdt_mean": CDT_MEAN,
    }
    files.write_json(workdir / "paper_table.json", record)
    files.write(workdir / "paper_table.csv", as_csv(rows))
    environment = files.read_json(workdir / "run.json")
    files.write(workdir / "report.html", _page(record, measured, workdir.config, environment))
    print(printed(record))
    return workdir / "report.html"


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse what cannot be run before any work is done.

    Raises:
        InputError: a field, its value, and what is allowed.
    """
    check_values(config, paper_table())
    limits: dict[str, Allowed] = {"methods": METHODS, "n_trials": Range(1), "counted": Range(1)}
    check_all(config, limits | {"trained": Range(1, config.counted)}, "config.")
    for method in config.methods:
        method_options(method, **config[method])
    if not any(config.models[name] for name in PUBLISHED):
        raise InputError(f"config.models is empty; give one of {', '.join(PUBLISHED)}")


def task_of(
    workdir: Workdir, config: ml_collections.ConfigDict, model: LanguageModel, name: str
) -> tuple[Task, dict[str, Performance]]:
    """The task, and how the model does it on the pairs that are counted.

    Raises:
        InputError: a task without contrast.
    """
    task = make_task(
        name, model.tokenizer, n=config.counted, n_held_out=config.task.n_held_out, seed=config.seed
    )
    file = workdir / f"{name}-performance.json"
    if not workdir.has(file.name):
        measured = performance.measure(model, task, ("learn",))
        files.write_json(file, performance.to_json({f"learn of {name}": measured["learn"]}))
    return task, performance.from_json(files.read_json(file))


def of_task(
    workdir: Workdir, config: ml_collections.ConfigDict, model: LanguageModel, task: Task
) -> list[dict[str, Any]]:
    """A row for each known circuit of the task."""
    name = task.name
    masks = {truth.name: _mask(truth, model) for truth in task.truths}
    order = subsampling.orders(keys.stream(config.seed, "draws"), config.counted, config.n_trials)
    aucs = {}
    for method in config.methods:
        file = workdir / f"{name}-{method}.json"
        if not workdir.has(file.name):
            options = method_options(method, **config[method])
            trained, counted = (
                subsampling.subsets(order, [config[field]], f"config.{field}")
                for field in ("trained", "counted")
            )
            rows = captured_outputs(model, task.learn, options)
            key = keys.stream(config.seed, "method")
            found = subsampling.scores(key, rows, options, trained, counted, [options.l1])[0, 0]
            files.write_json(file, {t: subsampling.aucs(found, mask) for t, mask in masks.items()})
        aucs[method] = files.read_json(file)
    return [
        {
            "task": name,
            "truth": truth,
            "heads": int(mask.sum()),
            "paper": PUBLISHED[name][0],
            "paper_spread": PUBLISHED[name][1],
            **{rival: numbers[name] for rival, numbers in RIVALS.items()},
            **{
                key: value
                for method in config.methods
                for key, value in (
                    (method, float(np.mean(aucs[method][truth]))),
                    (f"{method}_spread", float(np.std(aucs[method][truth]))),
                )
            },
        }
        for truth, mask in masks.items()
    ]


def _mask(truth: GroundTruth, model: LanguageModel) -> np.ndarray:
    """The circuit's heads in this model.

    Raises:
        InputError: the model has no such heads.
    """
    mask = np.zeros(model.config.heads, bool)
    layers, heads = np.array(sorted(truth.heads)).T
    if layers.max() >= mask.shape[0] or heads.max() >= mask.shape[1]:
        raise InputError(
            f"config.models.{truth.task} is {model.name!r}, of {mask.shape[0]} layers of "
            f"{mask.shape[1]} heads; the circuit {truth.name} is of {truth.model}"
        )
    mask[layers, heads] = True
    return mask


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The table as comma-separated values."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A row as text by heading; what has a spread is mean ± standard deviation."""
    names = [name for name in row if not name.endswith("_spread") and name != "truth"]
    text = {}
    for name in names:
        value, spread = row[name], row.get(f"{name}_spread")
        if isinstance(value, float):
            value = f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
        text[HEADINGS.get(name, name)] = str(value)
    return text | {"task": f"{row['task']} ({row['truth']})"}


HEADINGS = {
    "paper": "as published in the paper",
    "sae_codes_published": "published method, run here",
    "sae_codes": "ours",
}


def printed(record: dict[str, Any]) -> str:
    """What a terminal shows of paper_table.json: performance, warnings and the table."""
    text = performance.lines(performance.from_json(record["performance"]))
    text += [f"Warning: {sentence}." for sentence in record["warnings"]]
    return "\n".join([*text, "", table(record["rows"])])


def table(rows: list[dict[str, Any]]) -> str:
    """The table as markdown."""
    lines = [cells(row) for row in rows]
    head = "| " + " | ".join(lines[0]) + " |"
    rule = "| " + " | ".join(["---"] + ["---:"] * (len(lines[0]) - 1)) + " |"
    return "\n".join([head, rule, *("| " + " | ".join(line.values()) + " |" for line in lines)])


def _page(
    record: dict[str, Any],
    measured: dict[str, Performance],
    config: dict[str, Any],
    environment: dict[str, Any],
) -> str:
    lines = [cells(row) for row in record["rows"]]
    context = {
        "performance": performance.labelled(measured),
        "metric": "metric",
        "warnings": record["warnings"],
        "lines": lines,
        "titles": TASKS,
        "missing": [name for name in PUBLISHED if not config["models"][name]],
        "cdt_mean": CDT_MEAN,
        "config": config,
        "environment": environment,
        "settings": settings(config),
        "recorded": settings(environment),
    }
    return page.render("paper_table.html", figures.FILTERS, **context)
